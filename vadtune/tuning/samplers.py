"""What proposes params: one class each, named in the union `Sampler`."""

import warnings
from typing import Annotated, Literal

import numpy as np
import optuna
from pydantic import Field

from vadtune.settings import Settings
from vadtune.tuning.leaves import Params
from vadtune.tuning.space import Space
from vadtune.tuning.window import Windowed


class SamplerSettings(Settings):
    """What all samplers share."""

    def points(self, space: Space) -> list[Params]:
        """The points to try before any is drawn: the first ones of the space."""
        return list(space.first)

    def n_points(self, space: Space) -> int | None:  # noqa: ARG002
        """How many trials there can be; None for any number."""
        return None


class TPE(SamplerSettings):
    """Tree-structured Parzen estimator, multivariate, with constant liar for concurrent trials.

    Source: Bergstra et al. (2011), Algorithms for hyper-parameter optimization, NeurIPS.
    """

    kind: Literal["tpe"] = "tpe"
    n_startup_trials: int = Field(10, ge=1)

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """The sampler; `n_asked` keeps a resumed search from drawing the same numbers again."""
        return Windowed(
            optuna.samplers.TPESampler(n_startup_trials=self.n_startup_trials, seed=draw_seed(seed, n_asked))
        )


class GP(SamplerSettings):
    """Gaussian process with log expected improvement: about 0.4 s a proposal, for spaces without conditions."""

    kind: Literal["gp"] = "gp"
    n_startup_trials: int = Field(10, ge=1)

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """The sampler; `n_asked` keeps a resumed search from drawing the same numbers again."""
        return Windowed(
            optuna.samplers.GPSampler(
                n_startup_trials=self.n_startup_trials, seed=draw_seed(seed, n_asked), warn_independent_sampling=False
            )
        )


class CMAES(SamplerSettings):
    """Covariance matrix adaptation, for numbers; choices are drawn independently.

    Source: Hansen and Ostermeier (2001), Evolutionary Computation 9(2).
    """

    kind: Literal["cmaes"] = "cmaes"
    n_startup_trials: int = Field(1, ge=1)

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """The sampler; `n_asked` keeps a resumed search from drawing the same numbers again."""
        return optuna.samplers.CmaEsSampler(
            n_startup_trials=self.n_startup_trials, seed=draw_seed(seed, n_asked), warn_independent_sampling=False
        )


class QMC(SamplerSettings):
    """A scrambled Sobol sequence: spreads better than random; the study keeps its place in the sequence."""

    kind: Literal["qmc"] = "qmc"

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """The sampler; the sequence is scrambled by the search's seed alone, so that a resumed search goes on in it."""
        independent = optuna.samplers.RandomSampler(seed=draw_seed(seed, n_asked))
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return optuna.samplers.QMCSampler(
                scramble=True,
                seed=draw_seed(seed, 0),
                independent_sampler=independent,
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            )


class Random(SamplerSettings):
    """Independent draws."""

    kind: Literal["random"] = "random"

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """The sampler; `n_asked` keeps a resumed search from drawing the same numbers again."""
        return optuna.samplers.RandomSampler(seed=draw_seed(seed, n_asked))


class Grid(SamplerSettings):
    """Every point of a space of choices and steps, each once."""

    kind: Literal["grid"] = "grid"

    def build(self, seed: int, n_asked: int) -> optuna.samplers.BaseSampler:
        """A sampler for completeness: all points are enqueued."""
        return optuna.samplers.RandomSampler(seed=draw_seed(seed, n_asked))

    def points(self, space: Space) -> list[Params]:
        """All points of the space.

        Raises:
            ConfigError: Some leaf has neither choices nor a step.
        """
        return space.grid()

    def n_points(self, space: Space) -> int:
        """The size of the grid."""
        return len(space.grid())


Sampler = Annotated[TPE | GP | CMAES | QMC | Random | Grid, Field(discriminator="kind")]
SAMPLERS: tuple[str, ...] = ("tpe", "gp", "cmaes", "qmc", "random", "grid")


def draw_seed(*parts: int) -> int:
    """One seed of several numbers, below 2^32."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
