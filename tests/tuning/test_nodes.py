"""A cluster of three nodes on this machine; one of them is lost in the middle of a search."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.patience import PATIENCE_S
from vadtune.errors import ConfigError
from vadtune.tuning.samplers import draw_seed
from vadtune.tuning.study import read_study

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
N_TRIALS = 12


@pytest.fixture
def nodes(monkeypatch):
    """Three nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, workers
    cluster.shutdown()


def saved(study: Path) -> list[int]:
    """Seeds of the trials that run, went on after their checkpoint at the first rung and are not soon at the next."""
    try:
        trials = read_study(study).get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    except ConfigError:
        return []
    trials = [trial for trial in trials if trial.user_attrs.get("checkpoint_epoch", 99) < (trial.last_step or 0) < 10]
    return [draw_seed(0, trial.number) for trial in trials]


def homes(folder: Path) -> dict[int, int]:
    """Of each trial's seed the process of the node that ran it last."""
    path = folder / "parents"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {int(seed): int(parent) for seed, parent in (line.split() for line in lines)}


def test_nodes_run_the_code_that_is_shipped(nodes, tmp_path):
    """Each of the nodes imports the driver's vadtune from where Ray unpacks what it was sent."""
    cluster, _ = nodes
    shutil.copytree(ROOT / "vadtune", tmp_path / "vadtune", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import ray, vadtune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
from vadtune.tuning.cluster import Cluster, shipment
with Cluster({cluster.address!r}, shipment(with_code=True)) as joined:
    assert joined.is_ready(timeout_s=60)
    place = ray.remote(num_cpus=0)(lambda: __import__("vadtune").__file__)
    nodes = [node["NodeID"] for node in ray.nodes()]
    print(vadtune.__file__, *ray.get([place.options(scheduling_strategy=On(n, soft=False)).remote() for n in nodes]))
"""
    # Ray tells workers where else its driver imports from: not a folder of PYTHONPATH, though.
    (tmp_path / "here").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path / "here", env=environment)
    mine, *theirs = done.stdout.split()
    assert mine == str(tmp_path / "vadtune/__init__.py"), done.stderr
    assert len(theirs) == 3
    assert all("runtime_resources" in path and path.endswith("/vadtune/__init__.py") for path in theirs), theirs


def test_trials_run_on_all_nodes_and_those_of_a_lost_one_go_on_from_their_checkpoints(nodes, tmp_path):
    cluster, workers = nodes
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in workers}
    command = [sys.executable, "-m", "tests.tuning.driver", str(tmp_path / "run"), str(N_TRIALS), "0.2"]
    environment = os.environ | {"ADDRESS": cluster.address}
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)
    try:
        end = time.monotonic() + PATIENCE_S
        lost: list[int] = []
        while not lost or len(set(homes(tmp_path).values())) < 3:
            lost = [s for s in saved(tmp_path / "run/study.log") if homes(tmp_path).get(s) in raylets]
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        cluster.remove_node(raylets[homes(tmp_path)[lost[0]]], allow_graceful=False)
        output = driver.communicate(timeout=PATIENCE_S)[0].decode()
    finally:
        driver.kill()
        driver.communicate()
    assert output.startswith("finished"), (tmp_path / "log").read_text()
    trials = read_study(tmp_path / "run/study.log").trials
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    lines = (tmp_path / "journal").read_text(encoding="utf-8").splitlines()
    assert f"{lost[0]} load 5" in lines
    assert len([line for line in lines if "start" in line]) <= N_TRIALS + 1
