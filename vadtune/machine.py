"""How busy this machine is, asked so that nobody has to wait for the answer."""

import shutil
import subprocess
import time
from dataclasses import dataclass

import psutil

GB = 1e9
_QUERY = ("--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """One GPU: how busy it is, in percent, and its memory in GB."""

    percent: float
    used_gb: float
    total_gb: float


@dataclass(frozen=True)
class Usage:
    """CPU in percent of all cores, memory in GB, and each GPU that nvidia-smi tells of."""

    cpu_percent: float
    used_gb: float
    total_gb: float
    gpus: tuple[Gpu, ...] = ()


class Machine:
    """The use of this machine; looked at once a second, its GPUs every other second."""

    PERIOD_S = 1.0
    GPU_PERIOD_S = 2.0

    def __init__(self) -> None:
        self.nvidia_smi = shutil.which("nvidia-smi")
        self.process: subprocess.Popen[str] | None = None
        self.gpus: tuple[Gpu, ...] = ()
        self.asked_at = time.monotonic() - self.GPU_PERIOD_S
        psutil.cpu_percent()  # what it tells is the mean since the call before
        self.seen_at = time.monotonic()
        self.last = self._look(0.0)

    def usage(self) -> Usage:
        """The use of the last second or so."""
        self._ask_gpus()
        if time.monotonic() - self.seen_at >= self.PERIOD_S:
            self.seen_at, self.last = time.monotonic(), self._look(psutil.cpu_percent())
        return self.last

    def close(self) -> None:
        """End a question that is still open."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _look(self, cpu_percent: float) -> Usage:
        memory = psutil.virtual_memory()
        return Usage(cpu_percent, (memory.total - memory.available) / GB, memory.total / GB, self.gpus)

    def _ask_gpus(self) -> None:
        """Read an answer that has come, or ask again; nvidia-smi may take a second."""
        if self.process is not None and self.process.poll() is not None:
            self.gpus = parse_gpus(self.process.communicate()[0])
            self.process = None
        is_due = time.monotonic() - self.asked_at >= self.GPU_PERIOD_S
        if self.nvidia_smi is not None and self.process is None and is_due:
            self.asked_at = time.monotonic()
            # In a session of its own: a Ctrl-C is not meant for it.
            self.process = subprocess.Popen(
                [self.nvidia_smi, *_QUERY],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """What nvidia-smi says, `87, 3200, 16384` (percent, MiB, MiB) a line; lines with `[N/A]` are passed over."""
    found = []
    for line in text.splitlines():
        try:
            percent, used, total = (float(part) for part in line.split(","))
        except ValueError:
            continue
        found.append(Gpu(percent, used * 2**20 / GB, total * 2**20 / GB))
    return tuple(found)
