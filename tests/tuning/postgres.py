"""A PostgreSQL server on loopback that asks for a password, for as long as tests need it."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

PASSWORD = "of-the-tests"


def programs() -> Path:
    """The folder of initdb and pg_ctl; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


@contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database, without its password."""
    binaries = programs()
    # It refuses to run as root, and cannot enter the folders of root.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="vadtune-pg-"))
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "-D", str(folder / "data"), *arguments]
        with (folder / "output").open("a") as output:
            done = subprocess.run(
                command, user=user, cwd=folder, stdout=output, stderr=output, timeout=PATIENCE_S, check=False
            )
        assert done.returncode == 0, (folder / "output").read_text(encoding="utf-8")

    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    try:
        run("initdb", "--auth=scram-sha-256", "--username=vad", f"--pwfile={folder / 'password'}", "--no-sync")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://vad@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], user=user, check=False)
        shutil.rmtree(folder)
