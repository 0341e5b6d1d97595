"""Where a model is trained, and by how many threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vadtune.training.config import MatmulPrecision

from vadtune.errors import ConfigError

# Multiplications of one pass: of twice as many a second thread saved 22% to 37% of the time.
WORK_A_THREAD = 5_000_000
# One of them is there wherever torch could find a GPU: of NVIDIA, of NVIDIA in WSL, of AMD.
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


@contextmanager
def fitting_threads(work: int) -> Iterator[None]:
    """As many of torch's threads as the work of one pass is worth, none that is not there already.

    Threads that meet after every small product wait for each other longer than they compute; beside other programs,
    whoever waits keeps the others from their turn: what one thread did in 6 s took two of them two minutes.

    Args:
        work: Multiplications of one pass; see `Model.work`.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, work // WORK_A_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Rounding:
    """How many threads want products that may be rounded, and what torch did before the first came."""

    lock = threading.Lock()
    n_threads = 0
    before = "highest"


@contextmanager
def multiplying(precision: "MatmulPrecision") -> Iterator[None]:
    """Let torch round what matrix products multiply, as far as the precision allows, while anyone here wants it.

    It is a setting of the whole process: what other threads multiply meanwhile may be rounded, too. On a CPU with AMX
    the training of a 2 x 512 decoder on MNIST digits took 0.56 to 0.72 of the time, and its error was the same to four
    digits; products of narrow tables take longer so.
    """
    import torch

    if precision == "highest":
        yield
        return
    with _Rounding.lock:
        if not _Rounding.n_threads:
            _Rounding.before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision(precision)
        _Rounding.n_threads += 1
    try:
        yield
    finally:
        with _Rounding.lock:
            _Rounding.n_threads -= 1
            if not _Rounding.n_threads:
                torch.set_float32_matmul_precision(_Rounding.before)


@contextmanager
def side_by_side(n_jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for jobs that share nothing, which divide torch's threads among them; some of the work is Python.

    Of small models it is most of it, and still two fits took 0.6 of the time of one after the other.
    """
    import torch

    n_threads = torch.get_num_threads()
    n_workers = max(1, min(n_jobs, n_threads))
    with ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(n_threads // n_workers,)) as jobs:
        try:
            yield jobs
        finally:
            jobs.shutdown(cancel_futures=True)
            torch.set_num_threads(n_threads)  # what a thread says counts for some of torch's libraries as a whole


def n_gpus() -> int:
    """GPUs that torch can use; without a driver for one torch is not loaded to ask it, which takes a second."""
    if not any(driver.exists() for driver in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(device: str, gpus_per_trial: float | None = None) -> tuple[str, float]:
    """The device of trials and how many GPUs each gets, of `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: Not a device, or a GPU that is not there.
    """
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (device != kind and not device.removeprefix("cuda:").isdigit()):
        raise ConfigError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ConfigError(f"--gpus-per-trial {gpus_per_trial:g}: it should be at least 0.")
    if kind == "cpu" and gpus_per_trial:
        raise ConfigError(f"--device cpu does not go with --gpus-per-trial {gpus_per_trial:g}.")
    if kind == "cuda" and not gpus_per_trial and not n_gpus():
        raise ConfigError(f"--device {device}: no GPU is here. Give --device cpu.")
    if kind == "cpu" or (kind == "auto" and not gpus_per_trial and not n_gpus()):
        return "cpu", 0.0
    if gpus_per_trial == 0:
        return "cpu", 0.0
    return (device if ":" in device else "cuda"), 1.0 if gpus_per_trial is None else gpus_per_trial
