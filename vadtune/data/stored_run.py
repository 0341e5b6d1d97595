"""The record of a run, brought from its storage to a machine that reads it."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vadtune.data.storage import Storage, open_storage
from vadtune.errors import ArtifactError, ConfigError

STUDY, SETTINGS = "study.log", "settings.json"
RECORD = (SETTINGS, STUDY, "trials.csv")
RESULT = ("summary.json", "evaluation.npz")


def fetch(storage: Storage, folder: Path) -> None:
    """Copy the record of a run from its storage into a folder.

    Raises:
        ArtifactError: There is no run.
    """
    here = Storage(str(folder))
    settings = storage.read(SETTINGS)
    if settings is None:
        raise ArtifactError(f"{storage.address}: not a run, it has no settings.json. Give --storage and name of a run.")
    for name in (STUDY, "trials.csv", *RESULT):
        content = storage.read(name)
        if content is not None:
            here.write(name, content)
    # Last: a folder without settings is no run yet.
    here.write(SETTINGS, with_storage(settings, storage.address))


@contextmanager
def local_copy(run: str) -> Iterator[Path]:
    """The folder of a run; for the time being, if the run is given by the address of its storage.

    Raises:
        ConfigError: The address cannot be read.
    """
    if "://" not in run:
        yield Path(run)
        return
    storage = open_storage(run)
    with tempfile.TemporaryDirectory(prefix="vadtune-run-") as temporary:
        folder = Path(temporary) / PurePosixPath(run).name
        try:
            fetch(storage, folder)
        except OSError as error:
            raise ConfigError(f"{run}: cannot be read ({error}).") from None
        yield folder


def with_storage(settings: bytes, address: str | None) -> bytes:
    """Settings that say where the checkpoints are; None: beside them."""
    values = json.loads(settings)
    values["search"]["storage"] = address
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
