"""The imputers that `quality.py` compares a search with, and the process that runs one of them.

`python benchmarks/opponents.py NAME FOLDER` reads what it may see from `FOLDER/seen.npz` and writes `FOLDER/NAME.npz`.
All but `mice_lightgbm` fit on the observed cells of the rows on which the search's winner is fitted at last: training
and, in small tables, validation rows. MIWAE and GAIN, small implementations from their papers, need the latter to stop:
of their training on training rows the weights that are best on validation cells are kept, which the papers do not do
and which helps them.
"""

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, StudentT
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from vadtune.data.metrics import rmse
from vadtune.data.tables import FloatArray
from vadtune.tuning.baseline_methods import METHODS, Seen

N_DRAWS = 20


@dataclass(frozen=True, eq=False)
class Imputation:
    """Estimates of all cells `(N, D)`, in scaled units, and `(K, N, D)` draws of them where the method has any."""

    x_hat: FloatArray
    draws: FloatArray | None = None

    def interval(self) -> dict[str, FloatArray]:
        """Ends of the 80% interval of each cell; nothing without draws."""
        if self.draws is None:
            return {}
        low, high = middle_80(self.draws)
        return {"low": low, "high": high}


def middle_80(draws: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where the middle 80% of a cell's draws `(K, N, D)` begin and end: another draw lies between in 80% of cases.

    Few draws hardly reach as far as what they are drawn from: between the usual quantiles of 20 lie 72%.

    Source: Hyndman and Fan (1996), Sample quantiles in statistical packages, The American Statistician 50, type 6.
    """
    low, high = np.quantile(draws, (0.1, 0.9), axis=0, method="weibull")
    return low, high


Opponent = Callable[[Seen], Imputation]


def extra_trees(seen: Seen) -> Imputation:
    """A forest of 100 extremely randomised trees for each column, in turns.

    Source: Stekhoven and Bühlmann (2012), MissForest, Bioinformatics 28(1).
    """
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    forest = ExtraTreesRegressor(n_estimators=100, random_state=0, n_jobs=-1)
    imputer = IterativeImputer(forest, max_iter=10, random_state=0, keep_empty_features=True).fit(seen.final)
    return Imputation(np.asarray(imputer.transform(seen.test)))


def mice_lightgbm(seen: Seen, n_tables: int = 5, n_rounds: int = 5) -> Imputation:
    """Multiple imputation by chained LightGBM models with predictive mean matching; the mean of so many tables.

    Fitted on all rows to fill, the training rows among them, an advantage over the others: `impute_new_data` of
    miceforest 6.0.5 begins every round at the first random fill (RMSE .51 against .35 on a table of two factors).
    """
    import miceforest
    import pandas as pd

    rows = pd.DataFrame(seen.test.astype(np.float64), columns=[f"x{j}" for j in range(seen.test.shape[1])])
    kernel = miceforest.ImputationKernel(rows, num_datasets=n_tables, random_state=0)
    kernel.mice(n_rounds, verbose=False)
    draws = np.stack([kernel.complete_data(k).to_numpy() for k in range(n_tables)])
    return Imputation(draws.mean(axis=0), draws)


class Miwae(nn.Module):
    """An auto-encoder of zero-filled rows with a Student-t decoder, trained by an importance-weighted bound.

    Source: Mattei and Frellsen (2019), MIWAE, arXiv:1812.02633, sections 3 and 4.3.
    """

    def __init__(self, n_features: int, latent_dim: int = 10, hidden_dim: int = 128) -> None:
        super().__init__()
        self.encoder = perceptron(n_features, hidden_dim, 2 * latent_dim)
        self.decoder = perceptron(latent_dim, hidden_dim, 3 * n_features)

    def weigh(self, x: Tensor, n_samples: int) -> tuple[Tensor, StudentT]:
        """Log importance weights `(K, N)` of samples of the latent, and the decoder's distributions `(K, N, D)`."""
        observed = ~x.isnan()
        filled = x.nan_to_num(0.0)
        mean, raw = self.encoder(filled).chunk(2, -1)
        posterior = Normal(mean, softplus(raw) + 1e-3)
        z = posterior.rsample((n_samples,))
        center, scale, freedom = self.decoder(z).chunk(3, -1)
        likelihood = StudentT(softplus(freedom) + 3, center, softplus(scale) + 1e-3, validate_args=False)
        log_likelihood = (likelihood.log_prob(filled) * observed).sum(-1)
        log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        return log_likelihood + log_prior - posterior.log_prob(z).sum(-1), likelihood

    def loss(self, x: Tensor, n_samples: int = 20) -> Tensor:
        """The negative bound (their equation 4)."""
        log_weights, _ = self.weigh(x, n_samples)
        bound: Tensor = (log_weights.logsumexp(0) - math.log(n_samples)).mean()
        return -bound

    @torch.no_grad()
    def impute(self, x: Tensor, n_samples: int) -> Imputation:
        """Self-normalised importance sampling (their equation 12); draws by resampling from it."""
        size = max(1, 4_000_000 // (n_samples * x.shape[1]))
        parts = [self._impute_part(part, n_samples) for part in x.split(size)]
        x_hat, draws = zip(*parts, strict=True)
        return Imputation(torch.cat(x_hat).numpy(), torch.cat(draws, dim=1).numpy())

    def _impute_part(self, x: Tensor, n_samples: int) -> tuple[Tensor, Tensor]:
        log_weights, likelihood = self.weigh(x, n_samples)
        weights = log_weights.softmax(0)
        chosen = torch.multinomial(weights.T, N_DRAWS, replacement=True).T
        rows = torch.arange(len(x)).expand_as(chosen)
        freedom, center, scale = (part[chosen, rows] for part in (likelihood.df, likelihood.loc, likelihood.scale))
        return (weights[..., None] * likelihood.loc).sum(0), StudentT(freedom, center, scale).sample()


def miwae(seen: Seen, n_epochs: int = 1000) -> Imputation:
    """Train for so many epochs of batches of 64 rows; 1,000 importance samples fill."""
    model, train, validation = Miwae(seen.train.shape[1]), torch.from_numpy(seen.train), seen.validation
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    best = Best(lambda: model.impute(torch.from_numpy(validation), 50).x_hat, seen.validation_truth)
    for epoch in range(1, n_epochs + 1):
        for rows in torch.randperm(len(train)).split(64):
            step(optimizer, model.loss(train[rows]))
        if epoch % 50 == 0 or epoch == n_epochs:
            best.keep(model)
    model.load_state_dict(best.weights)
    return model.impute(torch.from_numpy(seen.test), 1000)


class Gain(nn.Module):
    """A generator that fills and a discriminator that tells filled from observed cells, helped by hints.

    Source: Yoon, Jordon, van der Schaar (2018), GAIN, arXiv:1806.02920, algorithm 1.
    """

    def __init__(self, n_features: int, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.generator = perceptron(2 * n_features, n_features, n_features, nn.ReLU)
        self.discriminator = perceptron(2 * n_features, n_features, n_features, nn.ReLU)
        self.low, self.range = low, (high - low).clamp(min=1e-6)

    def generate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimates in [0, 1] of all cells, and the rows with their unknown cells filled by them."""
        observed = ~x.isnan()
        noise = 0.01 * torch.rand_like(x)
        filled = torch.where(observed, (x - self.low) / self.range, noise)
        estimate = torch.sigmoid(self.generator(torch.cat([filled, observed.float()], -1)))
        return estimate, torch.where(observed, filled, estimate)

    def judge(self, completed: Tensor, observed: Tensor, hint_rate: float = 0.9) -> tuple[Tensor, Tensor]:
        """Logits that each cell was observed, and which cells were not given away by the hint."""
        told = torch.rand_like(completed) < hint_rate
        hint = torch.where(told, observed.float(), 0.5)
        return self.discriminator(torch.cat([completed, hint], -1)), ~told

    @torch.no_grad()
    def impute(self, x: Tensor, n_draws: int) -> Imputation:
        """Fill with several draws of the noise; the estimate is their mean."""
        draws = torch.stack([self.generate(x)[0] * self.range + self.low for _ in range(n_draws)])
        return Imputation(draws.mean(0).numpy(), draws.numpy())


def gain(seen: Seen, n_steps: int = 10_000, alpha: float = 100.0) -> Imputation:
    """Train with so many batches of 128 rows; `alpha` weighs the error over observed cells."""
    low, high = (torch.from_numpy(limit(seen.train, axis=0)).nan_to_num(0.0) for limit in (np.nanmin, np.nanmax))
    model, train = Gain(seen.train.shape[1], low, high), torch.from_numpy(seen.train)
    players = [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (model.discriminator, model.generator)]
    best = Best(lambda: model.impute(torch.from_numpy(seen.validation), 1).x_hat, seen.validation_truth)
    for number in range(1, n_steps + 1):
        x = train[torch.randint(len(train), (min(128, len(train)),))]
        observed = ~x.isnan()
        logits, scored = model.judge(model.generate(x)[1].detach(), observed)
        step(players[0], binary_cross_entropy_with_logits(logits[scored], observed.float()[scored]))
        estimate, completed = model.generate(x)
        logits, scored = model.judge(completed, observed)
        fooled = softplus(-logits)[scored & ~observed].sum() / scored.sum().clamp(min=1)
        error = (estimate - completed).square().sum() / observed.sum().clamp(min=1)
        step(players[1], fooled + alpha * error)
        if number % 500 == 0 or number == n_steps:
            best.keep(model)
    model.load_state_dict(best.weights)
    return model.impute(torch.from_numpy(seen.test), N_DRAWS)


class Best:
    """The weights that were best on validation cells so far."""

    def __init__(self, impute: Callable[[], FloatArray], truth: FloatArray) -> None:
        self.impute, self.truth = impute, truth
        self.rmse, self.weights = np.inf, dict[str, Tensor]()

    def keep(self, model: nn.Module) -> None:
        """Score the model now, and copy its weights if it is better or the first."""
        found = rmse(self.impute(), self.truth)
        if found < self.rmse or not self.weights:
            self.rmse, self.weights = found, copy.deepcopy(model.state_dict())


def perceptron(n_in: int, hidden_dim: int, n_out: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Two hidden layers."""
    hidden = [nn.Linear(n_in, hidden_dim), activation(), nn.Linear(hidden_dim, hidden_dim), activation()]
    return nn.Sequential(*hidden, nn.Linear(hidden_dim, n_out))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def baseline(name: str, seen: Seen) -> Imputation:
    """One of the imputers that every search is compared with."""
    method = next(method for method in METHODS if method.name == name)
    return Imputation(np.asarray(method.impute(seen)))


def vad_imputer(seen: Seen) -> Imputation:
    """Ours without a search: `VADImputer` as it comes."""
    from vadtune import VADImputer

    imputer = VADImputer(random_state=0, keep_empty_features=True).fit(seen.final)
    return Imputation(np.asarray(imputer.transform(seen.test)))


OPPONENTS: dict[str, Opponent] = {
    **{method.name: partial(baseline, method.name) for method in METHODS},
    "extra_trees": extra_trees,
    "mice_lightgbm": mice_lightgbm,
    "miwae": miwae,
    "gain": gain,
}
FILLERS = OPPONENTS | {"vad_imputer": vad_imputer}


def main(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    with np.load(folder / "seen.npz") as arrays:
        seen = Seen(**arrays)
    began = time.perf_counter()
    found = FILLERS[name](seen)
    seconds = time.perf_counter() - began
    np.savez(folder / f"{name}.npz", x_hat=found.x_hat, seconds=seconds, allow_pickle=False, **found.interval())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
