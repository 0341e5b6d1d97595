"""A search of fake runs in a process to be killed: `python -m tests.tuning.driver FOLDER N_TRIALS EPOCH_S`."""

import sys
from pathlib import Path

import numpy as np

from tests.tuning.conftest import LINE
from tests.tuning.fake_runs import FakeConfig, FakeRuns
from vadtune.errors import VadtuneError
from vadtune.tuning.progress import Snapshot
from vadtune.tuning.runner import Plan, run_search
from vadtune.tuning.samplers import TPE
from vadtune.tuning.schedulers import ASHA
from vadtune.tuning.space import make_space
from vadtune.tuning.storage import open_storage


class Lines:
    """Says on stderr how many trials have ended and how many run."""

    def update(self, snapshot: Snapshot) -> None:
        ended = snapshot.complete + snapshot.pruned + snapshot.failed
        epochs = ",".join(str(trial.epoch) for trial in snapshot.running)
        sys.stderr.write(f"ended {ended} running {len(snapshot.running)} epochs {epochs}\n")
        sys.stderr.flush()


def main(folder: Path, n_trials: int, epoch_s: float) -> None:
    plan = Plan(
        folder=folder,
        storage=open_storage(str(folder)),
        space=make_space(LINE, FakeConfig, "line"),
        sampler=TPE(),
        scheduler=ASHA(),
        max_epochs=45,
        n_trials=n_trials,
    )
    outcome = run_search(plan, {"rows": np.arange(5)}, FakeRuns(epoch_s), Lines())
    sys.stdout.write(f"{outcome.end} {outcome.trials}\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except VadtuneError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
