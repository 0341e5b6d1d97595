"""A search of fake runs in a process to be killed: `python -m tests.tuning.driver FOLDER N_TRIALS EPOCH_S [URL]`.

With the URL of a database, drivers share the study `shared` and a storage beside their folders, and run one trial at a
time each. With ADDRESS in the environment, they run on that Ray cluster.
"""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from tests.tuning.conftest import LINE
from tests.tuning.fake_runs import MAX_EPOCHS, SCHEDULER, FakeConfig, FakeRuns
from vadtune.data.storage import open_storage
from vadtune.errors import VadtuneError
from vadtune.tuning.cluster import Cluster, shipment
from vadtune.tuning.database import Database
from vadtune.tuning.progress import Snapshot
from vadtune.tuning.runner import Plan, run_search
from vadtune.tuning.samplers import TPE
from vadtune.tuning.space import make_space


class Lines:
    """Says on stderr how many trials have ended and how many run."""

    def update(self, snapshot: Snapshot) -> None:
        ended = snapshot.complete + snapshot.pruned + snapshot.failed
        epochs = ",".join(str(trial.epoch) for trial in snapshot.running)
        sys.stderr.write(f"ended {ended} running {len(snapshot.running)} epochs {epochs}\n")
        sys.stderr.flush()


def main(folder: Path, n_trials: int, epoch_s: float, url: str | None = None) -> None:
    plan = Plan(
        folder=folder,
        storage=open_storage(str(folder.parents[1] / "storage") if url else str(folder)),
        database=Database(url, "shared") if url else None,
        concurrent=1 if url else None,
        space=make_space(LINE, FakeConfig, "line"),
        sampler=TPE(),
        scheduler=SCHEDULER,
        max_epochs=MAX_EPOCHS,
        n_trials=n_trials,
    )
    address = os.environ.get("ADDRESS")
    cluster = Cluster(address, shipment(with_code=True)) if address else None
    runs = FakeRuns(epoch_s, journal=folder.with_name("journal"))
    with cluster or nullcontext():
        outcome = run_search(plan, {"rows": np.arange(5)}, runs, Lines(), cluster)
    sys.stdout.write(f"{outcome.end} {outcome.trials}\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
    except VadtuneError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
