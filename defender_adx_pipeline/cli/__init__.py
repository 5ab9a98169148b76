"""The command line `defender-adx`: `app` and its commands.

Here: options, what is printed, exit codes. Not here: the work itself (`migration`, `adx`, `defender`), and Dagster: the
demo starts its runs as processes. The one part besides the tests that may use the local tenant.
"""

from defender_adx_pipeline.cli.commands import app

__all__ = ["app"]
