"""What to do about an error, for the failure report: steps and whether it goes away by itself.

Here: a table from error class to steps. Not here: the report (`failure_report`). An error's own message says what to
do about this one case; the steps say where in Dagster, on the command line and in ADX that is done.
"""

from collections.abc import Sequence

from defender_adx_pipeline.adx import errors as adx
from defender_adx_pipeline.catalogue import CatalogueError, UnknownTableError
from defender_adx_pipeline.defender import errors as hunting
from defender_adx_pipeline.migration import errors as engine
from defender_adx_pipeline.settings import SettingsError

EXPECTED = (SettingsError, CatalogueError, UnknownTableError, hunting.HuntingError, adx.AdxError, engine.MigrationError)
"""Errors whose message is for the operator. Of any other the stack is needed, too: it is a bug."""

UNTIL_MENDED = (
    SettingsError,
    CatalogueError,
    UnknownTableError,
    engine.ConfigurationError,
    engine.WindowNotReadableError,
    engine.SnapshotNotTodayError,
    engine.LostRowsError,
    engine.DeadLetterError,
    engine.PagingLimitError,
    hunting.PermanentError,
    adx.AdxPermissionError,
    adx.MissingObjectError,
)
"""Errors of which the same attempt would fail again, however often it is made."""

_DOCTOR = "Run `defender-adx doctor` where the pipeline runs: it tries every part once, and says which one is wrong."
_AGAIN = "Run the partition again (Materialize): it goes on from the ledger, and loads nothing twice."

_ENVIRONMENT = (
    "Set what the message names right, in the environment of the process that runs the code location.",
    "Reload the code location, then run the partition again.",
    _DOCTOR,
)
_ROLES = (
    "Run `defender-adx bootstrap --grant-to <app>` as Database Admin: it grants the roles that kql/30_roles.kql lists.",
    _DOCTOR,
    _AGAIN,
)
_SIGN_IN = (
    "Renew what the message names in the app registration, and set it in the environment of the code location.",
    _DOCTOR,
    _AGAIN,
)
_WAITS = (
    "Nothing has to be mended: the next tick or sweep goes on from the ledger. Run it again now, if it cannot wait.",
    "If it comes often: see the quota and the number of runs at a time.",
)

_STEPS: Sequence[tuple[tuple[type[BaseException], ...], Sequence[str]]] = (
    ((SettingsError, CatalogueError), _ENVIRONMENT),
    (
        (UnknownTableError, engine.ConfigurationError),
        (
            "Append a row to MigrationConfiguration that has it right: the newest row of a table counts.",
            "`defender-adx status` shows how each row is read. Then run the partition again.",
        ),
    ),
    (
        (hunting.PermissionDeniedError,),
        (
            "Give the app the application permission that the message names, with admin consent.",
            _DOCTOR,
            _AGAIN,
        ),
    ),
    ((hunting.AuthenticationError, adx.AdxAuthenticationError), _SIGN_IN),
    ((adx.AdxPermissionError,), _ROLES),
    (
        (adx.MissingObjectError,),
        (
            "Run `defender-adx bootstrap` as Database Admin: it makes what is not there, and changes nothing else.",
            _AGAIN,
        ),
    ),
    (
        (hunting.UnresolvedNameError,),
        (
            "See in the portal (Hunting, Schema) whether the tenant has the table: its licence may not include it.",
            "If not, append a row with IsActive false to MigrationConfiguration; else run the partition again.",
        ),
    ),
    (
        (adx.AdxUnreachableError,),
        (
            "See that ADX_CLUSTER_URI is right, that the cluster runs, and that this host may reach it.",
            _DOCTOR,
            _AGAIN,
        ),
    ),
    ((hunting.ThrottledError, hunting.QuotaExhaustedError, adx.AdxThrottledError, engine.ContentionError), _WAITS),
    (
        (hunting.PermanentError,),
        ("See whether the table can be queried in the portal. Then run the partition again, or report the message.",),
    ),
    (
        (engine.NotConfirmedError, adx.IngestionFailedError, adx.StorageError),
        ("Look at `.show ingestion failures` in ADX.", _AGAIN),
    ),
    (
        (engine.CountMismatchError,),
        (_AGAIN, "If it fails again: compare the hours by the queries below, and report the table."),
    ),
    (
        (engine.SurplusError,),
        (
            "Compare the hours by the queries below: something else wrote to the table, or Defender took back rows.",
            "The check `no_duplicates` of the Defender asset tells rows that are there twice.",
        ),
    ),
    (
        (engine.LostRowsError,),
        ("Nothing can be mended; it is told once. See that the pipeline runs at least once in 30 days.",),
    ),
    (
        (engine.DeadLetterError,),
        ("Find the records in Defender by the columns that MigrationDeadLetter has of each; export them if need be.",),
    ),
    (
        (engine.WindowNotReadableError,),
        ("Run a partition of the last 30 days instead; one of today once it has settled.",),
    ),
    (
        (engine.SnapshotNotTodayError,),
        ("Run today's partition: Defender keeps no other state.",),
    ),
    (
        (engine.SnapshotMismatchError, engine.TableChangedError),
        ("Run the partition again later today: the table may be rewritten at this hour. Tomorrow it is too late.",),
    ),
)


def steps(error: BaseException) -> Sequence[str]:
    """What to do, in order."""
    for classes, said in _STEPS:
        if isinstance(error, classes):
            return said
    if isinstance(error, EXPECTED):
        return (_AGAIN, _DOCTOR)
    return ("This is a bug: report it with the stack of the step's failure.", _AGAIN)
