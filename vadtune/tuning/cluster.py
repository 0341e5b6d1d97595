"""Ray's start and end, in the background where it can be, and a watchdog for a cluster that is gone."""

import atexit
import gc
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import vadtune
from vadtune.errors import INTERRUPTED, ConfigError, VadtuneError
from vadtune.tuning import forkserver
from vadtune.tuning.forkserver import ForkServer
from vadtune.tuning.lean_node import only_what_trials_need
from vadtune.tuning.scratch import clear_scratch, make_scratch
from vadtune.tuning.sigterm import own_sigterm

# Ray reads all of these from the environment of the driver; its workers inherit them.
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or a warning on machines without a GPU
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints boxes to stdout even if it is to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker imports what trials need as soon as it starts, and not when the first trial comes.
    "RAY_preload_python_modules": ",".join(forkserver.IMPORTS),
    "RAY_worker_niceness": "1",  # not 15: beside any other load trials would hardly run
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # 4 ms a report
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours: see `runner`
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state is never restored from: the study is the record
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # how many run is decided in `searcher`
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the study holds the reason
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}
# Ray would hold the interpreter, and SIGTERM, until its first workers are there.
NO_WAITING = {"RAY_prestart_worker_first_driver": "0"}
# Ray asks a head that does not answer for a minute, 20 times.
JOINING = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
# What nodes of a running cluster get of the driver's environment. It lies open in Ray's store: no credentials.
SHIPPED = ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "OMP_WAIT_POLICY")
CONNECT_S = 10.0
GONE = "The Ray cluster does not answer any more. The study is saved: go on with --resume."
Address = tuple[str, int]


class ClusterLost(VadtuneError):
    """The cluster does not answer any more."""

    exit_code = 1


class Cluster:
    """A Ray cluster: one of this machine, or one that runs already.

    One thread starts Ray, waits and stops it: on Linux, Ray's processes die with the thread that started them.

    Args:
        address: Of a running cluster (`auto`, `HOST:PORT`); None to start one on this machine.
        runtime_env: Environment and code for the workers of a running cluster.
        n_cpus: How many CPUs of this machine to use; all of them if not given.
        one_each: Whether every CPU will have a worker, so that all can be started before they are asked for.
    """

    def __init__(
        self,
        address: str | None = None,
        runtime_env: dict[str, Any] | None = None,
        n_cpus: int | None = None,
        *,
        one_each: bool = False,
    ) -> None:
        self.address, self.runtime_env, self.n_cpus, self.one_each = address, runtime_env, n_cpus, one_each
        self._ready: Future[bool] = Future()
        self._over = threading.Event()
        self._is_lost = False
        self._folder: Path | None = None  # of a Ray that is started here
        self._fork_server: ForkServer | None = None
        self._thread = threading.Thread(target=self._live, name="vadtune-ray", daemon=True)

    def start(self) -> None:
        """Begin to start Ray, in the background; it takes 2 to 4 seconds."""
        if self.address is not None and self.address.startswith("ray://"):
            # There Tune would run in another process, and could not write the study.
            raise ConfigError(
                f"address {self.address}: by Ray Client the whole command runs on the cluster: "
                f"python -m vadtune.search TABLE --address {self.address}; or connect from a machine of the cluster."
            )
        if not self._thread.is_alive():
            os.environ.update(ENVIRONMENT | (NO_WAITING if self.address is None else JOINING))
            if self.address is None and not _is_running():
                self._folder = make_scratch("ray", _temporary_root())
                self._fork_server = ForkServer(_temporary_root()) if sys.platform == "linux" else None
            # Not in the thread, beside what else is imported: Ray's processes are to start while we go on.
            import ray  # noqa: F401

            self._thread.start()

    @property
    def forks_workers(self) -> bool:
        """Whether a worker more is there at once."""
        return self._fork_server is not None

    def is_ready(self, timeout_s: float) -> bool:
        """Wait for Ray for some time; False if that was not enough.

        Raises:
            ConfigError: There is no cluster at the address.
        """
        self.start()
        done, _ = futures.wait([self._ready], timeout_s)
        if done:
            self._ready.result()
        return bool(done)

    def abandon(self, exit_code: int = ClusterLost.exit_code) -> None:
        """Leave a cluster that is gone, or not there yet; this process will end with the exit code.

        Ray's own goodbye, on exit too, would wait for the cluster for a minute and then crash; so this process will
        end without it. The cluster's processes on this machine go with it.
        """
        self._is_lost = True
        sys.excepthook = sys.__excepthook__
        atexit.register(partial(_leave, exit_code))
        self._over.set()

    def close(self) -> None:
        """End Ray, if it was started or joined here: less than a second.

        It is waited for: if an object of Ray's dies in another thread meanwhile, Ray ends this process. Only whoever is
        interrupted before a cluster has answered does not wait for it.
        """
        if self.address is not None and self._thread.is_alive() and not self._ready.done():
            self.abandon(INTERRUPTED)
        else:
            with self.closing():
                pass

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End a Ray that has answered, beside work that neither uses nor drops anything of Ray's; then wait for it.

        No garbage is collected meanwhile: it may be objects of Ray's.
        """
        if not self._thread.is_alive():
            yield
            return
        gc.collect()
        collects = gc.isenabled()
        gc.disable()
        self._over.set()
        try:
            yield
        finally:
            self._thread.join()
            if collects:
                gc.enable()

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._ready.done():
            # Who mistyped the name of a table does not wait for Ray.
            self.abandon(INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1))
        else:
            self.close()

    def _live(self) -> None:
        import ray

        try:
            is_ours = not ray.is_initialized()
            if is_ours:
                with own_sigterm():
                    self._connect(self._folder)
                if self.one_each and self._folder is not None:
                    _start_workers()
                # Or Ray prints what happens to workers to stdout, on exit too. The study tells it.
                ray._private.worker._worker_logs_enabled = False
            self._ready.set_result(is_ours)
        except BaseException as error:  # noqa: BLE001 – carried to whoever waits
            self._ready.set_exception(error)
            is_ours = False
        self._over.wait()
        if is_ours and not self._is_lost:
            with own_sigterm():
                ray.shutdown()
            ray._private.worker._worker_logs_enabled = True
        if self._fork_server is not None:
            self._fork_server.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self, folder: Path | None) -> None:
        import ray
        from ray.exceptions import AuthenticationError

        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if folder is not None:
            try:
                with only_what_trials_need(self._fork_server):
                    ray.init(num_cpus=self.n_cpus, include_dashboard=False, _temp_dir=str(folder), **options)
            except Exception as error:  # noqa: BLE001 – Ray raises just this when a busy machine is too slow for it
                said = str(error).partition(". ")[0]
                raise ClusterLost(f"Ray did not start: {said}. Try again when the machine is less busy.") from None
            return
        try:
            self._check_answers()
            ray.init(address=self.address, runtime_env=self.runtime_env, **options)
        except AuthenticationError:
            raise ConfigError(about_token(self.address, "RAY_AUTH_MODE is token, and there is none here")) from None
        except (OSError, ValueError, RuntimeError) as error:
            if self._is_stranger():
                raise ConfigError(about_token(self.address, "the cluster asks for another one")) from None
            lines = str(error).strip().splitlines() or [""]
            said = lines[-1 if any(line.startswith("Traceback") for line in lines) else 0].strip()
            what = f"--address {self.address}: {said.rstrip('.')}."
            raise ConfigError(f"{what} Give the HOST:PORT that `ray start` printed.") from None

    def _is_stranger(self) -> bool:
        """Whether the cluster answers that it wants another token: Ray's own error is that of a wrong address."""
        from ray._private.services import canonicalize_bootstrap_address
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it is compiled
        from ray.exceptions import AuthenticationError, RayError

        try:
            address = canonicalize_bootstrap_address(self.address or "auto")
            if address is not None:
                GcsClient(address=address)
        except AuthenticationError:
            return True
        except (OSError, RayError, RuntimeError, ValueError):
            return False
        return False

    def _check_answers(self) -> None:
        """Refuse what is no address, or one where nobody is: Ray would wait there for a minute.

        Raises:
            ValueError: It is none.
            OSError: Nobody is there.
        """
        if self.address is None or self.address == "auto":
            return
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError("neither auto nor an address")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


def _start_workers() -> None:
    """Have Ray start a worker for each CPU: they are there when trials want them."""
    import ray

    def nothing() -> None:
        """Be run by a worker."""

    task = ray.remote(nothing).options(num_cpus=0)
    for _ in range(int(ray.cluster_resources().get("CPU", 0))):  # type: ignore[no-untyped-call]
        task.remote()


def _is_running() -> bool:
    """Whether this process has a Ray already; it may be asked before Ray is imported."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def about_token(address: str | None, problem: str) -> str:
    """What to do where a cluster asks for a token."""
    what = f"--address {address}: the token is missing or wrong: {problem}."
    return f"{what} Copy ~/.ray/auth_token from the cluster's head (mode 600), and set RAY_AUTH_MODE=token."


def shipment(*, with_code: bool) -> dict[str, Any]:
    """Ray's `runtime_env` of a search on a running cluster: environment, and this vadtune if nodes are to run it."""
    of_ours = {name: value for name, value in ENVIRONMENT.items() if name.startswith(("RAY_AIR", "RAY_CHDIR", "TUNE_"))}
    environment = of_ours | {name: os.environ[name] for name in SHIPPED if name in os.environ}
    modules = {"py_modules": [str(Path(vadtune.__file__).parent)]} if with_code else {}
    return {"env_vars": environment} | modules


class Watchdog:
    """Notices that the cluster is gone: Ray lets its driver wait for a minute, or ends the process without a word.

    Args:
        raylet: Host and port of the raylet of this node: Ray ends its drivers 10 seconds after it died.
        gcs: Host and port of the cluster's head, which may come back.
        on_loss: Called once, from the watchdog's thread.
        patience_s: How long the head may be away.
    """

    PERIOD_S = 1.0

    def __init__(self, raylet: Address, gcs: Address, on_loss: Callable[[], None], patience_s: float = 30.0) -> None:
        self.raylet, self.gcs, self.on_loss, self.patience_s = raylet, gcs, on_loss, patience_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vadtune-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        n_refusals, head_was_there = 0, time.monotonic()
        while not self._done.wait(self.PERIOD_S):
            # A busy raylet still accepts: the kernel does it. Only a dead one refuses.
            n_refusals = n_refusals + 1 if _refuses(self.raylet) else 0
            if not _refuses(self.gcs):
                head_was_there = time.monotonic()
            if n_refusals >= 2 or time.monotonic() - head_was_there > self.patience_s:
                self.on_loss()
                return


def landmarks() -> tuple[Address, Address]:
    """Host and port of the raylet of this node and of the cluster's head."""
    import ray

    context = ray.get_runtime_context()
    mine = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())  # type: ignore[no-untyped-call]
    host, _, port = context.gcs_address.rpartition(":")
    return (mine["NodeManagerAddress"], int(mine["NodeManagerPort"])), (host.strip("[]"), int(port))


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Keep Ray's log lines off the terminal: what matters of them is in the study."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def interrupt_main_thread(number: int = signal.SIGUSR2) -> None:
    """Make the main thread run the handler of a signal, even if it waits inside Ray."""
    thread = threading.main_thread().ident
    assert thread is not None
    signal.pthread_kill(thread, number)


def _leave(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for what in ("ray", forkserver.SCRATCH):
        clear_scratch(what, _temporary_root())
    os._exit(exit_code)


def _refuses(address: Address) -> bool:
    try:
        with socket.create_connection(address, timeout=5.0):
            return False
    except TimeoutError:
        return False
    except OSError:
        return True


def _temporary_root() -> Path:
    # Any TMPDIR may be too long for the sockets in it; what is made in it is a fresh folder of mode 700.
    return Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())  # nosec B108
