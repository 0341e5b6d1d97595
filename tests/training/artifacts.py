"""A small artifact, and what anybody can do to its folder."""

import hashlib
import json

import numpy as np
import torch

from tests.models.examples import holes, normal
from tests.training.examples import small
from vadtune.data.codec import Codec, Coding
from vadtune.data.splits import Scaler
from vadtune.data.tables import Column
from vadtune.training.artifact import Artifact

FILES = [
    "README.md",
    "codec.json",
    "config.json",
    "environment.json",
    "metrics.json",
    "model.safetensors",
    "scaler.json",
]
X = holes(normal(5, 4)).double().numpy()


def example(image_shape=None, **about):
    torch.manual_seed(0)
    config, codec = small(), Codec((Coding("number"),) * 4, image_shape)
    columns = (Column("a", "numeric", "float64"), *(Column(name, "integer", "int64") for name in "bcd"))
    scaler = Scaler(np.array([1.0, 2, 3, 4]), np.array([1.0, 0.5, 2, 1]))
    return Artifact(config.model.build(codec).eval(), config, scaler, columns, **about)


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
