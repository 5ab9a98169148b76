"""KQL out of a folder with somebody's hunting queries.

Here: the forms in which such collections come: Markdown with fenced blocks, `.kql` files, YAML with `query:` fields,
also the templates of msticpy with their parameters. Not here: binding what was found.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from defender_adx_pipeline.catalogue import load_catalogue

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^[ \t]*(?P=fence)",
    re.MULTILINE | re.DOTALL,
)
_LANGUAGES = frozenset({"kql", "kusto", "csl", "kustoquery"})
_WHOLE_FILES = frozenset({".kql", ".kusto", ".csl"})
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VALUES = {"datetime": "2026-11-01T00:00:00Z", "list": "'x'", "int": "1"}
"""What stands for a parameter without a default, by its type; `x` for any other."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of KQL, and where it was found."""

    source: str
    """File within the folder, and the block's number or name in it."""
    text: str

    @property
    def is_of_defender(self) -> bool:
        """Whether it names a table of the catalogue, in any spelling."""
        named = {word.casefold() for word in re.findall(r"\w+", self.text)}
        return any(table.casefold() in named for table in load_catalogue())


def blocks(folder: Path) -> Iterator[Block]:
    """Every block of the files of a folder, each text once.

    Raises:
        yaml.YAMLError: a file of the folder is no YAML.
    """
    seen = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for name, text in _blocks_of(path):
            if text.strip() and text.strip() not in seen:
                seen.add(text.strip())
                yield Block(f"{path.relative_to(folder)}{name}", text.strip())


def _blocks_of(path: Path) -> Iterator[tuple[str, str]]:
    suffix = path.suffix.lower()
    if suffix not in {".md", ".yaml", ".yml"} | _WHOLE_FILES:
        return
    content = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    if suffix in _WHOLE_FILES:
        yield "", content
    elif suffix == ".md":
        for number, match in enumerate(_FENCE.finditer(content), start=1):
            language = match["language"].lower()
            # Older collections do not say what a block is written in.
            if language in _LANGUAGES or (not language and Block("", match["text"]).is_of_defender):
                yield f"#{number}", match["text"]
    else:
        for document in yaml.safe_load_all(content):
            yield from _queries(document, {}, "")


def _queries(value: Any, parameters: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """The `query` fields of a YAML document, with the values of their parameters."""
    if isinstance(value, list):
        for number, item in enumerate(value, start=1):
            yield from _queries(item, parameters, f"{name}#{number}")
    if not isinstance(value, dict):
        return
    defaults = value.get("defaults") if isinstance(value.get("defaults"), dict) else {}
    known = {**parameters, **_parameters(defaults), **_parameters(value)}
    for key, item in value.items():
        if key == "query" and isinstance(item, str):
            yield name, _filled(item, known) if known else item
        else:
            yield from _queries(item, known, f"{name}#{key}" if key not in ("sources", "args") else name)


def _parameters(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found = value.get("parameters")
    return {name: one for name, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}


def _filled(template: str, parameters: Mapping[str, Any], depth: int = 5) -> str:
    """A template with its parameters put in; a default may hold parameters of its own."""

    def put(match: re.Match[str]) -> str:
        parameter = parameters.get(match[1])
        if parameter is None:
            return match[0]
        kind = str(parameter.get("type"))
        default = parameter.get("default")
        # A time is given relative to now, which only msticpy understands.
        given = default is not None and kind != "datetime"
        value = str(default) if given else _VALUES.get(kind, "x")
        return _filled(value, parameters, depth - 1) if depth else value

    return _PLACEHOLDER.sub(put, template)
