"""The `ray` commands that the pages and files of cluster/ show are ones that this Ray has."""

import re

import click
import pytest

from tests.documented import CONTINUED, ROOT, commands

scripts = pytest.importorskip("ray.scripts.scripts", reason="needs ray[default]")
# A line of its own in a comment, or a piece of a sentence in backticks; `ray up` alone is a name.
SHOWN = re.compile(r"^#   (ray .*)|`(ray [^`]+ [^`]+)`", re.MULTILINE)
PAGES = [path for path in sorted(ROOT.glob("cluster/**/*")) if path.is_file()]
CALLS = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}-{number}")
    for path in PAGES
    for number, shown in enumerate(SHOWN.findall(CONTINUED.sub(" ", path.read_text(encoding="utf-8"))))
    for words in [next(commands("".join(shown), "ray"))]  # what follows it is a comment
]


def test_the_commands_of_every_ray_up_file_are_found():
    shown = {param.values[0][0] for param in CALLS}
    assert {"up", "down", "exec", "submit", "attach", "dashboard", "rsync-down", "rsync-up", "job"} <= shown
    assert len(CALLS) > 30


@pytest.mark.parametrize("words", CALLS)
def test_ray_has_the_command_and_its_flags(words: list[str]):
    command, context = scripts.cli, None
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context or click.Context(command), name)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(command.name, list(words))  # raises click.UsageError at a flag or argument that it has not
