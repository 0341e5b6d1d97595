"""One trial from its first epoch to its score: trained, watched on validation rows, saved, and gone on with."""

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vadtune.data.codec import Codec
from vadtune.data.splits import Holdout, Rows
from vadtune.data.tables import FloatArray
from vadtune.errors import Diverged
from vadtune.models.base import Model
from vadtune.models.objective import Posterior, as_tensor
from vadtune.settings import parse
from vadtune.training.config import TrialConfig
from vadtune.training.inference import infer, infer_further
from vadtune.training.trainer import Trainer
from vadtune.training.weights import load_model

Tensors = dict[str, Tensor]


class TrialRun:
    """Trains a model and scores it on the hidden cells of validation rows.

    Between reports the validation latents stay warm: they take a few steps from where they were, so that a report
    costs a small part of the training. The final score is always a cold, converged inference.

    Args:
        config: The whole trial; its seed decides all randomness.
        train: What the model may see of the training rows.
        validation: Rows it may see, and the hidden cells it is scored on.
        device: `cpu` or `cuda:N`.
        is_new: Whether it begins; `load` goes on with a saved one.
    """

    def __init__(
        self, config: TrialConfig, train: Rows, validation: Holdout, device: str = "cpu", *, is_new: bool = True
    ) -> None:
        began = time.perf_counter()
        self.config = config
        self.trainer = Trainer(config, train, torch.device(device), is_new=is_new)
        self.validation = self.trainer.model.batch(as_tensor(validation.rows.x)).to(torch.device(device))
        self.truth = validation.truth
        self.warm: Posterior | None = None  # of the validation rows, from report to report
        self.loss = math.nan  # of the last epoch
        self.best_epoch = 0
        self.best_rmse = math.inf
        self.best_weights: Tensors = {}
        self.expected: Tensor | None = None  # of the validation rows at the best epoch, `(N, E)`, once that is scored
        # Where latents begin is learned of the rows, too.
        self.train_s = time.perf_counter() - began
        self.infer_s = 0.0

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return self.trainer.epoch

    def advance(self, to_epoch: int) -> float:
        """Train up to an epoch and score it.

        Returns:
            The objective over hidden validation cells (`Codec.score`), by a warm inference.

        Raises:
            Diverged: The loss or the score is no longer finite.
        """
        began = time.perf_counter()
        while self.epoch < to_epoch:
            self.loss = self.trainer.fit_epoch()
        trained = time.perf_counter()
        self.train_s += trained - began
        mean = self._warm_mean()
        with torch.no_grad():
            score = self._score(self.trainer.model.estimate(mean))
        self.infer_s += time.perf_counter() - trained
        if not math.isfinite(score):
            raise Diverged(f"imputation_rmse is {score} after epoch {self.epoch}")
        if score < self.best_rmse:
            self.best_rmse, self.best_epoch = score, self.epoch
            self.trainer.model.remember(self.trainer.posteriors)
            self.best_weights = {name: tensor.clone() for name, tensor in self.trainer.model.state_dict().items()}
        return score

    def finish(self) -> float:
        """Score the best epoch by a cold, converged inference; what `advance` returns."""
        began = time.perf_counter()
        model = self.best_model().eval()
        mean = infer(model, self.validation, self.config.infer).mean
        with torch.no_grad():
            self.expected = model.likelihood.expect(model.decoder(mean))
        score = self._score(model.values(self.expected))
        self.infer_s += time.perf_counter() - began
        if not math.isfinite(score):
            raise Diverged(f"imputation_rmse is {score} at the best epoch, {self.best_epoch}")
        return score

    def best_model(self) -> Model:
        """A copy of the model with the weights of the best epoch."""
        model = copy.deepcopy(self.trainer.model)
        if self.best_weights:
            model.load_state_dict(self.best_weights)
        return model

    def save(self, folder: Path) -> None:
        """Write all that `load` needs to go on as if nothing had happened, to the digit."""
        save_file(self._tensors(), folder / "run.safetensors")
        state = {
            "config": self.config.model_dump(mode="json"),
            "epoch": self.epoch,
            "plateau": vars(self.trainer.plateau),
            "best_epoch": self.best_epoch,
            "best_rmse": self.best_rmse,
            "train_s": self.train_s,
            "infer_s": self.infer_s,
        }
        (folder / "run.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, train: Rows, validation: Holdout, device: str = "cpu") -> "TrialRun":
        """Go on with a saved trial on the same data."""
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        run = cls(TrialConfig.model_validate(state["config"]), train, validation, device, is_new=False)
        run._restore(state, load_file(folder / "run.safetensors", device=device))
        return run

    def _warm_mean(self) -> Float[Tensor, "N L"]:
        model = self.trainer.model.eval()
        if model.max_refinement_steps is not None:
            return infer(model, self.validation, self.config.infer).mean
        if self.warm is None:
            start = model.start(self.validation)
        else:
            start = model.restart(self.validation, self.warm, self.trainer.posteriors)
        self.warm = infer_further(model, self.validation, start, self.config.infer)
        return self.warm.mean

    def _score(self, x_hat: Float[Tensor, "N D"]) -> float:
        return self.trainer.model.codec.score(x_hat.cpu().numpy(), self.truth)

    def _tensors(self) -> Tensors:
        trainer = self.trainer
        tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
        tensors |= {f"posteriors.{name}": tensor for name, tensor in trainer.posteriors.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in trainer.optimizer.state_dict().items()}
        if self.warm is not None:
            tensors |= {f"warm.{name}": tensor for name, tensor in vars(self.warm).items() if tensor is not None}
        if self.expected is not None:
            tensors["expected"] = self.expected
        tensors["rng"] = trainer.rng.get_state()
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def _restore(self, state: dict[str, Any], tensors: Tensors) -> None:
        trainer = self.trainer
        trainer.model.load_state_dict(_under("model.", tensors))
        trainer.posteriors.load_state_dict(_under("posteriors.", tensors))
        trainer.rng.set_state(tensors["rng"].cpu())
        trainer.epoch = state["epoch"]
        vars(trainer.plateau).update(state["plateau"])
        trainer.optimizer.load_state_dict(_under("optimizer.", tensors))
        self.best_weights = _under("best.", tensors)
        self.best_epoch, self.best_rmse = state["best_epoch"], state["best_rmse"]
        self.train_s, self.infer_s = state["train_s"], state["infer_s"]
        self.expected = tensors.get("expected")
        warm = _under("warm.", tensors)
        self.warm = Posterior(warm["mean"], warm.get("log_var")) if warm else None


def load_best_model(folder: Path, codec: Codec) -> tuple[TrialConfig, Model]:
    """The settings of a saved trial and its model at the best epoch, without its training state."""
    state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    # Settings may have changed since: that is told as all wrong settings are.
    config: TrialConfig = parse(TrialConfig, state["config"], str(folder / "run.json"))
    return config, load_model(config, codec, folder / "run.safetensors", "best.")


def load_expected(folder: Path) -> FloatArray | None:
    """What a saved trial expects of the validation rows `(N, E)`; None if its best epoch was not scored yet."""
    with safe_open(folder / "run.safetensors", framework="numpy") as file:
        return file.get_tensor("expected") if "expected" in file.keys() else None  # noqa: SIM118 – not a mapping


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
