"""Reading the text of a management command: names, literals, property lists, and where its query part begins.

Here: tokens. Not here: what a command does (`commands`, `commands_show`, `commands_ingest`).
"""

import re
from dataclasses import dataclass, field
from typing import NoReturn

from defender_adx_pipeline.local.frames import syntax_error

_SKIP = re.compile(r"(?:\s+|//[^\n]*)+")
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z][A-Za-z0-9_]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ENTITY = re.compile(r"[\w .\-]{1,1024}")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LITERAL = re.compile(
    r"(?s)[hH]?(?:```(?P<block>.*?)```|~~~(?P<tilde>.*?)~~~"
    r"|@\"(?P<vdouble>(?:[^\"]|\"\")*)\"|@'(?P<vsingle>(?:[^']|'')*)'"
    r"|\"(?P<double>(?:[^\"\\\r\n]|\\.)*)\"|'(?P<single>(?:[^'\\\r\n]|\\.)*)')"
)
_COMMENT = re.compile(r"//[^\n]*")
SCALARS = {
    "string": "string",
    "datetime": "datetime",
    "date": "datetime",
    "dynamic": "dynamic",
    "long": "long",
    "int": "int",
    "bool": "bool",
    "boolean": "bool",
    "guid": "guid",
    "real": "real",
    "double": "real",
    "decimal": "decimal",
    "timespan": "timespan",
    "time": "timespan",
}


@dataclass(slots=True)
class Reader:
    """A place in a command's text."""

    text: str
    at: int = 0
    _start: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._skip()

    def fail(self, expected: str) -> NoReturn:
        """Refuse the command as the service refuses what it cannot parse.

        Raises:
            KustoFault: always.
        """
        raise syntax_error(
            f"A recognition error occurred. [line:position={self.text.count(chr(10), 0, self.at) + 1}:{self.at}]"
            f" Expected {expected}",
            self.text[self.at :] or self.text,
        )

    def done(self) -> bool:
        """Whether nothing but white space and comments is left."""
        return self.at >= len(self.text)

    def end(self) -> None:
        """The command must end here; a closing semicolon is allowed."""
        self.take(";")
        if not self.done():
            self.fail("the end of the command")

    def word(self) -> str:
        """The next bare word (`create-merge` is one), lower case, or ''. Does not move."""
        match = _BARE.match(self.text, self.at)
        return match[0].lower() if match else ""

    def take(self, *wanted: str) -> bool:
        """Step over a run of words or punctuation if it comes next."""
        start = self.at
        for item in wanted:
            if item[0].isalpha():
                if self.word() != item:
                    self.at = start
                    return False
            elif not self.text.startswith(item, self.at):
                self.at = start
                return False
            self.at += len(item)
            self._skip()
        return True

    def need(self, *wanted: str) -> None:
        """Step over what must come next."""
        if not self.take(*wanted):
            self.fail(f"'{' '.join(wanted)}'")

    def any_word(self) -> str:
        """The next bare word, stepped over."""
        word = self.word()
        if not word:
            self.fail("a keyword")
        self.at += len(word)
        self._skip()
        return word

    def name(self) -> str:
        """An entity name: bare, ['quoted'] or ["quoted"], or a plain string literal.

        Raises:
            KustoFault: no name, or one with characters that entity names may not have.
        """
        if self.take("["):
            value = self.string()
            self.need("]")
        elif self._at_literal():
            value = self.string()
        else:
            match = _NAME.match(self.text, self.at)
            if not match:
                self.fail("a name")
            value, self.at = match[0], match.end()
            self._skip()
        if not _ENTITY.fullmatch(value):
            self.fail("an entity name of letters, digits, underscores, spaces, dots and dashes")
        return value

    def names(self) -> list[str]:
        """One name, or several in parentheses."""
        if not self.take("("):
            return [self.name()]
        found = [self.name()]
        while self.take(","):
            found.append(self.name())
        self.need(")")
        return found

    def string(self) -> str:
        """A string literal of any of KQL's forms."""
        match = _LITERAL.match(self.text, self.at) if self._at_literal() else None
        if not match:
            self.fail("a string literal")
        self.at = match.end()
        self._skip()
        return _value(match)

    def long_string(self) -> str:
        """Adjacent string literals, joined: how scripts break a long mapping or policy over lines."""
        parts = [self.string()]
        while self._at_literal():
            parts.append(self.string())
        return "".join(parts)

    def strings(self) -> list[str]:
        """`("a", "b")`."""
        self.need("(")
        found = [self.string()]
        while self.take(","):
            found.append(self.string())
        self.need(")")
        return found

    def columns(self) -> list[tuple[str, str]]:
        """`(A:string, ['B']:long)`.

        Raises:
            KustoFault: a column has no type, or an unknown one.
        """
        self.need("(")
        found: list[tuple[str, str]] = []
        while not self.take(")"):
            if found:
                self.need(",")
            name = self.name()
            self.need(":")
            kind = self.any_word()
            if kind not in SCALARS:
                self.fail(f"a scalar type in place of '{kind}'")
            found.append((name, SCALARS[kind]))
        return found

    def properties(self) -> dict[str, str]:
        """`with (a=1, b='x')`, or nothing. Keys in lower case, values as text."""
        found: dict[str, str] = {}
        if not self.take("with"):
            return found
        self.need("(")
        while not self.take(")"):
            if found:
                self.need(",")
            key = self.any_word()
            self.need("=")
            found[key] = self.value()
        return found

    def value(self) -> str:
        """A literal: string, number, bool, bare word, or the inside of `datetime(...)`."""
        if self._at_literal():
            return self.string()
        if self.take("datetime"):
            return self.balanced("(", ")").strip()
        match = _NUMBER.match(self.text, self.at) or _BARE.match(self.text, self.at)
        if not match:
            self.fail("a value")
        self.at = match.end()
        self._skip()
        return match[0]

    def balanced(self, opening: str, closing: str) -> str:
        """The text between a bracket and its partner, which literals and comments cannot end."""
        if not self.text.startswith(opening, self.at):
            self.fail(f"'{opening}'")
        start, depth, place = self.at + 1, 0, self.at
        while place < len(self.text):
            skipped = _opaque(self.text, place)
            if skipped > place:
                place = skipped
                continue
            depth += {opening: 1, closing: -1}.get(self.text[place], 0)
            place += 1
            if depth == 0:
                self.at = place
                self._skip()
                return self.text[start : place - 1]
        return self.fail(f"'{closing}'")

    def rest(self) -> str:
        """Everything that is left."""
        left, self.at = self.text[self.at :], len(self.text)
        return left

    def _at_literal(self) -> bool:
        return re.match(r"[hH]?(?:@?[\"']|```|~~~)", self.text[self.at : self.at + 5]) is not None

    def _skip(self) -> None:
        match = _SKIP.match(self.text, self.at)
        if match:
            self.at = match.end()


def split_pipe(text: str) -> tuple[str, str]:
    """A command and the query it is piped into: `.show tables | count` gives (".show tables ", "count")."""
    place, depth = 0, 0
    while place < len(text):
        skipped = _opaque(text, place)
        if skipped > place:
            place = skipped
            continue
        character = text[place]
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "|" and depth == 0:
            return text[:place], text[place + 1 :].strip()
        place += 1
    return text, ""


def outside_literals(text: str) -> str:
    """The text with string literals and comments blanked, of the same length: to look for names in."""
    out: list[str] = []
    place = 0
    while place < len(text):
        skipped = _opaque(text, place)
        out.append(" " * (skipped - place) if skipped > place else text[place])
        place = max(skipped, place + 1)
    return "".join(out)


def _opaque(text: str, place: int) -> int:
    """The end of the literal or comment that begins here, or `place`."""
    match = _COMMENT.match(text, place) or _LITERAL.match(text, place)
    if match and text[place] in "hH" and place and (text[place - 1].isalnum() or text[place - 1] == "_"):
        return place  # the h of a name such as `Path'`
    return match.end() if match else place


def _value(match: re.Match[str]) -> str:
    groups = match.groupdict()
    for kind in ("block", "tilde"):
        if groups[kind] is not None:
            return str(groups[kind]).removeprefix("\r").removeprefix("\n")
    if groups["vdouble"] is not None:
        return str(groups["vdouble"]).replace('""', '"')
    if groups["vsingle"] is not None:
        return str(groups["vsingle"]).replace("''", "'")
    escaped = groups["double"] if groups["double"] is not None else groups["single"]
    text = _ESCAPE.sub(_unescape, escaped or "")
    # Kusto's strings are UTF-16: two escaped surrogates are one character.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "uUx" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPED.get(code, code)
