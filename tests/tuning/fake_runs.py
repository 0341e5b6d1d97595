"""A real run without a model: a learning curve that falls to a floor, which the params decide."""

import errno
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vadtune.errors import Diverged
from vadtune.settings import Nested, Settings
from vadtune.tuning.schedulers import ASHA

FAT = 4 * 2**20  # bytes of a checkpoint of the kind "fat"
MAX_EPOCHS = 45
SCHEDULER = ASHA(reduction_factor=3)  # rungs at epochs 5 and 15


class FakeModel(Settings):
    x: float = Field(0.0, ge=-10.0, le=10.0)
    kind: str = "quiet"
    depth: int = Field(1, ge=1, le=64)
    fuse: int = Field(0, ge=0)


class FakeConfig(Settings):
    """The settings of a fake trial: the floor is `x` squared, `kind` says what goes wrong."""

    model: FakeModel = FakeModel()
    seed: int = 0


class FakeRun:
    """Falls from 10 to its floor, a tenth of the way at every epoch."""

    def __init__(self, config: FakeConfig, max_epochs: int, epoch_s: float, spoils: Path | None) -> None:
        self.config, self.max_epochs, self.epoch_s, self.spoils = config, max_epochs, epoch_s, spoils
        self.epoch = self.best_epoch = 0
        self.train_s = self.infer_s = 0.0

    def advance(self, to_epoch: int) -> float:
        while self.epoch < to_epoch:
            self.epoch += 1
            time.sleep(self.epoch_s)
            self.train_s += self.epoch_s
            if self.epoch == self.config.model.fuse:
                self._go_wrong()
        self.best_epoch = self.epoch
        return self._rmse()

    def _go_wrong(self) -> None:
        match self.config.model.kind:
            case "diverging":
                raise Diverged(f"the loss is nan after epoch {self.epoch}")
            case "broken":
                raise ValueError("a bug in the model")
            case "hungry":
                raise MemoryError("cannot allocate 10 TB")
            case "killed" if self.spoils is not None and not self.spoils.exists():
                self.spoils.write_text("once", encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            case "mortal":
                os.kill(os.getpid(), signal.SIGKILL)

    def _rmse(self) -> float:
        floor = self.config.model.x**2
        return floor + 10 * 0.9**self.epoch + 1e-9 * (self.config.seed % 1000)

    def finish(self) -> float:
        self.infer_s += 0.001
        return self._rmse() - 1e-6

    def save(self, folder: Path) -> None:
        if self.config.model.kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.config.model.kind == "fat":
            (folder / "weights").write_bytes(bytes(FAT))
        (folder / "run.json").write_text(json.dumps({"epoch": self.epoch, "train_s": self.train_s}), encoding="utf-8")


@dataclass(frozen=True)
class FakeRuns:
    """Makes fake runs.

    `spoils` is the file that tells a killed one that it was killed already, `journal` hears of every start (`parents`
    beside it of the process above), and `home` is the only process that can read them back.
    """

    epoch_s: float = 0.0
    spoils: Path | None = None
    journal: Path | None = None
    home: int | None = None

    def prepare_process(self, seed: int, n_threads: int) -> None:
        """Nothing is shared."""

    def start(self, config: Nested, data: Any, max_epochs: int, device: str) -> FakeRun:  # noqa: ARG002
        self._note(config, "start")
        assert data["rows"].sum() == 10
        assert not data["rows"].flags.writeable
        return FakeRun(FakeConfig.model_validate(config), max_epochs, self.epoch_s, self.spoils)

    def load(self, folder: Path, config: Nested, data: Any, max_epochs: int, device: str) -> FakeRun:  # noqa: ARG002
        state = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self._note(config, f"load {state['epoch']}")
        run = FakeRun(FakeConfig.model_validate(config), max_epochs, self.epoch_s, self.spoils)
        run.epoch, run.train_s = state["epoch"], state["train_s"]
        return run

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["home"] not in (None, os.getpid()):
            raise ModuleNotFoundError("No module named 'vadtune'")
        vars(self).update(state)

    def _note(self, config: Nested, what: str) -> None:
        if self.journal is not None:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{config['seed']} {what}\n")
            with self.journal.with_name("parents").open("a", encoding="utf-8") as file:
                file.write(f"{config['seed']} {os.getppid()}\n")
