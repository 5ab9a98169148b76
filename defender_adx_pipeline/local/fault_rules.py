"""What can go wrong with a call, and which calls: the values that a fault script is made of.

Here: faults and rules. Not here: the script that counts calls (`faults`), faults with the words of the services
(`presets`), random ones (`chaos`), carrying them out (`servers`, `worker`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Service = Literal["hunting", "entra", "engine", "ingest", "storage", "worker"]
Kind = Literal[
    "status",
    "html",
    "reset",
    "truncate",
    "cut",
    "partial",
    "partial_end",
    "lost_reply",
    "delay",
    "hang",
    "duplicate",
    "crash",
    "drop",
]

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
    - `cut`: do the work and send `keep` of the answer's body as if it were the whole;
    - `partial`: engine queries only, do the work, send `keep` of the rows, then an error among them;
    - `partial_end`: the same with the error in the last frame alone;
    - `lost_reply`: do the work, then close the connection without an answer (worker: ingest, but keep the message);
    - `delay`: do the work `seconds` later;
    - `hang`: wait `seconds` (default 3600) and close without an answer;
    - `duplicate`: worker only, ingest the same message twice;
    - `crash`: worker only, the worker dies with the blob in hand, loaded unless `keep` is 0, the message not
      acknowledged, and is back after `seconds`;
    - `drop`: worker only, acknowledge the message and do nothing. The service promises not to: it shows that a run
      notices.

    On the worker `reset` puts the message back, and `delay` holds back this message alone.
    """

    kind: Kind
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    seconds: float = 0.0
    """On a worker's `status` of 500 or more: the service tries the blob again after so long; 0 is never."""
    keep: float = 0.5
    code: str = ""
    """Worker only: the error code that a `status` fault registers as an ingestion failure; it is transient when
    `status` is 500 or more."""
    name: str = ""
    """Of the preset that this is."""

    @property
    def label(self) -> str:
        """The name under which it is counted and logged."""
        return self.name or self.kind


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
    without: str = ""
    """Text that none of them contains: an audit row quotes the statement that failed, and is not that statement."""
    method: str = ""
    first: int = 1
    times: int | None = 1
    probability: float = 1.0
    seed: int = 7
