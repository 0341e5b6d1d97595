"""Small data of a known model, and quick settings."""

from dataclasses import dataclass
from typing import get_args

import torch

from tests.models.examples import holes, normal
from vadtune.data.splits import Holdout, Rows
from vadtune.models.config import VADConfig, VAEConfig
from vadtune.training.config import InferConfig, ModelConfig, TrainConfig, TrialConfig

MODEL_CONFIGS = get_args(get_args(ModelConfig)[0])
THOROUGH = InferConfig(method="lbfgs", n_steps=300, tolerance=1e-7)


@dataclass(frozen=True)
class LowRank:
    """x = W z + b + noise, with cells hidden: `x` is seen, `truth` is not."""

    weight: torch.Tensor
    bias: torch.Tensor
    noise_std: float
    x: torch.Tensor
    truth: torch.Tensor


def low_rank(n_rows, n_features=12, n_latents=3, noise_std=0.3, missing_rate=0.3, seed=0):
    weight, bias = normal(n_features, n_latents, seed=100), normal(n_features, seed=101)
    full = (
        normal(n_rows, n_latents, seed=seed) @ weight.T + bias + noise_std * normal(n_rows, n_features, seed=seed + 1)
    )
    x = holes(full, missing_rate, seed + 2)
    return LowRank(weight, bias, noise_std, x, torch.where(x.isnan(), full, torch.nan))


def holdout(data):
    return Holdout(Rows(data.x.numpy()), data.truth.numpy())


def small(kind="vad", **model):
    """A trial of a small model."""
    mlp = {"hidden_dim": 16, "n_layers": 1}
    if kind == "vae":
        config = VAEConfig(**{"latent_dim": 3, "encoder": mlp, "decoder": mlp, **model})
    else:
        config = VADConfig(**{"latent_dim": 3, "decoder": mlp, **model})
    return TrialConfig(model=config, train=TrainConfig(n_epochs=6, batch_size=32))


def change(config, part, **values):
    """A trial with other values of one part of its settings."""
    part_config = getattr(config, part)
    return config.model_copy(update={part: part_config.model_copy(update=values)})


def rmse(x_hat, truth):
    return (x_hat - truth)[~truth.isnan()].square().mean().sqrt().item()
