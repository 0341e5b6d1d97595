"""A process that has imported what trials need, and forks into Ray's workers: one costs 0.1 s, not 3 s of a CPU.

`ForkServer` starts it beside Ray. Ray's node then starts `worker.py` instead of its own `default_worker.py`; that hands
its arguments, environment and open files over to the server and is gone. The fork goes on as Ray's own program does,
and is a worker like any other to Ray, which knows it by its process number.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from vadtune.tuning import worker
from vadtune.tuning.scratch import make_scratch

# What a worker imports before its first trial.
IMPORTS = ("vadtune.tuning.trainable", "vadtune.tuning.trial_runs", "vadtune.training.run")
SCRATCH = "fork"
JOB_ID = "RAY_JOB_ID"
JOB = "01000000"  # of the first driver of a cluster, and we have no others
JOBS = (JOB, "ffffffff")  # the second one: any
N_FILES = 3  # stdin, stdout, stderr
MAX_REQUEST = 1 << 20  # bytes
PATIENCE_S = 1.0  # with a server that is to end
MAX_WAITING = 1024  # workers that may ask at once


class ForkServer:
    """The server, from its start to `close`; it ends with the process that started it, too.

    Args:
        root: Where temporary folders are; its socket lies in one that only this user may enter.
    """

    def __init__(self, root: Path) -> None:
        self._folder = make_scratch(SCRATCH, root)
        self.address = self._folder / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.address))
            listener.listen(MAX_WAITING)
            self._process = self._start(listener.fileno())

    def _start(self, listener: int) -> "subprocess.Popen[bytes]":
        # It ends when nobody holds the other end of its stdin any more. Groups: Ctrl-C is for the search alone.
        # The BLAS of numpy counts its threads as it is imported; torch is told by each trial.
        python_path = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", __name__, str(listener)],
            pass_fds=[listener],
            env=os.environ | {"PYTHONPATH": python_path, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )

    def serve(self, node: Any) -> None:
        """Let a node of Ray that is not started yet start its workers here."""
        node._ray_params.env_vars = {worker.ADDRESS: str(self.address), worker.PROGRAM: node._ray_params.worker_path}
        node._ray_params.worker_path = worker.__file__

    def close(self) -> None:
        """End the server, and its forks, should Ray have left one."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # it was still importing
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def main(listener: int) -> None:
    """Import, and fork whenever `worker.py` asks, until stdin is closed."""
    # It imports and forks; nothing of it is garbage, and its forks share its memory as long as nobody looks it through.
    gc.disable()
    # Ray's library reads these as it is loaded, and never again.
    os.environ |= {JOB_ID: JOB, "RAY_RAYLET_PID": str(os.getpid())}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended leave nothing behind
    with socket.socket(fileno=listener) as server, selectors.DefaultSelector() as events:
        with _nothing_drawn():
            for module in IMPORTS:
                importlib.import_module(module)
        gc.freeze()
        events.register(server, selectors.EVENT_READ)
        events.register(sys.stdin, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in events.select()]
            if sys.stdin in ready:
                for fork in psutil.Process().children():
                    with suppress(psutil.NoSuchProcess):
                        fork.kill()
                os._exit(0)  # Python would take torch apart first
            connection, _ = server.accept()
            with connection:
                request, files = _receive(connection)
                is_child = _accepts(connection, request) and os.fork() == 0
            if is_child:
                break
            for file in files:
                os.close(file)
    _become(request, files)


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Keep Ray's random numbers unused: each fork would go on with the same ones, and give the same names.

    As modules are loaded, nothing else is named at random but classes of actors.
    """
    from ray import ActorClassID, actor

    drawn = SimpleNamespace(from_random=lambda: ActorClassID(os.urandom(ActorClassID.size())))
    vars(actor)["ActorClassID"] = drawn
    try:
        yield
    finally:
        vars(actor)["ActorClassID"] = ActorClassID


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a worker is to be, and its stdin, stdout and stderr; nothing if whoever asked has gone."""
    text, files, _, _ = socket.recv_fds(connection, MAX_REQUEST, N_FILES)
    while text and not text.endswith(b"\n"):
        part = connection.recv(MAX_REQUEST)
        text = text + part if part else b""
    return json.loads(text) if text else {}, files


def _accepts(connection: socket.socket, request: dict[str, Any]) -> bool:
    """Whether a request can be met; says so to whoever asked, unless that has lost patience and does it itself."""
    if not request or request["environment"].get(JOB_ID) not in JOBS:
        return False
    try:
        connection.sendall(b"1")
    except OSError:
        return False
    return True


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Go on as the worker that Ray wanted to start."""
    from ray._raylet import Config  # type: ignore[attr-defined]  # it is compiled

    os.setpgid(0, 0)  # Ray ends whole groups
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.setpriority(os.PRIO_PROCESS, 0, request["niceness"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked_signals"])
    gc.enable()
    Config.initialize("")  # Ray's settings are those of the environment
    sys.argv = [request["program"], *request["arguments"]]
    runpy.run_path(request["program"], run_name="__main__")


if __name__ == "__main__":
    main(int(sys.argv[1]))
