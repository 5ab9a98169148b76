"""Faults on request: which call of which service goes wrong, and how.

Here: the script of rules, set in-process or through the admin app, and the decision per call. Not here: carrying a
fault out on a connection (`servers`) or in the ingestion worker (`worker`).
"""

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Service = Literal["hunting", "entra", "engine", "ingest", "storage", "worker"]
Kind = Literal["status", "html", "reset", "truncate", "lost_reply", "delay", "hang", "duplicate"]

SERVICES: frozenset[str] = frozenset(get_args(Service))
KINDS: frozenset[str] = frozenset(get_args(Kind))


class BadFaultError(ValueError):
    """A rule that names an unknown service, kind or field; the message says which."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the call.

    - `status`: answer `status` with `headers` and `body` without doing the work;
    - `html`: answer `status` with an HTML page, as a gateway does;
    - `reset`: close the connection without an answer, the work not done;
    - `truncate`: do the work and cut the answer's body after `keep` of it, then close;
    - `lost_reply`: do the work, then close the connection without an answer (worker: ingest, but keep the message);
    - `delay`: do the work `seconds` later;
    - `hang`: wait `seconds` (default 3600) and close without an answer;
    - `duplicate`: worker only, ingest the same message twice.
    """

    kind: Kind
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    keep: float = 0.5
    code: str = ""
    """Worker only: the error code that a `status` fault registers as an ingestion failure; it is transient when
    `status` is 500 or more."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault and the calls that it hits.

    Calls that `service`, `match`, `path` and `method` select are counted per rule from 1; the rule fires for calls
    `first` to `first + times - 1` (`times` None: for ever), each with `probability`.
    """

    service: Service
    fault: Fault
    match: str = ""
    """Text that the statement, table or path contains; empty matches every call."""
    method: str = ""
    first: int = 1
    times: int | None = 1
    probability: float = 1.0
    seed: int = 7


@dataclass(slots=True)
class _Armed:
    rule: Rule
    dice: random.Random
    seen: int = 0
    fired: int = 0


class FaultScript:
    """The rules in force. Thread-safe; the first rule that fires for a call wins."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()

    def add(self, service: Service, fault: Fault | Kind, *, match: str = "", **rule: Any) -> Rule:
        """Put a rule at the end of the script.

        Args:
            service: whose calls.
            fault: what happens; a bare kind stands for `Fault(kind)`.
            match: see `Rule.match`.
            rule: further fields of `Rule`, or of `Fault` when `fault` is a bare kind.

        Raises:
            BadFaultError: an unknown service, kind or field.
        """
        fields = {"service": service, "match": match, **rule}
        if isinstance(fault, Fault):
            return self._arm(_rule(fields, fault))
        return self.add_json({**fields, "kind": fault})

    def add_json(self, record: Mapping[str, Any]) -> Rule:
        """Put a rule given as one flat object: the fields of `Rule` and of `Fault` side by side.

        Raises:
            BadFaultError: an unknown service, kind or field.
        """
        own = {name: value for name, value in record.items() if name in Fault.__dataclass_fields__}
        rest = {name: value for name, value in record.items() if name not in own}
        if own.get("kind") not in KINDS:
            raise BadFaultError(f"fault kind {own.get('kind')!r} is unknown; known: {', '.join(sorted(KINDS))}")
        return self._arm(_rule(rest, Fault(**own)))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._armed.clear()

    def take(self, service: str, *texts: str | None, method: str = "") -> Fault | None:
        """Count a call and say what goes wrong with it.

        Args:
            service: whose call.
            texts: statement, table and path of the call; a rule matches when one of them contains its text.
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
                    "kind": armed.rule.fault.kind,
                    "status": armed.rule.fault.status,
                    "seen": armed.seen,
                    "fired": armed.fired,
                }
                for armed in self._armed
            ]

    def fired(self) -> int:
        """How many calls went wrong so far on the rules in force."""
        with self._lock:
            return sum(armed.fired for armed in self._armed)

    def _arm(self, rule: Rule) -> Rule:
        with self._lock:
            # Not a secret: the same seed has to give the same faults again.
            self._armed.append(_Armed(rule, random.Random(rule.seed)))  # noqa: S311
        return rule


def _rule(fields: Mapping[str, Any], fault: Fault) -> Rule:
    unknown = set(fields) - set(Rule.__dataclass_fields__)
    if unknown:
        raise BadFaultError(f"a fault rule has no field {', '.join(sorted(unknown))}")
    if fields.get("service") not in SERVICES:
        raise BadFaultError(f"fault service {fields.get('service')!r} is unknown; known: {', '.join(sorted(SERVICES))}")
    return Rule(fault=fault, **fields)


def _selects(rule: Rule, service: str, texts: tuple[str | None, ...], method: str) -> bool:
    if rule.service != service or (rule.method and rule.method.upper() != method.upper()):
        return False
    return not rule.match or any(rule.match in text for text in texts if text)


def _fires(armed: _Armed) -> bool:
    rule = armed.rule
    if armed.seen < rule.first or (rule.times is not None and armed.fired >= rule.times):
        return False
    return rule.probability >= 1.0 or armed.dice.random() < rule.probability
