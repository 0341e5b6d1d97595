"""The record of a run, copied to its storage: other machines report, export and go on from there."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vadtune.data.storage import RAY_FOLDER, Storage
from vadtune.data.stored_run import RECORD, SETTINGS, STUDY, fetch, with_storage
from vadtune.errors import ConfigError
from vadtune.tuning.lock import is_gone, me

OWNER = "owner.json"
# How long a search that says nothing may still be alive: three copies missed.
SILENCE_S = 60.0


def is_needed(folder: Path, storage: Storage) -> bool:
    """Whether the storage of a run lies elsewhere than its folder."""
    return storage.address != str(folder)


class Mirror:
    """Copies study, table and settings to the storage while a search runs, each whole or not at all.

    Args:
        folder: The run folder.
        storage: Where to; None if the folder itself is all there is.
        refresh: Brings the files of the folder up to date.

    Attributes:
        problem: Why the last copy failed; None if it did not.
    """

    PERIOD_S = 20.0

    def __init__(self, folder: Path, storage: Storage | None, refresh: Callable[[], None]) -> None:
        self.folder, self.storage, self.refresh = folder, storage, refresh
        self.problem: str | None = None
        self._copied: dict[str, bytes] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="vadtune-mirror", daemon=True)

    def start(self) -> None:
        """Copy now, and from now on."""
        self._thread.start()

    def stop(self, patience_s: float = 60.0) -> None:
        """Copy no more from the background."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def finish(self) -> None:
        """Copy for the last time, and let go of the run."""
        self.copy()
        if self.storage is not None:
            with suppress(OSError):
                self.storage.remove(OWNER)

    def copy(self) -> None:
        """Copy what has changed."""
        if self.storage is None:
            return
        try:
            self.storage.write(OWNER, json.dumps(me()).encode())
            for name in RECORD:
                self._copy(name, self.storage)
            self.problem = None
        except OSError as error:
            self.problem = str(error)

    def _live(self) -> None:
        while True:
            self.refresh()
            self.copy()
            if self._over.wait(self.PERIOD_S):
                return

    def _copy(self, name: str, storage: Storage) -> None:
        path = self.folder / name
        if not path.is_file():
            return
        content = path.read_bytes()
        if name == STUDY:
            content = content[: content.rfind(b"\n") + 1]  # the driver may be writing a line
        if name == SETTINGS:
            content = with_storage(content, None)
        if self._copied.get(name) != content:
            storage.write(name, content)
            self._copied[name] = content


def publish(folder: Path, storage: Storage) -> None:
    """Copy the result of a search to its storage: summary, report, models.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder)
            if name.parts[0] not in (*RECORD, RAY_FOLDER) and (len(name.parts) > 1 or name.suffix in _RESULT_SUFFIXES):
                storage.write(name.as_posix(), path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{storage.address}: cannot be written ({error}). The result lies in {folder}.") from None


_RESULT_SUFFIXES = {".json", ".npz", ".html"}


def bring_home(folder: Path, storage: Storage) -> None:
    """Before a search goes on: fetch its record from the storage, if it is not here or went on elsewhere meanwhile.

    Raises:
        ConfigError: A search writes there now, or both places went on since they parted.
    """
    try:
        theirs = storage.read(STUDY)
        if theirs is None:
            return
        _check_silent(storage)
        ours = (folder / STUDY).read_bytes() if (folder / STUDY).is_file() else b""
        ours = ours[: ours.rfind(b"\n") + 1]
        if ours.startswith(theirs):
            return
        if not theirs.startswith(ours):
            raise ConfigError(
                f"{folder}: since its last copy to {storage.address} both went on, here and elsewhere. "
                f"Move {folder} away to go on with the copy."
            )
        fetch(storage, folder)
    except OSError as error:
        raise ConfigError(f"{storage.address}: cannot be read ({error}). Check --storage.") from None


def check_unused(storage: Storage) -> None:
    """Whether no run lies where a new one is to begin: their checkpoints would mix.

    Raises:
        ConfigError: One does.
    """
    try:
        is_used = storage.read(SETTINGS) is not None
    except OSError as error:
        raise ConfigError(f"{storage.address}: cannot be read ({error}). Check --storage.") from None
    if is_used:
        raise ConfigError(f"{storage.address} exists already. Choose another --name, or go on with it by --resume.")


def _check_silent(storage: Storage) -> None:
    owner = storage.read(OWNER)
    age = storage.age(OWNER) if owner is not None else None
    if owner is None or age is None or age > SILENCE_S:
        return
    who: dict[str, Any] = json.loads(owner)
    if who == me() or is_gone(who):
        return
    raise ConfigError(
        f"{storage.address}: process {who.get('pid')} on {who.get('host')} searched here {age:.0f} s ago. "
        f"Stop it; if it is gone, wait until {SILENCE_S:.0f} s have passed."
    )
