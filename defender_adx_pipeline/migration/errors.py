"""What can go wrong in the engine itself; errors of the two services come from `defender.errors` and `adx.errors`.

Every message says which table and window, what was kept, and what to do next.
"""

from defender_adx_pipeline.migration.windows import Window


class MigrationError(Exception):
    """Base of the engine's own errors."""


class ConfigurationError(MigrationError):
    """A row of MigrationConfiguration that cannot be followed, or is missing."""


class WindowNotReadableError(MigrationError):
    """A window of which Defender keeps nothing any more, or that has not settled yet."""


class UnsplittableError(MigrationError):
    """More rows at one microsecond than one answer holds."""

    def __init__(self, table: str, window: Window) -> None:
        super().__init__(
            f"{table} {window}: more rows at one microsecond than one answer of Defender holds, so they cannot be read"
            " by time. Nothing of this slice was loaded; other slices are kept. Report the table to the maintainers."
        )


class NotConfirmedError(MigrationError):
    """Slices that were queued and did not become queryable in time. They stay `Queued` for the next run."""


class CountMismatchError(MigrationError):
    """The two sides do not have the same number of rows for a window, although everything was loaded."""


class SurplusError(MigrationError):
    """ADX holds more rows than Defender for some part of a window. Nothing is missing and nothing was deleted."""


class LostRowsError(MigrationError):
    """Rows that Defender no longer keeps and that were not loaded in time. Everything it still has was loaded."""


class DeadLetterError(MigrationError):
    """Records that ADX cannot hold. They were kept out; everything else of the window was loaded."""


class ContentionError(MigrationError):
    """Another run is loading the same rows of the same table. Nothing was loaded by this one."""
