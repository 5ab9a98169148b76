"""The pipeline in a hurry: the same code with shorter waits, so that a case that waits for hours takes seconds.

Here: which bounds are shortened, and how. Nothing else of the pipeline is replaced. Not here: the quota's clock, which
the settings of a local tenant let run faster.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from azure.core.pipeline.transport import HttpTransport

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.defender.client import HuntingClient
from defender_adx_pipeline.migration.planner import EngineOptions
from defender_adx_pipeline.settings import Settings


@dataclass(slots=True)
class Pace:
    """Bounds of the runs in this process; a case may change them before it runs."""

    confirm_timeout: timedelta = timedelta(seconds=10)
    """For 30 minutes."""
    adx_first_wait: float = 0.02
    """For a second before a statement is repeated."""
    read_timeout: float = 10.0
    """For 200 seconds until an answer of Defender."""
    patience: float | None = None
    """For 16 minutes of being throttled."""
    slice_rows: int | None = None
    """Rows of a slice, where a case needs others than the bench's."""
    row_cap: int | None = None
    """For the 100,000 rows of an answer, where a case makes the tenant's cap smaller."""


@contextmanager
def hurried(pace: Pace) -> Iterator[None]:
    """Engines and clients that are made meanwhile have the bounds of `pace` as it is then."""
    options, hunting, adx = EngineOptions.from_settings, HuntingClient.from_settings, AdxClient.from_settings

    def quick_options(settings: Settings) -> EngineOptions:
        own = options(settings)
        slice_rows = pace.slice_rows or own.slice_rows
        return replace(own, confirm_timeout=pace.confirm_timeout, slice_rows=slice_rows)

    def quick_hunting(settings: Settings, **rest: Any) -> HuntingClient:
        client = hunting(settings, **rest)
        client._timeouts = (client._timeouts[0], pace.read_timeout)
        if pace.patience is not None:
            client._retries = replace(client._retries, throttled_for=pace.patience)
        client._row_cap = pace.row_cap or client._row_cap
        return client

    def quick_adx(settings: Settings, token_provider: Any, **rest: Any) -> AdxClient:
        client = adx(settings, token_provider, **rest)
        client._first_wait = pace.adx_first_wait
        return client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineOptions, "from_settings", quick_options)
        patch.setattr(HuntingClient, "from_settings", quick_hunting)
        patch.setattr(AdxClient, "from_settings", quick_adx)
        # Storage clients wait 15 s before they repeat a request.
        patch.setattr(HttpTransport, "sleep", lambda transport, duration: None)
        yield
