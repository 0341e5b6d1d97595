"""A cluster whose head runs no trials and whose workers are started by Ray's autoscaler, or never come."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.util

from tests.patience import PATIENCE_S

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
OPEN = {"RAY_AUTH_MODE": "disabled"}
# The command, but for the hint that is due after some seconds, not ten minutes.
SEARCH = "from vadtune.tuning import session; session.HINT_S = 0.5; from vadtune import cli, search; "
SEARCH += "cli.run(search.main)"
EMPTY_LISTS = "cluster_synced_files rsync_exclude rsync_filter initialization_commands setup_commands"
EMPTY_LISTS += " head_setup_commands worker_setup_commands head_start_ray_commands worker_start_ray_commands"
EMPTY_TABLES = "auth docker file_mounts head_node worker_nodes"


def cluster_file(address: str, worker: dict[str, float]) -> dict[str, Any]:
    """What `ray up` would leave on the head; machines are made of processes."""
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "gcs_address": address}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    types = {
        "head": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
        "worker": {"resources": worker, "min_workers": 0, "max_workers": 1, "node_config": {}},
    }
    found = {"cluster_name": "test", "max_workers": 1, "idle_timeout_minutes": 1, "upscaling_speed": 1.0}
    found |= {"provider": provider, "available_node_types": types, "head_node_type": "head"}
    found |= {name: [] for name in EMPTY_LISTS.split()} | {name: {} for name in EMPTY_TABLES.split()}
    return found | {"file_mounts_sync_continuously": False}


def wait_for(port: int) -> None:
    """Until the head answers."""
    for _ in range(300):
        with socket.socket() as tried:
            if tried.connect_ex((ray.util.get_node_ip_address(), port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("Ray's head does not answer")


@contextmanager
def head(worker: dict[str, float]) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler may start one worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        config = Path(folder) / "cluster.json"
        config.write_text(json.dumps(cluster_file(address, worker)))
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
        command += ["--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"]
        command += [f"--autoscaling-config={config}"]
        variables = os.environ | OPEN | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield address
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
            # The workers are nobody's children.
            for other in psutil.process_iter():
                with suppress(psutil.Error):
                    if any(folder in word for word in other.cmdline()):
                        other.kill()


def search(address: str, runs: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", SEARCH, "wine", "--max-epochs", "3", "--address", address]
    command += ["--runs", str(runs), "--name", "run", "--ensemble", "1", "--json", *words]
    environment = os.environ | OPEN | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


def test_trials_wait_for_a_worker_and_run_when_it_comes(tmp_path: Path) -> None:
    with head({"CPU": 1}) as address:
        done = search(address, tmp_path, "--trials", "2")
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert (trials["complete"] + trials["pruned"], trials["failed"]) == (2, 0)


def test_who_waits_for_workers_that_never_come_is_told_what_to_look_at(tmp_path: Path) -> None:
    # No machine has so little memory: every start fails, as where a quota is used up. Progress is told every 15 s.
    with head({"CPU": 1, "object_store_memory": 1}) as address:
        done = search(address, tmp_path, "--trials", "2", "--time-budget", "20")
    assert done.returncode == 3
    assert "waiting for workers (`ray status` says why none comes; cluster/README.md what to do)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: No trial can be used")
