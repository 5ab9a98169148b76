"""docs/operating.md has a section for every error that can reach a person, and each says the same four things."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import defender_adx_pipeline
from defender_adx_pipeline.defs import checks
from defender_adx_pipeline_tests.docs.pages import ROOT, Page

GUIDE = Page(ROOT / "docs" / "operating.md")

NEVER_SHOWN = {
    "MigrationError": "a base; the doctor raises it with a sentence of its own",
    "HuntingError": "a base",
    "AdxError": "a base",
    "InvalidInstantError": "turned into ConfigurationError where a time comes from a person",
}
"""Errors without a section, and why."""


def errors() -> Iterator[type[Exception]]:
    """The public error classes of the package; those of the local tenant are answers of stand-ins."""
    for found in pkgutil.walk_packages(defender_adx_pipeline.__path__, "defender_adx_pipeline."):
        if ".local" in found.name or found.name.endswith(("__main__", "defs.launch")):
            continue
        module = importlib.import_module(found.name)
        for name, one in inspect.getmembers(module, inspect.isclass):
            if issubclass(one, Exception) and one.__module__ == module.__name__ and not name.startswith("_"):
                yield one


ERRORS = sorted({error.__name__ for error in errors()})
SECTIONS = {
    name: body
    for heading, body in re.findall(r"^#### (.+?)\n(.*?)(?=^#{2,4} |\Z)", GUIDE.text, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`(\w+)`", heading)
}


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in NEVER_SHOWN])
def test_an_error_that_can_reach_a_person_has_a_section(name: str) -> None:
    assert name in SECTIONS, f"docs/operating.md says nothing of {name}"


def test_no_section_is_about_an_error_that_is_gone() -> None:
    assert SECTIONS.keys() <= set(ERRORS)
    assert NEVER_SHOWN.keys() <= set(ERRORS)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_a_section_says_how_it_looks_why_what_was_kept_and_what_to_do(name: str) -> None:
    for label in ("**Looks like**", "**Why**", "**Kept**", "**Do**"):
        assert SECTIONS[name].count(label) == 1


def test_every_check_has_its_line() -> None:
    names = {value for name, value in vars(checks).items() if name.isupper() and isinstance(value, str)}
    (part,) = re.findall(r"^## When a check fails\n(.*?)^## ", GUIDE.text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == names
