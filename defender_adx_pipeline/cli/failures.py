"""Errors as a person reads them: one message on standard error, an exit code, no traceback.

Here: which errors are expected, and their exit codes. Not here: their messages, which come with them.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer
from rich.markup import escape

from defender_adx_pipeline.adx.errors import AdxError
from defender_adx_pipeline.adx.scripts import SchemaScriptError
from defender_adx_pipeline.catalogue import CatalogueError, UnknownTableError
from defender_adx_pipeline.cli.output import console
from defender_adx_pipeline.cli.tenancy import TenantStartError
from defender_adx_pipeline.defender.errors import HuntingError
from defender_adx_pipeline.migration.errors import MigrationError
from defender_adx_pipeline.quoting import InvalidNameError
from defender_adx_pipeline.settings import SettingsError

_FAILURES = (MigrationError, HuntingError, AdxError, UnknownTableError, TenantStartError, InvalidNameError)
_WRONG = (SettingsError, CatalogueError, SchemaScriptError)

_P = ParamSpec("_P")


def readable_errors(command: Callable[_P, int]) -> Callable[_P, None]:
    """Errors as one message on standard error, without a traceback; the command's number as exit code."""

    @wraps(command)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except _WRONG as error:
            console(stderr=True).print(f"[red]error[/red]: {escape(str(error))}", highlight=False)
            code = 2
        except _FAILURES as error:
            console(stderr=True).print(f"[red]failed[/red]: {escape(str(error))}", highlight=False)
            code = 1
        raise typer.Exit(code)

    return guarded
