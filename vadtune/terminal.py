"""A few lines on stderr that are drawn again in place; without a terminal, a plain line now and then."""

import math
import os
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from vadtune.cli import printable, say

DIM, STRONG, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


class Line(NamedTuple):
    """A line: what it is about (dim, in a column of its own) and what there is to say (strong, if it matters most)."""

    text: str
    label: str = ""
    is_strong: bool = False


class Live:
    """Lines that change, on stderr; what is said above them stays."""

    PLAIN_EVERY_S = 15.0
    LABEL_WIDTH = 10

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.has_colour = self.is_terminal and not os.environ.get("NO_COLOR")
        self.widths: list[int] = []
        self.last_plain = time.monotonic()

    def show(self, lines: Sequence[Line], plain: str, *, is_news: bool = False) -> None:
        """Draw the lines in place of the last ones; or write the plain one, when it is news or some time has passed."""
        if self.is_terminal:
            self._draw(lines)
            return
        now = time.monotonic()
        if is_news or now - self.last_plain >= self.PLAIN_EVERY_S:
            self.last_plain = now
            say(plain)

    def show_line(self, text: str, *, is_news: bool = False) -> None:
        """Show one line, the same on a terminal and without."""
        self.show([Line(text)], text, is_news=is_news)

    def say(self, line: str) -> None:
        """Write a line that stays, above the lines that change."""
        self.clear()
        say(line)

    def clear(self) -> None:
        """Leave nothing of the lines."""
        if self.widths:
            sys.stderr.write(self._up(_size()[0]) + "\x1b[J")
            sys.stderr.flush()
            self.widths = []

    def _draw(self, lines: Sequence[Line]) -> None:
        columns, rows = _size()
        up = self._up(columns)
        # The cursor waits below, so that the ^C that a terminal echoes stands on a line of its own and goes with it.
        shown = [self._styled(line, columns - 1) for line in lines[: max(1, rows - 1)]]
        drawn = up + "".join(f"{text}\x1b[K\n" for text, _ in shown) + "\x1b[J"
        # Nothing between these two: who is interrupted there clears more lines than were drawn.
        self.widths = [width for _, width in shown]
        sys.stderr.write(drawn)
        sys.stderr.flush()

    def _up(self, columns: int) -> str:
        """To the first line; a terminal that was made narrower has broken the lines that do not fit any more."""
        height = sum(max(1, math.ceil(width / columns)) for width in self.widths)
        return f"\r\x1b[{height}A" if height else "\r"

    def _styled(self, line: Line, columns: int) -> tuple[str, int]:
        label = f"{line.label:<{self.LABEL_WIDTH}}" if line.label else ""
        whole = fit(label + printable(line.text), columns)
        first, rest = whole[: len(label)], whole[len(label) :]
        if self.has_colour:
            first = f"{DIM}{first}{PLAIN}" if first else ""
            rest = f"{STRONG}{rest}{PLAIN}" if line.is_strong else rest
        return first + rest, n_columns(whole)


def fit(text: str, columns: int) -> str:
    """Text that takes at most so many columns, cut with an ellipsis."""
    if n_columns(text) <= columns:
        return text
    kept, used = "", 1
    for character in text:
        used += _width(character)
        if used > columns:
            break
        kept += character
    return f"{kept}…" if columns > 0 else ""


def n_columns(text: str) -> int:
    """The columns that a text takes: Chinese takes two a character, an accent of its own none."""
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _size() -> tuple[int, int]:
    """Columns and rows of the terminal behind stderr; stdout may lead elsewhere."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except OSError:
        return 80, 24
    return columns or 80, rows or 24
