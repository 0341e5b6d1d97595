"""A process that has imported Ray, torch and Optuna and forks into commands: one starts in a moment, not in seconds.

    command = zygote.start("vadtune.search", "wine", "--trials", "3", cwd=folder, log=folder / "log")
    command.signal(signal.SIGKILL)
    command.wait()
    done = zygote.run("vadtune.impute", "best", "my.csv", "-o", "filled.csv", cwd=folder)

The fixture `zygote` is one for all tests of a process of pytest.

Run as a program it is the process itself: a line of JSON on stdin begins a command, stdout says its process number,
and its status as it has ended.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[1]
IMPORTS = (
    "import pandas, sklearn.impute, torch, optuna, ray.tune, ray.util.scheduling_strategies\n"
    "import vadtune.cli, vadtune.tuning.runner, vadtune.tuning.searcher, vadtune.tuning.trial_runs\n"
    "import vadtune.tuning.conclude, vadtune.tuning.baselines, vadtune.tuning.trainable, vadtune.report.page\n"
)


class Command:
    """A program that the zygote has become.

    Attributes:
        pid: Its process number, and that of its process group.
        log: What it writes, to stdout and stderr.
        returncode: As of `subprocess.Popen`; None while it runs.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self.log = pid, log
        self.returncode: int | None = None
        self.ended = threading.Event()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.ended.is_set():
            os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        assert self.ended.wait(timeout), self.said()
        assert self.returncode is not None
        return self.returncode


class Zygote:
    """The process, for as long as it is entered; what still runs at the end is killed."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, __file__], cwd=ROOT, env=environment, **pipes)
        self.commands: dict[int, Command] = {}
        self.begun = threading.Semaphore(0)
        self.newest = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def run(
        self,
        module: str,
        *arguments: object,
        cwd: Path = ROOT,
        environment: dict[str, str] | None = None,
        timeout: float = 180,
    ) -> subprocess.CompletedProcess[str]:
        """`python -m module arguments` from its beginning to its end."""
        with tempfile.TemporaryDirectory() as folder:
            output, errors = Path(folder, "stdout"), Path(folder, "stderr")
            command = self.start(module, *arguments, cwd=cwd, log=output, errors=errors, environment=environment)
            status = command.wait(timeout)
            said = [path.read_text(encoding="utf-8") for path in (output, errors)]
        return subprocess.CompletedProcess([module, *map(str, arguments)], status, *said)

    def start(
        self,
        module: str,
        *arguments: object,
        cwd: Path = ROOT,
        log: Path,
        errors: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Command:
        """Begin `python -m module arguments`; what it says is added to the log, unless its errors have a file."""
        words = [str(argument) for argument in arguments]
        about = {"module": module, "arguments": words, "cwd": str(cwd), "environment": environment}
        about |= {"log": str(log), "errors": str(errors or log)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(about) + "\n")
        self.process.stdin.flush()
        for path in (log, errors or log):
            path.touch()
        assert self.begun.acquire(timeout=PATIENCE_S)
        command = self.commands[self.newest]
        command.log = log
        return command

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            pid, status = json.loads(line)
            if status is None:
                self.commands[pid], self.newest = Command(pid, Path(os.devnull)), pid
                self.begun.release()
            else:
                self.commands[pid].returncode = os.waitstatus_to_exitcode(status)
                self.commands[pid].ended.set()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        for command in self.commands.values():
            command.signal(signal.SIGKILL)
        for command in self.commands.values():
            command.ended.wait(10)
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Fork into every command that a line of stdin names, and tell how it ends."""
    exec(IMPORTS, {})
    pending = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            part = os.read(0, 65536)
            if not part:
                return
            *lines, pending = (pending + part).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    become(json.loads(line))
                    return
                tell(pid, None)
        reap()


def become(about: dict[str, Any]) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, target in ((about["log"], 1), (about["errors"], 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), target)
    os.chdir(about["cwd"])
    os.environ.update(about["environment"] or {})
    sys.argv = [about["module"], *about["arguments"]]
    runpy.run_module(about["module"], run_name="__main__", alter_sys=True)


def reap() -> None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    if pid:
        tell(pid, status)


def tell(pid: int, status: int | None) -> None:
    os.write(1, f"{json.dumps([pid, status])}\n".encode())


if __name__ == "__main__":
    main()
    time.sleep(0)
