"""`python -m vadtune.search … --address ray://HOST:PORT`: the command runs on the cluster, and is watched from here."""

import argparse
import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from vadtune import cli
from vadtune.errors import ConfigError, DataError, NoUsableTrial
from vadtune.result import sentences
from vadtune.run_folder import check_new, named_folder, resume_command
from vadtune.search_flags import parser
from vadtune.settings import Nested, read_json

if TYPE_CHECKING:
    from vadtune.tuning.client import Remote

MAX_SENT = 2 * 10**9  # bytes of all files
POLL_S = 0.25
# How a search ends that leaves a run to look at.
WITH_RUN = (0, NoUsableTrial.exit_code, cli.INTERRUPTED)


def watch(args: argparse.Namespace, arguments: list[str], command: str) -> int:
    """Search on the cluster, or come back to a search there; returns the exit code.

    Raises:
        ConfigError: Something is wrong that can be known before the search starts, or the result cannot be written.
        ClusterLost: The connection is lost; the search goes on.
    """
    from vadtune.data.storage import check_no_credentials
    from vadtune.tuning.client import connected
    from vadtune.tuning.preflight import check_folder

    if args.storage is not None:
        check_no_credentials(args.storage)
    if args.storage_url is not None:
        # Its password would have to lie on the cluster, for a driver that nobody put there.
        raise ConfigError(f"--storage-url with --address {args.address}: start the search on a machine of the cluster.")
    if args.warm_start:
        raise ConfigError(
            f"--warm-start with --address {args.address}: the run is not there. Start the search on a machine of the "
            "cluster that has it."
        )
    folder = named_folder(args)
    check_new(folder, args)
    check_folder(folder.parent)
    words, files = sent(args, arguments)
    with connected(args.address, with_code=args.ship_code):
        remote, is_new = _begin(args, folder.name, command, words, files)
        host, _, there = remote.ask("about")[1].partition(":")
        cli.say(f"run folder: {there} on {host}, and here when it is over: {folder}")
        code = _relay(remote, is_new=is_new)
        document = _bring(remote, folder) if code in WITH_RUN else None
        remote.end()
    if document is not None:
        unit = read_json(folder / "settings.json")["dataset"]["unit"]
        cli.show_json(document) if args.json else cli.show(sentences(document, folder, unit))
    return code


def sent(args: argparse.Namespace, arguments: list[str]) -> tuple[list[str], dict[str, Path]]:
    """What the command says on the cluster, and the files that go there with it, by their names there.

    Raises:
        ConfigError: They are too large.
        DataError: There is no such table.
    """
    from vadtune.data.datasets import NAMES, stored_file
    from vadtune.data.files import suffix

    files: dict[str, Path] = {}
    # Of equal words one is the table: argparse hands on the very object.
    words = [_Word(word) for word in arguments]
    dataset = parser().parse_args(words).dataset
    here = Path(os.path.expanduser(dataset))  # noqa: PTH111  (pathlib's raises for a user that is not there)
    is_named = dataset.partition(":")[0] in NAMES or stored_file(dataset, args.data_dir)
    if not (is_named or here.is_file() or here.is_absolute()) and suffix(here):
        raise DataError(f"{dataset}: no such file. Check the path (the folder is {Path.cwd()}).")
    if here.is_file() and not is_named:
        words = [_Word(_name_there(here)) if word is dataset else word for word in words if word != "--"]
        files = {_name_there(here) + end: Path(f"{here}{end}") for end in ("", ".toml")}
    if args.space is not None and Path(args.space).is_file():
        space = f"space/{_safe(Path(args.space).name)}"
        words += [_Word("--space"), _Word(space)]
        files[space] = Path(args.space)
    files = {name: path for name, path in files.items() if path.is_file()}
    size = sum(path.stat().st_size for path in files.values())
    if size > MAX_SENT:
        raise ConfigError(
            f"{here}: {size / 1e9:.1f} GB are too much to send. Put it on storage that the cluster sees, and start the "
            "search on a machine of the cluster."
        )
    return [str(word) for word in words], files


class _Word(str):
    """A word of a command, told from an equal one by its identity."""

    __slots__ = ()


def _name_there(path: Path) -> str:
    """The path of a table below the command's working folder: the same as here, if it lies below ours."""
    is_below = not path.is_absolute() and ".." not in path.parts
    return "/".join(_safe(part) for part in (path.parts if is_below else path.parts[-1:]))


def _safe(name: str) -> str:
    """A file name that no program takes for anything else."""
    return re.sub(r"[^\w .+()-]", "_", name).lstrip("-.")[-100:] or "_"


def _begin(
    args: argparse.Namespace, name: str, command: str, words: list[str], files: dict[str, Path]
) -> tuple["Remote", bool]:
    """The search, and whether it was started just now."""
    from vadtune.tuning.client import create, find

    again = resume_command(command, name)
    remote = find(name, again)
    if remote is not None and not args.resume:
        raise ConfigError(f"--name {name}: such a search is on the cluster already. Watch it by: {again}")
    if remote is not None and remote.ask("status") in (None, 0):
        return remote, False
    if remote is not None:
        remote.end()
    remote = create(name, again)
    try:
        for there, path in files.items():
            remote.send(path, there)
        folders = {"--data-dir": str(args.data_dir)}
        if args.storage is not None and "://" not in args.storage:
            folders["--storage"] = args.storage
        remote.ask("start", [*words, "--name", name, "--json", "--watched-by", command], folders)
    except BaseException:
        remote.end()
        raise
    return remote, True


def _relay(remote: "Remote", *, is_new: bool) -> int:
    """Say what the search says, until it ends; returns its exit code."""
    offset, pending, code = 0 if is_new else None, b"", None
    with _Interrupts(remote) as interrupts:
        while code is None:
            interrupts.pass_on()
            begin, text, code = remote.ask("heard", offset)
            offset = begin + len(text)
            *lines, pending = (pending + text).split(b"\n")
            cli.say(*(line.decode(errors="replace") for line in lines))
            if not text:
                time.sleep(POLL_S)
    if code < 0:
        cli.say(f"the search was killed by signal {-code}; go on by: {remote.command}")
    return code if code >= 0 else 1


class _Interrupts:
    """Of signals that ask to stop, the first is passed on to the search, and the second ends this process."""

    def __init__(self, remote: "Remote") -> None:
        self.remote = remote
        self.is_heard = self.is_passed_on = False

    def pass_on(self) -> None:
        """Tell the search to stop, if it is to and was not told yet."""
        if self.is_heard and not self.is_passed_on:
            self.remote.ask("interrupt")
            self.is_passed_on = True

    def _hear(self, number: int, frame: object) -> None:  # noqa: ARG002
        if self.is_heard:
            does = "saves and ends" if self.is_passed_on else "goes on"
            cli.say(f"left; the search on the cluster {does}. Go on by: {self.remote.command}")
            # The connection may be lost: Ray would say goodbye to it for half a minute.
            os._exit(cli.INTERRUPTED)
        self.is_heard = True

    def __enter__(self) -> "_Interrupts":
        self.before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _bring(remote: "Remote", folder: Path) -> Nested | None:
    """Fetch the run folder; returns the result with the paths that it has here, if there is one.

    Raises:
        ConfigError: It cannot be written here, or another run lies there.
    """
    from vadtune.tuning.client import fetch, unpack
    from vadtune.tuning.record import write_json

    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            archive, made = Path(temporary, "run.tar"), Path(temporary, "run")
            made.mkdir()
            fetch(remote, archive)
            unpack(archive, made)
            _check_same_run(made, folder, remote.command)
            _put_in_place(made, folder)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written ({error}). Make space, and fetch it by: {remote.command}"
        ) from None
    except KeyboardInterrupt:
        cli.say(f"left; fetch the run by: {remote.command}")
        raise
    text = remote.ask("document")
    if not text:
        return None
    document: Nested = json.loads(text)
    artifact = PurePath(document["best"]["artifact"]).relative_to(document["run"])
    document["run"], document["best"]["artifact"] = str(folder), str(folder / artifact)
    write_json(folder / "summary.json", document)
    return document


def _check_same_run(made: Path, folder: Path, command: str) -> None:
    """Refuse to replace a run by another of its name: the study of the same one has only grown."""
    ours, theirs = folder / "study.log", made / "study.log"
    if ours.is_file() and not (theirs.is_file() and theirs.read_bytes().startswith(ours.read_bytes())):
        raise ConfigError(
            f"{folder}: not the run of that name on the cluster. Move it away, and fetch that by: {command}"
        )


def _put_in_place(made: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in made.iterdir():
        target = folder / path.name
        if target.is_dir() and not target.is_symlink():
            target.rename(made.with_name(f"old-{path.name}"))
        path.replace(target)
