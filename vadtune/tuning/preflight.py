"""What can be known before the first trial starts: names, disk, resources, storage."""

import os
import re
from pathlib import Path
from typing import Any

from vadtune.errors import ConfigError
from vadtune.tuning.storage import Storage

MAX_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


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
        probe.write_bytes(b"probe")
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{folder}: cannot be written ({reason}). Give another --runs, or free some space.") from None


def check_local_cpus(cpus_per_trial: float) -> None:
    """Whether one trial fits this machine; before Ray is started.

    Raises:
        ConfigError: It does not.
    """
    n_cpus = os.cpu_count() or 1
    if cpus_per_trial > n_cpus:
        raise ConfigError(f"--cpus-per-trial {cpus_per_trial:g}: this machine has {n_cpus} CPUs. Ask for fewer.")


def check_resources(nodes: list[dict[str, Any]], cpus_per_trial: float, gpus_per_trial: float) -> None:
    """Whether one trial fits on some node.

    Args:
        nodes: What `ray.nodes()` says.
        cpus_per_trial: CPUs, or a share of one.
        gpus_per_trial: GPUs, or a share of one.

    Raises:
        ConfigError: No node is large enough.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    wanted = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
    for kind, flag in (("CPU", "--cpus-per-trial"), ("GPU", "--gpus-per-trial")):
        most = max((float(resource.get(kind, 0.0)) for resource in resources), default=0.0)
        if wanted[kind] > most:
            raise ConfigError(f"{flag} {wanted[kind]:g}: the largest node has {most:g} {kind}s. Ask for fewer.")
    if not any(n_fitting(resource, cpus_per_trial, gpus_per_trial) for resource in resources):
        raise ConfigError(
            f"--cpus-per-trial {cpus_per_trial:g} --gpus-per-trial {gpus_per_trial:g}: no node has both. Ask for fewer."
        )


def n_fitting(resources: dict[str, float], cpus_per_trial: float, gpus_per_trial: float) -> int:
    """How many trials fit on a node."""
    shares = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
    # A tenth of a CPU fits ten times, whatever binary fractions say.
    return min(int(resources.get(kind, 0.0) / share + 1e-9) for kind, share in shares.items() if share > 0)


def check_shared(storage: Storage, nodes: list[dict[str, Any]]) -> None:
    """Whether every node sees the storage.

    Raises:
        ConfigError: Some node does not see a file that was written here.
    """
    alive = [node for node in nodes if node["Alive"]]
    if len(alive) < 2 or not storage.is_local:
        return
    probe = Path(storage.address) / "ray" / f".probe{os.getpid()}"
    probe.write_bytes(b"probe")
    try:
        blind = nodes_without(str(probe), alive)
    finally:
        probe.unlink()
    if blind:
        raise ConfigError(
            f"{storage.address}: not seen by {', '.join(blind)}. "
            "Give --storage a folder that all nodes share, or s3://BUCKET/PREFIX."
        )


def nodes_without(path: str, nodes: list[dict[str, Any]]) -> list[str]:
    """The addresses of the nodes that do not see a path."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    exists = ray.remote(num_cpus=0)(os.path.exists)
    seen = [
        exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(path)
        for node in nodes
    ]
    answers: list[bool] = ray.get(seen, timeout=60)
    return [node["NodeManagerAddress"] for node, sees in zip(nodes, answers, strict=True) if not sees]
