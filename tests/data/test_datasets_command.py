"""`python -m vadtune.datasets`: what it writes, where, and what it says. Downloads come from a local stand-in."""

import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vadtune.data.datasets import NAMES, load
from vadtune.data.splits import DataConfig, split
from vadtune.data.tables import read_table
from vadtune.datasets import main
from vadtune.errors import VadtuneError


def images_of(asked: list) -> object:
    def download(*, name: str, version: int | str) -> SimpleNamespace:
        asked.append((name, version))
        pixels = np.random.default_rng(0).integers(0, 256, (6, 784))
        return SimpleNamespace(data=pd.DataFrame(pixels), target=pd.Series(list("012345")))

    return download


def table_of(frame: pd.DataFrame) -> object:
    return lambda **_: SimpleNamespace(data=frame, target=None)


def failing(error: Exception) -> object:
    def download(**_: object) -> None:
        raise error

    return download


@pytest.mark.parametrize(("name", "openml"), [("mnist", "mnist_784"), ("fashion_mnist", "Fashion-MNIST")])
def test_fetched_images_are_what_load_finds(tmp_path, capsys, name, openml):
    asked = []
    main(["fetch", name, "--data-dir", str(tmp_path)], download=images_of(asked))
    assert asked == [(openml, 1)]
    table = load(name, data_dir=tmp_path)
    assert (table.n_rows, table.image_shape, table.labels.tolist()) == (6, (28, 28), [0, 1, 2, 3, 4, 5])
    path = tmp_path / name / f"{name}.npz"
    assert capsys.readouterr().out == f"{path}: 6 rows x 784 columns, sha256 {table.sha256}\n"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_fetched_table_is_a_dataset_by_its_name_and_says_what_was_left_out(tmp_path, capsys):
    frame = pd.DataFrame({"a": [1.0, None], "b": [1, 2], "c": [b"x", b"y"], "d": pd.Categorical(["u", "v"])})
    main(["fetch", "kin8nm", "--data-dir", str(tmp_path)], download=table_of(frame))
    table = load("kin8nm", data_dir=tmp_path)
    assert (table.name, [column.name for column in table.columns]) == ("kin8nm", ["a", "b", "d"])
    assert "Left out, since no model can take them: c." in capsys.readouterr().err
    main(["list", "--data-dir", str(tmp_path)])
    assert "kin8nm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "download", "words"),
    [
        ("mnist", failing(OSError("no route")), "openml.org cannot be reached (no route)"),
        ("nothere", failing(ValueError("No known dataset\nmore")), "OpenML refuses it: No known dataset"),
        ("mnist", table_of(pd.DataFrame(np.zeros((2, 3)))), "expected (rows, 784) pixels"),
        ("texts", table_of(pd.DataFrame({"a": [b"x"]})), "none of its 1 columns can be modelled"),
        ("../x", None, "cannot be a dataset of OpenML"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(tmp_path, capsys, name, download, words):
    with pytest.raises(VadtuneError, match=re.escape(words)) as end:
        main(["fetch", name, "--data-dir", str(tmp_path / "data")], download=download)
    assert "\n" not in str(end.value)
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        main(["fetch", "mnist", "--data-dir", str(tmp_path)], download=failing(KeyboardInterrupt()))
    assert not list(tmp_path.iterdir())


def test_make_writes_what_load_makes(tmp_path, capsys):
    path = tmp_path / "sub" / "blobs.parquet"
    main(["make", "synthetic", "-o", str(path), "--rows", "30", "--features", "5", "--seed", "2"])
    table = read_table(path)
    assert table.sha256 == load("synthetic:n_rows=30,n_features=5,seed=2").sha256
    assert table.sha256 in capsys.readouterr().out


@pytest.mark.parametrize(("name", "rows", "words"), [("x.csv", "0", "n_rows is 0"), ("x.txt", "9", "suffix")])
def test_make_refuses_sizes_and_suffixes_that_make_no_sense(tmp_path, name, rows, words):
    with pytest.raises(VadtuneError, match=words):
        main(["make", "synthetic", "-o", str(tmp_path / name), "--rows", rows])


@pytest.mark.parametrize(
    ("name", "flags", "file"),
    [
        ("artificial", ["--rows", "60"], "artificial/artificial.h5"),
        ("artificial", ["--rows", "60", "--missing-rate", "0.3"], "artificial/artificial_0.3.h5"),
        ("sfm", ["--rows", "60", "--landmarks", "7"], "sfm/sfm.h5"),
        ("sfm", ["--rows", "60", "--landmarks", "7", "--missing-rate", "0.2"], "sfm/sfm_0.2.h5"),
        ("wine", ["--missing-rate", "0.5", "--mechanism", "mar"], "wine/wine_0.5.h5"),
        ("digits", [], "digits/digits.h5"),
    ],
)
def test_made_reference_files_are_datasets(tmp_path, capsys, name, flags, file):
    main(["make", name, "--reference", str(tmp_path), *flags])
    told = capsys.readouterr().out
    stem = file.split("/")[1].removesuffix(".h5")
    table = load(stem, data_dir=tmp_path) if name in {"artificial", "sfm"} else read_table(tmp_path / file)
    assert table.name == stem
    assert told == f"{tmp_path / file}: {table.n_rows:,} rows x {table.n_features} columns, sha256 {table.sha256}\n"
    splits = split(table, DataConfig(dataset=stem))
    assert sum(len(rows) for rows in splits.indices) == table.n_rows


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["wine", "--rows", "5", "-o", "x.csv"], "wine has its size already"),
        (["mosi", "--reference", "x"], "It is not ours to give away"),
        (["sfm", "--features", "5", "--reference", "x"], "n_features is not a setting"),
        (["sfm", "--missing-rate", "1.5", "--reference", "x"], "missing_rate is 1.5"),
        (["sfm", "--missing-rate", "0.5", "-o", "x.csv"], "--missing-rate is for --reference"),
        (["sfm", "--mechanism", "mcar", "--reference", "x"], "give --missing-rate, too"),
        (["sfm", "--missing-rate", "0.5", "--mechanism", "mcr", "--reference", "x"], "Did you mean mcar"),
    ],
)
def test_make_says_what_it_cannot_make(tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VadtuneError, match=re.escape(words)):
        main(["make", *flags])
    assert not list(tmp_path.iterdir())


def test_list_names_every_dataset(tmp_path, capsys):
    main(["list", "--data-dir", str(tmp_path)])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_help_is_fast_and_shows_examples():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vadtune.datasets", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python -m vadtune.datasets fetch mnist" in done.stdout
    assert time.perf_counter() - start < 5  # generous: the machine may be busy
    assert not {"torch", "ray", "pandas", "sklearn", "numpy"} & {line.split()[-1] for line in done.stderr.splitlines()}


@pytest.mark.parametrize("words", [["fetch"], ["make", "synthetic", "--rows", "many", "-o", "x.csv"], ["lst"]])
def test_a_wrong_flag_is_one_line_and_ends_with_code_2(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
