"""Temporary folders that do not outlive their process for long, even if it is killed."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil


def make_scratch(what: str, root: Path) -> Path:
    """A fresh folder of mode 700 for something of this process; those that killed processes left of it go."""
    user = psutil.Process().username()
    for old in root.glob(f"vadtune-{what}-*"):
        pid = old.name.removeprefix(f"vadtune-{what}-").partition("-")[0]
        with suppress(OSError, KeyError):  # another search may clear at the same time; not all users have names
            if pid.isdigit() and not psutil.pid_exists(int(pid)) and old.owner() == user:
                shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"vadtune-{what}-{os.getpid()}-", dir=root))


def clear_scratch(what: str, root: Path) -> None:
    """Remove what this process made."""
    for folder in root.glob(f"vadtune-{what}-{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)
