"""Baselines at work beside a search: each in a process of its own, with one thread, low priority and a time limit."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from vadtune.data.splits import Splits
from vadtune.data.tables import FloatArray
from vadtune.errors import ConfigError
from vadtune.settings import nearest
from vadtune.tuning import baseline_methods
from vadtune.tuning.baseline_methods import INPUT, METHODS, READY
from vadtune.tuning.scratch import make_scratch

BASELINES: tuple[str, ...] = tuple(method.name for method in METHODS)

# The OpenMP of torch and every BLAS that numpy may be linked with.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


# Beside what begins a search a baseline gets a tenth of a core, and all that is idle.
NICENESS = 10


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """What became of one baseline.

    Attributes:
        x_hat: All cells of the test rows, `(N, D)` float32, scaled; None when it failed.
        seconds: Of a CPU; the limit where that was used up, 0 where it failed.
        failure: None, or why there is no result, such as `did not finish in 30 s`.
    """

    x_hat: FloatArray | None
    seconds: float
    failure: str | None = None


def run_baselines(splits: Splits, time_limit_s: float, names: Iterable[str] = BASELINES) -> dict[str, BaselineResult]:
    """Impute the test rows with each baseline, all of them at once.

    Args:
        splits: Only what is observed is read of it, and the validation truth; never the test truth.
        time_limit_s: CPU time for each baseline, its process's start included; and how long is waited for any.
        names: Which of `BASELINES`.

    Raises:
        ConfigError: A name is unknown, or the time limit is not above 0.
    """
    with RunningBaselines(splits, time_limit_s, names) as running:
        return running.results()


class RunningBaselines:
    """Baselines in the background: started here, asked for by `results`, ended by `close` or by leaving a `with`.

    Their limit is of CPU time, and of the time that `results` waits. They are fresh interpreters, not forks: nothing of
    the caller's Ray, torch or threads is in them, and a limit that has passed ends them in the middle of any
    computation. They die with the thread that started them (on Linux), or end by themselves at their limit.
    """

    def __init__(self, splits: Splits, time_limit_s: float, names: Iterable[str] = BASELINES) -> None:
        names = tuple(names)
        for name in names:
            if name not in BASELINES:
                raise ConfigError(f"{name} is not a baseline. {nearest(name, BASELINES)}")
        if time_limit_s <= 0:
            raise ConfigError(f"The time limit of the baselines is {time_limit_s:g} s: it should be above 0.")
        self._names = names
        self._limit_s = time_limit_s
        self._path = make_scratch("baselines", Path(tempfile.gettempdir()))
        self._refusals = _refusals(names, splits.test.rows.x.shape[1])
        self._codec = splits.codec
        _write_seen(self._path / INPUT, splits)
        self._processes = {name: self._spawn(name) for name in names if name not in self._refusals}

    def results(self) -> dict[str, BaselineResult]:
        """Wait until every baseline has finished or used up its time."""
        until = time.monotonic() + self._limit_s
        return {name: self._result(name, until) for name in self._names}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let them rest while trials need the CPUs; they go on afterwards, when other CPUs than one are idle again."""
        # One that is not ready yet would not die with this process.
        ready = [p for name, p in self._processes.items() if (self._path / f"{name}{READY}").exists()]
        resting = [process for process in ready if process.poll() is None]
        for process in resting:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in resting:
                process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End what still runs and remove its files."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        shutil.rmtree(self._path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        # -P: a file beside the user's script must not hide a module of the standard library.
        command = [sys.executable, "-P", "-W", "ignore", "-m", baseline_methods.__name__]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with (self._path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, name, str(self._path), str(self._limit_s)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                # Ctrl-C is for the search, which then asks for what there is. A session of their own would give them as
                # large a share of the CPUs as the search has, whatever their priority (Linux's autogroups).
                process_group=0,
            )
        # Not by itself: what it imports first is a third of its work.
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process

    def _result(self, name: str, until: float) -> BaselineResult:
        if name in self._refusals:
            return BaselineResult(None, 0.0, self._refusals[name])
        process = self._processes[name]
        try:
            status = process.wait(timeout=max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = -signal.SIGPROF
        if status == 0:
            with np.load(self._path / f"{name}.npz") as arrays:
                return BaselineResult(self._codec.decode(arrays["x_hat"]), float(arrays["seconds"]))
        if status == -signal.SIGPROF:
            return BaselineResult(None, self._limit_s, f"did not finish in {self._limit_s:g} s")
        return BaselineResult(None, 0.0, self._reason(name, status))

    def _reason(self, name: str, status: int) -> str:
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}; out of memory?"
        lines = (self._path / f"{name}.log").read_text(errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else f'exit code {status}'}"


def _refusals(names: tuple[str, ...], n_columns: int) -> dict[str, str]:
    """Why a baseline is not even started, by name."""
    return {
        method.name: f"needs at most {method.max_columns} columns"
        for method in METHODS
        if method.name in names and method.max_columns is not None and n_columns > method.max_columns
    }


def _write_seen(path: Path, splits: Splits) -> None:
    """What baselines see: one-hot columns for categories, of whose estimates the largest is their answer."""
    seen = {"train": splits.train.rows.x, "test": splits.test.rows.x}
    seen |= {"validation": splits.validation.rows.x, "validation_truth": splits.validation.truth}
    seen |= {"final": splits.final_rows.x} if splits.is_small else {}
    np.savez(path, allow_pickle=False, **{name: splits.codec.encode(x) for name, x in seen.items()})
