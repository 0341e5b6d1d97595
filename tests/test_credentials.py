"""Passwords in the environment of a search are in nothing that it writes or says, while it runs and afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tuning import postgres

pytestmark = pytest.mark.cluster
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA-hush-1",
    "AWS_SECRET_ACCESS_KEY": "hush-2",
    "AWS_SESSION_TOKEN": "hush-3",
    "WANDB_API_KEY": "hush-4",
    "MLFLOW_TRACKING_PASSWORD": "hush-5",
    "RAY_AUTH_TOKEN": "hush-6",
    "VADTUNE_ANYTHING": "hush-7",
    "PGPASSWORD": postgres.PASSWORD,
}
FLAGS = ["--max-epochs", "3", "--missing-rate", "0.2", "--set", "model.decoder.hidden_dim=8"]


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def leaks(folder):
    """Files that hold a secret, and which."""
    found = {}
    for path in files(folder):
        try:
            content = path.read_bytes()
        except OSError:
            continue  # Ray has just removed it
        held = [name for name, secret in SECRETS.items() if secret.encode() in content]
        if held:
            found[str(path)] = held
    return found


def start(folder, url, *words):
    command = [sys.executable, "-m", "vadtune.search", "wine", "--name", "quiet", "--storage-url", url, *FLAGS, *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | SECRETS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_no_password_is_in_any_file_or_word_of_a_search_or_of_ray_or_of_its_errors(tmp_path):
    pytest.importorskip("psycopg", reason="needs psycopg")
    study = tmp_path / "runs" / "quiet" / "study.log"
    with postgres.server() as url:
        process = start(tmp_path, url, "--trials", "3")
        deadline, rays = time.monotonic() + 180, {}
        while process.poll() is None:
            assert time.monotonic() < deadline
            # Ray's own folder is gone at the end: looked at while trials run.
            if study.exists() and b'"epochs"' in study.read_bytes():
                (session,) = Path("/tmp").glob(f"vadtune-ray-{process.pid}-*")
                assert len(files(session)) > 5
                rays = leaks(session)
                break
            time.sleep(0.1)
        said = process.communicate(timeout=180)[0]
        assert process.returncode == 0, said
        assert rays == {}
        leaves = len(files(tmp_path))
    # The database is gone: what is said of that.
    process = start(tmp_path, url, "--trials", "4", "--resume")
    said += process.communicate(timeout=180)[0]
    assert process.returncode in (1, 2), said
    assert leaves > 15
    assert leaks(tmp_path) == {}
    assert [name for name, secret in SECRETS.items() if secret in said] == []
    assert "--storage-url" in said
