"""What Ray runs in place of a node's agents: says that they serve nothing, and ends with the node.

A node waits for its agents as it starts, and ends if one of them does. Nothing is imported here but what Python has:
this takes 0.02 s of a CPU, and the agents take 1.4 s.

    agent.py SERVICE,SERVICE … --session-dir=FOLDER --node-id=ID …
"""

import os
import sys
import time
from contextlib import suppress

NO_PORT = "-1"  # as Ray's own agent says it of what it does not serve
PERIOD_S = 0.5


def say_no(services: list[str], given: dict[str, str]) -> None:
    """Write where the node looks for the ports of the services: a file each, whole or not at all."""
    for service in services:
        path = os.path.join(given["session-dir"], f"{service}_{given['node-id']}")  # noqa: PTH118 – see above
        with open(f"{path}.new", "w") as file:  # noqa: PTH123
            file.write(NO_PORT)
        os.replace(f"{path}.new", path)  # noqa: PTH105


if __name__ == "__main__":
    node = os.getppid()
    pairs = (argument.removeprefix("--").partition("=") for argument in sys.argv[2:])
    given = {name: value for name, _, value in pairs}
    # A node that was killed before its process id was asked for leaves a session without a folder.
    with suppress(FileNotFoundError):
        say_no(sys.argv[1].split(","), given)
        while os.getppid() == node and os.path.exists(given["session-dir"]):  # noqa: PTH110
            time.sleep(PERIOD_S)
