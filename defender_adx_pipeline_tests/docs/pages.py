"""The Markdown pages of the repository as tests read them: headings, links, code. Not here: what has to be true."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import defender_adx_pipeline

ROOT = Path(defender_adx_pipeline.__file__).parent.parent

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, *languages: str) -> list[str]:
        """Fenced blocks in one of the languages."""
        return [body for language, body in _FENCE.findall(self.text) if language in languages]

    def spans(self) -> list[str]:
        """What stands in single backticks, outside of fenced blocks."""
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]

    def links(self) -> list[str]:
        return _LINK.findall(_SPAN.sub("", self.prose))

    def anchors(self) -> set[str]:
        """What a link may name after `#`, by GitHub's rule."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose)}

    def commands(self) -> Iterator[str]:
        """Each command line of shell blocks and of spans, without its comment, continued lines joined."""
        for block in self.blocks("sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                yield line.split(" #", 1)[0].strip()
        yield from self.spans()


def _anchor(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def pages() -> list[Page]:
    """Every page that is part of the repository."""
    folders = (ROOT, ROOT / "docs", ROOT / "deploy", ROOT / "benchmarks", ROOT / "kql")
    found = [path for folder in folders for path in folder.glob("*.md")]
    return [Page(path) for path in sorted([*found, *(ROOT / "docs").glob("*/*.md"), *(ROOT / "kql").glob("*/*.md")])]
