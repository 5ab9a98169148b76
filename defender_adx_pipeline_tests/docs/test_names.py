"""What the pages name is there: links, anchors, commands and their options, settings, definitions, files, tests."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import typer.main

from defender_adx_pipeline.cli import app
from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.docs.pages import ROOT, Page, pages

PAGES = pages()
ALL = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])

NOT_SETTINGS = {"DEFENDER_ADX_CODE_HOST", "DEFENDER_ADX_PICTURES", "DEFENDER_ADX_STATEMENTS"}
"""Variables of deployments and tests that begin like settings."""

_SETTING = re.compile(r"\b(?:DEFENDER|ADX|AZURE)_[A-Z_]+\b")
_COMMAND = re.compile(r"(?:^|&& |exec code )(?:\S*/)?defender-adx ([^|;&()]*)")
_SHAPES = (
    re.compile(r"(?:event_tables|snapshot_tables|typed_values)(?:_\w+)?"),
    re.compile(r"table_activated|gap_\w+|health|runs_\w+|wrong_\w+"),
    re.compile(r"completeness|watermark_lag|dead_\w+|row_count_drop|same_rows\w*|schema_drift|values_fit|no_dup\w+"),
)
"""How schedules, sensors, jobs and checks are named: a span like this has to be one of them."""


@ALL
def test_every_link_leads_somewhere(page: Page) -> None:
    wrong = [link for link in page.links() if not link.startswith(("http://", "https://")) and _is_broken(page, link)]
    assert wrong == []


def _is_broken(page: Page, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.path.parent / name).resolve() if name else page.path
    if not target.exists():
        return True
    return bool(anchor) and anchor not in Page(target).anchors()


def test_every_picture_is_shown_on_a_page() -> None:
    shown = {(page.path.parent / link).resolve() for page in PAGES for link in page.links()}
    assert {path for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg")} - shown == set()


@ALL
def test_every_command_and_option_of_the_command_line_is_there(page: Page) -> None:
    wrong = [said for command in page.commands() for said in _unknown_in(command)]
    assert wrong == []


def _unknown_in(line: str) -> Iterator[str]:
    for said in _COMMAND.findall(line.replace(" -- ", " && ")):
        try:
            words = shlex.split(said)
        except ValueError:
            words = said.split()
        command: Any = typer.main.get_command(app)
        for word in words:
            if hasattr(command, "commands") and not word.startswith("-"):
                if word not in command.commands:
                    yield f"{said}: no command {word}"
                    break
                command = command.commands[word]
            elif (option := re.match(r"--[a-z-]+", word)) and not _has(command, option.group()):
                yield f"{said}: no option {word}"


def test_the_readme_lists_every_command() -> None:
    command: Any = typer.main.get_command(app)
    names = {*command.commands} - {"schema"} | {f"schema {name}" for name in command.commands["schema"].commands}
    listed = re.findall(r"^\| `defender-adx ([a-z]+(?: [a-z]+)?)", Page(ROOT / "README.md").text, re.MULTILINE)
    assert set(listed) == names


def _has(command: Any, option: str) -> bool:
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return option in known | {"--help"}


@ALL
def test_every_setting_that_is_named_exists(page: Page) -> None:
    known = {name.upper() for name in Settings.model_fields} | NOT_SETTINGS
    named = {name for name in _SETTING.findall(page.text) if not name.endswith("_")}
    assert {name for name in named - known if not name.startswith("ADX_CLUSTER_URL")} == set()


def _definitions() -> set[str]:
    loaded = defs()
    assert isinstance(loaded, dg.Definitions)
    repository = loaded.get_repository_def()
    checks = {key.name for key in repository.asset_graph.asset_check_keys}
    jobs = {job.name for job in repository.get_all_jobs()}
    schedules = {schedule.name for schedule in repository.schedule_defs}
    return checks | jobs | schedules | {sensor.name for sensor in repository.sensor_defs}


def test_every_schedule_sensor_job_and_check_that_is_named_is_defined() -> None:
    known = _definitions()
    for page in PAGES:
        named = {span for span in page.spans() if any(shape.fullmatch(span) for shape in _SHAPES)}
        assert named <= known, f"{page.name} names {named - known}"


def test_the_operating_guide_names_every_schedule_sensor_and_check() -> None:
    guide = set(Page(ROOT / "docs" / "operating.md").spans())
    jobs = {"__ASSET_JOB", "event_tables", "snapshot_tables", "typed_values"}
    assert _definitions() - jobs <= guide


@ALL
def test_every_target_of_make_is_there(page: Page) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match for command in page.commands() for match in re.findall(r"^make ([a-z]+)", command)}
    assert named <= targets


def test_the_tests_that_hold_the_invariants_are_there() -> None:
    table = Page(ROOT / "docs" / "architecture.md").text.split("## Invariants")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 13))
    for row in rows:
        files = [ROOT / "defender_adx_pipeline_tests" / name for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
        assert files
        assert all(path.exists() for path in files), row
        text = "".join(path.read_text() for path in files if path.is_file())
        assert all(f"def {name}(" in text for name in re.findall(r"`(test_\w+)`", row)), row


def test_the_index_lists_every_page_of_the_folder() -> None:
    index = Page(ROOT / "docs" / "README.md")
    linked = {link.split("#")[0] for link in index.links()}
    here = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert here <= linked
