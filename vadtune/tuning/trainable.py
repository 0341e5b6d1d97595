"""The one trainable, for all models: it runs a trial from report to report and never hears of a study.

It lives in a Ray actor that runs many trials, one after the other.
"""

import bisect
import gc
import logging
import math
import random
import time
from pathlib import Path
from typing import Any

from ray import tune

from vadtune.errors import Diverged, VadtuneError
from vadtune.settings import Nested
from vadtune.tuning.runs import Job, Run

logger = logging.getLogger(__name__)


class Trainable(tune.Trainable):
    """A trial, from report to report. Its config: `number`, `trial` (nested settings), `checkpoint` (or None)."""

    data: Any
    job: Job
    trial: Nested
    checkpoint: str | None
    run: Run | None
    together_s: float
    saved_s: float  # of the trial's work, what its last checkpoint holds

    def setup(self, config: dict[str, Any], data: Any = None, job: Job | None = None) -> None:
        """Begin the first trial of this process."""
        assert job is not None
        self.data, self.job = data, job
        # What was imported stays: to look through it after every trial would take 0.15 s.
        gc.freeze()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial of this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Advance to the next epoch to report, or to some if they are soon done: each step costs the driver some 4 ms.

        Returns:
            The last report; `passed` are epochs and values of those before, on which nobody decides.
        """
        until, passed = time.monotonic() + self.together_s, []
        result = self._report()
        while not (result.get("done") or result["epoch"] in self.job.rungs or time.monotonic() >= until):
            passed.append((result["epoch"], result["imputation_rmse"]))
            result = self._report()
        return result | {"passed": passed}

    def _report(self) -> dict[str, Any]:
        """Advance to the next epoch to report; a trial that diverges or needs too much memory reports a failure."""
        try:
            return self._advance()
        except Diverged as error:
            return self._failure(str(error))
        except VadtuneError as error:
            return self._failure(str(error).splitlines()[0])
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            return self._failure(f"memory: {str(error).splitlines()[0] if str(error) else 'MemoryError'}")

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the run."""
        assert self.run is not None
        self.run.save(Path(checkpoint_dir))
        self.saved_s = _work_s(self.run)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on with a run of this session, after its worker died: should it again, the study knows how far it came."""
        self.together_s = 0.0
        self.run = self._load(Path(checkpoint))

    def cleanup(self) -> None:
        """Forget the run."""
        self.run = None

    def _begin(self, config: dict[str, Any]) -> None:
        self.run = None
        gc.collect()
        self.together_s, self.saved_s = self.job.together_s, 0.0
        self.trial = config["trial"]
        self.checkpoint = config["checkpoint"]
        random.seed(self.trial["seed"])
        self.job.runs.prepare_process(self.trial["seed"], self.job.n_threads)

    def _advance(self) -> dict[str, Any]:
        # Not in setup: a run that Ray restores would be built twice.
        run = self.run = self.run or self._start()
        rmse = run.advance(self._next_epoch(run.epoch))
        if not math.isfinite(rmse):
            raise Diverged(f"imputation_rmse is {rmse} after epoch {run.epoch}")
        result: dict[str, Any] = {"epoch": run.epoch, "imputation_rmse": float(rmse)}
        if run.epoch >= self.job.max_epochs:
            result |= {"final_rmse": float(run.finish()), "best_epoch": run.best_epoch, "done": True}
        is_due = run.epoch in self.job.rungs and _work_s(run) - self.saved_s >= self.job.save_after_s
        saves = is_due or "final_rmse" in result
        return result | {"train_s": run.train_s, "infer_s": run.infer_s, "should_checkpoint": saves}

    def _next_epoch(self, epoch: int) -> int:
        epochs = self.job.report_epochs
        return epochs[min(bisect.bisect_right(epochs, epoch), len(epochs) - 1)]

    def _start(self) -> Run:
        if self.checkpoint is not None:
            try:
                with self.job.storage.fetched(self.checkpoint) as folder:
                    return self._load(folder)
            except FileNotFoundError:
                # A driver was killed while it deleted the files of the checkpoint, one by one.
                logger.info("%s is not whole any more: the trial begins anew", self.checkpoint)
        return self.job.runs.start(self.trial, self.data, self.job.max_epochs, self.job.device)

    def _load(self, folder: Path) -> Run:
        run = self.job.runs.load(folder, self.trial, self.data, self.job.max_epochs, self.job.device)
        self.saved_s = _work_s(run)
        return run

    def _failure(self, text: str) -> dict[str, Any]:
        run, self.run = self.run, None
        spent = {"train_s": run.train_s, "infer_s": run.infer_s} if run is not None else {}
        epoch = run.epoch if run is not None else 0
        return {"epoch": epoch, "imputation_rmse": math.nan, "failure": text[:500], "done": True} | spent


def _work_s(run: Run) -> float:
    return run.train_s + run.infer_s


def _is_memory(error: Exception) -> bool:
    """Whether an error means that memory did not suffice: torch raises a plain RuntimeError for it on a CPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
