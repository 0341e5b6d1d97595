"""Reading an Optuna journal without ever writing to it, even while a search writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalStorage
from optuna.trial import FrozenTrial

from vadtune.data.damage import DAMAGED
from vadtune.errors import ArtifactError


class ReadOnlyJournal(BaseJournalBackend):
    """The whole lines of a journal file; a torn last line waits until it is whole, a spoilt one is counted and skipped.

    Optuna's own `JournalFileBackend` stops at a torn line for good and makes the file when there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._n_read = 0
        self.n_spoilt = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the log entries from this number on; asked for the next ones, it reads only what is new."""
        if log_number_from < self._n_read:
            self._offset, self._n_read, self.n_spoilt = 0, 0, 0
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                entry = _entry(line)
                if entry is None:
                    self.n_spoilt += 1
                    continue
                self._n_read += 1
                if self._n_read > log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """A report never writes to a study."""
        raise AssertionError(f"the report tried to write {len(logs)} entries to {self._path}")


class StudyReader:
    """A study's trials, read again and again; only what was added since the last time is parsed."""

    def __init__(self, path: Path, study_name: str) -> None:
        self._path = path
        self._study_name = study_name
        self._seen = (0, 0)
        self._open()

    def trials(self) -> list[FrozenTrial]:
        """All trials as of now, by number.

        Raises:
            ArtifactError: The file is gone, or is not the journal of one study.
        """
        try:
            found = self._path.stat()
            before, self._seen = self._seen, (found.st_ino, found.st_size)
            if before[1] and (found.st_ino != before[0] or found.st_size < before[1]):  # replaced or cut: begin anew
                self._open()
            studies = self._storage.get_all_studies()
        except OSError as error:
            raise ArtifactError(f"{self._path}: {error.strerror}. Give the folder of a run.") from None
        except DAMAGED as error:
            raise ArtifactError(f"{self._path}: not an Optuna journal ({error!r}).") from None
        named = [study for study in studies if study.study_name == self._study_name] or studies
        if len(named) > 1:
            names = ", ".join(study.study_name for study in named)
            raise ArtifactError(f"{self._path}: holds several studies ({names}), none called {self._study_name}.")
        if not named:
            return []
        return self._storage.get_all_trials(named[0]._study_id, deepcopy=False)

    @property
    def n_spoilt(self) -> int:
        """Lines of the journal that could not be read so far."""
        return self._journal.n_spoilt

    def _open(self) -> None:
        self._journal = ReadOnlyJournal(self._path)
        try:
            self._storage = JournalStorage(self._journal)
        except OSError as error:
            raise ArtifactError(f"{self._path}: {error.strerror}. Give the folder of a run.") from None
        except DAMAGED as error:
            raise ArtifactError(f"{self._path}: not an Optuna journal ({error!r}).") from None


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None
