"""Does a search lose, double or leak anything while its workers are killed, one every few seconds?

    python benchmarks/soak.py --quick           # 60 trials, a worker killed every half second
    python benchmarks/soak.py                   # 300 trials, one every three seconds: some minutes

A first search on the same Ray cluster, undisturbed, says what is usual: memory, files, threads and processes are
counted after it and after the one with the kills. Exits with 1 if a trial was lost, doubled or failed, or if anything
stayed.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from vadtune.data.problem import load_problem
from vadtune.data.splits import DataConfig
from vadtune.data.storage import open_storage
from vadtune.settings import Nested, parse
from vadtune.training.config import TrialConfig
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.runner import MAX_FAILURES, Plan, run_search
from vadtune.tuning.samplers import Random
from vadtune.tuning.schedulers import ASHA
from vadtune.tuning.searcher import reason
from vadtune.tuning.space import make_space
from vadtune.tuning.study import read_study
from vadtune.tuning.trial_runs import TrialData, TrialRuns

MAX_EPOCHS = 9
SPACE: Nested = {
    "model": {"kind": "vad", "latent_dim": 4, "decoder": {"hidden_dim": 16, "n_layers": 1}},
    "train": {"n_epochs": MAX_EPOCHS, "batch_size": 64, "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
    "infer": {"n_steps": 20},
}
# What may be more afterwards: allocators keep some memory, Ray some connections and a worker that idles.
SLACK = {"memory_mb": 150, "files": 40, "threads": 12, "processes": 4}


class Killer(threading.Thread):
    """Kills a worker that runs a trial, every few seconds, but none before the trials went on since the last kill.

    It is the one that has run the longest: that of a trial which was just begun again is new. A trial is begun again
    twice, and may be hit three times by chance.

    Args:
        every_s: Seconds between two kills.
        study: The file that trials report to: on a busy machine a worker takes longer to start than to be killed.

    Attributes:
        n_kills: How many so far.
    """

    def __init__(self, every_s: float, study: Path) -> None:
        super().__init__(daemon=True)
        self.every_s, self.study = every_s, study
        self.over = threading.Event()
        self.n_kills = 0

    def run(self) -> None:
        seen = 0
        while not self.over.wait(self.every_s):
            workers, ended = trial_workers(), self.n_ended()
            if workers and ended >= seen + 2:
                seen = ended
                min(workers, key=psutil.Process.create_time).kill()
                self.n_kills += 1

    def n_ended(self) -> int:
        """How many trials have ended so far."""
        return self.study.read_bytes().count(b'"epochs":') if self.study.exists() else 0


def trial_workers() -> list[psutil.Process]:
    """The processes that train at this moment, by the name that Ray gives them: not those that still begin to."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::_Inner.train"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def killing(every_s: float, study: Path) -> Iterator[Killer]:
    """Kill while this lasts."""
    killer = Killer(every_s, study)
    killer.start()
    try:
        yield killer
    finally:
        killer.over.set()
        killer.join()


def plan_of(folder: Path, n_trials: int) -> Plan:
    return Plan(
        folder=folder,
        storage=open_storage(str(folder)),
        space=make_space(SPACE, TrialConfig, "soak"),
        sampler=Random(),
        scheduler=ASHA(),
        max_epochs=MAX_EPOCHS,
        n_trials=n_trials,
    )


def usage() -> dict[str, float]:
    """What this process holds, and how many processes it has below it."""
    process = psutil.Process()
    return {
        "memory_mb": process.memory_info().rss / 1e6,
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(process.children(recursive=True)),
    }


def soak(n_trials: int, every_s: float, folder: Path) -> Nested:
    """Search with and without kills; returns what happened."""
    problem = load_problem(parse(DataConfig, {"dataset": "wine", "missing_rate": 0.2}, "soak"), Path("data"))
    data = TrialData(problem.splits.train.rows, problem.splits.validation)
    plan = plan_of(folder / "soak", n_trials)
    with Cluster() as cluster:
        run_search(plan_of(folder / "usual", 10), data, TrialRuns(), cluster=cluster)
        before, began = usage(), time.monotonic()
        with killing(every_s, plan.study_path) as killer:
            outcome = run_search(plan, data, TrialRuns(), cluster=cluster)
        seconds = time.monotonic() - began
        time.sleep(2.0)  # those killed last are gone
        after = usage()
    trials = read_study(plan.study_path).trials
    checkpoints = list(plan.folder.glob("ray/*/checkpoint_*"))
    return {
        "ended": outcome.end,
        "kills": killer.n_kills,
        "seconds": round(seconds, 1),
        "trials": dict(Counter(trial.state.name for trial in trials)),
        "n_trials": len(trials),
        "n_different": len({json.dumps(trial.params) for trial in trials}),
        "failures": sorted({str(trial.user_attrs.get("failure")) for trial in trials if trial.state.name == "FAIL"}),
        "before": {key: round(value) for key, value in before.items()},
        "after": {key: round(value) for key, value in after.items()},
        "checkpoints": len(checkpoints),
        "ray_folders_left": len(ray_folders()),
        "processes_left": len(psutil.Process().children(recursive=True)),
        "other_files": sorted(path.name for path in plan.folder.iterdir()),
    }


def ray_folders() -> set[Path]:
    """Temporary folders of this process's Ray sessions."""
    return set(Path("/tmp").glob(f"vadtune-ray-{os.getpid()}-*"))


def problems(found: Nested, n_trials: int) -> list[str]:
    """What should not have happened."""
    wrong = []
    if (found["n_trials"], found["n_different"]) != (n_trials, n_trials):
        wrong.append(f"{found['n_trials']} trials of {found['n_different']} sets of values, not {n_trials}")
    # One whose worker was killed at every attempt fails, as it should.
    n_killed = found["trials"].get("FAIL", 0) if found["failures"] == [reason("worker process has died")] else 0
    n_ended = sum(found["trials"].get(state, 0) for state in ("COMPLETE", "PRUNED"))
    if n_ended + n_killed != n_trials or n_killed * (MAX_FAILURES + 1) > found["kills"]:
        wrong.append(f"after {found['kills']} kills trials ended as {found['trials']}: {found['failures']}")
    if found["checkpoints"] != 1:
        wrong.append(f"{found['checkpoints']} checkpoints are left, not that of the best alone")
    if found["ray_folders_left"] or found["processes_left"]:
        wrong.append(f"{found['ray_folders_left']} folders and {found['processes_left']} processes are left")
    if found["other_files"] != ["ray", "study.log", "trials.csv"]:
        wrong.append(f"the run folder holds {found['other_files']}")
    grown = {key: found["after"][key] - found["before"][key] for key in SLACK}
    wrong += [f"{key} grew by {grown[key]:g}" for key, slack in SLACK.items() if grown[key] > slack]
    return wrong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--every", type=float, default=3.0, metavar="SECONDS", help="between two kills")
    parser.add_argument("--quick", action="store_true", help="60 trials, a kill every half second")
    args = parser.parse_args(arguments)
    n_trials, every_s = (60, 0.5) if args.quick else (args.trials, args.every)
    with tempfile.TemporaryDirectory(prefix="vadtune-soak-") as folder:
        found: dict[str, Any] = soak(n_trials, every_s, Path(folder))
    found["problems"] = problems(found, n_trials)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.stderr.writelines(f"{problem}\n" for problem in found["problems"])
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
