"""A study in PostgreSQL, for several drivers. The password comes from PGPASSWORD or ~/.pgpass, never from the URL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import optuna

from vadtune.errors import ConfigError, VadtuneError
from vadtune.settings import Nested

_LOCK = 7046029  # among the locks of other programs on the database
_SCHEMES = ("postgresql", "postgres")
_HINT = "Give postgresql://USER@HOST/DATABASE, and the password by PGPASSWORD or ~/.pgpass."


class StudyLost(VadtuneError):
    """The database of a study does not answer any more."""

    exit_code = 1


@dataclass(frozen=True)
class Database:
    """A study in a database.

    Attributes:
        url: `postgresql://USER@HOST/DATABASE`, without a password.
        study_name: The name of the study, which is that of the run.
    """

    url: str
    study_name: str

    @contextmanager
    def lock(self, study: optuna.Study) -> Iterator[None]:
        """Own the study among all its drivers, for a moment; the database frees it when its owner is gone."""
        from sqlalchemy import text

        with _engine(study).begin() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK}, :study)"), {"study": study._study_id})
            yield

    def clock(self, study: optuna.Study) -> float:
        """Seconds since 1970, by the database's clock."""
        from sqlalchemy import text

        with _engine(study).connect() as connection:
            return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def check_url(url: str) -> str:
    """The URL of a PostgreSQL database without a password.

    Raises:
        ConfigError: It is another, or holds a password: it would end up in files of the run.
    """
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        raise ConfigError(f"--storage-url: not a URL. {_HINT}") from None
    if password is not None or any("pass" in key.lower() for key, _ in parse_qsl(parts.query)):
        raise ConfigError(f"--storage-url: holds a password, which would end up in files of the run. {_HINT}")
    if parts.scheme not in _SCHEMES or not parts.path.strip("/"):
        raise ConfigError(f"--storage-url {url}: not a PostgreSQL database. {_HINT}")
    return url


def open_database(database: Database) -> optuna.Study:
    """Open a study, or begin it.

    Raises:
        ConfigError: The database does not let us in, or the study is of another direction.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = "postgresql+psycopg://" + check_url(database.url).partition("://")[2]
    try:
        with _making_tables(url):
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "pool_size": 5})
            study = optuna.create_study(
                study_name=database.study_name, storage=storage, direction="minimize", load_if_exists=True
            )
    except ImportError:
        raise ConfigError("--storage-url needs the PostgreSQL driver: pip install 'vadtune[postgresql]'") from None
    except database_errors() as error:
        raise ConfigError(f"--storage-url {database.url}: {first_line(error)}. {_HINT}") from None
    if study.directions != [optuna.study.StudyDirection.MINIMIZE]:
        raise ConfigError(f"{database.study_name}: the study in the database maximizes. Take another --name.")
    return study


@contextmanager
def _making_tables(url: str) -> Iterator[None]:
    """Keep drivers that come at once from making the same tables: Optuna's own check does not hold then."""
    from sqlalchemy import create_engine, text

    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            yield
    finally:
        engine.dispose()


def agreed_settings(database: Database, settings: Nested) -> Nested:
    """The settings of a shared study: those of the driver that came first."""
    study = open_database(database)
    with database.lock(study):
        known: Nested | None = study.user_attrs.get("settings")
        if known is None:
            study.set_user_attr("settings", settings)
    _engine(study).dispose()
    return known or settings


def database_errors() -> tuple[type[Exception], ...]:
    """What a database that does not answer raises."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return (StorageInternalError, SQLAlchemyError)


def first_line(error: BaseException) -> str:
    """What a driver says went wrong, in one line."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _engine(study: optuna.Study) -> Any:
    return study._storage._backend.engine  # type: ignore[attr-defined]
