"""The rules of STYLE that can be read from the source: who imports whom, how long a file is, what --help costs."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vadtune"
FILES = sorted(PACKAGE.rglob("*.py"))
FOR_ALL = {"vadtune", "vadtune.__version__", "vadtune.errors", "vadtune.settings"}
ROOMS = ["data", "models", "training", "tuning"]
# What each room may import of the others; the commands, which lie in no room, may import anything.
LEFT = {room: set(ROOMS[: number + 1]) for number, room in enumerate(ROOMS)} | {"report": {"data", "report"}}
HEAVY = {"torch", "ray", "optuna"}
MAY_NOT = {"data": HEAVY, "models": {"ray", "optuna"}, "training": {"ray", "optuna"}, "report": {"torch", "ray"}}
PICKLES = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Full names of all that a file imports, inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room"
            yield node.module
            if node.module in ("vadtune", *(f"vadtune.{room}" for room in LEFT)):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name):
    """`vadtune.data.tables` is in `data`; a command is in no room."""
    parts = name.split(".")
    return parts[1] if parts[0] == "vadtune" and len(parts) > 1 and parts[1] in LEFT else None


def room_of_file(path):
    folder = path.relative_to(PACKAGE).parts[0]
    return None if path.name == "__main__.py" or folder not in LEFT else folder


def test_every_folder_is_a_room_that_this_test_knows():
    assert {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE} == set(LEFT)


@every_file
def test_a_file_imports_only_from_rooms_to_its_left(path):
    room = room_of_file(path)
    own = [name for name in imports(path) if name.split(".")[0] == "vadtune"]
    if path.name in ("errors.py", "settings.py") and path.parent == PACKAGE:
        assert set(own) <= FOR_ALL | {"vadtune.errors.ConfigError"}
    elif room is not None:
        wrong = [name for name in own if name not in FOR_ALL and room_of(name) not in LEFT[room]]
        assert not wrong, f"{room} may import from {sorted(LEFT[room])}"


@every_file
def test_a_room_does_not_import_what_it_must_run_without(path):
    room = room_of_file(path)
    assert not {name.split(".")[0] for name in imports(path)} & MAY_NOT.get(room, set())


@every_file
def test_no_file_reads_or_writes_pickles(path):
    assert not {name.split(".")[0] for name in imports(path)} & PICKLES
    calls = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}
    allowing = [
        node.value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert not allowing


@every_file
def test_a_file_is_under_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@every_file
def test_nothing_is_printed_but_by_the_commands_own_door(path):
    calls = [node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    assert "print" not in [call.id for call in calls if isinstance(call, ast.Name)]


@every_file
def test_no_file_names_the_place_where_it_was_written(path):
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("/work/", "/opt/", "../shared") if word in text]


def commands():
    """What a user runs with `python -m`."""
    for path in FILES:
        if room_of_file(path) is not None:
            continue
        tests = [ast.unparse(node.test) for node in tree(path).body if isinstance(node, ast.If)]
        if any("__main__" in test for test in tests) or path.name == "__main__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


@pytest.mark.parametrize("command", sorted(commands()))
def test_help_imports_neither_torch_nor_ray_nor_optuna(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        timeout=60,
    )
    assert command in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & (HEAVY | {"pandas", "sklearn", "plotly"})
