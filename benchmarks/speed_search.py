"""Speed of whole searches, against the same model and space in plain Optuna and plain Ray Tune; and our overhead."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from timing import Row

OUR_TRAINER = "--our-trainer"
# How `rivals.py` is called, and what it is.
RIVALS = {
    "optuna": "the same model and space in plain Optuna and PyTorch: its sampler and pruner, two processes",
    f"optuna {OUR_TRAINER}": "the same, trained and scored by our code",
    f"draws {OUR_TRAINER}": "the same, by our code, without the first points of the space, which are ours",
    "ray": "the same in plain Ray Tune and PyTorch: `OptunaSearch`, a function trainable, default settings",
    f"ray {OUR_TRAINER}": "the same, trained and scored by our code",
    "grid": "random search over the grid of the paper's code, each trained to the end, two processes",
}
NEW_VALUE = 7  # of the lines of Optuna's journal, the one that records an intermediate value


@dataclass(frozen=True)
class Task:
    """What is searched; `level` is an error over hidden validation cells, None to wait for all trials."""

    dataset: str
    missing_rate: float
    n_trials: int
    level: float | None = None

    @property
    def words(self) -> list[str]:
        """Of both commands."""
        return [self.dataset, "--missing-rate", str(self.missing_rate), "--trials", str(self.n_trials)]

    def __str__(self) -> str:
        end = "all trials" if self.level is None else f"the first report at {self.level} or below"
        return f"search of {self.dataset}, {self.n_trials} trials, until {end}"


@dataclass(frozen=True)
class Search:
    """A search as it went: seconds in all, and of its parts; reports as (seconds since the start, error)."""

    wall_s: float
    reports: list[tuple[float, float]]
    computing_s: float = 0.0

    def until(self, level: float | None) -> float:
        """Seconds until the first report at a level; infinite if there is none. Of all trials if it is None."""
        if level is None:
            return self.wall_s
        return min((at for at, error in self.reports if error <= level), default=float("inf"))

    @property
    def best(self) -> float:
        """The lowest error that was reported."""
        return min(error for _, error in self.reports)

    @property
    def overhead(self) -> float:
        """Share of wall time x cores that neither trained, nor inferred (curves over rates too), nor ran a baseline."""
        capacity = self.wall_s * len(os.sched_getaffinity(0))
        return (capacity - self.computing_s) / capacity


def ours(task: Task, seed: int) -> Search:
    """One `vadtune.search`, interrupted at the level; its reports are timed as they come to the study."""
    with tempfile.TemporaryDirectory() as runs:
        command = ["-m", "vadtune.search", *task.words, "--seed", str(seed), "--json", "--runs", runs, "--name", "run"]
        began = time.monotonic()
        with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            reports: list[tuple[float, float]] = []
            study = Path(runs) / "run/study.log"
            watcher = threading.Thread(target=_watch, args=(study, process, began, reports, task.level))
            watcher.start()
            output, _ = process.communicate()
            watcher.join()
        wall_s = time.monotonic() - began
        if task.level is not None:
            return Search(wall_s, reports)
        with (Path(runs) / "run/trials.csv").open(newline="") as file:
            trials = list(csv.DictReader(file))
        computing_s = sum(float(trial[part] or 0) for trial in trials for part in ("train_s", "infer_s"))
        result = json.loads(output)
        computing_s += sum(baseline["seconds"] for baseline in result["baselines"].values())
        # Scoring the winner, its further fits and its curves are training and inference on all cores (1.7 of two).
        phases = result["seconds_by_phase"]
        computing_s += sum(phases[part] for part in ("export", "refit", "evaluate")) * len(os.sched_getaffinity(0))
    return Search(wall_s, reports, computing_s)


def _watch(
    study: Path,
    process: subprocess.Popen[bytes],
    began: float,
    reports: list[tuple[float, float]],
    level: float | None,
) -> None:
    position, is_running = 0, True
    while is_running:
        is_running = process.poll() is None
        time.sleep(0.1)
        if not study.exists():
            continue
        with study.open(encoding="utf-8") as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        position += len(whole.encode())
        for line in map(json.loads, whole.splitlines()):
            if line["op_code"] == NEW_VALUE:
                reports.append((time.monotonic() - began, line["intermediate_value"]))
        if level is not None and any(error <= level for _, error in reports):
            process.send_signal(signal.SIGINT)
            return


def theirs(rival: str, task: Task, seed: int, limit_s: float) -> Search:
    """One search by a rival, in its own process, which ends after so many seconds at the latest."""
    script = Path(__file__).with_name("rivals.py")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "reports.json"
        command = [sys.executable, str(script), *rival.split(), *task.words, "--seed", str(seed), "-o", str(output)]
        command += ["--limit", str(limit_s)] if math.isfinite(limit_s) else []
        command += [] if task.level is None else ["--level", str(task.level)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - began
        reports = [(at, error) for at, error in json.loads(output.read_text())["reports"]]
    return Search(wall_s, reports)


def whole_search(rival: str, task: Task, target: float, turns: range) -> Row:
    """Seconds of a search of ours and of a rival's, turn by turn, each turn with a seed of its own.

    A rival that ends without having reached the level never does. One whose end is far off is ended soon after the
    target, and counts as if it came there then.
    """
    pairs, values = [], []
    for seed in turns:
        own = ours(task, seed)
        limit_s = (target + 1) * own.until(task.level)
        other = theirs(rival, task, seed, limit_s)
        pairs.append((own, other))
        values.append(_times_sooner(own, other, task.level, limit_s))
    details = {
        "ours_s": [_rounded(own.until(task.level)) for own, _ in pairs],
        "theirs_s": [_rounded(other.until(task.level)) for _, other in pairs],
        "ours_best": [round(own.best, 4) for own, _ in pairs],
        "theirs_best": [round(other.best, 4) for _, other in pairs],
    }
    if task.level is None:
        details["ours_overhead"] = [round(own.overhead, 3) for own, _ in pairs]
    return Row(str(task), RIVALS[rival], "x", target, values, details=details)


def _times_sooner(own: Search, other: Search, level: float | None, limit_s: float) -> float:
    """0 if ours never reaches the level, infinite if the rival never does."""
    own_s, other_s = own.until(level), other.until(level)
    if math.isinf(own_s):
        return 0.0
    return (min(other_s, other.wall_s) if other.wall_s >= limit_s else other_s) / own_s


def _rounded(seconds: float) -> float | None:
    """None for a level that was never reached."""
    return round(seconds, 1) if math.isfinite(seconds) else None


def overhead(task: Task, target: float, turns: range) -> Row:
    """The share of the machine's time that a search of ours did not compute in."""
    searches = [ours(task, seed) for seed in turns]
    details = {
        "wall_s": [round(search.wall_s, 1) for search in searches],
        "computing_s": [round(search.computing_s, 1) for search in searches],
    }
    values = [search.overhead for search in searches]
    against = "wall time x cores, less training, inference and baselines"
    return Row(f"overhead: {task}", against, "%", target, values, at_most=True, details=details)
