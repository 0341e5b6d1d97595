"""Speed of training: a step against the paper's scheme, and large batches against the machine's matrix multiply."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timing import Row, milliseconds, ratios, seconds, take_turns
from torch import Tensor, nn

from vadtune.data.splits import Rows
from vadtune.models.objective import Batch
from vadtune.settings import parse
from vadtune.training.config import TrialConfig
from vadtune.training.trainer import Trainer

CPU = torch.device("cpu")
LOG_VAR = -6.0


@dataclass(frozen=True)
class Size:
    """A table and a model."""

    n_rows: int
    n_features: int
    latent_dim: int
    hidden_dim: int
    batch_size: int

    @property
    def n_weights(self) -> int:
        """Of the decoder's matrices."""
        return self.latent_dim * self.hidden_dim + self.hidden_dim**2 + self.hidden_dim * self.n_features

    @property
    def n_batches(self) -> int:
        """Of an epoch."""
        return math.ceil(self.n_rows / self.batch_size)

    def table(self) -> Tensor:
        """Uniform values, half of them missing."""
        rng = torch.Generator().manual_seed(0)
        x = torch.rand(self.n_rows, self.n_features, generator=rng)
        return torch.where(torch.rand(x.shape, generator=rng) < 0.5, torch.nan, x)

    def config(self, posterior: str) -> TrialConfig:
        """Our settings for it."""
        model: dict[str, Any] = {"latent_dim": self.latent_dim, "posterior": posterior, "log_var": LOG_VAR}
        model["decoder"] = {"hidden_dim": self.hidden_dim, "n_layers": 2}
        train = {"batch_size": self.batch_size, "n_epochs": 1000}
        return parse(TrialConfig, {"model": {"kind": "vad", **model}, "train": train}, "benchmark")


class PaperScheme:
    """The paper's scheme: one Adam over the network and the latents of all rows, and the loss read at every step.

    Written anew as plain torch code: gradients of the latents are dense, so Adam passes over all rows at each step.
    Values are selected and cast beforehand, as on our side.

    Source: Zadeh et al. (2019), Variational Auto-Decoder, arXiv:1903.00840, and the code that came with it.
    """

    def __init__(self, size: Size, x: Tensor) -> None:
        self.batch, self.batch_size = Batch.of(x), size.batch_size
        self.latents = nn.Parameter(0.001 * torch.randn(size.n_rows, size.latent_dim))
        hidden = size.hidden_dim
        self.network = nn.Sequential(
            nn.Linear(size.latent_dim, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, size.n_features),
        )
        self.optimizer = torch.optim.Adam([self.latents, *self.network.parameters()], lr=1e-3)

    def fit(self, n_steps: int) -> float:
        """Take some steps; the sum of their losses."""
        total = 0.0
        for index in torch.randperm(len(self.latents)).split(self.batch_size)[:n_steps]:
            mean = self.latents[index]
            z = mean + math.exp(0.5 * LOG_VAR) * torch.randn_like(mean)
            error = (self.network(z) - self.batch.x[index]) * self.batch.observed[index]
            loss = (error.square().sum(1) + mean.square().sum(1)).mean() / 2
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total


def training_step(size: Size, target: float, turns: range, n_their_steps: int) -> Row:
    """Seconds a step: an epoch of ours against some steps of the paper's scheme."""
    torch.set_num_threads(1)
    x = size.table()
    trainer, paper = Trainer(size.config("fixed"), Rows(x.numpy()), CPU), PaperScheme(size, x)
    n_their_steps = min(n_their_steps, size.n_batches)
    paper.fit(2)
    times = take_turns(
        lambda: seconds(trainer.fit_epoch) / size.n_batches,
        lambda: seconds(lambda: paper.fit(n_their_steps)) / n_their_steps,
        turns,
    )
    what = (
        f"training step, {size.n_rows:,} x {size.n_features}, {size.latent_dim} latents, batch {size.batch_size}, "
        f"2 x {size.hidden_dim} decoder, one thread"
    )
    against = "the paper's scheme: dense Adam over all latents, `.item()` each step"
    return Row(what, against, "x", target, ratios(times), details=milliseconds(times))


def throughput(size: Size, target: float, turns: range, matmul_dim: int) -> Row:
    """Floating-point operations a second of whole epochs (6 a weight and row), over those of `torch.mm`."""
    torch.set_num_threads(1)
    trainer = Trainer(size.config("free"), Rows(size.table().numpy()), CPU)
    a, b = torch.rand(matmul_dim, matmul_dim), torch.rand(matmul_dim, matmul_dim)
    work, n_products = 6 * size.n_weights * size.n_rows, 8
    trainer.fit_epoch()
    rates = take_turns(
        lambda: work / seconds(trainer.fit_epoch),
        lambda: 2 * matmul_dim**3 * n_products / seconds(lambda: [torch.mm(a, b) for _ in range(n_products)]),
        turns,
    )
    details = {"ours_gflops": [round(ours / 1e9, 1) for ours, _ in rates]}
    details["mm_gflops"] = [round(theirs / 1e9, 1) for _, theirs in rates]
    what = (
        f"training throughput, batch {size.batch_size:,}, 2 x {size.hidden_dim} decoder on {size.n_features} columns, "
        "one thread"
    )
    against = f"`torch.mm` of {matmul_dim:,} x {matmul_dim:,} matrices"
    return Row(what, against, "%", target, [ours / theirs for ours, theirs in rates], details=details)
