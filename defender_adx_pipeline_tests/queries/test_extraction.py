"""What is taken for a hunting query in somebody's collection, and what is said of where it binds."""

from pathlib import Path
from textwrap import dedent

import pytest

from defender_adx_pipeline_tests.queries.extraction import Block, blocks
from defender_adx_pipeline_tests.queries.reporting import Report

MARKDOWN = """\
    # Title
    ```kql
    DeviceInfo
    | count
    ```
    1. In a list
       ```KQL
       DeviceEvents | count
       ```
    ```
    EmailEvents | where Subject == "`x`"
    ```
    ```
    a picture of something else
    ```
    ```powershell
    Get-Process DeviceInfo
    ```
    ~~~kusto
    AlertInfo
    ~~~
"""
TEMPLATES = """\
    metadata: {data_families: [MDE]}
    defaults:
      parameters:
        table: {type: str, default: DeviceInfo}
        start: {type: datetime, default: -1}
        add_query_items: {type: str, default: ''}
    sources:
      list_devices:
        args:
          query: '{table} | where Timestamp > datetime({start}) {add_query_items}'
      one_device:
        parameters:
          table: {type: str, default: '{other}'}
          other: {type: str, default: DeviceEvents}
          names: {type: list}
          host: {type: str}
        args:
          query: '{table} | where DeviceName in ({names}) or DeviceName == "{host}" or A has "{not_one}"'
"""


def found(folder: Path) -> dict[str, str]:
    return {block.source: block.text for block in blocks(folder)}


def test_fenced_blocks_are_taken_by_language_or_by_the_table_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(dedent(MARKDOWN))
    assert found(tmp_path) == {
        "a.md#1": "DeviceInfo\n| count",
        "a.md#2": "DeviceEvents | count",
        "a.md#3": 'EmailEvents | where Subject == "`x`"',
        "a.md#6": "AlertInfo",
    }


def test_whole_files_and_fields_of_yaml_are_taken_each_text_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.kql").write_text("DeviceInfo\r\n\r\n| count\r\n")
    (tmp_path / "b.csl").write_text("DeviceInfo\n\n| count")
    (tmp_path / "c.yaml").write_text(
        "name: C\nquery: |\n  AlertInfo | count\n---\nrules:\n- query: AlertEvidence {x}\n"
    )
    (tmp_path / "d.txt").write_text("DeviceEvents")
    assert found(tmp_path) == {
        "b.csl": "DeviceInfo\n\n| count",
        "c.yaml": "AlertInfo | count",
        "c.yaml#rules#1": "AlertEvidence {x}",
    }


def test_templates_get_values_for_their_parameters(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(dedent(TEMPLATES))
    assert found(tmp_path) == {
        "a.yaml#list_devices": "DeviceInfo | where Timestamp > datetime(2026-11-01T00:00:00Z)",
        "a.yaml#one_device": 'DeviceEvents | where DeviceName in (\'x\') or DeviceName == "x" or A has "{not_one}"',
    }


@pytest.mark.parametrize(
    ("documented", "adx", "status"),
    [([], [], 0), ([], ["1:1 no"], 1), (["1:1 no"], [], 0), (["1:1 no"], ["1:1 no"], 0)],
    ids=["both", "documented alone", "adx alone", "neither"],
)
def test_fewer_in_adx_is_a_failure_and_every_difference_is_told(
    documented: list[str], adx: list[str], status: int
) -> None:
    report = Report([Block("a.md#1", "DeviceInfo")], {"a.md#1": {"documented": documented, "adx": adx}})
    assert report.status == status
    lines = list(report.lines(with_unbound=True))
    assert any(line.startswith("BINDS ONLY") for line in lines) == (bool(documented) != bool(adx))
    assert any(line.startswith("binds nowhere") for line in lines) == bool(documented and adx)
    assert lines[-1].endswith(f"{int(not documented)} bind as documented, {int(not adx)} in ADX")


def test_nothing_to_bind_is_a_failure() -> None:
    assert Report([], {}).status == 1
