"""What can go wrong in the engine itself; errors of the two services come from `defender.errors` and `adx.errors`.

Every message says which table and window, what was kept, and what to do next.
"""


class MigrationError(Exception):
    """Base of the engine's own errors."""


class ConfigurationError(MigrationError):
    """A row of MigrationConfiguration that cannot be followed, or is missing."""


class WindowNotReadableError(MigrationError):
    """A window of which Defender keeps nothing any more, or that has not settled yet."""


class UnsplittableError(MigrationError):
    """Rows of one microsecond that one answer does not hold, and that hashing their identity does not set apart.

    Args:
        table: the Defender table.
        part: window and bucket of what was refused last.
    """

    def __init__(self, table: str, part: str) -> None:
        super().__init__(
            f"{table} {part}: Defender refuses this part as too large for an answer, and it cannot be made smaller: it"
            " is one microsecond, and splitting it by the hash of its rows' identity was no help, as with very many"
            " rows that share one identity. Nothing of this slice was loaded; what was confirmed before is kept, the"
            " watermark stays before it, and the next run tries again. Count the window in Advanced Hunting. Few rows"
            " there: the service was out of order, so run again later. Many: report the table to the maintainers, with"
            " a key that tells its rows apart."
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


class TableChangedError(MigrationError):
    """A page of a table without a key is not what it was when the pages were counted. It was not loaded."""


class PagingLimitError(MigrationError):
    """A table without a key has more pages than are read in one fixed order. Nothing was read or changed."""


class SnapshotNotTodayError(MigrationError):
    """A snapshot of another day than today: Defender has the state of now alone. Nothing was read."""


class SnapshotMismatchError(MigrationError):
    """A snapshot that was read is not what Defender counted. It was not published; the one before is still served."""


class SnapshotNotPublishedError(MigrationError):
    """Rows of a day were asked for of which there is no published snapshot."""


class BackfillError(MigrationError):
    """Raw rows that could not be expanded anew into the typed table. Raw rows are never touched by it."""
