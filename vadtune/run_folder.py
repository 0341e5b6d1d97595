"""The folder that a search writes: what it is called, whether it may be written, which command goes on with it."""

import argparse
import shlex
from datetime import datetime
from pathlib import Path

from vadtune.errors import ConfigError


def run_folder(args: argparse.Namespace) -> Path:
    """The run's folder: new, or of the run to resume.

    Raises:
        ConfigError: It exists and is not to be resumed, or the other way round.
    """
    folder = named_folder(args)
    if args.storage and args.storage_url is None:
        from vadtune.data.storage import open_storage
        from vadtune.tuning.mirror import bring_home, check_unused

        storage = open_storage(storage_address(args.storage, folder))
        if args.resume:
            bring_home(folder, storage)
        else:
            check_unused(storage)
    if args.resume and not (folder / "settings.json").exists() and args.storage_url is None:
        raise ConfigError(f"--resume: {folder} is not a run. Check --runs and --name.")
    check_new(folder, args)
    return folder


def named_folder(args: argparse.Namespace) -> Path:
    """Where the flags say that the run lies, or is to lie.

    Raises:
        ConfigError: A name that is not safe, or none of a run to resume.
    """
    from vadtune.tuning.preflight import check_run_name

    if args.resume and args.name is None:
        raise ConfigError("--resume: say which run with --name.")
    stem = Path(args.dataset.partition(":")[0]).name.partition(".")[0]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem)[:40].strip("_-") or "table"
    default = f"{safe}-{args.model}-{datetime.now():%Y%m%d-%H%M%S}"
    folder: Path = args.runs / check_run_name(args.name if args.name is not None else default)
    return folder.absolute()


def check_new(folder: Path, args: argparse.Namespace) -> None:
    """Whether a run that is not to be resumed begins in a folder of its own.

    Raises:
        ConfigError: Something lies there.
    """
    if not args.resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists already. Choose another --name, or go on with it by --resume.")


def storage_address(storage: str | None, folder: Path) -> str:
    """Where a run's checkpoints go: below `--storage` under the run's name, or into its folder."""
    return f"{storage.rstrip('/')}/{folder.name}" if storage else str(folder)


def resume_command(command: str, name: str) -> str:
    """The command that goes on with a run."""
    words = shlex.split(command)
    if "--name" not in words and not any(word.startswith("--name=") for word in words):
        words += ["--name", name]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])
