"""Weights from a file of whoever: they are compared with the model, by name and shape, before it is built."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vadtune.data.codec import Codec
from vadtune.errors import ArtifactError
from vadtune.models.base import Model
from vadtune.training.config import TrialConfig

Shapes = dict[str, tuple[int, ...]]


def load_model(config: TrialConfig, codec: Codec, path: Path, prefix: str = "") -> Model:
    """The model of some settings, with the weights of a safetensors file.

    Args:
        config: The trial.
        codec: Its columns.
        path: The file.
        prefix: Of the weights' names in the file; whatever else lies there is left alone.

    Raises:
        ArtifactError: The file is damaged, or its weights are not those of such a model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 – it is no dictionary
            found = {name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names}
            _compare(_shapes(config, codec), found, path)
            with torch.random.fork_rng(devices=[]):  # first weights are random, and not used
                model = config.model.build(codec)
            model.load_state_dict({name.removeprefix(prefix): file.get_tensor(name) for name in names})
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not weights that can be read: {error}. Export it again.") from None
    return model.eval()


def _shapes(config: TrialConfig, codec: Codec) -> Shapes:
    """What the weights of a model look like; settings that lie take no memory for it."""
    try:
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in config.model.build(codec).state_dict().items()}
    except (RuntimeError, OverflowError, TypeError) as error:
        raise ArtifactError(f"the settings make no model: {str(error).splitlines()[0]}") from None


def _compare(expected: Shapes, found: Shapes, path: Path) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ArtifactError(
                f"{path}: {name} is {_shape(found.get(name))}; its settings make it {_shape(expected.get(name))}. "
                "Export it again."
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else f"of shape {shape}"
