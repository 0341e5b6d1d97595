"""Everything that makes a trial what it is, by dotted path: `model.latent_dim`, `train.batch_size`, `infer.n_steps`."""

from typing import Annotated, Literal

from pydantic import Field

from vadtune.models.config import VADConfig, VAEConfig
from vadtune.settings import Settings

ModelConfig = Annotated[VADConfig | VAEConfig, Field(discriminator="kind")]
MatmulPrecision = Literal["highest", "medium"]
MODELS: tuple[str, ...] = ("vad", "vae")


class TrainConfig(Settings):
    """How decoder, encoder and training posteriors are updated.

    `matmul_precision` is torch's `set_float32_matmul_precision`: `medium` lets matrix products round what they multiply
    to bfloat16 or TF32 where the processor has units for that (AMX, tensor cores), and add up in float32.
    """

    n_epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(3e-3, gt=0.0)
    latent_learning_rate: float = Field(0.1, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)
    schedule: Literal["constant", "one_cycle", "cosine", "plateau"] = "one_cycle"
    matmul_precision: MatmulPrecision = "highest"


class InferConfig(Settings):
    """How the posteriors of unseen rows are found, the decoder fixed.

    `bound` is what training does; `lbfgs` finds the maximum of the posterior density; `adam` and `sgd` go there at
    one learning rate, as the paper's code does. `tolerance` is for `lbfgs`, the learning rate for all others; the
    warm ones are for posteriors that were found for a similar decoder and have not far to go.
    """

    method: Literal["bound", "lbfgs", "adam", "sgd"] = "bound"
    learning_rate: float = Field(0.3, gt=0.0)
    n_steps: int = Field(100, ge=1)
    tolerance: float = Field(3e-3, ge=0.0)
    warm_learning_rate: float = Field(0.1, gt=0.0)
    warm_steps: int = Field(10, ge=1)
    batch_size: int = Field(4096, ge=1)


class TrialConfig(Settings):
    """One trial, whole and validated."""

    model: ModelConfig = VADConfig()
    train: TrainConfig = TrainConfig()
    infer: InferConfig = InferConfig()
    seed: int = Field(0, ge=0)
