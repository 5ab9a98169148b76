"""The sensor `wrong_settings`: bad settings are seen in the UI before anything has run.

The code location loads whatever the settings are, since nobody could read the error in one that does not; and Dagster
has no other place for it than a tick. Not here: the settings (`settings`).
"""

import logging

import dagster as dg

from defender_adx_pipeline.catalogue import CatalogueError, load_catalogue
from defender_adx_pipeline.defender.auth import token_source
from defender_adx_pipeline.defs.readable import readable
from defender_adx_pipeline.settings import SettingsError, load_settings

_GOOD = "Fails while the settings are wrong, with what is wrong. It starts nothing."


def problem() -> str | None:
    """What is wrong with the settings of this process, or None."""
    try:
        _check()
    except (SettingsError, CatalogueError) as error:
        return str(error)
    return None


def _check() -> None:
    settings = load_settings()
    settings.require("adx_cluster_uri")
    token_source(settings)
    load_catalogue(settings.defender_tables_file)


_problem = problem()
if _problem is not None:
    # For whoever looks at the console of the code server instead.
    logging.getLogger("dagster").error("settings: %s", _problem)


@dg.sensor(
    minimum_interval_seconds=60,
    # Of itself it runs only where something was wrong when the code location was loaded.
    default_status=dg.DefaultSensorStatus.STOPPED if _problem is None else dg.DefaultSensorStatus.RUNNING,
    description=_GOOD if _problem is None else f"{_GOOD}\n\nWhen the code location was loaded: {_problem}",
)
@readable
def wrong_settings(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fail while they are wrong."""
    del context
    _check()
    return dg.SkipReason("the settings are right; reload the code location if they were not when it was loaded")
