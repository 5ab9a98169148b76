"""`defender-adx schema`: whether the tenant's tables still have the columns that the typed tables in ADX have.

Here: options and output of `diff`, `apply` and `backfill`. Not here: what they do (`migration.drift`,
`migration.backfill`).
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table

from defender_adx_pipeline.cli.failures import readable_errors
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.migration.backfill import backfill as expand_anew
from defender_adx_pipeline.migration.connections import open_database
from defender_adx_pipeline.migration.drift import Drift, apply_drift, mending_of, read_drifts
from defender_adx_pipeline.settings import SettingsError

app = typer.Typer(
    name="schema",
    help="Columns of the typed tables against those that the tenant has now.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Tables = Annotated[
    list[str] | None,
    typer.Argument(help="Defender tables; all when none is named. Each costs one hunting call of the tenant's quota."),
]


@app.command()
@readable_errors
def diff(
    tables: Tables = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False,
) -> int:
    """What differs between tenant, catalogue and typed tables, and what to do; exit code 1 when something does."""
    with _drifts(tables) as (_, found):
        drifts = list(found)
    differ = any(drift.differences for drift in drifts)
    unmade = [drift.table.name for drift in drifts if not drift.has_typed_table]
    if as_json:
        sys.stdout.write(
            orjson.dumps({"ok": not (differ or unmade), "tables": list(map(_facts, drifts))}).decode() + "\n"
        )
    else:
        _print(drifts, console())
    return 1 if differ or unmade else 0


@app.command()
@readable_errors
def apply(
    tables: Tables = None,
    show: Annotated[bool, typer.Option("--print", help="Print the commands instead of sending them.")] = False,
) -> int:
    """Add the columns that typed tables lack, and make their expand functions anew. Takes Database Admin.

    Columns are never dropped and never change their type. Rows that are there keep null in a new column until
    `defender-adx schema backfill TABLE`.
    """
    out = console()
    changed = 0
    with _drifts(tables) as (adx, found):
        for drift in found:
            if show:
                sys.stdout.write("".join(f"{text}\n" for text in mending_of(adx, drift)))
            elif not drift.is_in_tenant:
                out.print(f"{drift.table.name}: the tenant does not have it; left as it is.")
            elif apply_drift(adx, drift):
                changed += 1
                out.print(_applied(drift), highlight=False)
    if not show:
        out.print(f"{changed} tables changed." if changed else "Nothing had to be changed.")
    return 0


@app.command()
@readable_errors
def backfill(
    table: Annotated[str, typer.Argument(help="A Defender table, such as DeviceLogonEvents.")],
    start: Annotated[
        datetime | None, typer.Option("--from", help="First instant of the rows' own time, UTC; all when absent.")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="First instant after it, UTC.")] = None,
    delete_surplus: Annotated[
        bool, typer.Option("--delete-surplus", help="Let typed rows go whose raw records are gone, as by retention.")
    ] = False,
) -> int:
    """Expand raw rows anew into the typed table, so that older rows have the columns of today. Takes Table Admin.

    Window by window, oldest first; each is replaced as a whole, so that it can be ended and run again at any time.
    """
    if start is not None and end is not None and start >= end:
        raise SettingsError(f"--from {start} is not before --to {end}")
    out = console()
    with open_database() as database:
        done = expand_anew(
            database.adx,
            database.catalogue[table],
            start=start and start.replace(tzinfo=UTC),
            end=end and end.replace(tzinfo=UTC),
            delete_surplus=delete_surplus,
            tell=lambda sentence: out.print(sentence, highlight=False),
        )
    out.print(f"{table}: {done.rows:,} rows expanded anew in {done.windows} parts.", highlight=False)
    return 0


@contextmanager
def _drifts(names: Sequence[str] | None) -> Iterator[tuple[Any, Iterator[Drift]]]:
    """The database, and how the tables differ, asked for one after the other."""
    with open_database() as database, HuntingClient.from_settings(database.settings) as hunting_client:
        tables = [database.catalogue[name] for name in names or database.catalogue]
        yield database.adx, read_drifts(hunting_client, database.adx, tables)


def _facts(drift: Drift) -> dict[str, Any]:
    return {
        "table": drift.table.name,
        "in_tenant": drift.is_in_tenant,
        "typed_table": drift.has_typed_table,
        "differences": [
            {
                "column": one.column,
                "kind": one.kind,
                "tenant": one.tenant_type,
                "typed": one.typed_type,
                "documented": one.documented_type,
                "advice": one.advice,
            }
            for one in drift.differences
        ],
    }


def _print(drifts: Sequence[Drift], out: Console) -> None:
    """A line for each difference; then what could not be compared."""
    differing = [one for drift in drifts for one in drift.differences]
    if differing:
        table = Table(Column("Column", no_wrap=True), "What", "Tenant", "Typed table", "Catalogue", "What to do")
        for one in differing:
            kinds = (one.tenant_type, one.typed_type, one.documented_type)
            table.add_row(f"{one.table}.{one.column}", one.kind, *(kind or "" for kind in kinds), one.advice)
        out.print(table)
    absent = [drift.table.name for drift in drifts if not drift.is_in_tenant]
    if absent:
        out.print(
            f"Not in this tenant, or not shown to this app (licence, onboarding, ThreatHunting.Read.All):"
            f" {', '.join(absent)}."
        )
    unmade = [drift.table.name for drift in drifts if not drift.has_typed_table]
    if unmade:
        out.print(f"Without a typed table; run `defender-adx bootstrap`: {', '.join(unmade)}.")
    compared = sum(drift.is_in_tenant and drift.has_typed_table for drift in drifts)
    out.print(f"{compared} tables compared, {len(differing)} differences.")


def _applied(drift: Drift) -> str:
    name = drift.table.name
    added = ", ".join(one.new_column for one in drift.differences if one.new_column)
    if not added:
        return f"{name}: its expand function was made anew; it did not fit the columns of the typed table."
    return f"{name}: added {added}. Rows that are there keep null in it until `defender-adx schema backfill {name}`."
