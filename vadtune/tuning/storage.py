"""Where checkpoints lie: a folder, or an address such as `s3://bucket/prefix`, that every node sees.

A checkpoint is named by its path below that place, `ray/<Ray's trial id>/checkpoint_000002`, so that a run folder may
be moved and resumed elsewhere.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from vadtune.errors import ConfigError

RAY_FOLDER = "ray"
_CREDENTIALS = re.compile(
    r"^[a-z0-9+.-]+://[^/@]*@|[?&][^=]*(secret|password|token|access_key|signature)[^=]*=", re.IGNORECASE
)


@dataclass(frozen=True)
class Storage:
    """The place of all checkpoints of a run.

    Attributes:
        address: An absolute folder, or an address with a scheme; without credentials.
    """

    address: str

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, or mounted there."""
        return "://" not in self.address

    def relative(self, path: str) -> str:
        """The name of a checkpoint, from the path that Ray knows it by."""
        _, root = self._filesystem()
        return str(PurePosixPath(path).relative_to(root))

    def exists(self, checkpoint: str) -> bool:
        """Whether a checkpoint is still there."""
        filesystem, root = self._filesystem()
        return bool(filesystem.get_file_info(f"{root}/{checkpoint}").type != fs.FileType.NotFound)

    def delete(self, checkpoint: str) -> None:
        """Remove a checkpoint; one that is gone is no error."""
        filesystem, root = self._filesystem()
        try:
            filesystem.delete_dir(f"{root}/{checkpoint}")
        except FileNotFoundError:
            return

    @contextmanager
    def fetched(self, checkpoint: str) -> Iterator[Path]:
        """The folder of a checkpoint, downloaded for the time being if it lies elsewhere."""
        filesystem, root = self._filesystem()
        if self.is_local:
            yield Path(root) / checkpoint
            return
        with tempfile.TemporaryDirectory() as folder:
            fs.copy_files(f"{root}/{checkpoint}", folder, source_filesystem=filesystem)
            yield Path(folder)

    def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            ConfigError: The place cannot be written.
        """
        filesystem, root = self._filesystem()
        try:
            filesystem.create_dir(f"{root}/{RAY_FOLDER}", recursive=True)
            probe = f"{root}/{RAY_FOLDER}/.probe"
            with filesystem.open_output_stream(probe) as stream:
                stream.write(b"probe")
            filesystem.delete_file(probe)
        except OSError as error:
            hint = "Give another --runs or --storage."
            raise ConfigError(f"{self.address}: cannot be written ({error}). {hint}") from None

    def _filesystem(self) -> tuple[Any, str]:
        if self.is_local:
            return fs.LocalFileSystem(), str(Path(self.address).absolute())
        return fs.FileSystem.from_uri(self.address)  # type: ignore[no-any-return]


def open_storage(address: str) -> Storage:
    """The storage at an address.

    Raises:
        ConfigError: The address holds credentials (they would end up in files), or is none that pyarrow knows.
    """
    if _CREDENTIALS.search(address):
        raise ConfigError(
            "--storage: the address holds credentials, which would end up in files of the run. "
            "Give them by the environment or an instance role."
        )
    storage = Storage(address if "://" in address else str(Path(address).absolute()))
    try:
        storage._filesystem()
    except (ValueError, OSError, NotImplementedError) as error:
        raise ConfigError(f"--storage {address}: {error}. Give a folder, or s3://BUCKET/PREFIX.") from None
    return storage


def tidy(storage: Storage, needed: Set[str]) -> None:
    """Remove what sessions left behind, in a folder: Ray's state, which is pickle and never read, and old checkpoints.

    Args:
        storage: Where to look; an address is left alone.
        needed: The checkpoints to keep.
    """
    root = Path(storage.address) / RAY_FOLDER
    if not storage.is_local or not root.is_dir():
        return
    for path in root.iterdir():
        if path.is_file():
            path.unlink()
            continue
        for checkpoint in path.glob("checkpoint_*"):
            if f"{RAY_FOLDER}/{path.name}/{checkpoint.name}" not in needed:
                shutil.rmtree(checkpoint, ignore_errors=True)
        if not any(path.glob("checkpoint_*")):
            shutil.rmtree(path, ignore_errors=True)
