"""What Ray runs to start a worker: asks the fork server for one and is gone, or becomes one if that does not answer.

Nothing of vadtune, Ray or torch is imported here; `forkserver` tells the rest.
"""

import json
import os
import signal
import socket
import sys

ADDRESS = "VADTUNE_FORK_SERVER"  # in the environment: the path of the server's socket
PROGRAM = "VADTUNE_RAY_WORKER"  # and that of Ray's own program
PATIENCE_S = 30.0  # it imports for 2 s; Ray waits for a worker for 60 s


def ask() -> None:
    """Have this process replaced by a fork of the server.

    Raises:
        OSError: The server does not do it.
    """
    request = {
        "program": os.environ[PROGRAM],
        "arguments": sys.argv[1:],
        "folder": os.getcwd(),  # noqa: PTH109 – pathlib would take as long as all the rest
        "environment": dict(os.environ),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "blocked_signals": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(PATIENCE_S)
        server.connect(os.environ[ADDRESS])
        text = json.dumps(request).encode() + b"\n"
        n_sent = socket.send_fds(server, [text], [0, 1, 2])
        if n_sent < len(text):  # to send nothing more fails, once the server has answered
            server.sendall(text[n_sent:])
        if not server.recv(1):
            raise ConnectionResetError


if __name__ == "__main__":
    try:
        ask()
    except OSError:
        os.execv(sys.executable, [sys.executable, os.environ[PROGRAM], *sys.argv[1:]])
