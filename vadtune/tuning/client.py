"""The half of a search by `--address ray://…` that runs where the user sits: a connection by Ray Client."""

import logging
import shutil
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import vadtune
from vadtune import __version__
from vadtune.errors import ConfigError, first_line
from vadtune.tuning.cluster import CONNECT_S, ClusterLost, about_token, quiet_ray, shipment
from vadtune.tuning.remote import PART, RemoteSearch
from vadtune.tuning.space import known_spaces

NAMESPACE = "vadtune"
SCHEME = "ray://"


@contextmanager
def connected(address: str, *, with_code: bool) -> Iterator[None]:
    """A connection by Ray Client.

    Args:
        address: `ray://HOST:PORT`.
        with_code: Whether to send this vadtune.

    Raises:
        ConfigError: Nobody answers, or nobody that would let us in.
    """
    import ray

    _check_lets_us_in(address)
    try:
        with warnings.catch_warnings(action="ignore"), TemporaryDirectory() as folder:
            shipped = shipment(with_code=with_code)
            if with_code:
                shipped["py_modules"] = [str(_whole_package(Path(folder)))]
            _connect(address, shipped)
    except (OSError, RuntimeError, ValueError) as error:
        # Of other versions than here Ray tells in a line, of a server that does not start in a traceback.
        said = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
        told = " ".join(said) if said[0].startswith("Version mismatch") else said[-1]
        raise ConfigError(f"--address {address}: {told.rstrip('.')}.") from None
    # Which has a handler of its own.
    logging.getLogger("ray.util.client.logsclient").setLevel(logging.CRITICAL)
    try:
        with quiet_ray():
            yield
    finally:
        ray.shutdown()


def _check_lets_us_in(address: str) -> None:
    """Ask whether a Ray Client server is there: Ray itself tries for half a minute, and does not say what is wrong."""
    from ray.exceptions import AuthenticationError

    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray.core.generated import ray_client_pb2_grpc
        from ray.core.generated.ray_client_pb2 import (  # type: ignore[attr-defined]  # they are made as it is imported
            ClusterInfoRequest,
            ClusterInfoType,
        )
    except ImportError:
        raise ConfigError(f'--address {address}: needs grpcio. Install it: pip install "vadtune[client]"') from None
    ping = ClusterInfoRequest(type=ClusterInfoType.PING)
    try:
        with init_grpc_channel(address.removeprefix(SCHEME), asynchronous=False) as channel:
            stub = ray_client_pb2_grpc.RayletDriverStub(channel)  # type: ignore[no-untyped-call]
            stub.ClusterInfo(ping, timeout=CONNECT_S, metadata=[("client_id", "vadtune")])
    except AuthenticationError:
        raise ConfigError(about_token(address, "RAY_AUTH_MODE is token, and there is none here")) from None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise ConfigError(about_token(address, "the cluster asks for another one")) from None
        raise ConfigError(
            f"--address {address}: no Ray Client server answers there ({error.code().name}). Start the head by "
            "`ray start --head --ray-client-server-port 10001`, and give that port or a tunnel to it."
        ) from None


def _whole_package(folder: Path) -> Path:
    """A copy of vadtune with its search spaces inside, as in a wheel: the command itself runs there."""
    package = folder / "vadtune"
    shutil.copytree(Path(vadtune.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "search_spaces").mkdir(exist_ok=True)
    for path in known_spaces().values():
        shutil.copy(path, package / "search_spaces")
    return package


def _connect(address: str, runtime_env: dict[str, Any]) -> None:
    import ray

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    for is_last in (False, True):
        try:
            ray.init(address, namespace=NAMESPACE, runtime_env=dict(runtime_env), **options)
        except ConnectionAbortedError:
            # On a busy head the process that Ray starts for each client did not come up once in some 25 times.
            if is_last:
                raise
        else:
            return


class Remote:
    """A search on the cluster, seen from here.

    Args:
        actor: Of a `RemoteSearch`.
        command: What to type to watch it again, or go on with it.
    """

    def __init__(self, actor: Any, command: str) -> None:
        self.actor, self.command = actor, command

    def ask(self, method: str, *arguments: object) -> Any:
        """What a method of the actor returns.

        Raises:
            ClusterLost: It does not answer any more.
            ConfigError: It could not read or write a file.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(getattr(self.actor, method).remote(*arguments))
        except RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise ConfigError(f"on the cluster: {error.cause}") from None
            raise
        except RayError as error:
            said = first_line(error).rstrip(".")
            raise ClusterLost(f"the actor that ran the search is gone ({said}). Go on by: {self.command}") from None
        except ConnectionError:
            goes_on = "the search goes on, as long as the cluster does"
            raise ClusterLost(f"the connection is lost; {goes_on}. Watch it by: {self.command}") from None

    def send(self, path: Path, name: str) -> None:
        """Send a file."""
        import ray

        with path.open("rb") as file:
            while part := file.read(PART):
                self.ask("receive", name, ray.put(part))

    def end(self) -> None:
        """Remove the actor; the run folder stays there."""
        import ray

        self.ask("leave")
        ray.kill(self.actor)


def find(name: str, command: str) -> Remote | None:
    """The search of a run that somebody began to watch, running or ended; None if there is none."""
    import ray

    try:
        return Remote(ray.get_actor(_actor_name(name), namespace=NAMESPACE), command)
    except ValueError:
        return None


def create(name: str, command: str) -> Remote:
    """An actor for a search, on the head: workers come and go.

    Raises:
        ConfigError: There is no vadtune on the cluster, or another.
    """
    import ray
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    place = {HEAD_NODE_RESOURCE_NAME: 0.001}
    known = {"name": _actor_name(name), "namespace": NAMESPACE, "lifetime": "detached", "max_restarts": 0}
    try:
        actor = ray.remote(RemoteSearch).options(num_cpus=0, resources=place, **known).remote(name)
        remote = Remote(actor, command)
        there, _ = remote.ask("about")
    except ValueError:
        # Two began at once; else `find` had found it.
        raise ConfigError(f"--name {name}: such a search is on the cluster already. Watch it by: {command}") from None
    except (ImportError, AttributeError) as error:
        raise ConfigError(_another(f"has none, or an older one ({first_line(error)})")) from None
    if there != __version__:
        remote.end()
        raise ConfigError(_another(f"has vadtune {there}"))
    return remote


def _another(found: str) -> str:
    what = f"vadtune {__version__} is here, and the cluster {found}."
    return f"{what} Install the same on all nodes, or send this one's with --ship-code."


def _actor_name(run: str) -> str:
    return f"search-{run}"


def fetch(remote: Remote, archive: Path) -> None:
    """Bring the run folder from the cluster, as an archive."""
    size = remote.ask("pack")
    with archive.open("wb") as file:
        while file.tell() < size:
            file.write(remote.ask("part", file.tell()))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of files and folders into a new folder.

    Raises:
        ConfigError: Something in it is a link or a device, or would land elsewhere.
    """
    try:
        with tarfile.open(archive) as tar:
            wrong = [member.name for member in tar if not (member.isfile() or member.isdir())]
            if wrong:
                raise ConfigError(
                    f"the run folder of the cluster is not unpacked: {wrong[0]!r} is neither file nor folder."
                )
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise ConfigError(f"the run folder of the cluster is not unpacked: {first_line(error)}.") from None
