"""The commands that documentation shows, as words."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Where commands continue on the next line, that may begin with the sign of a comment.
CONTINUED = re.compile(r"\\\n\s*#?\s*")


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a Markdown file in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(text: str, program: str) -> Iterator[list[str]]:
    """What follows each call of a program, up to a comment or the next command; `…` stands for what is left out."""
    for found in re.findall(rf"(?:^|[\s`('\"]){program}(?=\s|$)([^`\n]*)", CONTINUED.sub(" ", text), re.MULTILINE):
        words = shlex.shlex(found.replace("…", ""), posix=True, punctuation_chars="|&;<>")
        words.whitespace_split = True
        yield list(takewhile(lambda word: not set(word) <= set("|&;<>"), words))
