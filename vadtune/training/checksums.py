"""The checksums of a folder's files: noted when it is written, compared before anything in it is believed."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from vadtune.errors import ArtifactError

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Note the checksum of every file in the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS and path.is_file())
    sums = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def verify(folder: Path, files: Collection[str]) -> None:
    """Compare every file with its checksum.

    Args:
        folder: Of an exported model.
        files: Names that have to be there; others may.

    Raises:
        ArtifactError: There are no checksums; or a file is missing, cannot be read, or differs.
    """
    if not (folder / SUMS).is_file():
        raise ArtifactError(f"{folder}: not an exported model, it has no {SUMS}. Give the folder best/ of a run.")
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {Path(name).name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    if "" in sums:
        raise ArtifactError(f"{folder / SUMS}: not a list of checksums. Export the model again.")
    for name in sums.keys() | set(files):
        path = folder / name
        try:
            found = sha256(path) if path.is_file() else None
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}. Export the model again.") from None
        if found is None:
            raise ArtifactError(f"{path}: missing, though {SUMS} lists it. Export the model again.")
        if found != sums.get(name):
            raise ArtifactError(f"{path}: its checksum is not the one in {SUMS}. Export the model again.")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
