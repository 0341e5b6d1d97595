"""One epoch of training and the state it leaves: decoder, noise, encoder and the posteriors of the training rows."""

import math

import torch
from torch import Tensor

from vadtune.data.splits import Rows
from vadtune.errors import Diverged
from vadtune.models.base import Model, TrainingPosteriors, Visit
from vadtune.models.dropout import dropping_by
from vadtune.models.latents import column_means
from vadtune.models.objective import Batch, as_tensor
from vadtune.training.config import TrialConfig
from vadtune.training.device import fitting_threads, multiplying
from vadtune.training.optimizers import SGD, AdamW, Optimizer
from vadtune.training.schedules import Plateau, cosine, one_cycle

# Rows whose cells and latents are gathered at once: for each small batch alone it would take a good part of its step;
# and of wide rows fewer, which stay in the caches.
GATHERED_ROWS, GATHERED_CELLS = 2048, 2**18
OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": AdamW, "sgd": SGD}


class Trainer:
    """Trains one model on one table; an epoch at a time, so that whoever searches can stop in between.

    Args:
        config: The trial; its seed decides weights, order of rows and noise.
        rows: Those to train on.
        device: Where to train.
        is_new: Whether it begins; else its state is to be that of one that has been saved.
    """

    def __init__(self, config: TrialConfig, rows: Rows, device: torch.device, *, is_new: bool = True) -> None:
        self.settings = config.train
        self.rng = torch.Generator(device).manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: Model = config.model.build(rows.codec or rows.x.shape[1])
        self.batch = self.model.batch(as_tensor(rows.x)).to(device)
        self.model.start_at(column_means(self.batch))
        self.model.to(device)
        self.posteriors: TrainingPosteriors = self.model.training_posteriors(self.batch).to(device)
        if is_new:
            self.model.begin(self.posteriors, rows, self.batch, self.rng)
        self.optimizer = OPTIMIZERS[self.settings.optimizer](self.model.parameters(), self.settings.weight_decay)
        self.plateau = Plateau()
        self.dropout_rng = torch.Generator(device)
        self.epoch = 0

    @torch.no_grad()
    def fit_epoch(self) -> float:
        """Visit every training row once, in a fresh order, the last partial batch included.

        Returns:
            The mean row loss over the epoch, in nats.

        Raises:
            Diverged: The loss is no longer finite.
        """
        self.model.train()
        n_rows, size = len(self.batch), self.settings.batch_size
        order = torch.randperm(n_rows, generator=self.rng, device=self.rng.device)
        # Anew for each epoch: whoever goes on from a checkpoint drops the same units.
        self.dropout_rng.manual_seed((self.rng.initial_seed() + self.epoch) % 2**63)
        n_together = size * max(1, min(GATHERED_ROWS, GATHERED_CELLS // self.batch.x.shape[1]) // size)
        total = torch.zeros((), device=self.rng.device)
        with (
            dropping_by(self.dropout_rng),
            fitting_threads(self.model.work(min(size, n_rows))),
            multiplying(self.settings.matmul_precision),
        ):
            for start in range(0, n_rows, n_together):
                total += self._fit(order[start : start + n_together], start)
        loss = float(total) / n_rows
        self.epoch += 1
        if not math.isfinite(loss):
            raise Diverged(f"the training loss is {loss} after epoch {self.epoch}")
        self.plateau.observe(loss)
        return loss

    def _fit(self, index: Tensor, n_before: int) -> Tensor:
        """Visit some rows, batch by batch; returns the sum of their losses.

        Args:
            index: Which rows.
            n_before: How many were visited before them in this epoch.
        """
        size, visit = self.settings.batch_size, self.posteriors.visit(index)
        n_batches = math.ceil(len(self.batch) / size)
        total = torch.zeros((), device=self.rng.device)
        for place, batch in enumerate(self.batch.rows(index).split(size)):
            progress = (self.epoch + (n_before // size + place) / n_batches) / self.settings.n_epochs
            total += self._step(batch, visit, place * size, self._factor(progress))
        visit.end()
        return total

    def _step(self, batch: Batch, visit: Visit, start: int, factor: float) -> Tensor:
        """One update on one batch; returns the sum of its row losses."""
        posterior = visit.of(slice(start, start + len(batch)), batch)
        self.optimizer.zero_grad()
        noise = posterior.noise(self.rng)
        # The network follows the mean of the row losses; each posterior takes its own row's share of that gradient.
        losses, gradients = self.model.losses(batch, posterior, noise, 1 / len(batch), learns=True)
        visit.update(gradients, self.settings.latent_learning_rate * factor)
        self.optimizer.step(self.settings.learning_rate * factor)
        return losses.sum()

    def _factor(self, progress: float) -> float:
        match self.settings.schedule:
            case "one_cycle":
                return one_cycle(progress)
            case "cosine":
                return cosine(progress)
            case "plateau":
                return self.plateau.factor
            case "constant":
                return 1.0
