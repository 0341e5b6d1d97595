"""Hosts made of namespaces (lab.sh), for the tests that run what cluster/ holds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a user does before `ray up`; each command of the laptop is a new shell.
LAPTOP = "export RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0"


def reason_to_skip() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts made of namespaces need Linux and root"
    missing = [tool for tool in ("ip", "unshare", "nsenter", "pgrep", "ssh-keygen") if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)} here"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlayfs here"
    allowed = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True)
    return None if allowed.returncode == 0 else "namespaces are not allowed here"


class Lab:
    """The hosts, by `lab.sh`."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self._environment = {**os.environ, "LAB": str(folder), "PYTHON": sys.executable}

    def __call__(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "tests/cluster/lab.sh"), verb, *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=240)

    def laptop(self, command: str) -> str:
        """What a command of the user prints."""
        done = self("run", "laptop", f"{LAPTOP}; {command}")
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    lab = Lab(tmp_path_factory.mktemp("lab") / "hosts")
    try:
        up = lab("up")
        assert up.returncode == 0, up.stdout + up.stderr
        yield lab
    finally:
        lab("down")
