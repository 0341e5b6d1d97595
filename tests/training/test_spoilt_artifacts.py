"""An exported folder that is damaged, or was made to do harm: refused by name before anything in it is believed."""

import dataclasses
import json
import os
import pickle
import shutil
import struct

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.artifacts import FILES, X, edit, example, sign
from tests.training.examples import small
from vadtune.data.splits import Scaler
from vadtune.errors import ArtifactError
from vadtune.training.artifact import load_artifact, save_artifact


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
    other = dataclasses.replace(example(dataset={"name": "u"}, metrics={"test_rmse": 0.3}))
    other = dataclasses.replace(other, scaler=Scaler(np.zeros(4), np.ones(4)), model=small().model.build(4).eval())
    shutil.copy(save_artifact(other, tmp_path / "other") / name, folder / name)
    if name == "environment.json":  # one like the other
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
    with pytest.raises(ArtifactError, match=r"reads 3"):
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
        ("codec.json", {"image_shape": "REMOVE"}),
        ("codec.json", {"image_shape": ["a", "b"]}),
        ("codec.json", {"image_shape": [1]}),
        ("codec.json", {"image_shape": [3, 5]}),
        ("config.json", {"dataset": "REMOVE"}),
        ("config.json", {"dataset": 5}),
        ("config.json", {"spread": -1}),
        ("config.json", {"weight": "NaN"}),
        ("config.json", {"delta": [1.0]}),
        ("config.json", {"delta": "a"}),
        ("config.json", {"delta": [1.0, 2.0, 3.0, "NaN"]}),
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
