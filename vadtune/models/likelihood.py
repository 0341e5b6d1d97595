"""Observation noise of the decoder: a Gaussian around x_hat, its variance fixed, learned, or learned per column."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vadtune.settings import Settings

# Below this a column that is fitted exactly (a constant one, say) would draw all gradients to itself.
MIN_NOISE_LOG_VAR = -9.0


class NoiseConfig(Settings):
    """Observation noise: `log_var` is its value when `fixed`, and where learning begins otherwise."""

    kind: Literal["fixed", "learned", "per_column"] = "learned"
    log_var: float = Field(-2.0, ge=MIN_NOISE_LOG_VAR, le=10.0)

    def build(self, n_features: int) -> "Noise":
        """Make the noise of `n_features` columns."""
        shape = (n_features,) if self.kind == "per_column" else ()
        return Noise(torch.full(shape, self.log_var), learned=self.kind != "fixed")


class Noise(nn.Module):
    """Holds noise_log_var, of shape `()` or `(D,)`, in scaled units squared."""

    def __init__(self, log_var: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.raw = nn.Parameter(log_var, requires_grad=learned)

    def log_var(self) -> Float[Tensor, ""] | Float[Tensor, " D"]:
        """The log variance, never below `MIN_NOISE_LOG_VAR`."""
        return self.raw.clamp(min=MIN_NOISE_LOG_VAR)
