"""docs/settings.md and docs/tables.md are what tools/generate_docs.py writes."""

import runpy

import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.settings import Settings
from defender_adx_pipeline_tests.docs.pages import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "generate_docs.py"))
PAGES = TOOL["PAGES"]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run: make generated"


def test_every_setting_has_its_row_and_secrets_are_called_so() -> None:
    rows = {line.split("`")[1]: line for line in PAGES["settings.md"]().splitlines() if line.startswith("| `")}
    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    assert [name for name, row in rows.items() if "**Secret**" in row] == ["AZURE_CLIENT_SECRET"]
    assert "| `PT10M` |" in rows["DEFENDER_SETTLE"]
    assert "whole number, 1 or more, at most 100000 | `50000` |" in rows["DEFENDER_SLICE_ROWS"]


def test_every_table_has_its_row_in_the_part_of_its_category() -> None:
    parts = PAGES["tables.md"]().split("\n## ")[1:]
    rows = {part.split("\n", 1)[0]: part for part in parts}
    for table in load_catalogue().values():
        assert f"[{table.name}](" in rows[table.category]
