"""A trial as who writes the search themselves would have it: the same model, trained and scored by plain PyTorch.

torch's own optimizers, one of them over all latents at once; autograd for all gradients; and unseen rows inferred anew
at every report, from the prior, by as many steps as the settings say.
"""

import torch
from torch import Tensor, nn

from vadtune.models.base import Model
from vadtune.models.config import VADConfig
from vadtune.models.latents import column_means, initial_latents
from vadtune.models.objective import Batch, Posterior, as_tensor
from vadtune.training.config import TrialConfig
from vadtune.training.schedules import one_cycle
from vadtune.tuning.trial_runs import TrialData


class Latents:
    """Posteriors of some rows, as parameters."""

    def __init__(self, mean: Tensor, settings: VADConfig) -> None:
        self.kind = settings.posterior
        self.mean = nn.Parameter(mean)
        self.log_var = nn.Parameter(torch.full_like(mean, settings.log_var), requires_grad=self.kind == "free")

    def posterior(self, index: Tensor | slice) -> Posterior:
        """That of some rows."""
        return Posterior(self.mean[index], None if self.kind == "point" else self.log_var[index])

    def parameters(self) -> list[nn.Parameter]:
        """What descends."""
        return [parameter for parameter in (self.mean, self.log_var) if parameter.requires_grad]


class PlainRun:
    """A VAD on one table.

    Args:
        config: The trial; of its schedules one-cycle.
        data: Training rows, and validation rows with hidden cells.
    """

    def __init__(self, config: TrialConfig, data: TrialData) -> None:
        assert isinstance(config.model, VADConfig)
        self.config, self.settings = config, config.train
        torch.manual_seed(config.seed)
        self.model = config.model.build(data.train.codec or data.train.x.shape[1])
        self.batch = self.model.batch(as_tensor(data.train.x))
        self.validation = self.model.batch(as_tensor(data.validation.rows.x))
        self.truth = data.validation.truth
        self.model.start_at(column_means(self.batch))
        rng = torch.Generator().manual_seed(config.seed)
        first = initial_latents(config.model.latent_init, data.train, self.batch, config.model.latent_dim, rng)
        self.latents = Latents(first, config.model)
        network = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.network = torch.optim.AdamW(network, weight_decay=self.settings.weight_decay)
        self.adam = torch.optim.Adam(self.latents.parameters())
        self.epoch = 0

    def advance(self, to_epoch: int) -> float:
        """Train up to an epoch; returns the error over hidden validation cells there."""
        self.model.train()
        while self.epoch < to_epoch:
            order = torch.randperm(len(self.batch)).split(self.settings.batch_size)
            for number, index in enumerate(order):
                factor = one_cycle((self.epoch + number / len(order)) / self.settings.n_epochs)
                self.network.param_groups[0]["lr"] = self.settings.learning_rate * factor
                self.adam.param_groups[0]["lr"] = self.settings.latent_learning_rate * factor
                self.network.zero_grad()
                self.adam.zero_grad()
                negative_elbo(self.model, self.batch.rows(index), self.latents.posterior(index)).mean().backward()
                self.network.step()
                self.adam.step()
            self.epoch += 1
        return self.finish()

    def finish(self) -> float:
        """The error now."""
        self.model.eval()
        model = self.config.model
        assert isinstance(model, VADConfig)
        latents = Latents(torch.zeros(len(self.validation), model.latent_dim), model)
        adam = torch.optim.Adam(latents.parameters(), lr=self.config.infer.learning_rate)
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        for _ in range(self.config.infer.n_steps):
            adam.zero_grad()
            negative_elbo(self.model, self.validation, latents.posterior(slice(None))).sum().backward()
            adam.step()
        for parameter in self.network.param_groups[0]["params"]:
            parameter.requires_grad = True
        with torch.no_grad():
            return self.model.codec.score(self.model.estimate(latents.mean).numpy(), self.truth)


def negative_elbo(model: Model, batch: Batch, posterior: Posterior) -> Tensor:
    """Row losses at one draw."""
    z = posterior.sample(torch.default_generator)
    return model.likelihood.loss(model.decoder(z), batch) + model.kl_weight * posterior.kl()
