"""`ray up` of cluster/onprem.yaml for real, on hosts made of namespaces and sshd (lab.sh), and a search on it.

The tests are one story and run in order: up, submit, lose a worker, fetch, down. Two to three minutes.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "/mnt/shared/onprem.yaml"
DASHBOARD = "http://127.0.0.1:8265"
EDITS = {
    "192.0.2.": "10.200.0.",
    "ssh_user: ubuntu": "ssh_user: root",
    "~/.ssh/id_ed25519": "~/.ssh/lab_key",
}
# Three trials at once, one a host: each host has two CPUs.
SEARCH = "wine --missing-rate 0.2 --scheduler none --cpus-per-trial 1.5 --address auto --json"
SUBMITTED = f"{SEARCH} --trials 3 --max-epochs 3 --name submitted --storage /mnt/shared/checkpoints"
JOB = f"{SEARCH} --trials 4 --max-epochs 2000 --name job --runs /mnt/shared/runs"

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(lab):
    config = (ROOT / "cluster/onprem.yaml").read_text()
    for theirs, ours in EDITS.items():
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


def result(output: str) -> dict:
    """The JSON document among what Ray's commands print around it."""
    lines = [line.rstrip() for line in output.splitlines()]
    return json.loads("\n".join(lines[lines.index("{") : lines.index("}") + 1]))


@pytest.mark.parametrize("host", ["head", "worker1", "worker2"])
def test_the_token_is_readable_by_its_owner_only(cluster, host: str):
    assert cluster("run", host, "stat -c %a ~/.ray ~/.ray/auth_token").stdout.split() == ["700", "600"]


def test_without_the_token_the_cluster_answers_401(cluster):
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/") == "401"
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/", '-X POST -d \'{"entrypoint": "id"}\'') == "401"
    assert http_status(cluster, "http://10.200.0.11:52365/api/job_agent/jobs/", "-X POST -d '{}'") == "401"
    token = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    assert http_status(cluster, f"{DASHBOARD}/api/jobs/", token) == "200"


def test_the_dashboard_listens_on_the_head_itself_only(cluster):
    assert http_status(cluster, "http://10.200.0.10:8265") == "000"


def test_a_search_by_ray_submit(cluster):
    output = cluster.laptop(f"ray submit {CONFIG} vadtune/search.py -- {SUBMITTED}")
    assert result(output)["trials"]["complete"] == 3


def test_a_search_by_ray_job_submit_loses_a_worker_and_no_trial(cluster):
    submit = f"ray job submit --address {DASHBOARD} --submission-id search"
    cluster.laptop(f"{submit} --no-wait -- python -m vadtune.search {JOB}")
    wait_for(lambda: cluster("run", "worker2", "pgrep -f 'ray::_[I]nner'").returncode == 0, 300)
    assert cluster("crash", "worker2").returncode == 0
    cluster.laptop(f"ray job logs --address {DASHBOARD} --follow search")
    assert "SUCCEEDED" in cluster.laptop(f"ray job status --address {DASHBOARD} search 2>&1").upper()
    summary = json.loads((cluster.shared / "runs/job/summary.json").read_text())
    assert summary["trials"]["complete"] == 4


def test_report_and_best_model_are_fetched_by_rsync_down(cluster):
    cluster.laptop(f"ray rsync-down {CONFIG} '~/runs/submitted/' /root/submitted")
    cluster.laptop(f"ray rsync-down {CONFIG} /mnt/shared/runs/job/ /root/job")
    for run in ("submitted", "job"):
        cluster.laptop(f"cd /root/{run}/best; grep -q '<html' ../report.html; sha256sum --quiet -c SHA256SUMS")


def test_ray_down_stops_the_head(cluster):
    cluster.laptop(f"ray down -y {CONFIG}")
    assert cluster("run", "head", "pgrep -x raylet").stdout == ""
