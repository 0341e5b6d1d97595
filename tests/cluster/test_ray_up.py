"""`ray up` of cluster/onprem.yaml for real, on hosts made of namespaces and sshd (lab.sh). About two minutes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "/mnt/shared/onprem.yaml"
DASHBOARD = "http://127.0.0.1:8265"
ADDRESSES = {
    "192.0.2.": "10.200.0.",
    "ssh_user: ubuntu": "ssh_user: root",
    "~/.ssh/id_ed25519": "~/.ssh/lab_key",
}
# The work: a script for `ray submit`, a command for `ray job submit`.
SCRIPT = "tests/cluster/each_node.py -- one --two"
COMMAND = "python each_node.py one --two"
EXPECTED = {"hosts": ["head", "worker1", "worker2"], "arguments": ["one", "--two"]}

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(lab):
    config = (ROOT / "cluster/onprem.yaml").read_text()
    for theirs, ours in ADDRESSES.items():
        assert theirs in config
        config = config.replace(theirs, ours)
    (lab.shared / "onprem.yaml").write_text(config)
    lab.laptop("(umask 077; ray get-auth-token --generate > /dev/null)")
    lab.laptop(f"ray up -y {CONFIG}")
    wait_for(lambda: " 0.0/6.0 CPU" in lab.laptop(f"ray exec {CONFIG} 'ray status'"), 90)
    lab.laptop(f"(ray dashboard {CONFIG} > /dev/null 2>&1 &)")
    wait_for(lambda: http_status(lab, DASHBOARD) == "200", 20)
    return lab


def wait_for(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(1)


def http_status(lab, url: str, flags: str = "") -> str:
    done = lab("run", "laptop", f"curl -s -o /dev/null -w '%{{http_code}}' {flags} {url}")
    return done.stdout.strip()


def result(output: str) -> dict[str, list[str]]:
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))


def test_ray_submit_runs_on_all_nodes(cluster):
    assert result(cluster.laptop(f"ray submit {CONFIG} {SCRIPT}")) == EXPECTED


def test_ray_job_submit_through_the_tunnel_runs_on_all_nodes(cluster):
    assert result(cluster.laptop(f"ray job submit --address {DASHBOARD} -- {COMMAND}")) == EXPECTED


def test_without_the_token_the_cluster_answers_401(cluster):
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/") == "401"
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/", '-X POST -d \'{"entrypoint": "id"}\'') == "401"
    assert http_status(cluster, "http://10.200.0.11:52365/api/job_agent/jobs/", "-X POST -d '{}'") == "401"
    token = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/", token) == "200"


def test_the_dashboard_listens_on_the_head_itself_only(cluster):
    assert http_status(cluster, "http://10.200.0.10:8265") == "000"


@pytest.mark.parametrize("host", ["head", "worker1", "worker2"])
def test_the_token_is_readable_by_its_owner_only(cluster, host: str):
    assert cluster("run", host, "stat -c %a ~/.ray ~/.ray/auth_token").stdout.split() == ["700", "600"]


def test_results_are_fetched_by_rsync_down(cluster):
    (cluster.shared / "runs/first").mkdir(parents=True)
    (cluster.shared / "runs/first/report.html").write_text("<html>")
    cluster.laptop(f"ray rsync-down {CONFIG} /mnt/shared/runs/first/ /root/first")
    assert cluster.laptop("cat /root/first/report.html") == "<html>"


def test_the_others_work_on_when_a_worker_is_lost(cluster):
    assert cluster("crash", "worker2").returncode == 0
    assert result(cluster.laptop(f"ray submit {CONFIG} {SCRIPT}"))["hosts"] == ["head", "worker1"]


def test_ray_down_stops_the_head(cluster):
    cluster.laptop(f"ray down -y {CONFIG}")
    assert cluster("run", "head", "pgrep -x raylet").stdout == ""
