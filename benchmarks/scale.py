"""What the driver costs when a search is large: simulated workers, real sampler, scheduler, study and searcher.

    python benchmarks/scale.py --quick          # 50 and 200 trials, some seconds
    python benchmarks/scale.py                  # 100, 1,000 and 10,000 trials with 50 reports each: ten minutes
    python benchmarks/scale.py --trials 10000 --begun 9000      # the last 1,000 of 10,000

Workers are a queue of events: a trial reports learning-curve values at the epochs at which a real one does, and the
driver's own code (`Proposals`, `Governor`, `Events`, `Ledger`, study journal) handles every report, checkpoint and end.
Ray's event loop is not in it; `cluster/SCALE.md` says what it costs.
"""

import argparse
import heapq
import json
import logging
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

MAX_EPOCHS = 200
COLUMNS = {
    "trials": "trials",
    "reports": "reports",
    "ask_ms": "ask ms",
    "last_ask_ms": "last asks ms",
    "report_ms": "report ms",
    "end_ms": "end ms",
    "trial_ms": "trial ms",
    "results_per_s": "results/s",
    "memory_mb": "memory MB",
    "study_mb": "study MB",
    "open_s": "open s",
    "requests": "storage requests",
}
T = TypeVar("T")


@dataclass(eq=False)
class SimulatedTrial:
    """What the schedulers see of one of Ray's trials."""

    trial_id: str
    config: dict[str, Any]
    status: str = "RUNNING"
    epochs: list[int] = field(default_factory=list)
    floor: float = 0.0
    epoch_s: float = 1.0


class SimulatedSession:
    """A search that is never stopped."""

    def __init__(self, concurrent: int) -> None:
        self.stopping, self.concurrent = threading.Event(), concurrent

    def tick(self) -> None:
        """Nothing to show."""

    def may_go_on(self, progress: float) -> bool:  # noqa: ARG002
        return True

    def is_over(self) -> bool:
        return False

    def give_up(self, problem: str) -> None:
        raise AssertionError(problem)


class Shelf:
    """Checkpoints that are only counted."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()

    def exists(self, checkpoint: str) -> bool:  # noqa: ARG002
        self.requests["exists"] += 1
        return True

    def delete(self, checkpoint: str) -> None:  # noqa: ARG002
        self.requests["delete"] += 1


class Clock:
    """Seconds of CPU by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {"ask": [], "report": [], "end": []}

    def time(self, what: str, call: Callable[..., T], *arguments: Any) -> T:
        began = time.thread_time()
        result = call(*arguments)
        self.spent[what].append(time.thread_time() - began)
        return result


class Simulation:
    """A search of simulated trials on a real study.

    Args:
        folder: Of the study.
        n_trials: How many trials are to end.
        n_workers: How many run at once.
        n_reports: How often a trial reports that nothing stops.
        n_begun: How many of the trials an earlier session left in the study.
        sees_all: Whether TPE looks at all trials instead of a window of them.
    """

    def __init__(
        self, folder: Path, n_trials: int, n_workers: int, n_reports: int, *, n_begun: int, sees_all: bool
    ) -> None:
        from vadtune.training.config import TrialConfig
        from vadtune.tuning.crew import Alone
        from vadtune.tuning.ledger import Ledger
        from vadtune.tuning.samplers import TPE
        from vadtune.tuning.schedulers import ASHA, report_epochs
        from vadtune.tuning.searcher import Governor, Proposals
        from vadtune.tuning.space import find_space, load_space
        from vadtune.tuning.window import Windowed

        scheduler = ASHA()
        self.rungs = scheduler.rungs(MAX_EPOCHS)
        self.epochs = list(report_epochs(self.rungs, MAX_EPOCHS, n_reports))
        self.shelf, self.clock, self.rng = Shelf(), Clock(), np.random.default_rng(0)
        space = load_space(find_space("vad_tables"), TrialConfig)
        crew = Alone(folder / "study.log")
        crew.study.add_trials(past_trials(space, self.epochs, n_begun))
        sampler = TPE().build(0, 0)
        crew.study.sampler = sampler.inner if sees_all and isinstance(sampler, Windowed) else sampler
        self.ledger = Ledger(crew, space, self.shelf, seed=0, rungs=self.rungs, n_trials=n_trials)
        session = SimulatedSession(n_workers)
        self.proposals = Proposals(self.ledger, session)
        self.governor = Governor(scheduler.build(MAX_EPOCHS), self.ledger, session, MAX_EPOCHS)
        self.queue: list[tuple[float, int, SimulatedTrial]] = []
        self.n_asked = 0

    def run(self) -> None:
        """Search until all trials have ended."""
        now = 0.0
        while self._begin(now):
            pass
        while self.queue:
            now, _, trial = heapq.heappop(self.queue)
            if self._report(trial):
                self._schedule(now, trial)
            else:
                self._begin(now)

    def _begin(self, now: float) -> bool:
        ray_id = f"{self.n_asked:08x}"
        config = self.clock.time("ask", self.proposals.suggest, ray_id)
        if not isinstance(config, dict):
            self.clock.spent["ask"].pop()
            return False
        self.n_asked += 1
        trial = SimulatedTrial(ray_id, config, epochs=list(self.epochs), epoch_s=float(self.rng.uniform(0.5, 2.0)))
        rate = config["trial"]["train"]["learning_rate"]
        trial.floor = 0.3 + 0.02 * math.log(rate / 3e-3) ** 2 + float(self.rng.exponential(0.02))
        self.governor.on_trial_add(None, trial)  # type: ignore[arg-type]
        self._schedule(now, trial)
        return True

    def _schedule(self, now: float, trial: SimulatedTrial) -> None:
        heapq.heappush(self.queue, (now + trial.epochs[0] * trial.epoch_s, int(trial.trial_id, 16), trial))

    def _report(self, trial: SimulatedTrial) -> bool:
        """One report; whether the trial goes on."""
        epoch = trial.epochs.pop(0)
        rmse = trial.floor + math.exp(-epoch / 20)
        result = {"epoch": epoch, "imputation_rmse": rmse, "train_s": 1.0, "infer_s": 0.1, "hostname": "h", "pid": 1}
        if not trial.epochs:
            result |= {"final_rmse": rmse - 1e-3, "best_epoch": epoch, "done": True}
        is_over = self.clock.time("report", self._handle, trial, result | {"should_checkpoint": epoch in self.rungs})
        if is_over:
            self.clock.time("end", self._end, trial, result)
        return not is_over

    def _handle(self, trial: SimulatedTrial, result: dict[str, Any]) -> bool:
        from ray.tune.schedulers import TrialScheduler

        # As Ray does: a last report asks no scheduler; then it is recorded, then saved.
        decision = TrialScheduler.STOP
        if "final_rmse" not in result:
            decision = self.governor.on_trial_result(None, trial, result)  # type: ignore[arg-type]
        result["done"] = decision == TrialScheduler.STOP
        self.ledger.report(trial.trial_id, result)
        if self.ledger.wants_checkpoint(result):
            self.shelf.requests["save"] += 1
            self.ledger.saved(trial.trial_id, f"ray/{trial.trial_id}/checkpoint_{result['epoch']:06}")
        return bool(result["done"])

    def _end(self, trial: SimulatedTrial, result: dict[str, Any]) -> None:
        self.governor.on_trial_complete(None, trial, result)  # type: ignore[arg-type]
        self.proposals.on_trial_complete(trial.trial_id, result)


def past_trials(space: Any, epochs: list[int], n_trials: int) -> list[Any]:
    """Trials as an earlier session would have left them, each with all its reports: a hundred kinds, in turn."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    kinds = []
    for number in range(min(n_trials, 100)):
        trial = study.ask()
        space.suggest(trial)
        values = {epoch: 0.3 + number / 1000 + math.exp(-epoch / 20) for epoch in epochs}
        state = optuna.trial.TrialState.COMPLETE if number % 5 == 0 else optuna.trial.TrialState.PRUNED
        attributes = {
            "ray_trial_id": f"{number:08x}",
            "host": "h",
            "worker": "h:1",
            "epochs": epochs[-1],
            "train_s": 1.0,
        }
        kinds.append(
            optuna.trial.create_trial(
                state=state,
                value=values[epochs[-1]] if number % 5 == 0 else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=values,
                user_attrs=attributes,
            )
        )
    return [kinds[number % len(kinds)] for number in range(n_trials)]


def simulate(n_trials: int, n_workers: int, n_reports: int, *, n_begun: int, sees_all: bool) -> dict[str, float]:
    """Run one simulation in this process and measure it."""
    from vadtune.tuning.study import open_study

    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulation = Simulation(folder, n_trials, n_workers, n_reports, n_begun=n_begun, sees_all=sees_all)
        simulation.run()
        study_mb = (folder / "study.log").stat().st_size / 1e6
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        opened = time.thread_time()
        n_found = len(open_study(folder / "study.log").get_trials(deepcopy=False))
        opened = time.thread_time() - opened
    assert n_found == n_trials
    spent = {what: np.array(seconds) for what, seconds in simulation.clock.spent.items()}
    total = sum(seconds.sum() for seconds in spent.values())
    return {
        "trials": simulation.ledger.ended.total(),
        "reports": len(spent["report"]),
        "ask_ms": 1e3 * float(spent["ask"].mean()),
        "last_ask_ms": 1e3 * float(np.median(spent["ask"][-50:])),
        "report_ms": 1e3 * float(spent["report"].mean()),
        "end_ms": 1e3 * float(spent["end"].mean()),
        "trial_ms": 1e3 * total / len(spent["end"]),
        "results_per_s": len(spent["report"]) / total,
        "memory_mb": memory_mb,
        "study_mb": study_mb,
        "open_s": opened,
        "requests": simulation.shelf.requests.total(),
    }


def in_a_process_of_its_own(n_trials: int, n_workers: int, args: argparse.Namespace) -> dict[str, float]:
    """`simulate`, so that the memory is of this simulation alone."""
    command = [sys.executable, __file__, "--one", str(n_trials), "--workers", str(n_workers)]
    command += ["--reports", str(args.reports), "--begun", str(args.begun)] + ["--sees-all"] * args.sees_all
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def table(rows: list[dict[str, float]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + "---:|" * len(COLUMNS)]
    lines += ["| " + " | ".join(f"{row[key]:,.4g}" for key in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a large search costs its driver.")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--trials", type=int, nargs="+", help="sizes (default: 100 1000 10000)")
    parser.add_argument("--workers", type=int, help="trials at once (default: a tenth of the trials)")
    parser.add_argument("--reports", type=int, default=50, help="reports of a trial that nothing stops (default: 50)")
    parser.add_argument(
        "--begun", type=int, default=0, help="how many of the trials an earlier session left (default: 0)"
    )
    parser.add_argument("--sees-all", action="store_true", help="TPE without its window, for comparison")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(simulate(args.one, args.workers, args.reports, n_begun=args.begun, sees_all=args.sees_all)))
        return
    sizes = args.trials or ([50, 200] if args.quick else [100, 1_000, 10_000])
    rows = [in_a_process_of_its_own(n, args.workers or max(1, n // 10), args) for n in sizes]
    print(json.dumps(rows, indent=2) if args.json else table(rows))


if __name__ == "__main__":
    main()
