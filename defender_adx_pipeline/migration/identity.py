"""Which rows of Defender are not in ADX yet, told by their identity. Pure functions over records.

Here: the key of a record and the difference of two sets of records. Not here: fetching either side (`loading`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from defender_adx_pipeline.catalogue import DefenderTable
from defender_adx_pipeline.instants import InvalidInstantError, sort_key

Record = Mapping[str, Any]

_SHORT = 200
_SORTED = orjson.OPT_SORT_KEYS


class RecordKeys:
    """Keys of the records of one table.

    Two keys: the identity that the catalogue documents, and the content, all columns but those that Defender changes
    after the row was written (`EmailEvents.LatestDeliveryLocation` for one). Without a documented identity both are
    the content.
    """

    def __init__(self, table: DefenderTable) -> None:
        self._identity = table.identity
        self._mutable = frozenset(table.mutable_columns)
        every = (*table.columns, *table.undocumented_columns)
        self._datetimes = frozenset(column.name for column in every if column.type == "datetime")

    def identity(self, record: Record) -> bytes:
        """Digest of the identity columns."""
        if not self._identity:
            return self.content(record)
        return _digest([self._value(name, record.get(name)) for name in self._identity])

    def content(self, record: Record) -> bytes:
        """Digest of every column that does not change, nulls left out."""
        return _digest(
            {
                name: self._value(name, value)
                for name, value in record.items()
                if value is not None and name not in self._mutable
            }
        )

    def readable(self, record: Record) -> dict[str, Any]:
        """The identity columns, or the short ones where none are documented: enough to find the row in Defender.

        A long value is cut, and an ellipsis says so: it may be what makes the record too large for ADX.
        """
        if self._identity:
            return {name: _cut(record.get(name)) for name in self._identity}
        return {name: value for name, value in record.items() if len(str(value)) <= _SHORT}

    def _value(self, name: str, value: Any) -> Any:
        # One instant may be spelled with and without trailing zeros.
        if name in self._datetimes and isinstance(value, str):
            try:
                return sort_key(value)
            except InvalidInstantError:
                return value
        return value


def missing_records(
    source: Iterable[dict[str, Any]], present: Iterable[Record], keys: RecordKeys
) -> list[dict[str, Any]]:
    """The records of `source` that `present` lacks, as multisets.

    Per identity, as many records are returned as the source has more of; where the two sides share an identity, the
    records whose content ADX does not have are taken first.

    `source` may be a part of the rows that `present` was taken from, as long as it has all or none of an identity: one
    bucket of a window. Memory holds the records of `source` and digests of those of `present` that share an identity
    with them; so `source` is taken first, and what ADX gets meanwhile is seen.
    """
    groups: defaultdict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for record in source:
        groups[keys.identity(record)].append(record)
    identities: Counter[bytes] = Counter()
    contents: Counter[bytes] = Counter()
    for there in present:
        identity = keys.identity(there)
        if identity in groups:
            identities[identity] += 1
            contents[keys.content(there)] += 1
    missing: list[dict[str, Any]] = []
    for identity, records in groups.items():
        wanted = len(records) - identities[identity]
        if wanted > 0:
            missing.extend(_unknown_first(records, contents, keys)[:wanted] if identities[identity] else records)
    return missing


def _unknown_first(records: list[dict[str, Any]], contents: Counter[bytes], keys: RecordKeys) -> list[dict[str, Any]]:
    left = Counter(contents)
    unknown, known = [], []
    for record in records:
        content = keys.content(record)
        if left[content] > 0:
            left[content] -= 1
            known.append(record)
        else:
            unknown.append(record)
    return unknown + known


def _cut(value: Any) -> Any:
    text = str(value)
    return value if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def _digest(value: Any) -> bytes:
    return blake2b(orjson.dumps(value, option=_SORTED), digest_size=16).digest()
