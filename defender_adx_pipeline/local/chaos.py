"""Chaos: every call of every service goes wrong with a probability, in a way that a correct client survives or reports.

Here: the weights of what may happen at each service, and drawing by a seed. Not here: faults on chosen calls
(`faults`). Hangs beyond a client's read time-out are left out, and so is what no client could survive or see.
"""

import random
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from defender_adx_pipeline.local.fault_rules import SERVICES, BadFaultError, Fault, Service
from defender_adx_pipeline.local.presets import preset

_NO_ROWS = re.compile(r"\|\s*(summarize|count|getschema)\b")


@dataclass(frozen=True, slots=True)
class _Choice:
    weight: int
    name: str
    own: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, service: str, statement: str, path: str, method: str) -> bool:
        """Whether the service would answer such a call in this way."""
        if self.name in ("too_large", "preempted"):
            return not _NO_ROWS.search(statement)
        if service == "engine" and self.name.startswith("partial"):
            return path.endswith("/v2/rest/query")
        return self.name != "expired_sas" or method in ("PUT", "POST")


_SHORT = {"retry_after": 10}
"""Seconds by the service's clock, which a local tenant lets run faster."""
_KUSTO = [
    _Choice(4, "throttled"),
    _Choice(2, "unavailable"),
    _Choice(1, "bad_gateway"),
    _Choice(1, "page"),
    _Choice(3, "reset"),
    _Choice(3, "lost_reply"),
    _Choice(2, "truncated_body"),
    _Choice(1, "truncated_json"),
    _Choice(2, "slow"),
    _Choice(1, "expired_token"),
]
CHOICES: Mapping[Service, Sequence[_Choice]] = {
    "hunting": [
        _Choice(3, "throttled_minute", _SHORT),
        _Choice(1, "throttled_hour", {"retry_after": 20}),
        _Choice(1, "throttled_cpu"),
        _Choice(3, "too_large"),
        _Choice(1, "preempted"),
        _Choice(1, "bad_gateway"),
        _Choice(1, "gateway_timeout"),
        _Choice(2, "server_error"),
        _Choice(1, "unavailable"),
        _Choice(1, "page"),
        _Choice(3, "reset"),
        _Choice(3, "lost_reply"),
        _Choice(2, "truncated_body"),
        _Choice(1, "truncated_json"),
        _Choice(1, "html_200"),
        _Choice(1, "empty_200"),
        _Choice(2, "slow"),
        _Choice(2, "expired_token"),
    ],
    "entra": [
        _Choice(3, "temporarily_unavailable"),
        _Choice(1, "page"),
        _Choice(2, "reset"),
        _Choice(1, "lost_reply"),
        _Choice(1, "slow"),
    ],
    "engine": [*_KUSTO, _Choice(2, "partial"), _Choice(1, "partial_end")],
    "ingest": _KUSTO,
    "storage": [
        _Choice(2, "server_busy"),
        _Choice(2, "internal_error"),
        _Choice(2, "reset"),
        _Choice(3, "lost_reply"),
        _Choice(1, "slow"),
        _Choice(1, "expired_sas"),
    ],
    "worker": [
        _Choice(3, "twice"),
        _Choice(3, "lost_reply"),
        _Choice(3, "late"),
        _Choice(2, "transient_failure"),
        _Choice(2, "refused"),
        _Choice(1, "given_up"),
        _Choice(2, "put_back"),
        _Choice(2, "crash"),
        _Choice(1, "crash_before"),
    ],
}
"""What may happen at each service, and how often one of it against another."""


class Chaos:
    """Draws faults. Thread-safe.

    The n-th call for one table (or queue, container, path) at one service has the same fate for the same seed, in
    whatever order the calls of different tables come.

    Args:
        seed: of all draws.
        share: probability of a fault, 0 to 1.
        weights: other weights by service and name of the preset, in place of that service's own.

    Raises:
        BadFaultError: a share outside 0 to 1, or an unknown service or preset.
    """

    def __init__(self, seed: int, share: float = 0.10, weights: Mapping[str, Mapping[str, int]] | None = None) -> None:
        if not 0.0 <= share <= 1.0:
            raise BadFaultError(f"the share of faulty calls is between 0 and 1, not {share}")
        self.seed = seed
        self.share = share
        self._choices = {service: list(choices) for service, choices in CHOICES.items()}
        for service in get_args(Service):
            if (own := (weights or {}).get(service)) is not None:
                self._choices[service] = _weighted(service, own)
        if unknown := set(weights or {}) - SERVICES:
            raise BadFaultError(f"unknown services: {', '.join(sorted(unknown))}")
        self._calls: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def draw(self, service: str, texts: Sequence[str | None], method: str) -> Fault | None:
        """The fate of a call; `texts` and `method` as `FaultScript.take` has them."""
        subject = _subject(service, texts, method)
        with self._lock:
            self._calls[service, subject] += 1
            number = self._calls[service, subject]
        # Not a secret: the same seed has to give the same faults again.
        dice = random.Random(f"{self.seed}/{service}/{subject}/{number}")  # noqa: S311
        if dice.random() >= self.share:
            return None
        statement, path = texts[0] or "", texts[-1] or ""
        fitting = [
            choice for choice in self._choices[_service(service)] if choice.fits(service, statement, path, method)
        ]
        if not fitting:
            return None
        chosen = dice.choices(fitting, [choice.weight for choice in fitting])[0]
        own = dict(chosen.own)
        if chosen.name in ("slow", "late"):
            own["seconds"] = round(dice.uniform(0.05, 3.0), 3)
        if chosen.name in ("truncated_body", "truncated_json", "partial", "partial_end"):
            own["keep"] = round(dice.uniform(0.0, 0.95), 3)
        return preset(_service(service), chosen.name, **own)

    def calls(self) -> dict[str, int]:
        """Calls seen, by service."""
        found: Counter[str] = Counter()
        with self._lock:
            for (service, _), count in self._calls.items():
                found[service] += count
        return dict(sorted(found.items()))


def _weighted(service: Service, weights: Mapping[str, int]) -> list[_Choice]:
    known = {choice.name: choice for choice in CHOICES[service]}
    chosen = []
    for name, weight in weights.items():
        own = known[name].own if name in known else {}
        preset(service, name, **own)  # refuses a name that there is not
        chosen.append(_Choice(weight, name, own))
    return chosen


def _service(service: str) -> Service:
    return next(one for one in get_args(Service) if one == service)


def _subject(service: str, texts: Sequence[str | None], method: str) -> str:
    """What a call is about, the same in another run: no ids of slices, blobs and messages."""
    if service == "worker":
        return texts[0] or ""
    table, path = (texts[1], texts[2] or "") if len(texts) > 2 else (None, texts[-1] or "")
    if service == "storage":
        parts = path.split("/")
        # Blobs are called <database>__<table>__<id>__<name>.
        table = parts[3].split("__")[1] if len(parts) > 3 and parts[3].count("__") > 1 else "/".join(parts[2:4])
        return f"{method} {table}"
    return f"{path} {table or ''}"
