import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vadtune.errors import ConfigError
from vadtune.tuning.cluster import Cluster, Watchdog
from vadtune.tuning.preflight import check_folder, check_local_cpus, check_resources, check_run_name, n_fitting
from vadtune.tuning.storage import Storage, open_storage, tidy


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
    with pytest.raises(ConfigError, match="ray job submit"):
        Cluster("ray://head:10001").start()


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


def test_old_checkpoints_and_pickles_of_ray_are_removed_and_nothing_else(tmp_path):
    storage = open_storage(str(tmp_path))
    for name in ("ray/a/checkpoint_000000", "ray/a/checkpoint_000001", "ray/b/checkpoint_000000", "best"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ray" / "tuner.pkl").write_bytes(b"")
    tidy(storage, {"ray/a/checkpoint_000001"})
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"ray", "ray/a", "ray/a/checkpoint_000001", "best"}


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
