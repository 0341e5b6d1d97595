"""What can be known before the first trial starts: names, disk, resources, storage."""

import os
import platform
import pwd
import re
import secrets
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from vadtune import __version__
from vadtune.data.storage import RAY_FOLDER, Storage
from vadtune.errors import ConfigError
from vadtune.tuning.autoscaling import WorkerType

MAX_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_FILES = "settings.json summary.json study.log trials.csv evaluation.npz report.html"
_LEFTOVER = re.compile(rf"\.probe\d+|\.(best|\d+)-.+|\.({'|'.join(map(re.escape, _FILES.split()))})\..+")


def check_run_name(name: str) -> str:
    """A run name that stays inside its folder, and in every file system and address.

    Raises:
        ConfigError: It does not.
    """
    if len(name) > MAX_NAME:
        raise ConfigError(f"--name {name[:20]!r}…: {len(name)} characters; at most {MAX_NAME} are allowed.")
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(f"--name {name!r}: use letters, digits and . _ + - only, beginning with a letter or digit.")
    return name


def check_folder(folder: Path) -> None:
    """Make a folder, and check that it can be written.

    Raises:
        ConfigError: It cannot.
    """
    probe = folder / f".probe{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"probe")
        finally:
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{folder}: cannot be written ({reason}). Give another --runs, or free some space.") from None


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed search was writing beside the files of its run; the folder must be owned."""
    for left in [*folder.glob(".*"), *folder.glob("top/.*")]:
        if not _LEFTOVER.fullmatch(left.name):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def foreign_owner(folder: Path) -> str | None:
    """Who else owns a run that is to be gone on with, or the record in it; None if it is whoever asks."""
    paths = [folder, *(folder / name for name in ("settings.json", "study.log", RAY_FOLDER))]
    uids = [path.lstat().st_uid for path in paths if path.is_symlink() or path.exists()]
    other = next((uid for uid in uids if uid != os.geteuid()), None)
    if other is None:
        return None
    try:
        return pwd.getpwuid(other).pw_name
    except KeyError:
        return f"user {other}"


def check_local_cpus(cpus_per_trial: float) -> None:
    """Whether one trial fits this machine; before Ray is started.

    Raises:
        ConfigError: It does not.
    """
    n_cpus = os.cpu_count() or 1
    if cpus_per_trial > n_cpus:
        raise ConfigError(f"--cpus-per-trial {cpus_per_trial:g}: this machine has {n_cpus} CPUs. Ask for fewer.")


def fills_machine(n_trials: int | None, concurrent: int | None, cpus_per_trial: float, gpus_per_trial: float) -> bool:
    """Whether each CPU of this machine will have a trial of its own."""
    n_cpus = os.cpu_count() or 1
    most = min((n for n in (n_trials, concurrent) if n is not None), default=n_cpus)
    return most >= n_cpus and cpus_per_trial == 1 and not gpus_per_trial


def check_resources(
    nodes: list[dict[str, Any]],
    cpus_per_trial: float,
    gpus_per_trial: float,
    launchable: tuple[WorkerType, ...] | None = None,
) -> None:
    """Whether one trial fits on some node, or on one that the autoscaler can start.

    Args:
        nodes: What `ray.nodes()` says.
        cpus_per_trial: CPUs, or a share of one.
        gpus_per_trial: GPUs, or a share of one.
        launchable: See `autoscaling.worker_types`.

    Raises:
        ConfigError: No node is large enough, and none will be.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if any(n_fitting(resource, cpus_per_trial, gpus_per_trial) for resource in resources):
        return
    if launchable is not None:
        resources += [kind.resources for kind in launchable]
        # What only the cloud knows shows when a worker comes.
        if not all(kind.resources for kind in launchable) or not launchable:
            return
        if any(n_fitting(kind.resources, cpus_per_trial, gpus_per_trial) for kind in launchable):
            return
    which = "node" if launchable is None else "node or worker type"
    wanted = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
    for kind, flag in (("CPU", "--cpus-per-trial"), ("GPU", "--gpus-per-trial")):
        most = max((float(resource.get(kind, 0.0)) for resource in resources), default=0.0)
        if wanted[kind] > most:
            raise ConfigError(f"{flag} {wanted[kind]:g}: the largest {which} has {most:g} {kind}s. Ask for fewer.")
    raise ConfigError(
        f"--cpus-per-trial {cpus_per_trial:g} --gpus-per-trial {gpus_per_trial:g}: no {which} has both. Ask for fewer."
    )


def n_fitting(resources: dict[str, float], cpus_per_trial: float, gpus_per_trial: float) -> int:
    """How many trials fit on a node."""
    shares = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
    # A tenth of a CPU fits ten times, whatever binary fractions say.
    return min(int(resources.get(kind, 0.0) / share + 1e-9) for kind, share in shares.items() if share > 0)


def check_nodes(storage: Storage, nodes: list[dict[str, Any]]) -> None:
    """Whether every node has the versions of this one, and reads and writes the storage.

    Raises:
        ConfigError: Some node does not; names it.
    """
    alive = [node for node in nodes if node["Alive"]]
    if len(alive) < 2:
        return
    probe = f"{RAY_FOLDER}/.probe-{secrets.token_hex(4)}"
    storage.write(probe, b"probe")
    try:
        answers = ask_nodes(storage, probe, alive)
    finally:
        storage.remove(probe)
    judge(answers, node_versions())


Answers = dict[str, tuple[dict[str, str], str]]


def judge(answers: Answers, here: dict[str, str]) -> None:
    """Refuse nodes of other versions, and those that cannot use the storage.

    Raises:
        ConfigError: Names the first such node.
    """
    for node, (there, problem) in answers.items():
        different = [
            f"{name} {there.get(name)} instead of {here[name]}" for name in here if there.get(name) != here[name]
        ]
        if there and different:
            raise ConfigError(f"{node} has {', '.join(different)}: install the same versions on all nodes.")
        if problem:
            raise ConfigError(problem)


def ask_nodes(storage: Storage, probe: str, nodes: list[dict[str, Any]]) -> Answers:
    """What `inspect_node` says on each node, by its address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    inspect = ray.remote(num_cpus=0, max_retries=0)(inspect_node)
    asked = [
        inspect.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            node["NodeManagerAddress"], storage, probe
        )
        for node in nodes
    ]
    answers: Answers = {}
    for node, answer in zip(nodes, asked, strict=True):
        name = node["NodeManagerAddress"]
        try:
            answers[name] = ray.get(answer, timeout=60)
        except ray.exceptions.RayError as error:
            if not _is_alive(node["NodeID"]):
                continue  # it went away meanwhile: no trial will run there
            said = str(error).strip().splitlines()[-1]
            hint = "Install vadtune on all nodes, or send this one's with --ship-code."
            answers[name] = ({}, f"{name} runs nothing of vadtune ({said}). {hint}")
    return answers


def _is_alive(node_id: str) -> bool:
    import ray

    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)  # type: ignore[no-untyped-call]


def inspect_node(name: str, storage: Storage, probe: str) -> tuple[dict[str, str], str]:
    """The versions of a node, and what is wrong with the storage as seen from there."""
    hint = "Give --storage a folder that all nodes share, or s3://BUCKET/PREFIX."
    mine = f"{probe}-{secrets.token_hex(4)}"
    problem = ""
    try:
        if storage.read(probe) is None:
            problem = f"{storage.address}: not seen by {name}. {hint}"
        else:
            storage.write(mine, b"probe")
            storage.remove(mine)
    except OSError as error:
        problem = f"{storage.address}: cannot be used from {name} ({error}). {hint}"
    return node_versions(), problem


def node_versions() -> dict[str, str]:
    """Versions of all that a trial's result or its checkpoint depends on, without importing it."""
    packages = {package: metadata.version(package) for package in ("numpy", "ray", "torch")}
    return {"vadtune": __version__, "python": platform.python_version()} | packages
