"""A cluster that asks for a token, and those who have none or a wrong one."""

import os
import subprocess
import sys

import pytest

from tests.patience import PATIENCE_S

TOKEN, OTHER = "a" * 64, "b" * 64
HEAD = """
import logging, sys, tempfile
import ray
with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    print(ray.init(num_cpus=1, _temp_dir=folder, **options).address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()
"""
JOIN = """
import sys
from vadtune import cli
from vadtune.tuning.cluster import Cluster
def join(arguments):
    with Cluster(arguments[0]) as cluster:
        assert cluster.is_ready(60)
    print("joined")
    return 0
cli.run(join)
"""


def environment(home, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return kept | {"HOME": str(home)} | variables


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a cluster whose token is `TOKEN`, in a process of its own."""
    env = environment(tmp_path_factory.mktemp("head"), RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", HEAD], env=env, text=True, **pipes) as head:
        yield head.stdout.readline().strip()
        head.stdin.close()
        head.wait(PATIENCE_S)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "the cluster asks for another one"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE is token, and there is none here"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": OTHER}, "the cluster asks for another one"),
    ],
    ids=["nothing", "no-token", "wrong-token"],
)
def test_a_missing_or_wrong_token_is_told_in_a_line(address, tmp_path, variables, words):
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "gcs_client.cc" not in line]  # which is Ray's own
    assert line.startswith(
        f"error: --address {address}: the token is missing or wrong: {words}. Copy ~/.ray/auth_token"
    )


@pytest.mark.cluster
def test_with_the_right_token_in_the_usual_file_a_cluster_is_joined(address, tmp_path):
    (tmp_path / ".ray").mkdir(mode=0o700)
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    env = environment(tmp_path, RAY_AUTH_MODE="token")
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address], env=env, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (0, "joined\n"), done.stderr
