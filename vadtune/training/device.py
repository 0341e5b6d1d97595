"""Where a model is trained."""

import torch

from vadtune.errors import ConfigError


def resolve_device(device: str, gpus_per_trial: float | None = None) -> tuple[str, float]:
    """The device of trials and how many GPUs each gets, of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: Not a device, or a GPU that is not there.
    """
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (device != kind and not device.removeprefix("cuda:").isdigit()):
        raise ConfigError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ConfigError(f"--gpus-per-trial {gpus_per_trial:g}: it should be at least 0.")
    if kind == "cpu" and gpus_per_trial:
        raise ConfigError(f"--device cpu does not go with --gpus-per-trial {gpus_per_trial:g}.")
    if kind == "cuda" and not torch.cuda.is_available() and not gpus_per_trial:
        raise ConfigError(f"--device {device}: no GPU is here. Give --device cpu.")
    if kind == "cpu" or (kind == "auto" and not gpus_per_trial and not torch.cuda.is_available()):
        return "cpu", 0.0
    if gpus_per_trial == 0:
        return "cpu", 0.0
    return (device if ":" in device else "cuda"), 1.0 if gpus_per_trial is None else gpus_per_trial
