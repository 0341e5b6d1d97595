"""Who drives a study: one search alone, or several on a database, each of which minds its own trials."""

import os
import socket
import threading
import uuid
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from vadtune.tuning.database import Database, database_errors, open_database
from vadtune.tuning.study import flush, open_study, put_back, write_journal

DRIVER = "driver"


class Crew(Protocol):
    """The drivers of a study, as one of them sees it.

    Attributes:
        study: The study.
        number: Which driver this is, by the order of their coming.
        is_shared: Whether there may be others.
    """

    study: optuna.Study
    number: int
    is_shared: bool

    def lock(self) -> AbstractContextManager[None]:
        """Keep the others from beginning trials; not to be taken twice."""
        ...

    def sign(self, trial: optuna.Trial) -> None:
        """Note, under the lock, that a trial is run by this driver."""
        ...

    def reap(self) -> None:
        """Make trials wait, under the lock, that are RUNNING and that nobody runs."""
        ...

    def others(self) -> list[FrozenTrial]:
        """The trials that other drivers run."""
        ...

    def leave(self) -> None:
        """Make the trials of this driver wait, and let the study be."""
        ...

    def write_copy(self) -> None:
        """Bring the study's file in the run folder up to date."""
        ...


class Alone:
    """The only driver: whatever is RUNNING when it opens the study was left so by a kill.

    Args:
        path: The study's file.
    """

    number = 0
    is_shared = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = open_study(path)

    def lock(self) -> AbstractContextManager[None]:
        """There is nobody else."""
        return nullcontext()

    def sign(self, trial: optuna.Trial) -> None:
        """There is nobody else."""

    def reap(self) -> None:
        """Called once, before any trial begins."""
        put_back(self.study, self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def others(self) -> list[FrozenTrial]:
        """There are none."""
        return []

    def leave(self) -> None:
        """Leave a study in which nothing is RUNNING."""
        # Opened anew: an interrupt may have torn a line.
        self.study = open_study(self.path)
        self.reap()
        flush(self.path)

    def write_copy(self) -> None:
        """The file is the study."""


class Shared:
    """One of several drivers on a database; who says nothing for a minute counts as gone.

    Optuna's own heartbeat works inside `Study.optimize` only, and writes a row a trial. This one writes a row a driver.

    Args:
        database: Where the study is.
        path: Where a copy of it is kept, for reports and exports.
    """

    is_shared = True
    BEAT_S = 10.0
    SILENCE_S = 60.0

    def __init__(self, database: Database, path: Path) -> None:
        self.database, self.path = database, path
        self.study = open_database(database)
        self.me = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        with self.lock():
            self.number = len(self._beats())
            self.beat()
        self._over = threading.Event()
        threading.Thread(target=self._live, name="vadtune-heart", daemon=True).start()

    def lock(self) -> AbstractContextManager[None]:
        """Keep the others from beginning trials; not to be taken twice."""
        return self.database.lock(self.study)

    def sign(self, trial: optuna.Trial) -> None:
        """Note that a trial is run by this driver."""
        trial.set_user_attr(DRIVER, self.me)

    def beat(self) -> None:
        """Say that this driver is alive, by the database's clock: those of the machines may differ."""
        self.study.set_user_attr(f"{DRIVER} {self.me}", self.database.clock(self.study))

    def reap(self) -> None:
        """Make the trials of drivers that are gone wait."""
        now = self.database.clock(self.study)
        alive = {driver for driver, seen_at in self._beats().items() if now - seen_at <= self.SILENCE_S} | {self.me}
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        put_back(self.study, [trial for trial in running if trial.user_attrs.get(DRIVER) not in alive])

    def others(self) -> list[FrozenTrial]:
        """The trials that other drivers run."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.user_attrs.get(DRIVER) != self.me]

    def leave(self) -> None:
        """Make the trials of this driver wait, and say goodbye."""
        self._over.set()
        with self.lock():
            running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            put_back(self.study, [trial for trial in running if trial.user_attrs.get(DRIVER) == self.me])
            self.study.set_user_attr(f"{DRIVER} {self.me}", 0.0)
        self.write_copy()

    def write_copy(self) -> None:
        """Copy the study into the run folder, for reports and exports."""
        write_journal(self.study, self.path)

    def _beats(self) -> dict[str, float]:
        prefix = f"{DRIVER} "
        attributes: dict[str, Any] = self.study.user_attrs
        return {key.removeprefix(prefix): seen_at for key, seen_at in attributes.items() if key.startswith(prefix)}

    def _live(self) -> None:
        while not self._over.wait(self.BEAT_S):
            # The search itself finds out what is wrong.
            with suppress(*database_errors()):
                self.beat()
