"""Faults on request: which call of which service goes wrong, and how.

In-process: `tenant.faults.add("hunting", "throttled_minute", match="DeviceInfo", first=2, retry_after=5)`, where the
second word is one of `presets.PRESETS` of the service or a bare kind with its fields; `tenant.faults.chaos(seed)` lets
every call go wrong by chance; `tenant.faults.tally()` tells what went wrong. Over the admin app, see there.

Here: the script of rules and the decision per call. Not here: carrying a fault out on a connection (`servers`) or in
the ingestion worker (`worker`), and the words of the services (`presets`).
"""

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defender_adx_pipeline.local.chaos import Chaos
from defender_adx_pipeline.local.fault_rules import KINDS, SERVICES, BadFaultError, Fault, Kind, Rule, Service
from defender_adx_pipeline.local.presets import PRESETS, preset

__all__ = ["KINDS", "SERVICES", "BadFaultError", "Fault", "FaultScript", "Kind", "Rule", "Service"]


@dataclass(slots=True)
class _Armed:
    rule: Rule
    dice: random.Random
    seen: int = 0
    fired: int = 0


class FaultScript:
    """The rules in force. Thread-safe; the first rule that fires for a call wins, and chaos comes after the rules."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._chaos: Chaos | None = None
        self._fired: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, service: Service, fault: Fault | str, *, match: str = "", **rule: Any) -> Rule:
        """Put a rule at the end of the script.

        Args:
            service: whose calls.
            fault: what happens: a fault, the name of a preset of the service, or a bare kind.
            match: see `Rule.match`.
            rule: further fields of `Rule`; of `Fault` and arguments of `preset` as well when `fault` is a word.

        Raises:
            BadFaultError: an unknown service, preset, kind or field.
        """
        fields = {"service": service, "match": match, **rule}
        if isinstance(fault, Fault):
            return self._arm(_rule(fields, fault))
        return self.add_json({**fields, "kind": fault})

    def add_json(self, record: Mapping[str, Any]) -> Rule:
        """Put a rule given as one flat object: the fields of `Rule` and of `Fault` side by side.

        `kind` is the name of a preset of the service or a bare kind; a preset takes the arguments of `preset` too.

        Raises:
            BadFaultError: an unknown service, preset, kind or field.
        """
        own = {name: value for name, value in record.items() if name not in Rule.__dataclass_fields__}
        rest = {name: value for name, value in record.items() if name not in own}
        word, service = own.pop("kind", None), _service(record)
        if word in PRESETS[service]:
            return self._arm(_rule(rest, preset(service, word, **own)))
        if word not in KINDS:
            raise BadFaultError(
                f"fault kind {word!r} is unknown; kinds: {', '.join(sorted(KINDS))}; named faults of {service}:"
                f" {', '.join(sorted(PRESETS[service]))}"
            )
        if unknown := set(own) - set(Fault.__dataclass_fields__):
            raise BadFaultError(f"a fault rule has no field {', '.join(sorted(unknown))}")
        return self._arm(_rule(rest, Fault(kind=word, **own)))

    def chaos(self, seed: int, share: float = 0.10, weights: Mapping[str, Mapping[str, int]] | None = None) -> Chaos:
        """From now on every call of every service goes wrong with probability `share`; see `chaos.Chaos`.

        Raises:
            BadFaultError: a share outside 0 to 1, or an unknown service or preset among the weights.
        """
        chaos = Chaos(seed, share, weights)
        with self._lock:
            self._chaos = chaos
        return chaos

    def calm(self) -> None:
        """Chaos ends; rules and the tally stay."""
        with self._lock:
            self._chaos = None

    def clear(self) -> None:
        """Nothing goes wrong any more, and nothing is remembered of what did."""
        with self._lock:
            self._armed.clear()
            self._fired.clear()
            self._chaos = None

    def take(self, service: str, *texts: str | None, method: str = "") -> Fault | None:
        """Count a call and say what goes wrong with it.

        Args:
            service: whose call.
            texts: statement, table and path of the call, or table and source id of a message at the worker; a rule
                matches when one of them contains its text.
            method: HTTP method.
        """
        with self._lock:
            hit: Fault | None = None
            for armed in self._armed:
                if not _selects(armed.rule, service, texts, method):
                    continue
                armed.seen += 1
                if hit is None and _fires(armed):
                    armed.fired += 1
                    hit = armed.rule.fault
            if hit is None and self._chaos is not None:
                hit = self._chaos.draw(service, texts, method)
            if hit is not None:
                self._fired[service, hit.label] += 1
            return hit

    def as_json(self) -> list[dict[str, object]]:
        """The rules with how often each was reached and fired."""
        with self._lock:
            return [
                {
                    "service": armed.rule.service,
                    "match": armed.rule.match,
                    "first": armed.rule.first,
                    "times": armed.rule.times,
                    "probability": armed.rule.probability,
                    "kind": armed.rule.fault.label,
                    "status": armed.rule.fault.status,
                    "seen": armed.seen,
                    "fired": armed.fired,
                }
                for armed in self._armed
            ]

    def chaos_as_json(self) -> dict[str, object]:
        """`{"seed": n | null, "share": x, "calls": {service: n}, "fired": {service: {fault: n}}}`."""
        with self._lock:
            chaos = self._chaos
        return {
            "seed": chaos.seed if chaos else None,
            "share": chaos.share if chaos else 0.0,
            "calls": chaos.calls() if chaos else {},
            "fired": self.tally(),
        }

    def fired(self) -> int:
        """How many calls went wrong so far on the rules in force."""
        with self._lock:
            return sum(armed.fired for armed in self._armed)

    def tally(self) -> dict[str, dict[str, int]]:
        """Calls that went wrong since the last `clear`, by service and by the fault's name or kind."""
        with self._lock:
            found: dict[str, dict[str, int]] = {}
            for (service, label), count in sorted(self._fired.items()):
                found.setdefault(service, {})[label] = count
            return found

    def _arm(self, rule: Rule) -> Rule:
        with self._lock:
            # Not a secret: the same seed has to give the same faults again.
            self._armed.append(_Armed(rule, random.Random(rule.seed)))  # noqa: S311
        return rule


def _service(fields: Mapping[str, Any]) -> Service:
    for service in PRESETS:
        if service == fields.get("service"):
            return service
    raise BadFaultError(f"fault service {fields.get('service')!r} is unknown; known: {', '.join(sorted(SERVICES))}")


def _rule(fields: Mapping[str, Any], fault: Fault) -> Rule:
    unknown = set(fields) - set(Rule.__dataclass_fields__)
    if unknown:
        raise BadFaultError(f"a fault rule has no field {', '.join(sorted(unknown))}")
    _service(fields)
    return Rule(fault=fault, **fields)


def _selects(rule: Rule, service: str, texts: tuple[str | None, ...], method: str) -> bool:
    if rule.service != service or (rule.method and rule.method.upper() != method.upper()):
        return False
    if rule.without and any(rule.without in text for text in texts if text):
        return False
    return not rule.match or any(rule.match in text for text in texts if text)


def _fires(armed: _Armed) -> bool:
    rule = armed.rule
    if armed.seen < rule.first or (rule.times is not None and armed.fired >= rule.times):
        return False
    return rule.probability >= 1.0 or armed.dice.random() < rule.probability
