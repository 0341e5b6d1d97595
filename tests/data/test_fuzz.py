"""Spoilt files of every format: refused or read, never a crash, a hang or all memory (see `fuzz`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.fuzz import LIMIT_S, READERS

ROOT = Path(__file__).parents[2]
N = 200


@pytest.mark.parametrize("reader", READERS)
def test_a_spoilt_file_is_refused_or_read(reader):
    n = N // 5 if reader in ("artifact", "h5") else N  # of text in HDF5 each is read by a process of its own
    command = [sys.executable, "-W", "ignore", "-m", "tests.data.fuzz", reader, str(n), "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=10 * LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout)
    assert sum(ends.values()) == n
    assert set(ends) <= {"read", "refused"}
    assert ends["refused"] > n / 5
