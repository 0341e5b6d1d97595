"""The benchmarks run; what they measured is stated beside them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_simulated_search_ends_all_its_trials_and_measures_each_of_them():
    command = [sys.executable, str(ROOT / "benchmarks/scale.py"), "--trials", "30", "--reports", "10", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    (row,) = json.loads(done.stdout)
    assert row["trials"] == 30
    assert 60 < row["reports"] < 500
    assert row["requests"] > 0
    assert min(row.values()) > 0
