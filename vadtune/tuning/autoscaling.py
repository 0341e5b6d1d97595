"""Workers that are not there yet: what Ray's autoscaler on this machine may start."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_FLAG = "--autoscaling-config="


@dataclass(frozen=True)
class WorkerType:
    """A kind of node that the autoscaler starts.

    Attributes:
        resources: What one has, as Ray counts it (`CPU`, `GPU`); empty if only the cloud knows.
        max_workers: How many there may be.
    """

    name: str
    resources: dict[str, float]
    max_workers: int


def worker_types() -> tuple[WorkerType, ...] | None:
    """What can be started; empty if there is an autoscaler that does not say, None if there is none.

    Ray's processes do not tell each other: on the head, `ray up` leaves a file that its monitor was started with.
    """
    path = _monitor_config(psutil.process_iter())
    if path is not None:
        return read_types(path)
    # KubeRay's operator runs the autoscaler in a container of its own, and Ray without its own monitor.
    return () if "--no-monitor" in os.environ.get("KUBERAY_GEN_RAY_START_CMD", "") else None


def read_types(path: Path) -> tuple[WorkerType, ...] | None:
    """The worker types of a cluster file as `ray up` copies it to the head, the cloud's answers filled in.

    Returns:
        None if the machines are those that are listed, and no others can come.
    """
    import yaml

    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return ()
    if (config.get("provider") or {}).get("type") == "local":
        return None
    at_most = int(config.get("max_workers", 2))
    types = []
    for name, kind in (config.get("available_node_types") or {}).items():
        default = 0 if name == config.get("head_node_type") else at_most
        n = min(at_most, int(kind.get("max_workers", default)))
        if n > 0:
            resources = {key: float(value) for key, value in (kind.get("resources") or {}).items()}
            types.append(WorkerType(str(name), resources, n))
    return tuple(types)


def _monitor_config(processes: Iterable[psutil.Process]) -> Path | None:
    for process in processes:
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(word.endswith("monitor.py") for word in words[:4]):
            paths = [word.removeprefix(_FLAG) for word in words if word.startswith(_FLAG) and word != _FLAG]
            if paths:
                return Path(paths[0]).expanduser()
    return None
