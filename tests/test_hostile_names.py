"""A table whose names are attacks, from search to filled file: nothing leaves the run, nothing is run by who looks."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from tests.report.test_page import Reader
from tests.small_runs import assert_filled
from vadtune import impute
from vadtune.report import __main__ as report

pytestmark = pytest.mark.cluster
HTML = "</script><img src=x onerror=alert(1)>"
TERMINAL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
FORMULA = "=cmd|' /C calc'!A0"
COLUMNS = ["../../../../tmp/owned", HTML, TERMINAL, FORMULA, "@SUM(1,1)", "nu\0l", "n" * 300]
LEVELS = ["../../owned", HTML, TERMINAL, "=1+1", "+1+1", "nu\0l", "x" * 300]
FILE = f"=1+1 {HTML.replace('/', '')}{TERMINAL}...parquet"
FLAGS = [
    "--trials",
    "2",
    "--max-epochs",
    "3",
    "--missing-rate",
    "0.2",
    "--set",
    "model.decoder.hidden_dim=8",
    "--set",
    "infer.n_steps=20",
]


def hostile_table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(size=90) for name in COLUMNS})
    frame["../level"] = rng.choice(LEVELS, 90)
    return frame.mask(rng.random(frame.shape) < 0.1)


@pytest.fixture(scope="module")
def home(zygote, tmp_path_factory):
    """A folder with the table in it, the run of a search over it, and what that said."""
    home = tmp_path_factory.mktemp("above") / "home"
    home.mkdir()
    hostile_table().to_parquet(home / FILE)
    done = zygote.run("vadtune.search", FILE, *FLAGS, cwd=home)
    assert done.returncode == 0, done.stderr
    return home, done


def only_run(home):
    (run,) = (home / "runs").iterdir()
    return run


def is_safe(text):
    """Whether no terminal does anything but show it."""
    return all(line.isprintable() for line in text.replace("\t", " ").split("\n"))


def formulas(path):
    """The cells that a spreadsheet would run."""
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    return [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and not is_number(cell)]


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_a_search_stays_in_its_folder_and_steers_no_terminal(home):
    folder, done = home
    assert {path.name for path in folder.iterdir()} == {FILE, "runs"}
    assert [path.name for path in folder.parent.iterdir()] == ["home"]
    run = only_run(folder)
    assert run.name.isascii()
    assert not set(run.name) & set("=<>/ \x1b")
    assert is_safe(done.stdout)
    assert is_safe(done.stderr)
    assert formulas(run / "trials.csv") == []
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    assert [column["name"] for column in settings["dataset"]["columns"]] == [*COLUMNS, "../level"]


def test_its_report_shows_names_as_text_and_its_table_has_no_formula(home, tmp_path, capfd):
    run = only_run(home[0])
    found = Reader((run / "report.html").read_text(encoding="utf-8"))
    assert HTML in found.text
    assert [name for name, _ in found.tags if name == "img"] == []
    assert [key for _, attrs in found.tags for key in attrs if key.startswith("on")] == []
    assert sum(name == "script" for name, _ in found.tags) == 3
    for words in ([], ["--json"]):
        assert report.main([str(run), "-o", str(tmp_path / "r.html"), "--csv", str(tmp_path / "t.csv"), *words]) == 0
    said = capfd.readouterr()
    assert is_safe(said.out)
    assert is_safe(said.err)
    assert formulas(tmp_path / "t.csv") == []


def test_its_model_fills_the_table_and_warns_of_categories_that_a_spreadsheet_would_run(home, tmp_path, capfd):
    table, run = home[0] / FILE, only_run(home[0])
    for name, words in (("filled.parquet", []), ("filled.csv", []), ("again.csv", ["--json"])):
        assert impute.main([str(run / "best"), str(table), "-o", str(tmp_path / name), *words]) == 0
        said = capfd.readouterr()
        assert is_safe(said.out)
        assert is_safe(said.err)
        assert ("takes it for a formula" in said.err) == name.endswith(".csv")
    assert_filled(pd.read_parquet(tmp_path / "filled.parquet"), hostile_table())
    assert {path.name for path in tmp_path.iterdir()} == {"filled.parquet", "filled.csv", "again.csv"}
    with (tmp_path / "filled.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["../level"] for row in rows} <= set(LEVELS)
    assert list(rows[0]) == [*COLUMNS, "../level"]
