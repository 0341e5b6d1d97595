"""The exported folder: verified before anything in it is believed, and never more than data."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models.examples import holes, normal
from tests.training.examples import small
from vadtune.data.splits import Scaler
from vadtune.data.tables import Column, Table
from vadtune.errors import ArtifactError, DataError
from vadtune.training.artifact import Artifact, load_artifact, save_artifact

FILES = [
    "README.md",
    "codec.json",
    "config.json",
    "environment.json",
    "metrics.json",
    "model.safetensors",
    "scaler.json",
]
ROOT = Path(__file__).parents[2]
X = holes(normal(5, 4)).double().numpy()


def example(**about):
    torch.manual_seed(0)
    config = small()
    columns = (Column("a", "numeric", "float64"), *(Column(name, "integer", "int64") for name in "bcd"))
    scaler = Scaler(np.array([1.0, 2, 3, 4]), np.array([1.0, 0.5, 2, 1]))
    return Artifact(config.model.build(4).eval(), config, scaler, columns, **about)


@pytest.fixture
def folder(tmp_path):
    artifact = example(image_shape=(2, 2), dataset={"name": "t"}, metrics={"test_rmse": 0.1})
    return save_artifact(artifact, tmp_path / "best")


def sign(folder):
    """Write checksums that fit, as anybody can."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def edit(folder, name, **values):
    document = json.loads((folder / name).read_text())
    document |= values
    (folder / name).write_text(json.dumps({key: value for key, value in document.items() if value != "REMOVE"}))
    sign(folder)


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


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_told_by_its_name(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}: its checksum.*Export"):
        load_artifact(folder)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_truncated_file_is_told_by_its_name(folder, name, kept):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtifactError, match=name):
        load_artifact(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_artifact_is_told_by_its_name(folder, tmp_path, name):
    other = dataclasses.replace(example(image_shape=None, dataset={"name": "u"}, metrics={"test_rmse": 0.3}))
    other = dataclasses.replace(other, scaler=Scaler(np.zeros(4), np.ones(4)), model=small().model.build(4).eval())
    shutil.copy(save_artifact(other, tmp_path / "other") / name, folder / name)
    if name in ("codec.json", "environment.json"):  # one like the other
        load_artifact(folder)
        return
    with pytest.raises(ArtifactError, match=rf"{name}: its checksum"):
        load_artifact(folder)


def two_members(tmp_path):
    return save_artifact(dataclasses.replace(example(), weight=0.5, others=(example(),)), tmp_path / "both")


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_spoilt_file_of_a_member_is_told_by_its_name(tmp_path, name):
    folder = two_members(tmp_path)
    member = folder / "members" / "2" / name
    member.write_bytes(member.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=rf"members/2{'' if name == 'SHA256SUMS' else '/' + name}"):
        load_artifact(folder)


def test_a_member_of_another_ensemble_with_fitting_checksums_is_refused(tmp_path):
    folder = two_members(tmp_path)
    edit(folder / "members" / "2", "metrics.json", test_rmse=0.0)
    with pytest.raises(ArtifactError, match="members/2: not the member that was exported"):
        load_artifact(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_told_by_its_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: missing.*Export"):
        load_artifact(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_checksum_is_not_believed(folder, name):
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))
    with pytest.raises(ArtifactError, match=rf"{name}"):
        load_artifact(folder)


def test_an_empty_list_of_checksums_is_refused(folder):
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_a_stranger_s_file_in_the_folder_is_not_read(folder):
    (folder / ".DS_Store").write_bytes(b"anything")
    (folder / "model.pt").write_bytes(pickle.dumps(print))
    assert np.array_equal(load_artifact(folder).impute(X), example().impute(X))


def test_a_folder_that_is_no_artifact_says_what_to_give(tmp_path):
    with pytest.raises(ArtifactError, match=r"not an exported model.*best/"):
        load_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="not an exported model"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "..",
        ".",
        "",
        "name\0with null",
        "a" * 400,
        "model.safetensors/../../x",
    ],
)
def test_names_in_the_list_lead_nowhere(folder, line):
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  {line}\n")
    with pytest.raises(ArtifactError):
        load_artifact(folder)


@pytest.mark.parametrize("target", ["/dev/zero", "/etc", "config.json", "nowhere"])
def test_a_link_elsewhere_is_checked_like_any_content(folder, target):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(target)
    with pytest.raises(ArtifactError, match=r"config.json"):
        load_artifact(folder)


def test_a_pipe_in_place_of_a_file_does_not_hang(folder):
    for name in ("SHA256SUMS", "model.safetensors"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ArtifactError):
            load_artifact(folder)


@pytest.mark.parametrize("version", [1, 0, None, "1", "REMOVE"])
def test_another_format_is_refused_with_both_versions(folder, version):
    edit(folder, "config.json", format_version=version)
    with pytest.raises(ArtifactError, match=r"reads 2"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"trial": {"model": {"kind": "gan"}}}),
        ("config.json", {"trial": {"model": {"kind": "vad", "latent_dims": 3}}}),
        ("config.json", {"trial": "REMOVE"}),
        ("config.json", {"trial": 5}),
        ("config.json", {"columns": "REMOVE"}),
        ("config.json", {"columns": 5}),
        ("config.json", {"columns": [1, 2]}),
        ("config.json", {"columns": []}),
        ("config.json", {"columns": [{"name": "a", "kind": "numeric", "dtype": "float64"}]}),
        ("config.json", {"image_shape": "REMOVE"}),
        ("config.json", {"image_shape": ["a", "b"]}),
        ("config.json", {"image_shape": [1]}),
        ("config.json", {"image_shape": [3, 5]}),
        ("config.json", {"dataset": "REMOVE"}),
        ("config.json", {"dataset": 5}),
        ("config.json", {"spread": -1}),
        ("config.json", {"weight": "NaN"}),
        ("scaler.json", {"center": "REMOVE"}),
        ("scaler.json", {"center": ["a", "b", "c", "d"]}),
        ("scaler.json", {"center": [1.0]}),
        ("scaler.json", {"scale": [[1.0], [1.0, 2.0]]}),
    ],
    ids=str,
)
def test_lying_documents_with_fitting_checksums_are_errors_of_the_artifact(folder, name, values):
    edit(folder, name, **values)
    with pytest.raises(ArtifactError):
        load_artifact(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 5000, "\x00", "nul"])
@pytest.mark.parametrize("name", ["codec.json", "config.json", "scaler.json", "metrics.json"])
def test_documents_that_are_no_json_objects_are_told_by_their_name(folder, name, text):
    (folder / name).write_text(text)
    sign(folder)
    with pytest.raises(ArtifactError, match=name):
        load_artifact(folder)


def header(length, document):
    return struct.pack("<Q", length) + document


WEIGHT = '{"w": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %s]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        header(2**63, b"{}"),
        header(10**9, b"{}"),
        header(2, b"{}"),
        header(2, b"[]"),
        header(len(WEIGHT % (10**12, 4)), (WEIGHT % (10**12, 4)).encode()) + b"1234",
        header(len(WEIGHT % (10**12, 4 * 10**12)), (WEIGHT % (10**12, 4 * 10**12)).encode()),
        b"\x80\x04K\x01.",
    ],
    ids=["empty", "short", "huge length", "long length", "no tensors", "list", "big shape", "big offsets", "pickle"],
)
def test_lying_headers_of_weights_are_errors_of_the_artifact(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    sign(folder)
    with pytest.raises(ArtifactError, match="Export it again"):
        load_artifact(folder)


def test_weights_of_another_shape_are_errors_of_the_artifact(folder):
    weights = load_file(folder / "model.safetensors")
    doubled = {name: tensor.repeat(2) if tensor.ndim == 1 else tensor for name, tensor in weights.items()}
    save_file(doubled, folder / "model.safetensors")
    sign(folder)
    with pytest.raises(ArtifactError, match=r"bias is of shape \(32,\); its settings make it of shape \(16,\)"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "model",
    [
        {"decoder": {"hidden_dim": 10**7}},  # 400 TB of weights
        {"decoder": {"hidden_dim": 10**13}},
        {"latent_dim": 10**12},
        {"latent_dim": 10**30},
        {"decoder": {"n_layers": 10**9}},
        {"decoder": {"kind": "projective", "hidden_dim": 10**7}},
        {"kind": "vae", "encoder": {"hidden_dim": 10**7}},
    ],
    ids=str,
)
def test_settings_that_would_take_all_memory_are_compared_with_the_weights_first(folder, model):
    trial = json.loads((folder / "config.json").read_text())["trial"]
    lie = {"kind": "vad", "decoder": {"hidden_dim": 16, "n_layers": 1}} | model
    edit(folder, "config.json", trial=trial | {"model": lie})
    before = psutil.Process().memory_info().rss
    with pytest.raises(ArtifactError, match=r"settings make|n_layers|latent_dim"):
        load_artifact(folder)
    assert psutil.Process().memory_info().rss - before < 100e6


def test_weights_that_the_settings_do_not_know_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"surprise": torch.zeros(3)}, folder / "model.safetensors")
    sign(folder)
    with pytest.raises(ArtifactError, match="surprise is of shape"):
        load_artifact(folder)


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
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=120
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
