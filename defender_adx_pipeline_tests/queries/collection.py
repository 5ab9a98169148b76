"""The hunting queries of this folder.

Here: reading the `.kql` files. A query begins with a comment, its name and what it finds, and ends at a blank line. Not
here: running or binding them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from defender_adx_pipeline.catalogue import load_catalogue

FOLDER = Path(__file__).parent
_HEAD = re.compile(r"// (?P<name>[a-z0-9]+(?:-[a-z0-9]+)*): (?P<finds>.+)")


@dataclass(frozen=True, slots=True)
class HuntingQuery:
    """One query."""

    name: str
    finds: str
    """What it finds, in a sentence."""
    text: str
    file: str

    @property
    def tables(self) -> frozenset[str]:
        """The tables of the catalogue that it names."""
        return frozenset(re.findall(r"\b[A-Z]\w+", self.text)) & load_catalogue().keys()


@cache
def hunting_queries() -> tuple[HuntingQuery, ...]:
    """All of them, by file and in the order in which they stand there."""
    return tuple(query for path in sorted(FOLDER.glob("*.kql")) for query in _read(path))


def _read(path: Path) -> Iterator[HuntingQuery]:
    # The first block of a file says what the file is about.
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())[1:]:
        head, _, text = block.partition("\n")
        found = _HEAD.fullmatch(head)
        if found is None or not text.strip():
            raise ValueError(f"{path.name}: a query begins with `// name: what it finds.`, and this does not: {head!r}")
        yield HuntingQuery(found["name"], found["finds"], text.strip(), path.name)
