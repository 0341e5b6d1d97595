"""The state of a search for the person at the terminal."""

from collections import Counter
from typing import TYPE_CHECKING

from vadtune.cli import clock, printable
from vadtune.machine import Gpu, Machine, Usage
from vadtune.terminal import Line, Live

if TYPE_CHECKING:
    from vadtune.tuning.progress import Snapshot

BAR_WIDTH = 24
N_RUNNING = 4


class Console:
    """Shows the state of a search: some lines on a terminal, one now and then without."""

    def __init__(self) -> None:
        self.live, self.machine = Live(), Machine()
        self.last_best: float | None = None
        self.n_notes = 0

    def update(self, snapshot: "Snapshot") -> None:
        """Show the state; a new best is news, and notes stay."""
        for note in snapshot.notes[self.n_notes :]:
            self.live.say(note)
        self.n_notes = len(snapshot.notes)
        is_news, self.last_best = snapshot.best_value != self.last_best, snapshot.best_value
        self.live.show(view(snapshot, self.machine.usage()), describe(snapshot), is_news=is_news)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.live.clear()
        self.machine.close()


def view(snapshot: "Snapshot", usage: Usage) -> list[Line]:
    """What happens and how long, the best so far, trials by state, rungs, the machine: a line each."""
    phase = "" if snapshot.phase == "searching" else f" · {snapshot.phase}"
    best = "no trial is complete yet"
    if snapshot.best_value is not None:
        best = f"{snapshot.best_value:.4f} (validation error of trial {snapshot.best_trial})"
    lines = [
        Line(_time(snapshot) + phase, "search"),
        Line(best, "best", is_strong=snapshot.best_value is not None),
        Line(_trials(snapshot), "trials"),
    ]
    passed = [rung for rung in snapshot.rungs if rung.reached]
    if passed:
        texts = (f"epoch {rung.epoch} stopped {rung.stopped} of {rung.reached}" for rung in passed)
        lines.append(Line(" · ".join(texts), "rungs"))
    if snapshot.n_nodes > 1:
        lines.append(Line(_cluster(snapshot), "cluster"))
    return [*lines, Line(_machine(snapshot, usage), "machine")]


def describe(snapshot: "Snapshot") -> str:
    """All of it in one line, without the machine."""
    parts = [f"{snapshot.phase} {_elapsed(snapshot)}"]
    if snapshot.best_value is not None:
        parts.append(f"best {snapshot.best_value:.4f} (trial {snapshot.best_trial})")
    parts.append(f"{_ended(snapshot)} trials: {_states(snapshot)}")
    if snapshot.running:
        parts.append(_running(snapshot))
    if snapshot.n_nodes > 1:
        parts.append(_cluster(snapshot))
    if snapshot.eta_s is not None:
        parts.append(f"{clock(snapshot.eta_s)} left")
    return printable(" · ".join(parts))


def _time(snapshot: "Snapshot") -> str:
    left = f" · {clock(snapshot.eta_s)} left" if snapshot.eta_s is not None else ""
    share = _share(snapshot)
    n_done = round(share * BAR_WIDTH)
    bar = f"{'━' * n_done}{'─' * (BAR_WIDTH - n_done)}  " if share else ""
    return f"{bar}{_elapsed(snapshot)}{left}"


def _share(snapshot: "Snapshot") -> float:
    """How much of the search is over, by trials or by time, whichever ends it first; 0 if neither tells."""
    ended = snapshot.complete + snapshot.pruned + snapshot.failed
    by_trials = ended / snapshot.n_trials if snapshot.n_trials else 0.0
    by_time = snapshot.elapsed_s / snapshot.time_budget_s if snapshot.time_budget_s else 0.0
    return min(max(by_trials, by_time), 1.0)


def _trials(snapshot: "Snapshot") -> str:
    running = f" · {_running(snapshot)}" if snapshot.running else ""
    waiting = f" · {snapshot.waiting} waiting" if snapshot.waiting else ""
    return f"{_ended(snapshot)} ended: {_states(snapshot)}{running}{waiting}"


def _machine(snapshot: "Snapshot", usage: Usage) -> str:
    parts = [f"trials hold {snapshot.cpus_used:g} of {snapshot.cpus:g} CPUs"] if snapshot.cpus else []
    if snapshot.n_nodes > 1:
        parts = ["this node"]
    parts += [f"CPU {usage.cpu_percent:.0f}%", f"memory {usage.used_gb:.1f} of {usage.total_gb:.1f} GB"]
    return " · ".join([*parts, *map(_gpu, usage.gpus)])


def _cluster(snapshot: "Snapshot") -> str:
    """Nodes, what trials hold of them, and how many trials run on each."""
    parts = [f"{snapshot.n_nodes} nodes", f"{snapshot.cpus_used:g}/{snapshot.cpus:g} CPUs"]
    if snapshot.gpus:
        parts.append(f"{snapshot.gpus_used:g}/{snapshot.gpus:g} GPUs")
    hosts = Counter(trial.host for trial in snapshot.running if trial.host is not None)
    if hosts:
        most = [f"{n} on {host}" for host, n in hosts.most_common(N_RUNNING)]
        parts.append("trials: " + " ".join(most + ["…"] * (len(hosts) > N_RUNNING)))
    return ", ".join(parts)


def _gpu(gpu: Gpu) -> str:
    return f"GPU {gpu.percent:.0f}%, {gpu.used_gb:.1f} of {gpu.total_gb:.1f} GB"


def _elapsed(snapshot: "Snapshot") -> str:
    of = f" of {clock(snapshot.time_budget_s)}" if snapshot.time_budget_s is not None else ""
    return f"{clock(snapshot.elapsed_s)}{of}"


def _ended(snapshot: "Snapshot") -> str:
    ended = snapshot.complete + snapshot.pruned + snapshot.failed
    return f"{ended}/{snapshot.n_trials}" if snapshot.n_trials is not None else f"{ended}"


def _states(snapshot: "Snapshot") -> str:
    states = {"complete": snapshot.complete, "pruned": snapshot.pruned, "failed": snapshot.failed}
    return ", ".join(f"{n} {state}" for state, n in states.items() if n or state != "failed")


def _running(snapshot: "Snapshot") -> str:
    places = [f"{trial.number} at epoch {trial.epoch}" for trial in snapshot.running[:N_RUNNING]]
    more = ["…"] if len(snapshot.running) > N_RUNNING else []
    return f"{len(snapshot.running)} running ({', '.join(places + more)})"
