"""What Ray runs in place of a node's agents: says that they serve nothing, and ends with the node.

A node waits for its agents as it starts, and ends if one of them does. Nothing is imported here but what Python has:
this takes 0.02 s of a CPU, and the agents take 1.4 s.

    agent.py SERVICE,SERVICE … --session-dir=FOLDER --node-id=ID …
"""

import os
import sys
import time

NO_PORT = "-1"  # as Ray's own agent says it of what it does not serve
PERIOD_S = 0.5


def say_no(services: list[str], arguments: list[str]) -> None:
    """Write where the node looks for the ports of the services: a file each, whole or not at all."""
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments)
    given = {name: value for name, _, value in pairs}
    for service in services:
        path = os.path.join(given["session-dir"], f"{service}_{given['node-id']}")  # noqa: PTH118 – see above
        with open(f"{path}.new", "w") as file:  # noqa: PTH123
            file.write(NO_PORT)
        os.replace(f"{path}.new", path)  # noqa: PTH105


if __name__ == "__main__":
    node = os.getppid()
    say_no(sys.argv[1].split(","), sys.argv[2:])
    while os.getppid() == node:
        time.sleep(PERIOD_S)
