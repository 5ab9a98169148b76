"""The commands. Each is short: options in, a function of another module, output, exit code.

Exit codes: 0 when all is well, 1 when something is not exact or failed, 2 for a wrong option or setting.
"""

import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from defender_adx_pipeline.adx.monitoring_kql import dashboard as filled_dashboard
from defender_adx_pipeline.adx.schema import bootstrap as apply_scripts
from defender_adx_pipeline.adx.scripts import Placeholders, script_texts
from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline.cli import chaos as ordeal
from defender_adx_pipeline.cli import demo as demonstration
from defender_adx_pipeline.cli import doctor as diagnosis
from defender_adx_pipeline.cli import tenancy
from defender_adx_pipeline.cli.failures import readable_errors
from defender_adx_pipeline.cli.figures import read_figures
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.cli.schema import app as schema_app
from defender_adx_pipeline.cli.status import table_states
from defender_adx_pipeline.cli.status_table import print_status
from defender_adx_pipeline.instants import utc_now
from defender_adx_pipeline.migration.attempt import Asked
from defender_adx_pipeline.migration.connections import open_database, open_engine
from defender_adx_pipeline.migration.ledger import RunIdentity
from defender_adx_pipeline.migration.windows import Window
from defender_adx_pipeline.settings import SettingsError, load_settings

app = typer.Typer(
    help="Microsoft Defender Advanced Hunting tables into Azure Data Explorer, every row once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(schema_app)

Home = Annotated[Path, typer.Option(help="Folder of the local tenant's state and of DAGSTER_HOME.")]
Samples = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Real records, JSON lines from Advanced Hunting.")
]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.command()
@readable_errors
def demo(  # noqa: PLR0917 - options, by name
    home: Home = Path(".demo"),
    samples: Samples = None,
    seed: Annotated[int, typer.Option(help="Seed of the generated data.")] = 7,
    fresh: Annotated[bool, typer.Option(help="Begin anew: forget an earlier demo of the same home.")] = False,
    chaos: Annotated[
        int | None, typer.Option(help="Let a tenth of all calls go wrong, by this seed: the pipeline must be exact.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Local tenant, bootstrap, real Dagster runs over every table, 30 days or today's state, compared row by row."""
    if chaos is not None:
        return ordeal.run(home=home, samples=samples, seed=seed, chaos=chaos, fresh=fresh, as_json=as_json)
    return demonstration.run(home=home, samples=samples, seed=seed, fresh=fresh, as_json=as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@readable_errors
def local(
    context: typer.Context,
    home: Home = Path(".demo"),
    samples: Samples = None,
    seed: Annotated[int, typer.Option(help="Seed of the generated data.")] = 7,
    clock_scale: Annotated[float, typer.Option(help="How much faster than real time quota windows run.")] = 20.0,
) -> int:
    """The local tenant alone. `local -- COMMAND ...` runs a command with the tenant's environment and then ends."""
    options = demonstration.tenant_options(samples=samples, seed=seed, clock_scale=clock_scale)
    if context.args:
        with tenancy.running_tenant(home, options) as variables:
            return tenancy.run_inside(context.args, {**variables, **tenancy.dagster_environment(home)})
    return demonstration.serve_tenant(home=home, samples=samples, seed=seed, clock_scale=clock_scale)


@app.command()
@readable_errors
def bootstrap(
    show: Annotated[bool, typer.Option("--print", help="Print the scripts instead of running them.")] = False,
    grants: Annotated[bool, typer.Option(help="Grant the pipeline's identity its roles (30_roles.kql).")] = True,
    grant_to: Annotated[
        str | None,
        typer.Option(help="Client id that gets the roles, where another identity (AZURE_CLIENT_ID) runs this."),
    ] = None,
) -> int:
    """Make or complete what the database needs: raw and typed tables, functions, policies, roles, first rows."""
    if show:
        settings = load_settings()
        names = Placeholders(
            settings.adx_database,
            grant_to or settings.azure_client_id,
            settings.azure_tenant_id,
            retention_days=settings.defender_retention_days,
        )
        tables = tuple(load_catalogue(settings.defender_tables_file).values())
        sys.stdout.write("\n".join(text for _, text in script_texts(names, tables=tables)))
        return 0
    out = console()
    with open_database() as database:
        settings = database.settings
        report = apply_scripts(
            database.adx,
            client_id=grant_to or settings.azure_client_id,
            tenant_id=settings.azure_tenant_id,
            tables=tuple(database.catalogue.values()),
            grants=grants,
            retention_days=settings.defender_retention_days,
        )
    out.print(f"{settings.adx_database}: {len(report.applied)} statements applied, {len(report.skipped)} left out.")
    for sentence in report.found:
        out.print(f"- {sentence}", highlight=False)
    return 0


@app.command()
@readable_errors
def sync(
    table: Annotated[str, typer.Argument(help="A Defender table, such as DeviceLogonEvents.")],
    start: Annotated[datetime | None, typer.Option("--from", help="Start of the window, UTC.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="End of the window, UTC, itself not in it.")] = None,
    as_json: AsJson = False,
) -> int:
    """Bring ADX up to Defender for one table, without Dagster: a window, or from its watermark on, or a snapshot."""
    if (start is None) != (end is None):
        raise SettingsError("--from and --to go together")
    window = None
    if start is not None and end is not None:
        if start >= end:
            raise SettingsError(f"--from {start} is not before --to {end}")
        window = Window(start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))
    with open_engine() as engine:
        tally = engine.sync(Asked(table, RunIdentity(f"sync-{uuid.uuid4().hex}", ""), window))
    if tally is None:
        facts: dict[str, Any] = {"table": table, "skipped": True, "reason": "IsActive is false"}
    else:
        facts = {
            "table": table,
            "window": str(tally.window),
            "rows_loaded": tally.loaded_rows,
            "rows_expected": tally.expected_rows,
            "rows_queryable": tally.queryable_rows,
            "slices": tally.slices,
            "calls": tally.calls,
            "watermark": tally.watermark,
            "notes": tally.notes,
        }
    if as_json:
        sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name}: {value}\n")
    return 0


@app.command()
@readable_errors
def doctor(as_json: AsJson = False) -> int:
    """Try everything that the pipeline needs, with one hunting call: a line each, and what to do where it fails."""
    return diagnosis.run(as_json=as_json)


@app.command()
@readable_errors
def status(
    as_json: AsJson = False,
    days: Annotated[int, typer.Option(min=1, max=90, help="Days of the bars that show rows per day.")] = 14,
) -> int:
    """Per table: lag, up to where it is complete, what is under way, the last run, failures, and rows per day."""
    with open_database() as database:
        figures = read_figures(database, days=days, now=utc_now())
        states = table_states(database, figures)
    ok = all(state.ok for state in states)
    if as_json:
        totals = None if figures is None else figures.as_dict()
        facts = {"ok": ok, "tables": [state.as_dict() for state in states], "totals": totals}
        sys.stdout.write(orjson.dumps(facts).decode() + "\n")
    else:
        print_status(states, figures, console())
    return 0 if ok else 1


@app.command()
@readable_errors
def dashboard() -> int:
    """The dashboard for the ADX web UI, with cluster and database of the settings; write it to a file and import it."""
    settings = load_settings()
    settings.require("adx_cluster_uri")
    facts = filled_dashboard(str(settings.adx_cluster_uri), settings.adx_database)
    sys.stdout.write(orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0


@app.command()
@readable_errors
def query(
    kql: Annotated[str, typer.Argument(help="A query, read-only.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> int:
    """Run a KQL query against the database and print its rows."""
    with open_database() as database:
        rows = database.adx.query(kql)
    if as_json or not rows:
        sys.stdout.write("".join(orjson.dumps(row).decode() + "\n" for row in rows))
        return 0
    table = Table(*rows[0].keys())
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else orjson.dumps(value).decode() for value in row.values()))
    console().print(table)
    return 0
