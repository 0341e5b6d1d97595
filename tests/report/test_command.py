"""`python -m vadtune.report` from outside."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from tests.report import factory
from vadtune.report.__main__ import main


def test_the_path_of_the_page_is_the_only_line_on_stdout(
    image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "page.html"
    assert main([str(image_run), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert output.stat().st_size > 4e6


def test_several_runs_make_a_comparison(
    image_run: Path,
    other_image_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(image_run), str(other_image_run)]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    assert "digits-vad: " in (tmp_path / "comparison.html").read_text()


def test_json_prints_one_document(image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(image_run), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(tmp_path / "r.html")
    assert result["runs"][0]["run"] == "digits-vad"
    assert result["runs"][0]["trials"]["waiting"] == 2
    assert result["runs"][0]["test_rmse"] == pytest.approx(0.118, abs=0.002)


def test_csv_holds_every_trial_and_no_formula(hostile_run: Path, image_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(hostile_run, tmp_path / "=cmd"))
    assert main([str(copy), str(image_run), "-o", str(tmp_path / "r.html"), "--csv", str(tmp_path / "t.csv")]) == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    assert rows[0]["run"] == "'=cmd"
    assert rows[0][f"model.{factory.HOSTILE}"] in {factory.HOSTILE, "plain"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{}/nowhere"], "not a run: it has no settings.json"),
        (["{}", "--port", "80"], "--port is for --live"),
        (["{}", "--live", "--json"], "leave out --json"),
        (["{}", "-o", "{}"], "is a folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(tmp_path) for argument in arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert words in found.err
    assert found.err.count("\n") == 1


def test_images_without_kaleido_say_what_to_install(
    image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    arguments = [str(image_run), "-o", str(tmp_path / "r.html"), "--images", str(tmp_path / "images")]
    assert main(arguments) == 2
    assert "pip install kaleido" in capsys.readouterr().err


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, runpy; sys.argv = ['report', '--help']\n"
        "try: runpy.run_module('vadtune.report', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'plotly', 'optuna', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_names_in_the_run_folder_of_a_stranger_steer_neither_terminal_nor_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = factory.make_run(tmp_path / "run", n_trials=12)
    log = folder / "study.log"
    log.write_text(log.read_text().replace('"train.lr"', '"=HYPERLINK(1)"'))
    assert main([str(folder), "-o", str(tmp_path / "r.html"), "--csv", str(tmp_path / "t.csv")]) == 0
    assert "'=HYPERLINK(1)" in pd.read_csv(tmp_path / "t.csv").columns
    log.unlink()
    storage = JournalStorage(JournalFileBackend(str(log)))
    for name in ("\x1b[2Ja", "\x1b]0;owned\x07b"):
        storage.create_new_study([StudyDirection.MINIMIZE], name)
    capsys.readouterr()
    assert main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert "holds several studies" in said
    assert said.rstrip("\n").isprintable()
