"""`serialize` and the order that `row_number()` counts in, written with operators that duckdb-kql knows.

Here: the rewriting of the query's text. Not here: `row_number()` itself (`kql_functions`). Rows that a sort leaves
equal stand in another order at every call, the worst that KQL permits ("sort operator" promises nothing about them).
"""

import re

_LITERAL_OR_COMMENT = re.compile(
    r"(?s)//[^\n]*|@\"(?:[^\"]|\"\")*\"|@'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
)
_SERIALIZE = re.compile(r"\|\s*(serialize)\b(?P<bare>\s*(?=[|;)]|$))?")
_SORT = re.compile(r"\|\s*(?:sort|order)\s+by\b")
_ROW_NUMBER = re.compile(r"\brow_number\s*\(")
# "Window functions": the operators whose output is serialized.
_SERIALIZED = re.compile(r"\|\s*(?:serialize|sort|order|top|getschema)\b|\brange\s")


class NotSerializedError(ValueError):
    """`row_number()` over rows that have no order; the text is what Kusto says."""


def plain_serialize(text: str) -> str:
    """The query with `serialize` steps as `extend`, and with ties of its sorts broken at random before a row_number().

    Raises:
        NotSerializedError: a `row_number()` with no operator before it that puts rows in order.
    """
    bare = _LITERAL_OR_COMMENT.sub(lambda match: " " * len(match[0]), text)
    numbers = [match.start() for match in _ROW_NUMBER.finditer(bare)]
    edits = [
        (match.start(1), match.end(1), "where true" if match["bare"] is not None else "extend")
        for match in _SERIALIZE.finditer(bare)
    ]
    if numbers:
        if not _SERIALIZED.search(bare, 0, numbers[0]):
            raise NotSerializedError(
                "Function 'row_number' cannot be invoked in current context. Details: the row set must be serialized."
            )
        for match in _SORT.finditer(bare, 0, numbers[-1]):
            end = _step_end(bare, match.end())
            edits.append((end, end, ", rand() asc"))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _step_end(bare: str, start: int) -> int:
    """Where a step ends: behind its last sign before the next pipe, statement or closing bracket around it."""
    depth = 0
    for place in range(start, len(bare)):
        sign = bare[place]
        if depth == 0 and sign in "|;)":
            return start + len(bare[start:place].rstrip())
        depth += (sign in "([{") - (sign in ")]}")
    return start + len(bare[start:].rstrip())
