"""How often a table lies in the memory of a node on which two trials read it."""

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from timing import Row

from vadtune.data.storage import open_storage
from vadtune.settings import Nested, Settings
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.plan import Plan
from vadtune.tuning.runner import run_search
from vadtune.tuning.samplers import Random
from vadtune.tuning.schedulers import NoScheduler
from vadtune.tuning.space import make_space

N_TRIALS = 2
PERIOD_S = 0.2
READING_S = 3.0  # so that both trials hold the table at once


class ReaderConfig(Settings):
    """The settings of a reader; the seed comes from the search."""

    share: float = 1.0
    seed: int = 0


@dataclass
class Reader:
    """A trial that reads its whole table and keeps it."""

    table: Any
    epoch: int = 0
    best_epoch: int = 1
    train_s: float = 0.0
    infer_s: float = 0.0

    def advance(self, to_epoch: int) -> float:
        """Read all of it."""
        self.epoch = to_epoch
        total = float(self.table.sum(dtype=np.float64))
        time.sleep(READING_S)
        return abs(total)

    def finish(self) -> float:
        """Any number."""
        return 1.0

    def save(self, folder: Path) -> None:
        """Nothing."""
        (folder / "run.json").write_text("{}")


@dataclass(frozen=True)
class Readers:
    """Makes readers."""

    def prepare_process(self, seed: int, n_threads: int) -> None:
        """Nothing to prepare."""

    def start(self, config: Nested, data: Any, max_epochs: int, device: str) -> Reader:  # noqa: ARG002
        """Begin to read."""
        return Reader(data["table"])

    def load(self, folder: Path, config: Nested, data: Any, max_epochs: int, device: str) -> Reader:  # noqa: ARG002
        """Begin again."""
        return Reader(data["table"])


class Peak:
    """The most memory that the object store and the processes of trials hold at once, in bytes."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_S):
            self.bytes = max(self.bytes, psutil.disk_usage("/dev/shm").used + _private())


def _private() -> int:
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith(("ray::Trainable", "ray::_Inner")):
                total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def peak(n_bytes: int) -> int:
    """Of a search whose two trials read a table of so many bytes at once."""
    space = make_space({"share": {"low": 0.0, "high": 1.0}}, ReaderConfig, "benchmark", {})
    with tempfile.TemporaryDirectory() as folder, Cluster(n_cpus=N_TRIALS) as cluster, Peak() as seen:
        plan = Plan(
            folder=Path(folder),
            storage=open_storage(folder),
            space=space,
            sampler=Random(),
            scheduler=NoScheduler(),
            max_epochs=1,
            n_trials=N_TRIALS,
        )
        run_search(plan, {"table": np.ones(n_bytes // 4, np.float32)}, Readers(), cluster=cluster)
    return seen.bytes


def copies(n_bytes: int, target: float, turns: range) -> Row:
    """How often the table is there, beyond what the same search needs without one."""
    pairs = [(peak(n_bytes), peak(1 << 20)) for _ in turns]
    values = [(with_table - without) / n_bytes for with_table, without in pairs]
    details = {"with_table_mb": [round(a / 1e6) for a, _ in pairs], "without_mb": [round(b / 1e6) for _, b in pairs]}
    what = f"copies of a table of {n_bytes / 1e9:.1f} GB in the object store and {N_TRIALS} trials that read it at once"
    return Row(what, "one", "x", target, values, at_most=True, details=details)
