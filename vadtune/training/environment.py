"""On what a result was computed: versions, hardware."""

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version

import psutil

from vadtune import __version__
from vadtune.training.device import n_gpus

PACKAGES = ("torch", "ray", "optuna", "numpy", "pandas", "scikit-learn", "plotly")


def versions() -> dict[str, str]:
    """Versions of Python, vadtune and the packages that decide results; what is not installed is left out."""
    found = {"python": platform.python_version(), "vadtune": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """CPUs and GPUs of this machine, its memory in GB, platform and host name."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": n_gpus(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
        "host": socket.gethostname(),
    }


def environment() -> dict[str, object]:
    """Versions and hardware together."""
    return {"versions": versions(), "hardware": hardware()}
