"""A node of Ray on this machine, with no more processes than trials need."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vadtune.tuning.forkserver import ForkServer


@contextmanager
def only_what_trials_need(fork_server: ForkServer | None) -> Iterator[None]:
    """Keep Ray from starting its autoscaler, its API server and its log monitor: nobody would ask them here.

    They are Python processes that cost 2.4 CPU-seconds, and Ray waits for the second as it starts (1 to 2 s) and for
    the first as it ends (1 s). Of the agent that the node cannot be without the smaller form is started, which serves
    no dashboard.

    Args:
        fork_server: What starts the workers; None: Ray itself.
    """
    from ray._private import utils
    from ray._private.node import Node

    def nothing(*_: object, **__: object) -> None:
        """Start nothing."""

    def start_raylet(node: Node, *args: Any, **options: Any) -> None:
        """Start the node proper."""
        if fork_server is not None:
            fork_server.serve(node)
        starters["start_raylet"](node, *args, **options)

    def dashboard_error() -> ImportError:
        """Why there is to be no dashboard."""
        return ImportError("not wanted")

    instead: dict[str, Callable[..., None]] = {"start_raylet": start_raylet}
    instead |= dict.fromkeys(("start_monitor", "start_api_server", "start_log_monitor"), nothing)
    starters = {name: getattr(Node, name) for name in instead if hasattr(Node, name)}
    find_error = utils.get_dashboard_dependency_error
    for name in starters:
        setattr(Node, name, instead[name])
    utils.get_dashboard_dependency_error = dashboard_error
    try:
        yield
    finally:
        for name, starter in starters.items():
            setattr(Node, name, starter)
        utils.get_dashboard_dependency_error = find_error
