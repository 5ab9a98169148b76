"""Write what `kql_check.js` checks besides the statements of a test run: `python tools/kql_inputs.py FOLDER`.

Here: the schema of the Defender side, from the catalogue with the columns that tenants have though no page lists them,
the statements of `kql/` as they are sent, the queries for values that do not fit, those of `status`, and those of the
dashboard's tiles. Not here: the check itself.
"""

import json
import sys
from pathlib import Path

from defender_adx_pipeline.adx import monitoring_kql
from defender_adx_pipeline.adx.schema import Placeholders, statements
from defender_adx_pipeline.adx.typed_checks import checked_columns, unfit_counts, unfit_records
from defender_adx_pipeline.catalogue import load_catalogue

NOBODY = "00000000-0000-0000-0000-000000000000"


def main(folder: Path) -> None:
    """Write `schema.json` and `scripts.jsonl` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        table.name: {column.name: column.type for column in (*table.columns, *table.undocumented_columns)}
        for table in load_catalogue().values()
    }
    (folder / "schema.json").write_text(json.dumps({"defender": tables}), encoding="utf-8")
    names = Placeholders("defender", NOBODY, NOBODY, retention_days=730)
    lines = [
        {"side": "adx", "kind": "command", "text": statement.text, "source": "kql/", "file": "scripts.jsonl"}
        for statement in statements(names)
    ]
    lines += [
        {"side": "adx", "kind": "query", "text": text, "source": "typed_checks", "file": "scripts.jsonl"}
        for table in load_catalogue().values()
        for text in (unfit_counts(table), *(unfit_records(table, one.name) for one in checked_columns(table)[:1]))
    ]
    asked = [f"{name}()" for name in monitoring_kql.FUNCTIONS]
    asked += [monitoring_kql.rows_per_day(14), monitoring_kql.failures(7), monitoring_kql.quota(1, 1500)]
    asked += monitoring_kql.dashboard_queries().values()
    lines += [
        {"side": "adx", "kind": "query", "text": text, "source": "monitoring", "file": "scripts.jsonl"}
        for text in asked
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "scripts.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
