"""One search at a time on a run folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from vadtune.errors import ConfigError

LOCK = "search.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Own a run folder; the lock of a process that is gone from this host is taken over.

    A process that owns the folder may lock it again inside.

    Raises:
        ConfigError: Another search owns it; names its host and process.
    """
    path = folder / LOCK
    if _owner(path) == me():
        yield
        return
    _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _acquire(path: Path) -> None:
    for _ in range(10):
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(me(), file)
        except FileExistsError:
            owner = _owner(path)
            if owner is not None and not is_gone(owner):
                raise ConfigError(_refusal(path, owner)) from None
            _set_aside(path)
        else:
            return
    raise ConfigError(f"{path}: cannot be taken over: remove it if no search runs on this folder.")


def me() -> dict[str, Any]:
    """This process, as others can recognise it."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def _owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock; None if it has just been released or was never written whole."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether a process of this host has ended; of another host nobody can tell."""
    if owner.get("host") != socket.gethostname():
        return False
    try:
        # A process number comes back after a while: the time of its start tells whose it is.
        started = float(psutil.Process(int(owner["pid"])).create_time())
        return abs(started - float(owner["started"])) >= 2.0
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


def _set_aside(path: Path) -> None:
    """Remove a dead lock; of several searches that try, the rename lets one succeed."""
    aside = path.with_name(f"{LOCK}.{os.getpid()}")
    try:
        path.rename(aside)
        aside.unlink()
    except FileNotFoundError:
        return


def _refusal(path: Path, owner: dict[str, Any]) -> str:
    who = f"process {owner.get('pid')} on {owner.get('host')}"
    return f"{path.parent}: another search runs here ({who}). Wait for it, or stop it; if it is gone, remove {path}."
