"""`python -m vadtune.export`: trials of a run as artifacts, and their decoders for other programs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.small_runs import make_run, modules_after, wine
from vadtune.data.datasets import load
from vadtune.errors import ArtifactError, ConfigError
from vadtune.export import main
from vadtune.models.config import VADConfig
from vadtune.models.decoder import ACTIVATIONS
from vadtune.settings import parse
from vadtune.training.artifact import load_artifact, save_artifact
from vadtune.training.config import InferConfig
from vadtune.training.decoder_export import add_onnx, add_torch
from vadtune.tuning.conclude import load_trial
from vadtune.tuning.past_run import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "night")


def export(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["exported"]


def test_the_best_trial_is_exported_and_scored(run, tmp_path, capsys):
    (winner,) = export(capsys, run, "-o", tmp_path / "best")
    best = open_run(run).best()
    artifact = load_artifact(tmp_path / "best")
    assert winner["trial"] == best.number == artifact.metrics["trial"]
    assert artifact.metrics["test_rmse"] == winner["test_rmse"]
    assert artifact.config.model.latent_dim == best.params["model.latent_dim"]


def test_a_trial_is_exported_by_its_number(run, tmp_path, capsys):
    assert [winner["trial"] for winner in export(capsys, run, "--trial", 0, "-o", tmp_path / "zero")] == [0]
    assert load_artifact(tmp_path / "zero").config.model.latent_dim == 2


def test_the_best_few_are_numbered_by_rank(run, tmp_path, capsys):
    winners = export(capsys, run, "--top", 5, "-o", tmp_path / "top")
    assert {winner["trial"] for winner in winners} == {0, 1}
    assert winners[0]["validation_rmse"] <= winners[1]["validation_rmse"]
    assert sorted(path.name for path in (tmp_path / "top").iterdir()) == ["1", "2"]


def test_the_exported_torch_program_decodes_as_the_model_does(run, tmp_path, capsys):
    export(capsys, run, "--format", "torch", "-o", tmp_path / "model")
    artifact = load_artifact(tmp_path / "model")
    decoder = torch.export.load(tmp_path / "model" / "decoder.pt2").module()
    for n_rows in (1, 7):
        z = torch.randn(n_rows, artifact.config.model.latent_dim)
        torch.testing.assert_close(decoder(z.double()).float(), artifact.model.decoder(z), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_the_lines_of_the_card_impute_as_the_model_does(run, tmp_path, capsys, monkeypatch, kind):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    export(capsys, run, "--trial", 0, "--format", kind, "-o", folder)
    monkeypatch.chdir(folder)
    lines: dict = {}
    code = (folder / f"{kind.upper()}.md").read_text().split("```")[1].removeprefix("python\n")
    exec(code, lines)
    artifact = load_artifact(folder)
    artifact = replace(artifact, config=artifact.config.model_copy(update={"infer": InferConfig(method="lbfgs")}))
    z = np.random.default_rng(0).normal(size=(5, artifact.config.model.latent_dim)).astype(np.float32)
    with torch.no_grad():
        expected = artifact.model.decoder(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(lines["decode"](z), expected, atol=1e-5)
    rows = load("wine").values[wine().splits.indices[2]][:5].copy()
    rows[:, ::3] = np.nan
    filled = np.stack([lines["impute"](row) for row in rows])
    np.testing.assert_array_equal(filled[~np.isnan(rows)], rows[~np.isnan(rows)])
    np.testing.assert_allclose(
        artifact.scaler.transform(filled), artifact.scaler.transform(artifact.impute(rows)), atol=0.1
    )


def test_the_lines_of_the_card_move_estimates_as_the_model_does(run, tmp_path, capsys, monkeypatch):
    rows = load("wine").values[wine().splits.indices[2]][:3].copy()
    rows[:, ::3] = np.nan
    export(capsys, run, "--trial", 0, "-o", tmp_path / "model")
    artifact = load_artifact(tmp_path / "model")
    deltas, filled = (None, np.arange(rows.shape[1], dtype=float)), []
    for number, delta in enumerate(deltas):
        folder = save_artifact(replace(artifact, delta=delta), tmp_path / str(number))
        add_torch(load_artifact(folder), folder)
        monkeypatch.chdir(folder)
        lines: dict = {}
        exec((folder / "TORCH.md").read_text().split("```")[1].removeprefix("python\n"), lines)
        filled.append(np.stack([lines["impute"](row) for row in rows]))
    off = np.where(np.isnan(rows), deltas[1] * artifact.scaler.scale, 0)
    np.testing.assert_allclose(filled[1] - filled[0], off, atol=1e-6)


def test_the_lines_for_onnx_fill_what_those_for_torch_fill(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    rows = load("wine").values[wine().splits.indices[2]][:5].copy()
    rows[:, ::3] = np.nan
    filled = {}
    for kind in ("torch", "onnx"):
        folder = tmp_path / kind
        export(capsys, run, "--trial", 0, "--format", kind, "-o", folder)
        monkeypatch.chdir(folder)
        lines: dict = {}
        exec((folder / f"{kind.upper()}.md").read_text().split("```")[1].removeprefix("python\n"), lines)
        filled[kind] = load_artifact(folder).scaler.transform(np.stack([lines["impute"](row) for row in rows]))
    np.testing.assert_allclose(filled["onnx"], filled["torch"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["mlp", "projective", "convolutional"])
def test_every_decoder_is_exported_to_onnx(run, tmp_path, kind, activation):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = {"kind": kind, "hidden_dim": 8, "activation": activation, "layer_norm": True}
    decoder = parse(VADConfig, {"decoder": settings}, "test").decoder
    artifact = load_trial(open_run(run).best(), open_run(run).storage, wine())
    artifact.model.decoder = decoder.build(artifact.config.model.latent_dim, 12, (3, 4)).eval()
    add_onnx(artifact, tmp_path)
    dtype = json.loads((tmp_path / "inference.json").read_text())["dtype"]
    z = torch.randn(3, artifact.config.model.latent_dim)
    (x,) = onnxruntime.InferenceSession(tmp_path / "decoder.onnx").run(None, {"z": z.numpy().astype(dtype)})
    np.testing.assert_allclose(x, artifact.model.decoder(z).detach().numpy(), rtol=0, atol=1e-5)


def test_onnx_without_its_packages_is_refused_with_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr("vadtune.training.decoder_export.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'vadtune\[onnx\]'"):
        main([str(run), "--format", "onnx", "-o", str(tmp_path / "model")])
    assert list(tmp_path.iterdir()) == []


def test_a_trial_without_a_checkpoint_is_told_with_the_command_that_trains_it(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "ray" / "1")
    with pytest.raises(ConfigError, match=r"vadtune.train --from .*copy:1"):
        main([str(copy), "--top", "2", "-o", str(tmp_path / "top")])
    assert not (tmp_path / "top").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["{tmp}/nope", "-o", "{tmp}/new"], ArtifactError, "not a run"),
        (["{run}", "--trial", "9", "-o", "{tmp}/new"], ConfigError, "trials 0 to 2"),
        (["{run}", "--trial", "2", "-o", "{tmp}/new"], ConfigError, "has no score"),
        (["{run}", "-o", "{tmp}/model"], ArtifactError, "exists already.*--force"),
        (["{run}", "--force", "-o", "{tmp}/other"], ArtifactError, "not an exported model"),
    ],
)
def test_mistakes_are_told(run, tmp_path, arguments, error, words):
    for name in ("other", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("SHA256SUMS" if name == "model" else "thesis.txt")).touch()
    with pytest.raises(error, match=words):
        main([text.format(tmp=tmp_path, run=run) for text in arguments])
    assert not (tmp_path / "new").exists()


def test_force_replaces_a_model(run, tmp_path, capsys):
    for trial in (0, 1):
        export(capsys, run, "--trial", trial, "--force", "-o", tmp_path / "model")
    assert load_artifact(tmp_path / "model").metrics["trial"] == 1


def test_help_imports_nothing_heavy():
    assert modules_after("from vadtune.export import parser; parser().format_help()") == set()
