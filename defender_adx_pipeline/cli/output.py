"""Where output goes and how wide it is. Not here: what is printed."""

import sys

from rich.console import Console

_WIDE = 180
"""Columns of output that goes to a file or a pipe, where nothing is gained by folding."""


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for every table where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(stderr=stderr, soft_wrap=True, width=width)
