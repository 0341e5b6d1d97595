"""Temporary folders: what killed processes left goes, what living ones use stays."""

import os
import subprocess
import sys
from pathlib import Path

from vadtune.tuning.scratch import clear_scratch, make_scratch


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        names = [f"vadtune-x-{dead.pid}-a", f"vadtune-x-{alive.pid}-a", f"vadtune-y-{dead.pid}-a", "vadtune-x-mine"]
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").touch()
        made = make_scratch("x", tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*names[1:], made.name}
    assert made.stat().st_mode & 0o777 == 0o700
    assert made.name.startswith(f"vadtune-x-{os.getpid()}-")


def test_a_process_clears_its_own(tmp_path: Path) -> None:
    other = make_scratch("y", tmp_path)
    for _ in range(2):
        (make_scratch("x", tmp_path) / "file").touch()
    clear_scratch("x", tmp_path)
    assert list(tmp_path.iterdir()) == [other]
