"""A node of Ray on this machine, with no more processes than trials need."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vadtune.tuning import agent
from vadtune.tuning.forkserver import ForkServer

# By Ray's name of the agent: its names of the services that the node looks for.
AGENTS = {
    "dashboard_agent": ("METRICS_AGENT_PORT_NAME", "METRICS_EXPORT_PORT_NAME", "DASHBOARD_AGENT_LISTEN_PORT_NAME"),
    "runtime_env_agent": ("RUNTIME_ENV_AGENT_PORT_NAME",),
}
BUILDER = "_build_python_executable_command_memory_profileable"


@contextmanager
def only_what_trials_need(fork_server: ForkServer | None) -> Iterator[None]:
    """Keep Ray from starting its autoscaler, API server, log monitor and agents: nobody would ask them here.

    They are Python processes that cost 3.8 CPU-seconds, and Ray waits for the second as it starts (1 to 2 s), for the
    agents too (0.3 s), and for the first as it ends (1 s). The agents, which set up environments and serve a dashboard,
    are what the node cannot be without: `agent` stands for them.

    Args:
        fork_server: What starts the workers; None: Ray itself.
    """
    from ray import _raylet
    from ray._private import services
    from ray._private.node import Node

    def nothing(*_: object, **__: object) -> None:
        """Start nothing."""

    def start_raylet(node: Node, *args: Any, **options: Any) -> None:
        """Start the node proper."""
        if fork_server is not None:
            fork_server.serve(node)
        starters["start_raylet"](node, *args, **options)

    def command(component: str, *args: Any, **options: Any) -> list[str]:
        """What runs a component's program: of an agent's it becomes an argument."""
        names = AGENTS.get(component, ())
        if not names or not all(hasattr(_raylet, name) for name in names):
            return list(build_command(component, *args, **options))
        return [sys.executable, "-I", "-S", agent.__file__, ",".join(getattr(_raylet, name) for name in names)]

    instead: dict[str, Callable[..., None]] = {"start_raylet": start_raylet}
    instead |= dict.fromkeys(("start_monitor", "start_api_server", "start_log_monitor"), nothing)
    starters = {name: getattr(Node, name) for name in instead if hasattr(Node, name)}
    build_command = getattr(services, BUILDER)
    for name in starters:
        setattr(Node, name, instead[name])
    setattr(services, BUILDER, command)
    try:
        yield
    finally:
        for name, starter in starters.items():
            setattr(Node, name, starter)
        setattr(services, BUILDER, build_command)
