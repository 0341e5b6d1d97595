"""The live view as a terminal shows it: a real pseudo-terminal, and a terminal emulator that reads what it gets."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from vadtune.console import describe, view
from vadtune.machine import Gpu, Machine, Usage, parse_gpus
from vadtune.terminal import Live, fit, n_columns
from vadtune.tuning.progress import RungCount, RunningTrial, Snapshot

ROOT = Path(__file__).parents[1]
pyte = pytest.importorskip("pyte", reason="pyte, a terminal emulator, is not installed")

# Draws the state of a search that has its first complete trial at the second step, until the terminal says ^C.
SEARCH = """
import sys, time
from tests.test_terminal import snapshot
from vadtune.cli import say
from vadtune.console import Console
say("run folder: runs/a")
console = Console()
try:
    for step in range(100000):
        console.update(snapshot(step))
        time.sleep(0.02)
except KeyboardInterrupt:
    pass
finally:
    console.close()
say("Interrupted; everything so far is saved.")
"""


def snapshot(step: int = 3, **changes: object) -> Snapshot:
    values: dict[str, object] = {
        "phase": "searching",
        "complete": min(step // 2, 4),
        "pruned": min(step, 9),
        "failed": 0,
        "waiting": 0,
        "running": (RunningTrial(7, 12, 0.21, "a"), RunningTrial(8, step, 0.3, "a")),
        "n_trials": 60,
        "best_value": None if step < 2 else 0.1887,
        "best_trial": None if step < 2 else 0,
        "elapsed_s": 72.0 + step,
        "time_budget_s": 130.0,
        "eta_s": 58.0,
        "n_nodes": 1,
        "cpus_used": 2.0,
        "cpus": 2.0,
        "rungs": (RungCount(2, 12, 7), RungCount(6, 5, 3), RungCount(18, 0, 0)),
    }
    return Snapshot(**(values | changes))  # type: ignore[arg-type]


class Terminal:
    """A process behind a pseudo-terminal of some size, which is its controlling one: ^C is a SIGINT."""

    def __init__(self, command: list[str], columns: int, rows: int, folder: Path, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=500)
        self.stream = pyte.ByteStream(self.screen)
        self.received = b""
        self.leader, follower = os.openpty()
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *command],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **environment},
        )
        os.close(follower)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self.leader, key)

    def read_until(self, done: Callable[[], bool], seconds: float = 60) -> None:
        """Show what comes until something is true of the screen."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "\n".join(self.lines())
            if select.select([self.leader], [], [], 0.1)[0]:
                try:
                    part = os.read(self.leader, 65536)
                except OSError:  # the process has ended, and with it the other side
                    part = b""
                if not part:
                    self.process.wait(timeout=PATIENCE_S)  # its side closes a moment before it ends
                    assert done(), "\n".join(self.lines())
                    return
                self.received += part
                self.stream.feed(part)

    def lines(self) -> list[str]:
        """What stands on the screen, from the first line that has scrolled away to the last that is not empty."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        found = [line.rstrip() for line in [*above, *self.screen.display]]
        while found and not found[-1]:
            found.pop()
        return found

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.lines())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.leader)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def begin(command: list[str] | None = None, columns: int = 100, rows: int = 24, **environment: str) -> Terminal:
        command = command or ["-c", SEARCH]
        opened.append(Terminal([sys.executable, *command], columns, rows, tmp_path, **environment))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


def after_some_frames(terminal: Terminal, n_frames: int = 12) -> list[str]:
    terminal.read_until(lambda: terminal.received.count(b"search") >= n_frames and terminal.shows("machine"))
    return terminal.lines()


def test_five_lines_are_drawn_in_place(terminal: Callable[..., Terminal]) -> None:
    lines = after_some_frames(terminal())
    labels = [line.split()[0] for line in lines]
    assert labels == ["run", "search", "best", "trials", "rungs", "machine"]
    assert "0.1887 (validation error of trial 0)" in lines[2]
    assert "13/60 ended: 4 complete, 9 pruned · 2 running (7 at epoch 12" in lines[3]
    assert lines[4].endswith("epoch 2 stopped 7 of 12 · epoch 6 stopped 3 of 5")
    assert "trials hold 2 of 2 CPUs · CPU " in lines[5]


@pytest.mark.parametrize(("columns", "rows"), [(40, 24), (12, 24), (100, 4), (3, 2)])
def test_a_small_terminal_neither_wraps_nor_scrolls(terminal: Callable[..., Terminal], columns: int, rows: int) -> None:
    small = terminal(columns=columns, rows=rows)
    small.read_until(lambda: small.received.count(b"\x1b[J") >= 12)
    shown = small.lines()
    drawn = [line for line in shown if "run folder" not in line]
    n_before = len(shown)
    small.read_until(lambda: small.received.count(b"\x1b[J") >= 40)
    assert len(small.lines()) == n_before
    assert all(len(line) < columns for line in drawn[-min(5, rows - 1) :])


def test_lines_that_a_narrower_terminal_has_broken_are_drawn_over() -> None:
    live = Live()
    live.widths = [99, 50, 20]
    assert live._up(100) == "\r\x1b[3A"
    assert live._up(50) == "\r\x1b[4A"
    assert live._up(40) == "\r\x1b[6A"


def test_ctrl_c_leaves_nothing_of_the_view(terminal: Callable[..., Terminal]) -> None:
    shown = terminal()
    after_some_frames(shown)
    shown.press(b"\x03")
    shown.read_until(lambda: shown.shows("Interrupted"))
    assert shown.lines() == ["run folder: runs/a", "Interrupted; everything so far is saved."]
    assert shown.screen.cursor.x == 0
    assert not shown.screen.cursor.hidden


def test_no_color_is_honoured(terminal: Callable[..., Terminal]) -> None:
    plain, coloured = terminal(NO_COLOR="1"), terminal()
    after_some_frames(plain)
    after_some_frames(coloured)
    assert b"\x1b[1m" in coloured.received
    assert not [part for part in plain.received.split(b"\x1b[")[1:] if part.lstrip(b"0123456789;").startswith(b"m")]


def test_without_a_terminal_there_is_a_plain_line_for_news() -> None:
    code = SEARCH.replace("range(100000)", "range(20)")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.stderr.splitlines() == [
        "run folder: runs/a",
        describe(snapshot(2)),
        "Interrupted; everything so far is saved.",
    ]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(terminal: Callable[..., Terminal]) -> None:
    dumb = terminal(columns=200, TERM="dumb")
    dumb.read_until(lambda: dumb.shows("best 0.1887"))
    dumb.press(b"\x03")
    dumb.read_until(lambda: dumb.shows("Interrupted"))
    assert b"\x1b" not in dumb.received


def test_a_note_stays_above_the_view(terminal: Callable[..., Terminal]) -> None:
    code = SEARCH.replace("snapshot(step)", "snapshot(step, notes=('wandb: gone',) * (step > 5))")
    noted = terminal(["-c", code])
    noted.read_until(lambda: noted.shows("wandb: gone"))
    noted.received = b""
    lines = after_some_frames(noted)
    assert lines[:2] == ["run folder: runs/a", "wandb: gone"]
    assert [line.split()[0] for line in lines[2:]] == ["search", "best", "trials", "rungs", "machine"]


def test_names_cannot_steer_the_terminal() -> None:
    hostile = snapshot(phase="\x1b[2Jsearching")
    assert "\x1b" not in describe(hostile)


def test_lines_are_cut_by_the_columns_they_take() -> None:
    assert fit("imputation", 10) == "imputation"
    assert fit("imputation", 6) == "imput…"
    assert fit("補完補完", 6) == "補完…"
    assert n_columns("é") == 1
    assert fit("anything", 0) == ""


def test_the_view_tells_of_nodes_and_gpus() -> None:
    usage = Usage(41.0, 3.1, 23.5, (Gpu(87.0, 3.2, 16.4),))
    trials = tuple(RunningTrial(number, 3, 0.2, host) for number, host in enumerate(["a", "b", "a"]))
    found = snapshot(n_nodes=3, cpus=12.0, gpus=2.0, gpus_used=0.75, running=trials)
    *_, cluster, machine = (line.text for line in view(found, usage))
    assert cluster == "3 nodes, 2/12 CPUs, 0.75/2 GPUs, trials: 2 on a 1 on b"
    assert machine == "this node · CPU 41% · memory 3.1 of 23.5 GB · GPU 87%, 3.2 of 16.4 GB"
    assert cluster in describe(found)


def test_gpus_are_read_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nsleep 0.3\necho '87, 3200, 16384'\necho '[N/A], 1, 2'\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Machine, "PERIOD_S", 0.0)
    machine = Machine()
    assert machine.usage().gpus == ()
    end = time.monotonic() + PATIENCE_S
    while not machine.usage().gpus:
        assert time.monotonic() < end
        time.sleep(0.05)
    (gpu,) = machine.usage().gpus
    assert (gpu.percent, round(gpu.total_gb, 1)) == (87.0, 17.2)
    machine.close()
    assert parse_gpus("No devices were found\n") == ()


def test_memory_in_use_is_between_nothing_and_all() -> None:
    usage = Machine().usage()
    assert 0 < usage.used_gb < usage.total_gb


@pytest.mark.cluster
def test_a_real_search_shows_one_view_and_ctrl_c_ends_it_cleanly(terminal: Callable[..., Terminal]) -> None:
    flags = ["--set", "model.decoder.hidden_dim=16", "--missing-rate", "0.2", "--name", "a", "--time-budget", "10m"]
    search = terminal(["-m", "vadtune.search", "wine", *flags])
    search.read_until(lambda: search.shows("validation error of trial"), 120)
    lines = search.lines()
    assert sum(line.startswith("trials ") for line in lines) == 1
    assert sum(line.startswith("machine ") for line in lines) == 1
    search.press(b"\x03")
    search.read_until(lambda: search.process.poll() is not None, 120)
    assert search.process.returncode == 130
    lines = search.lines()
    assert any("Interrupted; everything so far is saved" in line for line in lines)
    assert not [line for line in lines if line.startswith(("search ", "trials ", "rungs ", "machine ", "^C"))]
