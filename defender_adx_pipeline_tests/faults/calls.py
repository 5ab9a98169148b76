"""Something that happens at a hunting call of a kind: a fault, or rows that arrive.

Here: telling schema, count and page calls of a table apart, and counting them. Not here: faults at the other services,
which `tenant.faults` selects by the text of a request, and what a fault says (`local.presets`).
"""

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from defender_adx_pipeline.local.faults import Fault
from defender_adx_pipeline.local.presets import preset
from defender_adx_pipeline.local.tenant import LocalTenant

Kind = Literal["schema", "count", "page", "any"]

_COUNTS = re.compile(r"\|\s*(summarize|count)\b")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(slots=True)
class Trigger:
    """What happens at the calls `first` to `first + times - 1` of a kind; `times` None: at every one from there on."""

    table: str
    kind: Kind
    act: Callable[[], Fault | None]
    first: int = 1
    times: int | None = 1
    fired: int = 0


class HuntingCalls:
    """Watches the hunting calls of a tenant while it is entered."""

    def __init__(self, tenant: LocalTenant) -> None:
        self._script = tenant.faults
        self._take = self._script.take
        self._lock = threading.RLock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._triggers: list[Trigger] = []

    def __enter__(self) -> Self:
        self._script.take = self._watched  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        self._script.take = self._take  # type: ignore[method-assign]

    def clear(self) -> None:
        """No trigger any more, and counting begins anew."""
        with self._lock:
            self._seen.clear()
            self._triggers.clear()

    def fault(self, table: str, kind: Kind, name: str, *, first: int = 1, times: int | None = 1, **own: Any) -> Trigger:
        """A named fault of `local.presets` at calls of a kind; counted from now on."""
        return self.add(table, kind, lambda: preset("hunting", name, **own), first=first, times=times)

    def add(
        self, table: str, kind: Kind, act: Callable[[], Fault | None], *, first: int = 1, times: int | None = 1
    ) -> Trigger:
        """Something to do before the tenant answers: it may give a fault."""
        with self._lock:
            trigger = Trigger(table, kind, act, first + self._seen[table, kind], times)
            self._triggers.append(trigger)
        return trigger

    def fired(self) -> int:
        """How often something happened."""
        with self._lock:
            return sum(trigger.fired for trigger in self._triggers)

    def _watched(self, service: str, *texts: str | None, method: str = "") -> Fault | None:
        fault = None
        if service == "hunting" and texts and texts[0]:
            with self._lock:
                fault = self._seen_call(texts[0])
        return fault if fault is not None else self._take(service, *texts, method=method)

    def _seen_call(self, statement: str) -> Fault | None:
        name_found = _NAME.search(statement)
        table = name_found.group() if name_found else ""
        kind = "schema" if "getschema" in statement else "count" if _COUNTS.search(statement) else "page"
        fault = None
        for name in (kind, "any"):
            self._seen[table, name] += 1
            number = self._seen[table, name]
            for trigger in self._triggers:
                last = None if trigger.times is None else trigger.first + trigger.times - 1
                if (trigger.table, trigger.kind) != (table, name) or number < trigger.first:
                    continue
                if last is None or number <= last:
                    trigger.fired += 1
                    fault = fault or trigger.act()
        return fault
