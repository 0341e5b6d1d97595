"""Where checkpoints lie: a folder, or an address such as `s3://bucket/prefix`, that every node sees.

A checkpoint is named by its path below that place, `ray/<Ray's trial id>/checkpoint_000002`, so that a run folder may
be moved and resumed elsewhere.
"""

import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pyarrow import fs

from vadtune.errors import ConfigError

logger = logging.getLogger(__name__)
RAY_FOLDER = "ray"
T = TypeVar("T")
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
        """Whether a checkpoint is still there; what a study of strangers names elsewhere is none."""
        if not _is_below(checkpoint):
            return False
        filesystem, root = self._filesystem()
        info = _patiently(lambda: filesystem.get_file_info(f"{root}/{checkpoint}"))
        return bool(info.type != fs.FileType.NotFound)

    def delete(self, name: str) -> None:
        """Remove a checkpoint, a folder of them or a file; what is gone is no error, and what lies elsewhere stays."""
        if not _is_below(name):
            logger.warning("%r is no checkpoint of %s: left alone", name, self.address)
            return
        filesystem, root = self._filesystem()
        try:
            if filesystem.get_file_info(f"{root}/{name}").type == fs.FileType.File:
                filesystem.delete_file(f"{root}/{name}")
            else:
                filesystem.delete_dir(f"{root}/{name}")
        except FileNotFoundError:
            return

    @contextmanager
    def fetched(self, checkpoint: str) -> Iterator[Path]:
        """The folder of a checkpoint, downloaded for the time being if it lies elsewhere."""
        if not _is_below(checkpoint):
            raise ConfigError(f"{checkpoint!r} is no checkpoint of {self.address}. Take another trial.")
        filesystem, root = self._filesystem()
        if self.is_local:
            yield Path(root) / checkpoint
            return
        with tempfile.TemporaryDirectory() as folder:
            _patiently(lambda: fs.copy_files(f"{root}/{checkpoint}", folder, source_filesystem=filesystem))
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

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        filesystem, root = self._filesystem()

        def content() -> bytes:
            with filesystem.open_input_file(f"{root}/{name}") as file:
                return bytes(file.read())

        try:
            return _patiently(content)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        filesystem, root = self._filesystem()
        if self.is_local:
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_bytes(content)
            temporary.replace(path)
            return
        # An object appears when its upload is complete.
        stream = filesystem.open_output_stream(f"{root}/{name}", buffer_size=0)
        stream.write(content)
        stream.close()

    def age(self, name: str) -> float | None:
        """Seconds since a file was written, by the clock of the storage; None if there is none."""
        filesystem, root = self._filesystem()
        self.write(".clock", b"")
        then, now = filesystem.get_file_info([f"{root}/{name}", f"{root}/.clock"])
        self.remove(".clock")
        if then.mtime is None or now.mtime is None:
            return None
        return float((now.mtime - then.mtime).total_seconds())

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is no error."""
        filesystem, root = self._filesystem()
        try:
            filesystem.delete_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def _filesystem(self) -> tuple[Any, str]:
        if self.is_local:
            return fs.LocalFileSystem(), str(Path(self.address).absolute())
        return _connect(self.address)


def _is_below(name: str) -> bool:
    """Whether a name leads to something below `ray/`: a study can be written by anybody."""
    parts = PurePosixPath(name).parts
    return len(parts) > 1 and parts[0] == RAY_FOLDER and ".." not in parts and "\0" not in name


def _patiently(call: Callable[[], T], n_tries: int = 5) -> T:
    """The result of a request, made again after an error: of what fails when reading, pyarrow repeats only a part."""
    for seconds in [0.2 * 2**number for number in range(n_tries - 1)]:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(seconds)
    return call()


@cache
def _connect(address: str) -> tuple[Any, str]:
    """Once a process: to open an address of S3 asks which region its bucket is in."""
    filesystem, root = fs.FileSystem.from_uri(address)
    return filesystem, root.rstrip("/")


def check_no_credentials(address: str) -> None:
    """Refuse an address that holds credentials: they would end up in files.

    Raises:
        ConfigError: It does.
    """
    if _CREDENTIALS.search(address):
        raise ConfigError(
            "--storage: the address holds credentials, which would end up in files of the run. "
            "Give them by the environment or an instance role."
        )


def open_storage(address: str) -> Storage:
    """The storage at an address.

    Raises:
        ConfigError: The address holds credentials, or is none that pyarrow knows.
    """
    check_no_credentials(address)
    storage = Storage(address if "://" in address else str(Path(address).absolute()))
    try:
        storage._filesystem()
    except (ValueError, OSError, NotImplementedError) as error:
        raise ConfigError(f"--storage {address}: {error}. Give a folder, or s3://BUCKET/PREFIX.") from None
    return storage


def orphans(storage: Storage, needed: Set[str]) -> list[str]:
    """What sessions left below `ray/`: checkpoints that no trial names, and Ray's state: pickle that nobody reads.

    Args:
        storage: Where to look.
        needed: The checkpoints to keep.

    Returns:
        Names below the storage; a folder of which nothing is needed stands for all in it.
    """
    filesystem, root = storage._filesystem()
    selector = fs.FileSelector(f"{root}/{RAY_FOLDER}", allow_not_found=True, recursive=True)
    found = [PurePosixPath(info.path).relative_to(root).parts for info in filesystem.get_file_info(selector)]
    # ray/FILE, ray/TRIAL, ray/TRIAL/checkpoint_000002: an object store need not name the folders.
    tops = {parts[:2] for parts in found}
    inner = {parts[:3] for parts in found if len(parts) > 2 and parts[2].startswith("checkpoint_")}
    keep = {PurePosixPath(name).parts for name in needed}
    keep |= {parts[:2] for parts in keep & inner}
    gone = (tops - keep) | {parts for parts in inner - keep if parts[:2] in keep}
    return sorted("/".join(parts) for parts in gone)


class Sweeper:
    """Deletes checkpoints in the background: on a slow storage, the search would wait for every one.

    Args:
        storage: Where they lie.
        n_threads: How many requests at once.
    """

    def __init__(self, storage: Storage, n_threads: int = 4) -> None:
        self.storage = storage
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="vadtune-sweeper")
        self._waiting: set[Future[None]] = set()

    def exists(self, checkpoint: str) -> bool:
        """Whether a checkpoint is still there."""
        return self.storage.exists(checkpoint)

    def delete(self, checkpoint: str) -> None:
        """Begin to remove a checkpoint, or whatever `orphans` names."""
        future = self._pool.submit(self._delete, checkpoint)
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

    def close(self, patience_s: float) -> None:
        """Wait until all is deleted, or some seconds; what is left is found by the next session."""
        wait(set(self._waiting), timeout=patience_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _delete(self, name: str) -> None:
        try:
            self.storage.delete(name)
        except OSError as error:
            # An orphan costs a little space, and the next session looks for them.
            logger.info("%s/%s is not deleted: %s", self.storage.address, name, error)
