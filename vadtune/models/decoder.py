"""The MLP decoder that VAD and VAE share: latents in, columns out."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vadtune.settings import Settings

Activation = Literal["silu", "gelu", "relu", "tanh", "leaky_relu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


class MLPSettings(Settings):
    """Widths and kinds of the hidden layers; scalars only, so that every one can be searched."""

    hidden_dim: int = Field(256, ge=1)
    n_layers: int = Field(2, ge=0)
    activation: Activation = "silu"
    layer_norm: bool = False
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class DecoderConfig(MLPSettings):
    """Settings of the decoder: `linear_path` adds z W to the output, `sigmoid` bounds it to [0, 1] (pixels)."""

    linear_path: bool = False
    output: Literal["identity", "sigmoid"] = "identity"

    def build(self, latent_dim: int, n_features: int) -> "Decoder":
        """Make a decoder with fresh weights from torch's global generator."""
        return Decoder(
            mlp(latent_dim, n_features, self),
            nn.Linear(latent_dim, n_features, bias=False) if self.linear_path else None,
            bounded=self.output == "sigmoid",
        )


class Decoder(nn.Module):
    """x_hat = f(z), or f(z) + z W with a linear path, squashed to (0, 1) where it is `bounded`."""

    def __init__(self, network: nn.Sequential, linear_path: nn.Linear | None, *, bounded: bool) -> None:
        super().__init__()
        self.network = network
        self.linear_path = linear_path
        self.bounded = bounded

    def forward(self, z: Float[Tensor, "*K L"]) -> Float[Tensor, "*K D"]:
        """Reconstruct the columns, in scaled units."""
        x_hat: Tensor = self.network(z)
        if self.linear_path is not None:
            x_hat = x_hat + self.linear_path(z)
        return torch.sigmoid(x_hat) if self.bounded else x_hat

    @torch.no_grad()
    def start_at(self, column_mean: Float[Tensor, " D"]) -> None:
        """Set the output bias so that z = 0 begins near the column means."""
        output = self.network[-1]
        assert isinstance(output, nn.Linear)
        if self.bounded:
            column_mean = torch.logit(column_mean.clamp(0.01, 0.99))
        output.bias.copy_(column_mean)


def mlp(n_inputs: int, n_outputs: int, settings: MLPSettings) -> nn.Sequential:
    """Hidden layers of one width, then a linear output; zero hidden layers make a linear map."""
    layers: list[nn.Module] = []
    width = n_inputs
    for _ in range(settings.n_layers):
        layers.append(nn.Linear(width, settings.hidden_dim))
        if settings.layer_norm:
            layers.append(nn.LayerNorm(settings.hidden_dim))
        layers.append(ACTIVATIONS[settings.activation]())
        if settings.dropout > 0:
            layers.append(nn.Dropout(settings.dropout))
        width = settings.hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, n_outputs))
