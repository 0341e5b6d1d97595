"""Workers as forks: they are what Ray wanted to start, they share nothing that must differ, and they leave nothing."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.patience import PATIENCE_S
from vadtune.tuning import agent, worker
from vadtune.tuning.forkserver import JOB, JOB_ID, JOBS, ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux only")

# In place of Ray's program: tells what it is to whoever reads its stdout.
PROGRAM = """
import json, os, random, signal, sys
from ray import JobID, ObjectID, TaskID, WorkerID
from vadtune.training.config import TrialConfig
about = {
    "pid": os.getpid(), "group": os.getpgid(0), "arguments": sys.argv[1:], "name": __name__, "folder": os.getcwd(),
    "environment": dict(os.environ), "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "children": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "is_forked": "vadtune.training.run" in sys.modules, "random": random.random(),
    "names": [WorkerID.from_random().hex(), ObjectID.from_random().hex(), TaskID.for_fake_task(JobID(b"1111")).hex()],
    "files": len(os.listdir("/proc/self/fd")),
    "has_no_gpu": "torch" in sys.modules and sys.modules["torch"].cuda._is_in_bad_fork(),
}
print(json.dumps(about), flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    server = ForkServer(tmp_path_factory.mktemp("root"))
    yield server
    server.close()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return path


# A worker that sleeps, once it has asked, until the server has answered and gone on.
SLOW_WORKER = f"""
import runpy, select, socket
ask = socket.send_fds
def ask_slowly(server, *request):
    n_sent = ask(server, *request)
    events = select.poll()
    events.register(server, 0)  # it hangs up
    events.poll()
    return n_sent
socket.send_fds = ask_slowly
runpy.run_path({worker.__file__!r}, run_name="__main__")
"""


def start(program: Path, address: Path, job: str = JOB, asker: Sequence[str] = (worker.__file__,)) -> dict[str, Any]:
    """Start a worker as a node of Ray does; returns what it says of itself."""
    environment = os.environ | {worker.ADDRESS: str(address), worker.PROGRAM: str(program), JOB_ID: job, "OF": "mine"}

    def prepare() -> None:
        os.nice(3)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    done = subprocess.run(
        [sys.executable, *asker, "--one", "two words"],
        cwd=program.parent,
        env=environment,
        preexec_fn=prepare,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
    )
    about: dict[str, Any] = json.loads(done.stdout)
    return about


def test_a_fork_is_what_was_to_be_started(server: ForkServer, program: Path) -> None:
    about = start(program, server.address)
    assert about["is_forked"]
    assert about["name"] == "__main__"
    assert about["arguments"] == ["--one", "two words"]
    assert about["folder"] == str(program.parent)
    assert about["environment"]["OF"] == "mine"
    assert "PYTHONPATH" not in about["environment"] or "PYTHONPATH" in os.environ
    assert about["niceness"] == os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert about["blocked"] == [signal.SIGINT]
    assert about["children"]
    assert not about["has_no_gpu"]  # as a fork has of a process that has used one


def test_a_fork_is_in_a_group_of_its_own(server: ForkServer, program: Path) -> None:
    # Ray kills the group of a worker that is to go, and so would kill all others.
    about = start(program, server.address)
    assert about["group"] == about["pid"]


def test_forks_draw_other_numbers_and_names(server: ForkServer, program: Path) -> None:
    one, other = (start(program, server.address) for _ in range(2))
    assert one["random"] != other["random"]
    assert not set(one["names"]) & set(other["names"])


def test_no_file_is_left_open_from_fork_to_fork(server: ForkServer, program: Path) -> None:
    n_files = [start(program, server.address)["files"] for _ in range(3)]
    assert n_files[0] == n_files[2]


def test_forks_that_have_ended_are_gone(server: ForkServer, program: Path) -> None:
    about = start(program, server.address)
    wait_until_gone(about["pid"])


@pytest.mark.parametrize("job", JOBS)
def test_workers_of_the_first_driver_and_of_any_are_forks(server: ForkServer, program: Path, job: str) -> None:
    assert start(program, server.address, job)["is_forked"]


@pytest.mark.parametrize("job", ["02000000", ""])
def test_a_worker_of_another_driver_is_started_afresh(server: ForkServer, program: Path, job: str) -> None:
    # Ray's library has read which job it is for when it was loaded: a fork would be for another.
    about = start(program, server.address, job)
    assert not about["is_forked"]
    assert about["arguments"] == ["--one", "two words"]


def test_without_a_server_a_worker_starts_all_the_same(program: Path, tmp_path: Path) -> None:
    about = start(program, tmp_path / "nobody")
    assert not about["is_forked"]
    assert about["blocked"] == [signal.SIGINT]


def test_a_worker_that_hears_late_that_it_was_forked_is_not_started_again(server: ForkServer, program: Path) -> None:
    assert start(program, server.address, asker=("-c", SLOW_WORKER))["is_forked"]


def test_whoever_asks_and_goes_away_stops_nobody_and_gets_nothing(server: ForkServer, program: Path) -> None:
    trap = program.with_name("trap.py")
    trap.write_text(f"open({str(trap.with_suffix('.sprung'))!r}, 'w').close()")
    request = {"program": str(trap), "arguments": [], "folder": "/", "niceness": 5, "blocked_signals": []}
    whole = json.dumps(request | {"environment": {JOB_ID: JOB}}).encode() + b"\n"
    os.kill(server._process.pid, signal.SIGSTOP)
    for text in (b"", b'{"program"', whole):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.address))
            client.sendall(text)
    os.kill(server._process.pid, signal.SIGCONT)
    assert start(program, server.address)["is_forked"]
    assert not trap.with_suffix(".sprung").exists()


def test_the_server_ends_with_its_owner(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from vadtune.tuning.forkserver import ForkServer\n"
        "print(ForkServer(Path(sys.argv[1]))._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        owner.kill()
    wait_until_gone(pid)


def test_with_the_server_ends_a_fork_that_would_stay(tmp_path: Path) -> None:
    server = ForkServer(tmp_path)
    (program := tmp_path / "program.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    environment = os.environ | {worker.ADDRESS: str(server.address), worker.PROGRAM: str(program), JOB_ID: JOB}
    asking = subprocess.Popen([sys.executable, worker.__file__], env=environment, stdout=subprocess.PIPE)
    assert asking.stdout is not None
    pid = int(asking.stdout.readline())
    assert asking.wait(PATIENCE_S) == 0
    assert psutil.Process(pid).ppid() == server._process.pid
    server.close()
    wait_until_gone(pid)
    asking.stdout.close()


def test_only_its_user_can_reach_the_server(tmp_path: Path) -> None:
    server = ForkServer(tmp_path)
    assert server.address.parent.stat().st_mode & 0o777 == 0o700
    server.close()
    assert not server.address.parent.exists()


def test_workers_of_a_cluster_are_forks_and_end_with_it() -> None:
    # In a process of its own: this one may have a cluster already.
    code = """
import json, os, psutil, sys, ray
from vadtune.tuning.cluster import Cluster

def about_me():
    return os.getpid(), " ".join(psutil.Process(os.getppid()).cmdline()), "torch" in sys.modules

with Cluster(n_cpus=2) as cluster:
    assert cluster.is_ready(60)
    print(json.dumps(ray.get([ray.remote(about_me).remote() for _ in range(2)])))
    print(json.dumps([process.cmdline()[:1] for process in psutil.Process().children(recursive=True)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE_S, check=True)
    workers, programs = map(json.loads, done.stdout.splitlines())
    assert not [program for program in programs if "Agent" in str(program)]
    for pid, parent, has_torch in workers:
        assert "vadtune.tuning.forkserver" in parent
        assert has_torch
        wait_until_gone(pid)


def test_what_stands_for_an_agent_says_that_it_serves_nothing_and_ends_with_its_node(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(60)"
    command = [sys.executable, "-I", "-S", agent.__file__, "a_port,b_port", "ray/agent.py", "--node-id=1f"]
    node = subprocess.Popen(
        [sys.executable, "-c", code, *command, f"--session-dir={tmp_path}", "--minimal"], stdout=subprocess.PIPE
    )
    assert node.stdout is not None
    pid = int(node.stdout.readline())
    until = time.monotonic() + PATIENCE_S
    while (files := sorted(path.name for path in tmp_path.iterdir())) != ["a_port_1f", "b_port_1f"]:
        assert time.monotonic() < until, files
        time.sleep(0.05)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"-1"}
    assert psutil.pid_exists(pid)
    node.kill()
    node.communicate()
    wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + PATIENCE_S
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_what_stands_for_an_agent_ends_with_the_session_of_a_node_that_had_gone_before_it(tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    command = [sys.executable, "-I", "-S", agent.__file__, "a_port", "ray/agent.py", "--node-id=1f"]
    with subprocess.Popen([*command, f"--session-dir={session}"]) as orphan:  # its parent, this process, lives on
        until = time.monotonic() + PATIENCE_S
        while not (session / "a_port_1f").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        shutil.rmtree(session)
        assert orphan.wait(timeout=PATIENCE_S) == 0
    with subprocess.Popen([*command, f"--session-dir={session}"]) as late:
        assert late.wait(timeout=PATIENCE_S) == 0
