"""`python -m vadtune.train` on small tables."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from tests.data.test_splits import some_table
from tests.small_runs import FAST, SETTINGS, fitted, make_run, modules_after, wine
from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig, split
from vadtune.errors import ArtifactError, ConfigError, DataError, NoUsableTrial
from vadtune.settings import flatten, parse
from vadtune.train import default_config, main, resolve_config
from vadtune.training.artifact import load_artifact
from vadtune.training.config import TrialConfig
from vadtune.tuning.conclude import artifact_of, score_artifact
from vadtune.tuning.record import write_json
from vadtune.tuning.space import find_space, load_space

WINE = ["wine", "--missing-rate", "0.2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "night")


def train(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_model_is_trained_scored_and_exported(tmp_path, capsys):
    result = train(capsys, *WINE, *FAST, "-o", tmp_path / "model")
    artifact = load_artifact(tmp_path / "model")
    assert artifact.config.model.latent_dim == 4
    assert artifact.metrics["test_rmse"] == result["test_rmse"]
    assert result["test_mse"] == pytest.approx(result["test_rmse"] ** 2)
    assert artifact.dataset["hidden"]["missing_rate"] == 0.2


def test_equal_seeds_give_equal_scores_and_others_do_not(tmp_path, capsys):
    results = [
        train(capsys, *WINE, *FAST, "--seed", seed, "-o", tmp_path / str(n))["test_rmse"]
        for n, seed in enumerate((5, 5, 6))
    ]
    assert results[0] == results[1] != results[2]


def test_a_trial_of_a_run_is_trained_again_to_the_same_score(run, tmp_path, capsys):
    result = train(capsys, "--from", f"{run}:0", "-o", tmp_path / "again")
    assert result["config"]["model"]["latent_dim"] == 2
    config = parse(TrialConfig, result["config"], "test")
    again = fitted(config, wine())
    # Of the model as it is exported: it may recall training rows.
    metrics = {"validation_rmse": again.finish()}
    tested = score_artifact(artifact_of(config, again.best_model(), wine(), metrics), wine())
    assert result["validation_rmse"] == pytest.approx(tested.validation_error, rel=1e-5)


def test_the_best_trial_is_taken_where_none_is_named(run, tmp_path, capsys):
    from vadtune.tuning.past_run import open_run

    best = open_run(run).best()
    result = train(capsys, "--from", run, "-o", tmp_path / "best")
    assert result["config"]["model"]["latent_dim"] == best.params["model.latent_dim"]
    assert result["validation_rmse"] == pytest.approx(best.value, rel=1e-5)


def test_inference_takes_more_steps_where_they_serve_as_that_of_a_search_s_winner_does(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8))
    pd.DataFrame(x).add_prefix("x").to_csv(tmp_path / "plane.csv", index=False)
    slow = ["--set=model.inference_start=zeros", "--set=infer.n_steps=3", "--set=train.n_epochs=30"]
    result = train(capsys, tmp_path / "plane.csv", *FAST, *slow, "-o", tmp_path / "model")
    assert result["config"]["infer"]["n_steps"] == load_artifact(tmp_path / "model").config.infer.n_steps == 12


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_the_command_line_beats_the_file(tmp_path, capsys, suffix):
    path = tmp_path / f"config.{suffix}"
    toml = "[model]\nkind = 'vae'\nlatent_dim = 3\n[train]\nn_epochs = 9\n"
    path.write_text(
        toml if suffix == "toml" else '{"model": {"kind": "vae", "latent_dim": 3}, "train": {"n_epochs": 9}}'
    )
    result = train(
        capsys, *WINE, "--config", path, "--set", "model.latent_dim=2", "--max-epochs", 1, "-o", tmp_path / "model"
    )
    assert result["model"] == "vae"
    assert (result["config"]["model"]["latent_dim"], result["epochs"]) == (2, 1)


def test_defaults_are_the_first_point_of_the_space():
    images = load_problem(DataConfig(dataset="mnist", max_rows=30), Path("data"))
    found = default_config("vad", images)
    first = load_space(find_space("vad_images"), TrialConfig).first[0]
    assert first.items() <= flatten(found).items()
    assert parse(TrialConfig, found, "test").model.decoder.output == "sigmoid"
    assert parse(TrialConfig, default_config("vae", wine()), "test").model.kind == "vae"


def test_the_default_epochs_are_those_for_so_many_rows():
    table, data = some_table(20_000), DataConfig(dataset="t")
    config = parse(TrialConfig, default_config("vad", Problem(table, data, split(table, data))), "test")
    assert config.train.n_epochs == 75  # a quarter of 300, of 16,000 rows to train on: eight times 2,000


def test_reference_output_has_the_papers_names_and_shapes(tmp_path, capsys):
    result = train(capsys, *WINE, *FAST, "-o", tmp_path / "model", "--reference-output", tmp_path / "out")
    splits = wine().splits
    with h5py.File(tmp_path / "out" / "pred.h5") as file:
        assert file["y_pred"].shape == splits.test.truth.shape
    with h5py.File(tmp_path / "out" / "final_latents.h5") as file:
        assert file["latents"].shape == (len(splits.test.truth), 4)
        assert file["train_latents"].shape == (len(splits.train.truth), 4)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["test_rmse"] == result["test_rmse"]


def test_a_training_that_diverges_is_told_with_advice_and_leaves_nothing(tmp_path):
    with pytest.raises(NoUsableTrial, match=r"diverged.*learning_rate") as error:
        main([*WINE, *FAST, "--set", "train.learning_rate=1e30", "-o", str(tmp_path / "model")])
    assert error.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vadtune.training.artifact.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([*WINE, *FAST, "-o", str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "error", "words"),
    [
        ("dataset", "sha256", "0" * 64, DataError, "not the table of"),
        ("data", "n_validation", 40, ConfigError, "n_validation 40 and now 18.*Use that one, or search again"),
    ],
)
def test_a_run_of_another_table_or_of_other_splits_is_refused(run, tmp_path, part, name, value, error, words):
    moved = tmp_path / "moved"
    moved.mkdir()
    settings = json.loads((run / "settings.json").read_text())
    settings[part][name] = value
    write_json(moved / "settings.json", settings)
    (moved / "study.log").write_bytes((run / "study.log").read_bytes())
    with pytest.raises(error, match=words):
        main(["--from", str(moved), "-o", str(tmp_path / "model")])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["-o", "{}/new"], ConfigError, "Give a DATASET"),
        (["wine", "-o", "{}/other"], ArtifactError, "not an exported model"),
        (["wine", "-o", "{}/model"], ArtifactError, "exists already.*--force"),
        (["wine", "-o", "{}/new", "--set", "model.latent_dims=3"], ConfigError, "Did you mean model.latent_dim"),
        (["wine", "-o", "{}/new", "--set", "model.latent_dim=[1,2]"], ConfigError, "model.latent_dim"),
        (["wine", "-o", "{}/new", "--config", "{}/nope.toml"], ConfigError, "nope.toml"),
        (["wine", "-o", "{}/new", "--config", "{}/vae.json", "--model", "vad"], ConfigError, "is of vae"),
        (["--from", "{}/nope", "-o", "{}/new"], ArtifactError, "not a run"),
        (["--from", "{run}:99", "-o", "{}/new"], ConfigError, "no trial 99"),
        (["nope", "-o", "{}/new"], DataError, "neither a dataset nor a file"),
        (["wine", "-o", "{}/new", "--device", "tpu"], ConfigError, "expected auto, cpu"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, run, arguments, error, words):
    for name in ("other", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("SHA256SUMS" if name == "model" else "thesis.txt")).touch()
    (tmp_path / "vae.json").write_text('{"model": {"kind": "vae"}}')
    with pytest.raises(error, match=words):
        main([text.format(tmp_path, run=run) for text in arguments])
    assert not (tmp_path / "new").exists()


def test_force_replaces_a_model(tmp_path, capsys):
    train(capsys, *WINE, *FAST, "-o", tmp_path / "model")
    train(capsys, *WINE, *FAST, "--set", "model.latent_dim=5", "--force", "-o", tmp_path / "model")
    assert load_artifact(tmp_path / "model").config.model.latent_dim == 5


def test_settings_of_a_file_may_leave_out_all_but_one(tmp_path):
    from vadtune.train import parser

    path = tmp_path / "config.json"
    path.write_text(json.dumps(SETTINGS | {"seed": 4}))
    args = parser().parse_args(["wine", "-o", "x", "--config", str(path)])
    assert resolve_config(args, None, None, wine()).seed == 4


def test_help_imports_nothing_heavy():
    assert modules_after("from vadtune.train import parser; parser().format_help()") == set()
