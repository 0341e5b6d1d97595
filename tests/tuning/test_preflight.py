import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vadtune.data.storage import Storage, Sweeper, open_storage, orphans
from vadtune.errors import ConfigError
from vadtune.tuning.autoscaling import WorkerType, read_types, worker_types
from vadtune.tuning.cluster import Cluster, ClusterLost, Watchdog, shipment
from vadtune.tuning.preflight import (
    ask_nodes,
    check_folder,
    check_local_cpus,
    check_resources,
    check_run_name,
    clear_leftovers,
    inspect_node,
    judge,
    n_fitting,
    node_versions,
)


@pytest.mark.parametrize("name", ["mnist-vad", "a", "2026.11_x+y", "A" * 100])
def test_a_plain_run_name_is_fine(name):
    assert check_run_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a..b", "a\\b", "a\0b", "-x", " x", "x\n", "ä", "A" * 101]
)
def test_a_run_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(ConfigError, match="--name"):
        check_run_name(name)


@given(st.text(max_size=300))
def test_no_run_name_leaves_its_folder(name):
    try:
        check_run_name(name)
    except ConfigError:
        return
    assert "/" not in name
    assert name not in {"", ".", ".."}
    assert len(name.encode()) <= 100


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_folder(tmp_path / "file" / "run")
    check_folder(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": {kind: float(n) for kind, n in resources.items()}}


def test_trials_fit_on_nodes_and_not_across_them():
    nodes = [node(CPU=4), node(CPU=2, GPU=1), node(CPU=64, alive=False)]
    check_resources(nodes, 4.0, 0.0)
    check_resources(nodes, 2.0, 1.0)
    with pytest.raises(ConfigError, match="--cpus-per-trial 5: the largest node has 4 CPUs"):
        check_resources(nodes, 5.0, 0.0)
    with pytest.raises(ConfigError, match="--gpus-per-trial 2: the largest node has 1 GPUs"):
        check_resources(nodes, 1.0, 2.0)
    with pytest.raises(ConfigError, match="no node has both"):
        check_resources(nodes, 3.0, 1.0)


def test_a_head_without_cpus_is_no_obstacle_where_workers_can_be_started():
    head = [node()]
    spot = WorkerType("spot", {"CPU": 8.0, "GPU": 1.0}, 4)
    with pytest.raises(ConfigError, match="the largest node has 0 CPUs"):
        check_resources(head, 1.0, 0.0)
    check_resources(head, 1.0, 0.5, (spot,))
    check_resources(head, 64.0, 0.5, (spot, WorkerType("known to the cloud only", {}, 1)))
    check_resources(head, 64.0, 0.5, ())
    with pytest.raises(ConfigError, match="--cpus-per-trial 64: the largest node or worker type has 8 CPUs"):
        check_resources(head, 64.0, 0.5, (spot,))


def test_worker_types_are_read_as_ray_up_leaves_them_on_the_head(tmp_path):
    path = tmp_path / "bootstrap.yaml"
    path.write_text(
        """
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}}
  spot: {max_workers: 8, resources: {CPU: 8, GPU: 1}}
  full: {max_workers: 2}
  none: {max_workers: 0, resources: {CPU: 99}}
""",
        encoding="utf-8",
    )
    assert read_types(path) == (WorkerType("spot", {"CPU": 8.0, "GPU": 1.0}, 3), WorkerType("full", {}, 2))
    assert read_types(tmp_path / "missing.yaml") == ()
    path.write_text("{provider: {type: local}, available_node_types: {any: {max_workers: 2}}}", encoding="utf-8")
    assert read_types(path) is None
    path.write_text("{", encoding="utf-8")
    assert read_types(path) == ()


def test_the_file_of_a_running_monitor_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERAY_GEN_RAY_START_CMD", raising=False)
    assert worker_types() is None
    config, program = tmp_path / "bootstrap.yaml", tmp_path / "monitor.py"
    config.write_text("available_node_types: {big: {resources: {CPU: 4}, max_workers: 2}}", encoding="utf-8")
    program.write_text("import time; print(flush=True); time.sleep(60)", encoding="utf-8")
    command = [sys.executable, str(program), f"--autoscaling-config={config}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None
        monitor.stdout.readline()
        assert worker_types() == (WorkerType("big", {"CPU": 4.0}, 2),)
        monitor.kill()
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --no-monitor")
    assert worker_types() == ()


def test_a_node_of_other_versions_or_without_the_storage_is_named(tmp_path):
    storage, here = open_storage(str(tmp_path)), node_versions()
    storage.write("ray/.probe", b"probe")
    judge({"10.0.0.1": inspect_node("10.0.0.1", storage, "ray/.probe")}, here)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.2 has torch 1\.0 instead of"):
        judge({"10.0.0.1": (here, ""), "10.0.0.2": (here | {"torch": "1.0"}, "")}, here)
    with pytest.raises(ConfigError, match=r"not seen by 10\.0\.0\.3"):
        judge({"10.0.0.3": inspect_node("10.0.0.3", open_storage(str(tmp_path / "other")), "ray/.probe")}, here)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cannot be used from 10\.0\.0\.4"):
        judge({"10.0.0.4": inspect_node("10.0.0.4", open_storage(str(tmp_path / "file")), "ray/.probe")}, here)
    assert [path.name for path in (tmp_path / "ray").iterdir()] == [".probe"]


def test_nodes_of_a_cluster_get_the_region_and_no_credentials(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    shipped = shipment(with_code=True)
    assert shipped["env_vars"]["AWS_REGION"] == "eu-west-1"
    assert "secret" not in str(shipped)
    assert (Path(shipped["py_modules"][0]) / "search.py").is_file()
    assert "py_modules" not in shipment(with_code=False)


def test_shares_of_a_node_add_up():
    assert n_fitting({"CPU": 4.0}, 1.0, 0.0) == 4
    assert n_fitting({"CPU": 2.0, "GPU": 1.0}, 0.1, 0.1) == 10
    assert n_fitting({"CPU": 2.0}, 1.0, 0.5) == 0


def test_more_cpus_than_this_machine_has_are_refused():
    with pytest.raises(ConfigError, match="--cpus-per-trial 4096: this machine has"):
        check_local_cpus(4096)


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket/x?secret_access_key=abc",
        "gs://b/x?access_token=t",
        "s3://b?AWS_TOKEN=x",
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_them(address):
    with pytest.raises(ConfigError, match="credentials") as caught:
        open_storage(address)
    assert "secret@" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_an_address_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="--storage nothing://x"):
        open_storage("nothing://x")


def test_a_ray_client_is_refused():
    with pytest.raises(ConfigError, match=r"python -m vadtune\.search TABLE --address ray://head:10001"):
        Cluster("ray://head:10001").start()


def test_a_machine_too_busy_to_start_ray_is_told(monkeypatch):
    def too_slow(**_):
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr("ray.init", too_slow)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    told = r"Ray did not start: The current node timed out during startup\. Try again"
    with pytest.raises(ClusterLost, match=told), Cluster() as cluster:
        cluster.is_ready(timeout_s=60)


def test_an_address_where_nobody_is_is_told_at_once(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # by another test of this process
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"--address {address}: .*refused\. Give the HOST:PORT"):
            Cluster(address).is_ready(timeout_s=60)
    with pytest.raises(ConfigError, match=r"--address head: neither auto nor an address\. Give the HOST:PORT"):
        Cluster("head").is_ready(timeout_s=60)


def test_whoever_is_interrupted_before_the_cluster_answers_does_not_wait_for_it():
    """A port at which something listens and says nothing."""
    code = """
import signal, socket, sys
from vadtune.tuning.cluster import Cluster
silent = socket.create_server(("127.0.0.1", 0))
cluster = Cluster(f"127.0.0.1:{silent.getsockname()[1]}")
assert not cluster.is_ready(timeout_s=1)
cluster.close()
print("closed", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("closed\n", 130), done.stderr


def test_beside_the_end_of_ray_no_garbage_is_collected_and_sigterm_stays_ours():
    code = """
import gc, os, signal, time, ray
from vadtune.tuning.cluster import Cluster
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
with Cluster(n_cpus=1) as cluster:
    assert cluster.is_ready(60)
    with cluster.closing():
        assert not gc.isenabled()
        while ray.is_initialized() or cluster._thread.is_alive():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    assert gc.isenabled()
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == ("told\ntold\n", 0), done.stderr


def test_a_checkpoint_is_named_relative_to_its_storage_and_found_after_a_move(tmp_path):
    folder = tmp_path / "run" / "ray" / "a1" / "checkpoint_000000"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}", encoding="utf-8")
    storage = open_storage(str(tmp_path / "run"))
    checkpoint = storage.relative(str(folder))
    assert checkpoint == "ray/a1/checkpoint_000000"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert not storage.exists(checkpoint)
    moved = open_storage(str(tmp_path / "moved"))
    assert moved.exists(checkpoint)
    with moved.fetched(checkpoint) as fetched:
        assert (fetched / "run.json").read_text(encoding="utf-8") == "{}"
    moved.delete(checkpoint)
    moved.delete(checkpoint)
    assert not moved.exists(checkpoint)


def test_checkpoints_that_no_trial_names_and_pickles_of_ray_are_swept_and_nothing_else(tmp_path):
    storage = open_storage(str(tmp_path))
    for name in ("ray/a/checkpoint_000000", "ray/a/checkpoint_000001", "ray/b/checkpoint_000000", "best"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ray" / "tuner.pkl").write_bytes(b"")
    needed = {"ray/a/checkpoint_000001", "ray/gone/checkpoint_000000"}
    assert orphans(storage, needed) == ["ray/a/checkpoint_000000", "ray/b", "ray/tuner.pkl"]
    sweeper = Sweeper(storage)
    for name in (*orphans(storage, needed), "ray/gone/checkpoint_000000"):
        sweeper.delete(name)
    sweeper.close(patience_s=10.0)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"ray", "ray/a", "ray/a/checkpoint_000001", "best"}
    assert orphans(open_storage(str(tmp_path / "nowhere")), set()) == []


def test_a_storage_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        Storage(str(tmp_path / "file")).check_writable()
    open_storage(str(tmp_path / "new")).check_writable()


def listening():
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(Watchdog, "PERIOD_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_the_watchdog_barks_when_the_raylet_is_gone_and_not_before():
    raylet, raylet_at = listening()
    head, head_at = listening()
    lost = threading.Event()
    with Watchdog(raylet_at, head_at, lost.set):
        assert not lost.wait(0.5)
        raylet.close()
        assert lost.wait(5.0)
    head.close()


@pytest.mark.usefixtures("quick")
def test_the_watchdog_waits_for_a_head_that_comes_back():
    raylet, raylet_at = listening()
    head, head_at = listening()
    lost = threading.Event()
    with Watchdog(raylet_at, head_at, lost.set, patience_s=1.0):
        head.close()
        time.sleep(0.4)
        head = socket.create_server(head_at)
        assert not lost.wait(1.5)
        head.close()
        assert lost.wait(5.0)
    raylet.close()


def test_what_a_killed_search_was_writing_is_cleared_and_nothing_else(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "chapter1").write_text("years of work")
    run = tmp_path / "run"
    (run / "top" / ".2-x_1").mkdir(parents=True)
    for name in (".best-ab12", ".summary.json.ab12", ".evaluation.npz.ab12"):
        (run / name).mkdir()
        (run / name / "half").write_text("ha")
    for name in (".report.html.ab12", ".study.log.12.34", ".probe123"):
        (run / name).write_text("ha")
    (run / ".trials.csv.ab12").symlink_to(elsewhere)
    kept = {"best", "top", "study.log", "study.log.torn", ".gitignore", ".notes-mine", ".bestiary"}
    for name in kept - {"top"}:
        (run / name).write_text("mine")
    clear_leftovers(run)
    assert {path.name for path in run.iterdir()} == kept
    assert not list((run / "top").iterdir())
    assert (elsewhere / "chapter1").exists()


@pytest.mark.cluster
def test_a_node_that_went_away_meanwhile_is_not_waited_for(cluster, tmp_path):
    assert cluster.is_ready(60)
    import ray

    storage = open_storage(str(tmp_path))
    storage.write("probe", b"probe")
    gone = {"NodeID": "0f" * 28, "NodeManagerAddress": "gone"}
    answers = ask_nodes(storage, "probe", [gone, *ray.nodes()])
    assert "gone" not in answers
    assert [problem for _, problem in answers.values()] == [""]
