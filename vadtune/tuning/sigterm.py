"""SIGTERM stays ours: Ray, as it connects, puts a handler of its own before that of Python."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How often it is made ours again while Ray connects or ends.
KEEPING_S = 0.005


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep a handler of SIGTERM in Python that is there already, from any thread."""
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = (ctypes.c_int, ctypes.c_void_p)
    handler, over = get(signal.SIGTERM), threading.Event()
    if handler is None:
        yield
        return

    def keep() -> None:
        # Ray puts its own, and goes on for tenths of a second.
        while not over.wait(KEEPING_S):
            put(signal.SIGTERM, handler)

    keeper = threading.Thread(target=keep, name="vadtune-sigterm", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        put(signal.SIGTERM, handler)
