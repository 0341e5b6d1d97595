"""What README and the other pages tell a reader to type: every command is parsed, the short ways are run to the end."""

import argparse
import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from tests.documented import ROOT, blocks, commands
from tests.small_runs import assert_filled
from tests.test_any_table import holed, tips
from vadtune.data.declared import Declared
from vadtune.settings import parse
from vadtune.training.config import TrialConfig
from vadtune.tuning.space import make_space

README = ROOT / "README.md"
PAGES = [
    README,
    *sorted(ROOT.glob("cluster/**/*")),
    *sorted(ROOT.glob("search_spaces/*.toml")),
    ROOT / "benchmarks/README.md",
]
MODULES = ["datasets", "evaluate", "export", "impute", "report.__main__", "search", "search_flags", "train"]


def texts():
    """Pages, and the examples of every `--help`."""
    for path in PAGES:
        if path.is_file():
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for name in MODULES:
        module = importlib.import_module(f"vadtune.{name}")
        if hasattr(module, "EXAMPLES"):
            yield f"vadtune.{name}", module.EXAMPLES


CALLS = [
    pytest.param(command, words, id=f"{place}-{number}")
    for place, text in texts()
    for command in ("search", "train", "evaluate", "impute", "report", "export", "datasets")
    for number, words in enumerate(commands(text, rf"python -m vadtune\.{command}"))
    if words
]


class Parsed(Exception):
    """The arguments are right."""


def test_many_commands_are_found():
    assert len(CALLS) > 40


@pytest.mark.parametrize(("command", "words"), CALLS)
def test_a_documented_command_has_the_flags_that_the_documentation_says(command, words, monkeypatch, capsys):
    parse_known = argparse.ArgumentParser.parse_args

    def parse_args(parser, arguments=None, namespace=None):
        parse_known(parser, arguments, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    module = importlib.import_module(f"vadtune.{command}{'.__main__' if command == 'report' else ''}")
    try:
        module.main(words)
    except Parsed:
        return
    except SystemExit:
        pytest.fail(f"{command} {words}: {capsys.readouterr().err}")


@pytest.fixture
def folder(tmp_path):
    """A folder with README's `my.csv`: mixed types and holes."""
    holed(tips()).to_csv(tmp_path / "my.csv", index=False)
    return tmp_path


def assert_table_is_filled(folder: Path, dtype: type | None = None):
    before = pd.read_csv(folder / "my.csv", dtype=dtype)
    assert before.isna().any().any()
    assert_filled(pd.read_csv(folder / "filled.csv", dtype=dtype), before)


@pytest.mark.cluster
def test_three_lines_of_shell_fill_a_table(folder):
    block = next(block for block in blocks(README, "bash") if "my.csv" in block)
    install, search, impute = block.splitlines()
    assert install == "pip install -c constraints.txt -e ."  # .ci/run does it
    # Two short trials end it long before its ten minutes are over.
    search += " --trials 2 --max-epochs 3"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-euc", f"{search}\n{impute}"]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert_table_is_filled(folder, dtype=str)  # known cells keep their text


def test_five_lines_of_python_fill_a_table(folder, monkeypatch):
    (block,) = blocks(README, "python")
    assert len([line for line in block.splitlines() if line]) == 5
    monkeypatch.chdir(folder)
    exec(block, {})
    assert_table_is_filled(folder)


def test_the_declarations_and_the_search_space_of_readme_are_understood():
    declared, space = (tomllib.loads(text) for text in blocks(README, "toml"))
    columns: Declared = parse(Declared, declared, "README")
    assert columns.positive == ("income",)
    assert set(declared) == {"id", "categorical", "positive", "missing", "ordinal", "bounds"}
    made = make_space(space, TrialConfig, "README")
    assert made.first[0]["model.latent_dim"] == 24


def test_every_file_that_readme_points_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if not link.startswith("https://")]
    assert len(files) > 5
    assert [file for file in files if not (ROOT / file).exists()] == []
