"""The exported folder of one model: written whole or not at all, verified before anything in it is believed.

    model.safetensors   weights            config.json        format_version, settings, columns, dataset
    scaler.json         columns' units     codec.json         codes and ranges that were seen of each column
    metrics.json        scores             environment.json   versions
    README.md           model card         SHA256SUMS         of all of them
    members/2, 3 …      the other models of an ensemble, each a folder like this one

No pickle is written or read.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.kinds import recode
from vadtune.data.splits import Scaler
from vadtune.data.tables import Column, FloatArray, Table
from vadtune.errors import ArtifactError, ConfigError, DataError
from vadtune.models.base import Model
from vadtune.models.objective import Posterior
from vadtune.settings import Nested, nearest, other_format, parse, read_json
from vadtune.training.checksums import SUMS, sha256, verify, write_sums
from vadtune.training.config import TrialConfig
from vadtune.training.device import side_by_side
from vadtune.training.environment import environment
from vadtune.training.inference import infer
from vadtune.training.model_card import model_card
from vadtune.training.weights import load_model

FORMAT_VERSION = 3
MEMBERS = "members"
FILES = (
    "README.md",
    "codec.json",
    "config.json",
    "environment.json",
    "metrics.json",
    "model.safetensors",
    "scaler.json",
)


@dataclass(frozen=True)
class Recall:
    """What share of an estimate is recalled of training rows, and at which temperature: see models/recall.py."""

    share: float
    temperature: float

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 < self.temperature < float("inf")):
            raise ValueError(f"recall is {self}")


@dataclass(frozen=True, eq=False)
class Artifact:
    """A model that imputes: weights, the settings they were trained with, and the columns they know.

    Args:
        model: The trained model.
        config: The trial that made it.
        scaler: From the columns' units to the model's and back.
        columns: The columns, in the order of the model's features.
        dataset: Name, source, sha256 and sizes of the table it was trained on, and how its cells were hidden.
        metrics: Scores, by name.
        others: Further models of the same columns, where this is an ensemble: estimates are averaged over all.
        weight: Of this model in the average.
        spread: What the standard deviations of numbers with Gaussian noise are multiplied by; see
            `training.calibration.calibrated`.
        temperature: Of the chances of codes and levels; see there.
        delta: What is added to the estimates of each column, in scaled units; see `training.delta`. None for nothing.
        recall: How much this model recalls; None for nothing. See `training.recall`.
    """

    model: Model
    config: TrialConfig
    scaler: Scaler
    columns: tuple[Column, ...]
    dataset: Nested = field(default_factory=dict)
    metrics: Nested = field(default_factory=dict)
    others: tuple["Artifact", ...] = ()
    weight: float = 1.0
    spread: float = 1.0
    temperature: float = 1.0
    delta: FloatArray | None = None
    recall: Recall | None = None

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Height and width where a row is an image."""
        return self.model.codec.image_shape

    @property
    def members(self) -> tuple["Artifact", ...]:
        """This model and the others."""
        return (self, *self.others)

    def impute(self, x: FloatArray) -> FloatArray:
        """Fill the unknown cells.

        Args:
            x: `(N, D)` in the columns' own units, NaN where unknown.

        Returns:
            A copy in which known cells are bit-identical and the others hold the model's estimate.
        """
        scaled = torch.from_numpy(self.scaler.transform(x))
        estimate = self.scaler.inverse(self.reconstruct(scaled).cpu().numpy())
        return np.where(np.isnan(x), estimate, x).astype(x.dtype)

    def finish(self, values: FloatArray) -> FloatArray:
        """Estimates `(N, D)` in the columns' own units as the columns can hold them: whole, within bounds."""
        if self.image_shape:
            return np.clip(values, 0, 1)
        if not len(values):
            return values
        # A column that never varied is filled with what it always was, to the last digit.
        values = np.where(self.model.codec.is_constant, self.scaler.inverse(np.zeros((1, len(self.columns)))), values)
        return np.column_stack([column.finish(values[:, j]) for j, column in enumerate(self.columns)])

    @property
    def missing(self) -> tuple[str | float, ...]:
        """What stands for an unknown cell in files, as it was declared for the table it was trained on."""
        return tuple(self.dataset.get("hidden", {}).get("columns", {}).get("missing", ()))

    def reconstruct(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The best estimate of all cells, known ones too, in scaled units."""
        return self.estimate(self.posteriors(x))

    def estimate(self, posteriors: Sequence[Posterior]) -> Float[Tensor, "N D"]:
        """What `reconstruct` gives, from the members' posteriors of the rows.

        Numbers are averaged over the members, and so are the chances of codes, of which the likeliest is taken. The
        delta is there.
        """
        pairs = zip(self.members, posteriors, strict=True)
        expected = self.average([member.expect(posterior) for member, posterior in pairs])
        return self.moved(self.model.values(expected))

    def average(self, parts: Sequence[Float[Tensor, "N E"]]) -> Float[Tensor, "N E"]:
        """The average of what the members expect, each by its weight."""
        first, *others = (member.weight * part for member, part in zip(self.members, parts, strict=True))
        return sum(others, first)

    def moved(self, values: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Estimates, or draws, with the delta."""
        return values if self.delta is None else values + torch.from_numpy(self.delta).to(values)

    def posteriors(self, x: Float[Tensor, "N D"], known: Sequence[Posterior] = ()) -> list[Posterior]:
        """Each member's own `posterior` of the rows, this model's first; on a CPU they are found side by side.

        Args:
            x: The rows, scaled.
            known: Those of the first members, if they were found before.
        """
        asked = self.members[len(known) :]
        if len(asked) <= 1 or next(self.model.parameters()).is_cuda:
            return [*known, *(member.posterior(x) for member in asked)]
        with side_by_side(len(asked)) as jobs:
            return [*known, *jobs.map(lambda member: member.posterior(x), asked)]

    def posterior(self, x: Float[Tensor, "N D"]) -> Posterior:
        """The posterior of each row by a cold, converged inference in the model's precision; NaN cells are not seen."""
        weight = next(self.model.parameters())
        batch = self.model.batch(x.to(weight))
        found = infer(self.model, batch, self.config.infer)
        if self.recall is None:
            return found
        return replace(found, recalled=self.model.recall(batch, self.recall.temperature))

    @torch.no_grad()
    def decode(self, posterior: Posterior) -> Float[Tensor, "N D"]:
        """The estimates at this model's posterior means, without the delta."""
        return self.model.values(self.expect(posterior))

    @torch.no_grad()
    def expect(self, posterior: Posterior) -> Float[Tensor, "N E"]:
        """What this model expects at the posterior means, and recalls: numbers, and the chance of each code."""
        expected = self.expect_at(posterior.mean)
        if self.recall is None or posterior.recalled is None:
            return expected
        return torch.lerp(expected, posterior.recalled, self.recall.share)

    @torch.no_grad()
    def expect_at(self, mean: Float[Tensor, "N L"]) -> Float[Tensor, "N E"]:
        """What its likelihood expects at latents."""
        parts = mean.split(self.config.infer.batch_size)
        return torch.cat([self.model.likelihood.expect(self.model.decoder(part)) for part in parts])

    def positions(self, found: Sequence[str], source: str) -> list[int]:
        """Where the model's columns stand among those of a table; what does not fit is explained.

        Raises:
            DataError: A column is missing; names it and what it may be called here.
        """
        wanted, found = [column.name for column in self.columns], list(found)
        missing = [name for name in wanted if name not in found]
        if missing:
            hint = nearest(missing[0], found)
            raise DataError(
                f"{source}: {len(missing)} of the model's {len(wanted)} columns are not in the table: "
                f"{_some(missing)}. {hint if len(hint) < 200 else f'It has {_some(found)}.'}"
            )
        place = {name: number for number, name in enumerate(found)}
        return [place[name] for name in wanted]

    def match(self, table: Table) -> FloatArray:
        """The table's columns in the order of the model's features, in the model's codes.

        Raises:
            DataError: A column is missing, or is of another kind.
        """
        positions = self.positions([column.name for column in table.columns], table.source)
        found = [table.columns[position] for position in positions]
        values = table.values if positions == list(range(table.n_features)) else table.values[:, positions]
        if all(column.levels == known.levels for column, known in zip(found, self.columns, strict=True)):
            return values
        pairs = zip(values.T, found, self.columns, strict=True)
        return np.column_stack([recode(part, column, known, table.source) for part, column, known in pairs])


def save_artifact(artifact: Artifact, folder: Path) -> Path:
    """Write the folder: into a temporary one beside it, then renamed over an older artifact of the same path.

    Raises:
        ArtifactError: It cannot be written, or holds something else; what was there stays.
    """
    if folder.exists():
        _refuse_other_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            _write(artifact, made := Path(temporary) / "new")
            put_in_place(made, folder)
    except (OSError, SafetensorError) as error:
        what = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{folder}: cannot be written ({what}). Make space, or choose another folder.") from None
    return folder


def put_in_place(made: Path, folder: Path) -> None:
    """Rename a folder to its place, from beside which it was made; an older one is gone only then."""
    if folder.exists():
        folder.rename(made.with_name("old"))
    made.rename(folder)


def load_artifact(folder: Path, device: str = "cpu") -> Artifact:
    """Read an exported folder and verify every file in it first.

    Raises:
        ArtifactError: Not an artifact, of a newer format, or a file that differs from its checksum.
    """
    verify(folder, FILES)
    header = _read(folder / "config.json")
    versions = _read(folder / "environment.json").get("versions")
    problem = other_format(header.get("format_version"), FORMAT_VERSION, versions)
    if problem is not None:
        raise ArtifactError(f"{folder}: {problem}")
    try:
        config: TrialConfig = parse(TrialConfig, header["trial"], str(folder / "config.json"))
        columns = tuple(Column(**column | {"levels": tuple(column["levels"])}) for column in header["columns"])
        codec = Codec.from_dict(_read(folder / "codec.json"))
        scaler = Scaler.from_dict(_read(folder / "scaler.json"))
        dataset = dict(header["dataset"])
        factors = {name: _positive(header.get(name, 1.0), name) for name in ("weight", "spread", "temperature")}
        _check_sizes(columns, scaler, codec)
        delta = _delta(header.get("delta"), len(columns))
        recall = None if header.get("recall") is None else Recall(**header["recall"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: {error}. Export it again.") from None
    model = load_model(config, codec, folder / "model.safetensors").to(torch.device(device))
    metrics = _read(folder / "metrics.json")
    others = tuple(_load_member(folder, name, digest, device) for name, digest in header.get("members", {}).items())
    first = Artifact(model, config, scaler, columns, dataset, metrics, others, **factors, delta=delta, recall=recall)
    if any(other.columns != columns or other.scaler.to_dict() != scaler.to_dict() for other in others):
        raise ArtifactError(f"{folder}: its members are of other tables. Export it again.")
    return first


def _load_member(folder: Path, name: str, digest: str, device: str) -> Artifact:
    path = folder / MEMBERS / name
    if not name.isdecimal() or not (path / SUMS).is_file() or sha256(path / SUMS) != digest:
        raise ArtifactError(f"{path}: not the member that was exported. Export the model again.")
    return load_artifact(path, device)


def _write(artifact: Artifact, folder: Path) -> None:
    folder.mkdir(parents=True)
    members = {}
    for number, other in enumerate(artifact.others, start=2):
        member = folder / MEMBERS / str(number)
        _write(other, member)
        members[str(number)] = sha256(member / SUMS)
    weights = {name: tensor.cpu().contiguous() for name, tensor in artifact.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    header = {
        "format_version": FORMAT_VERSION,
        "trial": artifact.config.model_dump(mode="json"),
        "columns": [asdict(column) for column in artifact.columns],
        "dataset": artifact.dataset,
        "weight": artifact.weight,
        "spread": artifact.spread,
        "temperature": artifact.temperature,
        "recall": None if artifact.recall is None else asdict(artifact.recall),
        "delta": None if artifact.delta is None else artifact.delta.tolist(),
        "members": members,
    }
    names = [column.name for column in artifact.columns]
    texts = {
        "config.json": _json(header),
        "scaler.json": _json(artifact.scaler.to_dict()),
        "codec.json": _json(artifact.model.codec.to_dict()),
        "metrics.json": _json(artifact.metrics),
        "environment.json": _json(environment()),
        "README.md": model_card(artifact.config, artifact.dataset, artifact.metrics, names),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    write_sums(folder)


def _positive(value: Any, name: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} is {value}")
    return number


def _delta(values: Any, n_columns: int) -> FloatArray | None:
    if values is None:
        return None
    delta = np.array(values, np.float64)
    if delta.shape != (n_columns,) or not np.isfinite(delta).all():
        raise ValueError("delta is not a number for each column")
    return delta


def _check_sizes(columns: tuple[Column, ...], scaler: Scaler, codec: Codec) -> None:
    n_features = len(columns)
    if not n_features or scaler.center.shape != (n_features,) or scaler.scale.shape != (n_features,):
        raise ValueError(f"there are {n_features} columns and units for {scaler.center.size}")
    if len(codec.columns) != n_features:
        raise ValueError(f"there are {n_features} columns and codes for {len(codec.columns)}")
    if codec.image_shape and math.prod(codec.image_shape) != n_features:
        height, width = codec.image_shape
        raise ValueError(f"an image of {height} x {width} pixels has {n_features} columns")


def _refuse_other_folder(folder: Path) -> None:
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SUMS).is_file()):
        raise ArtifactError(f"{folder}: exists and is not an exported model. Choose another folder.")


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read(path: Path) -> Nested:
    try:
        return read_json(path)
    except ConfigError as error:
        raise ArtifactError(f"{error} Export the model again.") from None


def _json(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
