"""The decoder of a model for other programs: torch.export, or ONNX, and the few lines that impute with it."""

import copy
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vadtune.errors import ConfigError
from vadtune.models.decoder import Decoder, ProjectiveDecoder
from vadtune.models.likelihood import Gaussian
from vadtune.models.vad import VAD
from vadtune.training.artifact import Artifact
from vadtune.training.checksums import write_sums

# Differences of the decoder make the slopes of its outputs: the smaller the step, the more digits they cost.
STEPS = {torch.float64: 1e-5, torch.float32: 1e-3}

_FIND = """\
import json
from pathlib import Path

import numpy as np
{imports}
about = json.loads(Path("inference.json").read_text())
center, scale, noise_std, delta = (np.array(about[key]) for key in ("center", "scale", "noise_std", "delta"))

{decode}

memory = decode(np.array(about["latents"])) if about["share"] else None

def recall(x, known):
    \"\"\"What rows like this one were in training, by how likely the latents of each make it.\"\"\"
    errors = np.square((memory - x)[:, known] / noise_std[known]).sum(1) / 2
    weights = np.exp((errors.min() - errors) / about["temperature"])
    return weights @ memory / weights.sum()

def impute(row):
    \"\"\"A row in the columns' own units, NaN where unknown, to one without holes.\"\"\"
    x = (row - center) / scale
    known = ~np.isnan(x)
    shrink = np.sqrt(about["prior_weight"]) * np.eye(about["latent_dim"])

    def residuals(z):  # half the sum of their squares is minus the log density
        return np.append((decode(z[None])[0] - x)[known] / noise_std[known], shrink @ z)

    def slopes(z):  # central differences: one call of the decoder for all latents
        steps = about["step"] * np.eye(len(z))
        ahead, behind = np.split(decode(np.concatenate([z + steps, z - steps])), 2)
        slope = (ahead - behind) / (2 * about["step"])
        return np.concatenate([slope.T[known] / noise_std[known, None], shrink])

    z = least_squares(residuals, np.zeros(about["latent_dim"]), slopes, ftol=1e-14, xtol=1e-12, gtol=1e-12).x
    found = decode(z[None])[0]
    if about["share"]:
        found = (1 - about["share"]) * found + about["share"] * recall(x, known)
    return np.where(known, row, (found + delta) * scale + center)
"""
_TORCH = {
    "imports": "import torch\nfrom scipy.optimize import least_squares\n",
    "decode": """\
decoder = torch.export.load("decoder.pt2").module()

def decode(z):
    \"\"\"Latents (N, L) to columns (N, D), in scaled units.\"\"\"
    return decoder(torch.tensor(z, dtype=torch.float64)).detach().numpy()
""",
}
_ONNX = {
    "imports": "import onnxruntime\nfrom scipy.optimize import least_squares\n",
    "decode": """\
session = onnxruntime.InferenceSession("decoder.onnx")

def decode(z):
    \"\"\"Latents (N, L) to columns (N, D), in scaled units.\"\"\"
    return session.run(None, {"z": z.astype(about["dtype"])})[0]
""",
}
_CARD = """\
# The decoder as {name}

`{file}` maps latents z (N, L), of the `dtype` in `inference.json`, to columns x (N, D), scaled by its `center` and
`scale`. It needs no vadtune. These lines fill the holes of a row from the maximum of its posterior density, as vadtune
does with `infer.method = "lbfgs"`; its usual `bound`, which takes gradients of the decoder, is better where little is
observed. Where `share` is not 0, estimates are averaged with what `recall` finds among latents of training rows.
The columns stand in the order of `columns`.

```python
{code}```
"""


def add_torch(artifact: Artifact, folder: Path) -> None:
    """Add `decoder.pt2`, `inference.json` and `TORCH.md` to the folder of an artifact."""
    torch.export.save(_program(artifact, torch.float64), folder / "decoder.pt2")
    _add_inference(artifact, folder, torch.float64)
    text = _CARD.format(name="a torch.export program", file="decoder.pt2", code=_FIND.format(**_TORCH))
    (folder / "TORCH.md").write_text(text, encoding="utf-8")
    write_sums(folder)


def add_onnx(artifact: Artifact, folder: Path) -> None:
    """Add `decoder.onnx`, `inference.json` and `ONNX.md` to the folder of an artifact.

    Raises:
        ConfigError: The packages for it are not installed.
    """
    check_onnx()
    dtype = _onnx_dtype(artifact.model.decoder)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not there
    with _quiet():
        program = torch.onnx.export(
            _program(artifact, dtype), input_names=["z"], output_names=["x"], dynamo=True, verbose=False, optimize=True
        )
        assert program is not None
        # One file: the weights would else lie in a second one beside it.
        program.save(str(folder / "decoder.onnx"), external_data=False)
    _add_inference(artifact, folder, dtype)
    text = _CARD.format(name="ONNX", file="decoder.onnx", code=_FIND.format(**_ONNX))
    (folder / "ONNX.md").write_text(text, encoding="utf-8")
    write_sums(folder)


def check_onnx() -> None:
    """Refuse ONNX where its packages are missing.

    Raises:
        ConfigError: They are.
    """
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        raise ConfigError(f"--format onnx needs {' and '.join(missing)}: pip install 'vadtune[onnx]'")


def _onnx_dtype(decoder: Decoder) -> torch.dtype:
    """Double, in which latents are found to more digits, where onnxruntime has every operator for it."""
    is_single = isinstance(decoder, ProjectiveDecoder) or any(
        isinstance(module, (nn.GELU, nn.LeakyReLU, nn.ConvTranspose2d)) for module in decoder.modules()
    )
    return torch.float32 if is_single else torch.float64


def _program(artifact: Artifact, dtype: torch.dtype) -> torch.export.ExportedProgram:
    if not artifact.model.codec.is_plain or artifact.scaler.is_log is not None:
        raise ConfigError(
            "--format torch and onnx are for tables of numbers, and this one has categories or logarithms. Take "
            "--format safetensors, which vadtune.impute and VADImputer.from_artifact read."
        )
    if not isinstance(artifact.model.likelihood, Gaussian):
        raise ConfigError(
            "--format torch and onnx are for models of plain numbers, and this one takes some as levels or normal "
            "scores. Search with --set model.levels=false --set model.normal_scores=false, or take "
            "--format safetensors."
        )
    example = torch.zeros(2, artifact.config.model.latent_dim, dtype=dtype)
    decoder = copy.deepcopy(artifact.model.decoder).to("cpu", dtype).eval()
    with _quiet():
        return torch.export.export(decoder, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))


@torch.no_grad()
def _add_inference(artifact: Artifact, folder: Path, dtype: torch.dtype) -> None:
    n_features = len(artifact.columns)
    model, recall = artifact.model, artifact.recall
    noise_std: Tensor = torch.exp(0.5 * model.noise.log_var()).expand(n_features)
    about = artifact.scaler.to_dict() | {
        "latent_dim": artifact.config.model.latent_dim,
        "dtype": str(dtype).removeprefix("torch."),
        "step": STEPS[dtype],
        "prior_weight": model.prior_weight,
        "noise_std": noise_std.tolist(),
        "delta": [0.0] * n_features if artifact.delta is None else artifact.delta.tolist(),
        "share": 0.0 if recall is None else recall.share,
        "temperature": 1.0 if recall is None else recall.temperature,
        "latents": model.memory.kept.tolist() if recall is not None and isinstance(model, VAD) else [],
        "columns": [column.name for column in artifact.columns],
    }
    (folder / "inference.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk on stdout, which is ours, and warn of their own future."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
