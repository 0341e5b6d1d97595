"""The exported folder: whole, verified, and never more than data."""

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.patience import PATIENCE_S
from tests.training.artifacts import FILES, X, example
from tests.training.examples import small
from vadtune.data.tables import Column, Table
from vadtune.errors import ArtifactError, DataError
from vadtune.training.artifact import load_artifact, save_artifact

ROOT = Path(__file__).parents[2]


def test_the_folder_has_every_file_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "SHA256SUMS"])
    assert [path.name for path in folder.parent.iterdir()] == ["best"]
    assert sorted(line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()) == FILES


def test_what_was_saved_is_loaded(folder):
    loaded, saved = load_artifact(folder), example()
    assert (loaded.config, loaded.columns, loaded.image_shape) == (saved.config, saved.columns, (2, 2))
    assert (loaded.dataset, loaded.metrics) == ({"name": "t"}, {"test_rmse": 0.1})
    assert np.array_equal(loaded.scaler.center, saved.scaler.center)
    assert np.array_equal(loaded.impute(X), saved.impute(X))


def test_members_found_side_by_side_are_those_found_alone():
    others = tuple(dataclasses.replace(example(), weight=0.25, model=_other(seed)) for seed in (1, 2))
    joined, x = dataclasses.replace(example(), weight=0.5, others=others), torch.from_numpy(X).float()
    together = joined.posteriors(x)
    for member, found in zip(joined.members, together, strict=True):
        assert torch.equal(found.mean, member.posterior(x).mean)
    weights = [0.5, 0.25, 0.25]
    average = sum(
        weight * member.expect(found) for weight, member, found in zip(weights, joined.members, together, strict=True)
    )
    assert torch.equal(joined.reconstruct(x), joined.model.values(average))


def _other(seed):
    torch.manual_seed(seed)
    return small().model.build(4).eval()


def test_no_pickle_is_read(folder, monkeypatch):
    def refuse(*_arguments, **_named):
        raise AssertionError("a pickle was read")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load")]:
        monkeypatch.setattr(module, name, refuse)
    load_artifact(folder)


def test_to_load_and_impute_imports_neither_ray_nor_optuna(folder):
    code = (
        "import sys, pathlib, numpy\n"
        "from vadtune.training.artifact import load_artifact\n"
        "load_artifact(pathlib.Path(sys.argv[1])).impute(numpy.full((2, 4), numpy.nan))\n"
        "print([name for name in ('ray', 'optuna', 'plotly', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.stdout.strip() == "[]"


def test_to_load_leaves_the_global_generator_as_it_was(folder):
    before = torch.random.get_rng_state()
    load_artifact(folder)
    assert torch.random.get_rng_state().equal(before)


def test_an_older_artifact_is_replaced(folder):
    save_artifact(example(metrics={"test_rmse": 0.2}), folder)
    assert load_artifact(folder).metrics == {"test_rmse": 0.2}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_another_folder_or_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    (tmp_path / "file").write_text("more of it")
    for name in ("thesis", "file"):
        with pytest.raises(ArtifactError, match=r"not an exported model. Choose another"):
            save_artifact(example(), tmp_path / name)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "more of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_failed_export_leaves_the_older_one(folder):
    with pytest.raises(TypeError):
        save_artifact(example(metrics={"test_rmse": object()}), folder)
    assert load_artifact(folder).metrics == {"test_rmse": 0.1}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_a_copied_folder_is_as_good(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert np.array_equal(load_artifact(tmp_path / "copy").impute(X), load_artifact(folder).impute(X))


def table(*names):
    columns = tuple(Column(name, "numeric", "float64") for name in names)
    return Table("t", "t.csv", np.arange(2.0 * len(names)).reshape(2, -1), columns)


def test_columns_are_found_by_name_in_any_order():
    assert example().match(table("a", "b", "c", "d")).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert example().match(table("d", "other", "b", "a", "c")).tolist() == [[3, 2, 4, 0], [8, 7, 9, 5]]


def test_a_missing_column_is_told_with_the_nearest_name():
    columns = [Column(name, "numeric", "float64") for name in ("a", "bmi", "c", "d")]
    artifact = dataclasses.replace(example(), columns=tuple(columns))
    with pytest.raises(DataError, match=r"t.csv: 1 of the model's 4 columns.*'bmi'.*Did you mean bmi2"):
        artifact.match(table("a", "bmi2", "c", "d"))


def test_the_card_tells_scores_data_and_columns_without_a_stranger_s_markup(tmp_path):
    artifact = example(dataset={"name": "<script>|x`\n# y", "n_rows": 5}, metrics={"test_rmse": 0.123456})
    text = (save_artifact(artifact, tmp_path / "best") / "README.md").read_text()
    assert "| test_rmse | 0.12346 |" in text
    assert "| n_rows | 5 |" in text
    assert "`a`, `b`, `c`, `d`" in text
    assert "<script>" not in text
    assert "\n# y" not in text
