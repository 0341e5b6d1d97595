"""The settings of every model and its parts; to read and check them no torch is needed, only to build of them."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Discriminator, Field, Tag

from vadtune.data.codec import Codec
from vadtune.errors import ConfigError
from vadtune.settings import Settings

if TYPE_CHECKING:
    from vadtune.models.decoder import ConvolutionalDecoder, MLPDecoder, ProjectiveDecoder
    from vadtune.models.likelihood import Noise
    from vadtune.models.vad import VAD
    from vadtune.models.vae import VAE

Activation = Literal["silu", "gelu", "relu", "tanh", "leaky_relu"]
InferenceStart = Literal["importance", "linear", "zeros", "normal", "pca", "train"]
PosteriorKind = Literal["point", "fixed", "free"]
LatentOptimizer = Literal["adam", "sgd"]
LatentInit = Literal["zeros", "normal", "pca"]
ImageShape = tuple[int, int] | None  # height and width
# Below this a column that is fitted exactly (a constant one, say) would draw all gradients to itself.
MIN_NOISE_LOG_VAR = -9.0


class MLPSettings(Settings):
    """Widths and kinds of the hidden layers; scalars only, so that every one can be searched."""

    hidden_dim: int = Field(256, ge=1)
    n_layers: int = Field(2, ge=0, le=256)
    activation: Activation = "silu"
    layer_norm: bool = False
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class DecoderConfig(MLPSettings):
    """A plain decoder: `linear_path` adds z W to the output, `sigmoid` bounds it to [0, 1] (pixels)."""

    kind: Literal["mlp"] = "mlp"
    linear_path: bool = False
    output: Literal["identity", "sigmoid"] = "identity"

    def build(self, latent_dim: int, n_features: int, image_shape: ImageShape = None) -> "MLPDecoder":  # noqa: ARG002
        """Make a decoder with fresh weights from torch's global generator."""
        from torch import nn

        from vadtune.models.decoder import MLPDecoder, mlp

        return MLPDecoder(
            mlp(latent_dim, n_features, self),
            nn.Linear(latent_dim, n_features, bias=False) if self.linear_path else None,
            bounded=self.output == "sigmoid",
        )


class ProjectiveConfig(MLPSettings):
    """A decoder for landmarks x0, y0, x1, y1 …: 3-D points and a camera, both from z; their projection is x_hat."""

    kind: Literal["projective"] = "projective"

    def build(
        self,
        latent_dim: int,
        n_features: int,
        image_shape: ImageShape = None,  # noqa: ARG002
    ) -> "ProjectiveDecoder":
        """Make a decoder with fresh weights from torch's global generator.

        Raises:
            ConfigError: The columns are not pairs.
        """
        check_columns(self.kind, n_features, None)
        from vadtune.models.decoder import ProjectiveDecoder

        return ProjectiveDecoder(latent_dim, n_features // 2, self)


class ConvolutionalConfig(MLPSettings):
    """A decoder for images: hidden layers, a coarse map of so many channels, and transposed convolutions.

    Each of `n_doublings` doubles height and width; the last one gives the pixels. `sigmoid` bounds them to [0, 1].
    """

    kind: Literal["convolutional"] = "convolutional"
    n_layers: int = Field(0, ge=0, le=256)
    channels: int = Field(32, ge=1)
    n_doublings: int = Field(2, ge=1, le=8)
    output: Literal["identity", "sigmoid"] = "sigmoid"

    def build(self, latent_dim: int, n_features: int, image_shape: ImageShape = None) -> "ConvolutionalDecoder":
        """Make a decoder with fresh weights from torch's global generator.

        Raises:
            ConfigError: The rows are no images.
        """
        check_columns(self.kind, n_features, image_shape)
        from vadtune.models.decoder import ConvolutionalDecoder

        assert image_shape is not None
        return ConvolutionalDecoder(latent_dim, image_shape, self)


def check_columns(kind: str, n_features: int, image_shape: ImageShape) -> None:
    """Whether a kind of decoder is one for such columns.

    Raises:
        ConfigError: It is not.
    """
    if kind == "projective" and n_features % 2:
        raise ConfigError(
            f"model.decoder.kind is 'projective' and the table has {n_features} columns: it needs pairs x, y. "
            "Use 'mlp'."
        )
    if kind == "convolutional" and image_shape is None:
        raise ConfigError(
            f"model.decoder.kind is 'convolutional' and the {n_features} columns are not the pixels of an image. "
            "Use 'mlp'."
        )


def _kind(value: object) -> object:
    return value.get("kind", "mlp") if isinstance(value, dict) else getattr(value, "kind", None)


AnyDecoderConfig = Annotated[
    Annotated[DecoderConfig, Tag("mlp")]
    | Annotated[ProjectiveConfig, Tag("projective")]
    | Annotated[ConvolutionalConfig, Tag("convolutional")],
    Discriminator(_kind),
]


class NoiseConfig(Settings):
    """Observation noise of numbers: `log_var` is its value when `fixed`, and where learning begins otherwise."""

    kind: Literal["fixed", "learned", "per_column"] = "learned"
    log_var: float = Field(-2.0, ge=MIN_NOISE_LOG_VAR, le=10.0)

    def build(self, n_features: int) -> "Noise":
        """Make the noise of `n_features` columns."""
        import torch

        from vadtune.models.likelihood import Noise

        shape = (n_features,) if self.kind == "per_column" else ()
        return Noise(torch.full(shape, self.log_var), learned=self.kind != "fixed")


class VADConfig(Settings):
    """Auto-decoder: a posterior per row, no encoder (Zadeh et al. 2019, arXiv:1903.00840).

    `levels`: see levels.py; `normal_scores`: see normal_scores.py.
    """

    kind: Literal["vad"] = "vad"
    latent_dim: int = Field(32, ge=1)
    posterior: PosteriorKind = "free"
    log_var: float = Field(-6.0, ge=-20.0, le=4.0)
    kl_weight: float = Field(1.0, ge=0.0)
    latent_init: LatentInit = "normal"
    latent_optimizer: LatentOptimizer = "adam"
    inference_start: InferenceStart = "importance"
    decoder: AnyDecoderConfig = DecoderConfig()
    noise: NoiseConfig = NoiseConfig()
    levels: bool = False
    normal_scores: bool = False

    def build(self, columns: int | Codec) -> "VAD":
        """Make a VAD with fresh weights from torch's global generator; of so many numbers, or of any columns."""
        from vadtune.models.vad import VAD

        return VAD(self, Codec.of_numbers(columns) if isinstance(columns, int) else columns)


class VAEConfig(Settings):
    """Auto-encoder on the zero-filled row and its observed mask, refined by gradient steps if wanted.

    In training the encoder does not see all that is observed: of each row a share, up to `mask_rate`, is kept from it
    and has to be reconstructed none the less.
    """

    kind: Literal["vae"] = "vae"
    latent_dim: int = Field(32, ge=1)
    kl_weight: float = Field(1.0, ge=0.0)
    mask_rate: float = Field(0.0, ge=0.0, lt=1.0)
    refinement_steps: int = Field(0, ge=0)
    encoder: MLPSettings = MLPSettings()
    decoder: AnyDecoderConfig = DecoderConfig()
    noise: NoiseConfig = NoiseConfig()
    levels: bool = False
    normal_scores: bool = False

    def build(self, columns: int | Codec) -> "VAE":
        """Make a VAE with fresh weights from torch's global generator; of so many numbers, or of any columns."""
        from vadtune.models.vae import VAE

        return VAE(self, Codec.of_numbers(columns) if isinstance(columns, int) else columns)
