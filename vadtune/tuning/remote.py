"""The half of a search by `--address ray://…` that runs on the cluster: an actor, and the command as its child.

It imports nothing heavy, for it waits on the head of the cluster and takes no trial's place.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import vadtune

PART = 4 * 2**20  # bytes that travel at once
TAIL = 4000  # bytes of what was said that whoever comes back hears again
KEEP_S = 24 * 3600.0  # how long the end of a search that nobody watches any more is remembered
# What a run folder holds for the search alone.
NOT_FETCHED = {"ray", "search.lock"}
# Ray's own for its workers; the command sets its threads itself.
OF_WORKERS = {"OMP_NUM_THREADS"}


class RemoteSearch:
    """`python -m vadtune.search` on a node of the cluster; it goes on whoever watches.

    Args:
        name: Of the run; its folder is `~/runs/NAME`.
    """

    def __init__(self, name: str) -> None:
        self.folder = Path.home() / "runs" / name
        self.desk = Path(tempfile.mkdtemp(prefix="vadtune-"))
        # The command's working folder: a table keeps the path that it has where the user sits.
        (self.desk / "files").mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def about(self) -> tuple[str, str]:
        """The version of vadtune here, and where the run lies: `HOST:FOLDER`."""
        return vadtune.__version__, f"{socket.gethostname()}:{self.folder}"

    def receive(self, name: str, part: bytes) -> None:
        """Add to a file that the command reads."""
        path = self.desk / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(part)

    def start(self, arguments: Sequence[str], folders: Mapping[str, str]) -> None:
        """Begin the command.

        Args:
            arguments: Without `--address`.
            folders: Flags that name a folder, each below the home of whoever started Ray here, or absolute.
        """
        import ray

        words = [*arguments, "--address", ray.get_runtime_context().gcs_address, "--runs", str(self.folder.parent)]
        for flag, folder in folders.items():
            words += [flag, str(Path.home() / folder)]
        with (self.desk / "stdout").open("wb") as output, (self.desk / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vadtune.search", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=self.desk / "files",
                env={name: value for name, value in os.environ.items() if name not in OF_WORKERS},
                start_new_session=True,
            )
        threading.Thread(target=self._expire, args=(self.process,), daemon=True).start()

    def status(self) -> int | None:
        """The command's exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def heard(self, offset: int | None) -> tuple[int, bytes, int | None]:
        """What the command said on stderr, and its exit code once that was all.

        Args:
            offset: Where to begin; None: shortly before the end.

        Returns:
            Where it begins, the bytes from there, the exit code.
        """
        code, path = self.status(), self.desk / "stderr"
        if offset is None:
            offset = max(0, path.stat().st_size - TAIL)
        text = _part(path, offset)
        return offset, text, None if text else code

    def interrupt(self) -> None:
        """Tell the command to save and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def document(self) -> bytes:
        """The result as the command printed it: JSON, or nothing if there is none."""
        return (self.desk / "stdout").read_bytes()

    def pack(self) -> int:
        """Put the run folder into an archive; its size in bytes."""
        with tarfile.open(self.desk / "run.tar", "w") as archive:
            for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
                if path.name not in NOT_FETCHED and not path.name.startswith("."):
                    archive.add(path, path.name)
        return (self.desk / "run.tar").stat().st_size

    def part(self, offset: int) -> bytes:
        """A piece of the archive."""
        return _part(self.desk / "run.tar", offset)

    def leave(self) -> None:
        """Remove what only the command and the way here needed; the run folder stays."""
        shutil.rmtree(self.desk, ignore_errors=True)

    def _expire(self, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        time.sleep(KEEP_S)
        self.leave()
        os._exit(0)


def _part(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PART)
