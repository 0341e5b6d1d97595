"""Real trials in a worker that may not have much more memory than it has."""

import resource
from dataclasses import dataclass, field
from pathlib import Path

from vadtune.settings import Nested
from vadtune.training.run import TrialRun
from vadtune.tuning.trial_runs import TrialData, TrialRuns


@dataclass(frozen=True)
class ConfinedRuns:
    """Makes `TrialRun`s; `memory` is how many bytes more than at its beginning a worker may have."""

    memory: int
    inner: TrialRuns = field(default_factory=TrialRuns)

    def prepare_process(self, seed: int, n_threads: int) -> None:
        self.inner.prepare_process(seed, n_threads)
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + self.memory, most))

    def start(self, config: Nested, data: TrialData, max_epochs: int, device: str) -> TrialRun:
        return self.inner.start(config, data, max_epochs, device)

    def load(self, folder: Path, config: Nested, data: TrialData, max_epochs: int, device: str) -> TrialRun:
        return self.inner.load(folder, config, data, max_epochs, device)
