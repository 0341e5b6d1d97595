"""The decoders that VAD and VAE share: latents in, columns out."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vadtune.models import backward
from vadtune.models.backward import Pull
from vadtune.models.config import ConvolutionalConfig, MLPSettings
from vadtune.models.dropout import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


class Decoder(nn.Module, ABC):
    """Latents in, columns out."""

    @abstractmethod
    def forward(self, z: Float[Tensor, "*K L"]) -> Float[Tensor, "*K D"]:
        """Reconstruct the columns, in scaled units."""

    def vjp(self, z: Float[Tensor, "N L"], *, learns: bool) -> tuple[Float[Tensor, "N D"], Pull]:
        """`forward`, and from a gradient by its output that by `z`; with `learns` weights get theirs, too."""
        return backward.by_autograd(self, z, learns=learns)

    @abstractmethod
    def start_at(self, column_mean: Float[Tensor, " D"]) -> None:
        """Set the output bias so that z = 0 begins near the column means."""

    @property
    def n_repeated(self) -> int:
        """Multiplications of a row beyond one for each weight."""
        return 0


class MLPDecoder(Decoder):
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

    def vjp(self, z: Float[Tensor, "N L"], *, learns: bool) -> tuple[Float[Tensor, "N D"], Pull]:
        """See `Decoder.vjp`; by hand."""
        x_hat, pull = backward.sequential(self.network, z, learns=learns)
        if self.linear_path is not None:
            linear, pull_linear = backward.linear(self.linear_path, z, learns=learns)
            x_hat, pull = x_hat + linear, _summed(pull, pull_linear)
        if self.bounded:
            x_hat, pull_sigmoid = backward.sigmoid(x_hat)
            pull = _chained(pull, pull_sigmoid)
        return x_hat, pull

    @torch.no_grad()
    def start_at(self, column_mean: Float[Tensor, " D"]) -> None:
        """Set the output bias so that z = 0 begins near the column means."""
        output = self.network[-1]
        assert isinstance(output, nn.Linear)
        output.bias.copy_(_before_output(column_mean, bounded=self.bounded))


class ProjectiveDecoder(Decoder):
    """P landmarks as 3-D points in homogeneous coordinates, seen by a 4 x 3 camera; D = 2 P.

    The camera begins as the orthographic one that drops the third coordinate. Depth is a softplus, so that no point
    passes through the camera's plane.

    Source: Zadeh et al. (2019), arXiv:1903.00840, experiments on structure from motion.
    """

    MIN_DEPTH = 0.05

    def __init__(self, latent_dim: int, n_points: int, settings: MLPSettings) -> None:
        super().__init__()
        hidden = mlp(latent_dim, 1, settings)[:-1]
        width = settings.hidden_dim if settings.n_layers else latent_dim
        self.hidden = hidden
        self.points = nn.Linear(width, 3 * n_points)
        self.camera = nn.Linear(width, 12)
        with torch.no_grad():
            self.camera.weight.mul_(0.1)
            # softplus(log(e - 1)) = 1: at first all depths are 1.
            self.camera.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0, math.log(math.e - 1)]))

    def forward(self, z: Float[Tensor, "*K L"]) -> Float[Tensor, "*K D"]:
        """Project the points, in scaled units."""
        hidden = self.hidden(z)
        points = self.points(hidden).unflatten(-1, (-1, 3))
        camera = self.camera(hidden).unflatten(-1, (4, 3))
        seen = points @ camera[..., :3, :] + camera[..., 3:, :]
        depth = torch.nn.functional.softplus(seen[..., 2:]) + self.MIN_DEPTH
        x_hat: Tensor = (seen[..., :2] / depth).flatten(-2)
        return x_hat

    @torch.no_grad()
    def start_at(self, column_mean: Float[Tensor, " D"]) -> None:
        """Put the points where their mean projections are, at depth 0."""
        points = torch.nn.functional.pad(column_mean.unflatten(-1, (-1, 2)), (0, 1))
        self.points.bias.copy_(points.flatten())


class ConvolutionalDecoder(Decoder):
    """Images, D = height x width: hidden layers, a coarse map, transposed convolutions that double it, pixel biases.

    The map is of as few pixels as become the image or more by doubling; what is beyond the image is cut off. Without a
    bias of its own each pixel would begin where all others do.

    Source: Radford, Metz, Chintala (2016), Unsupervised representation learning with deep convolutional generative
    adversarial networks, arXiv:1511.06434, the generator. Normalisation is by layer (`layer_norm`), not by batch: a
    row's posterior must not depend on the rows beside it.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int], settings: ConvolutionalConfig) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.bounded = settings.output == "sigmoid"
        height, width = (math.ceil(side / 2**settings.n_doublings) for side in image_shape)
        channels = settings.channels
        self.map_shape = channels, height, width
        size = math.prod(self.map_shape)
        self.coarse = nn.Sequential(*mlp(latent_dim, size, settings), *_after(nn.LayerNorm(size), settings))
        doublings: list[nn.Module] = []
        for _ in range(settings.n_doublings - 1):
            doublings.append(nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1))
            doublings += _after(nn.GroupNorm(1, channels), settings, drops=False)
        doublings.append(nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1, bias=False))
        self.doublings = nn.Sequential(*doublings)
        # On a CPU a pass over 128 maps of 16 channels and its way back took 0.7 of the time in this format.
        self.doublings.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its overloads forget it
        self.bias = nn.Parameter(torch.zeros(*image_shape))

    def forward(self, z: Float[Tensor, "*K L"]) -> Float[Tensor, "*K D"]:
        """Draw the images, in scaled units."""
        height, width = self.image_shape
        coarse = self.coarse(z.reshape(-1, z.shape[-1])).unflatten(-1, self.map_shape)
        drawn = self.doublings(coarse.contiguous(memory_format=torch.channels_last))
        x_hat: Tensor = (drawn[:, 0, :height, :width] + self.bias).reshape(*z.shape[:-1], height * width)
        return torch.sigmoid(x_hat) if self.bounded else x_hat

    @torch.no_grad()
    def start_at(self, column_mean: Float[Tensor, " D"]) -> None:
        """Begin near the mean image."""
        self.bias.copy_(_before_output(column_mean, bounded=self.bounded).view_as(self.bias))

    @property
    def n_repeated(self) -> int:
        """The weights of a convolution meet each pixel of the map that it doubles."""
        weights = [layer.weight for layer in self.doublings if isinstance(layer, nn.ConvTranspose2d)]
        n_coarse = self.map_shape[1] * self.map_shape[2]
        return sum((n_coarse * 4**k - 1) * weight.numel() for k, weight in enumerate(weights))


def _before_output(x_hat: Float[Tensor, " D"], *, bounded: bool) -> Float[Tensor, " D"]:
    """What a sigmoid, if there is one, makes about these of."""
    return torch.logit(x_hat.clamp(0.01, 0.99)) if bounded else x_hat


def _summed(first: Pull, second: Pull) -> Pull:
    return lambda gradient: first(gradient) + second(gradient)


def _chained(inner: Pull, outer: Pull) -> Pull:
    return lambda gradient: inner(outer(gradient))


def mlp(n_inputs: int, n_outputs: int, settings: MLPSettings) -> nn.Sequential:
    """Hidden layers of one width, then a linear output; zero hidden layers make a linear map."""
    layers: list[nn.Module] = []
    width = n_inputs
    for _ in range(settings.n_layers):
        layers.append(nn.Linear(width, settings.hidden_dim))
        layers += _after(nn.LayerNorm(settings.hidden_dim), settings)
        width = settings.hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, n_outputs))


def _after(norm: nn.Module, settings: MLPSettings, *, drops: bool = True) -> list[nn.Module]:
    """What follows the products of a layer."""
    dropout: list[nn.Module] = [Dropout(settings.dropout)] if drops and settings.dropout > 0 else []
    return [*([norm] if settings.layer_norm else []), ACTIVATIONS[settings.activation](), *dropout]
