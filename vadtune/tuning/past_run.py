"""A run folder, read back: its data, its study, and the settings of its trials."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna

from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig
from vadtune.data.storage import Storage, open_storage
from vadtune.errors import ArtifactError, ConfigError, DataError
from vadtune.settings import Nested, flatten, other_format, parse, read_json
from vadtune.tuning.leaves import Params
from vadtune.tuning.samplers import draw_seed
from vadtune.tuning.space import Space
from vadtune.tuning.study import BestTrial, best_trial, complete_trials, find_trial, read_study, top_trials

FORMAT_VERSION = 1
N_WARM = 4  # points to begin at, of one run
COUNTS = ("n_train", "n_validation", "n_test")


@dataclass(frozen=True)
class PastRun:
    """A search that has been, or is still going on; nothing in its folder is changed.

    Attributes:
        folder: The run folder.
        settings: Its `settings.json`.
    """

    folder: Path
    settings: Nested

    @cached_property
    def study(self) -> optuna.Study:
        """The study of the run."""
        return read_study(self.folder / "study.log")

    @property
    def storage(self) -> Storage:
        """Where its checkpoints lie."""
        return open_storage(self.settings["search"].get("storage") or str(self.folder))

    @property
    def max_epochs(self) -> int:
        """How long a trial of it runs if nothing stops it."""
        return int(self.settings["search"]["max_epochs"])

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which its trials were compared."""
        return tuple(self.settings["search"]["rungs"])

    @property
    def n_threads(self) -> int:
        """How many threads a trial of it had: sums in another order differ in their last digits."""
        return max(1, int(self.settings["search"]["cpus_per_trial"]))

    def problem(self, data_dir: Path, over: Nested | None = None) -> Problem:
        """Load the table of the run and hide the same cells.

        Args:
            data_dir: Where named datasets are kept.
            over: Data settings that are to be others than the run's.

        Raises:
            DataError: The table is not the one of the run any more.
            ConfigError: This vadtune splits its rows otherwise: rows that trials were trained on would be scored.
        """
        recorded = {key: value for key, value in self.settings["data"].items() if key in DataConfig.model_fields}
        problem = load_problem(parse(DataConfig, recorded | (over or {}), str(self.folder)), data_dir)
        expected = self.settings["dataset"]["sha256"]
        if problem.table.sha256 != expected:
            raise DataError(
                f"{problem.table.source}: not the table of {self.folder} (sha256 {problem.table.sha256[:12]}…, "
                f"expected {expected[:12]}…). Give the file that was searched, or --data-dir."
            )
        self._check_split(problem.describe())
        return problem

    def best(self) -> BestTrial:
        """The best trial."""
        return best_trial(self.study, self.storage.exists)

    def trial(self, number: int) -> BestTrial:
        """A trial by its number."""
        return find_trial(self.study, number, self.storage.exists)

    def top(self, n: int) -> list[BestTrial]:
        """The best trials, best first."""
        return top_trials(self.study, n, self.storage.exists)

    def config(self, number: int) -> Nested:
        """The settings of a trial, whatever became of it.

        Raises:
            ConfigError: There is no such trial.
        """
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise ConfigError(f"{self.folder}: there is no trial {number}; the last is {len(trials) - 1}.")
        config = Space.from_dict(self.settings["space"]).config(trials[number].params)
        config.setdefault("train", {})["n_epochs"] = self.max_epochs
        return config | {"seed": draw_seed(self.settings["search"]["seed"], number)}

    def best_settings(self, n: int) -> list[Params]:
        """Settings of the best complete trials, by dotted path: first those of the ensemble's members."""
        by_error, ensemble = complete_trials(self.study), self._ensemble()
        members = [trial for trial in by_error if str(trial.number) in ensemble]
        chosen = [*members, *(trial for trial in by_error if trial not in members)][:n]
        return [flatten(self.config(trial.number)) for trial in chosen]

    def _ensemble(self) -> set[str]:
        """Numbers of the trials that are averaged in the run's winner; none if it is one trial, or not there yet."""
        path = self.folder / "summary.json"
        best = read_json(path).get("best") if path.is_file() else None
        members = best.get("ensemble") if isinstance(best, dict) else None
        return set(members) if isinstance(members, dict) else set()

    def _check_split(self, about: Nested) -> None:
        recorded = self.settings["data"]
        counts = {name: (recorded[name], about[name]) for name in COUNTS if name in recorded}
        if any(then != now for then, now in counts.values()):
            told = ", ".join(f"{name} {then} and now {now}" for name, (then, now) in counts.items())
            raise ConfigError(
                f"{self.folder}: the vadtune that made it split the rows otherwise ({told}). Use that one, or search "
                "again."
            )


def warm_starts(folders: Iterable[Path], model: str) -> list[Params]:
    """Settings that were best in earlier searches of this model: the best ones of each in turn.

    Raises:
        ArtifactError: A folder is no run.
        ConfigError: It is one of another model, or no trial of it came to its end.
    """
    found = []
    for folder in folders:
        past = open_run(folder)
        if past.settings.get("model") != model:
            raise ConfigError(
                f"--warm-start {folder}: a search of {past.settings.get('model')}s, and this is one of {model}s."
            )
        found.append(past.best_settings(N_WARM))
        if not found[-1]:
            raise ConfigError(f"--warm-start {folder}: no trial of it came to its end. Give another run.")
    return [point for points in itertools.zip_longest(*found) for point in points if point is not None]


def run_format(settings: Nested) -> str | None:
    """What is wrong with the format of a run's `settings.json`, if anything is."""
    return other_format(settings.get("format_version"), FORMAT_VERSION, settings.get("versions"))


def open_run(folder: Path) -> PastRun:
    """Read a run folder.

    Raises:
        ArtifactError: It is none, or of another format.
    """
    path = folder / "settings.json"
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a run, it has no settings.json. Give a folder such as runs/NAME.")
    settings = read_json(path)
    problem = run_format(settings)
    if problem is not None:
        raise ArtifactError(f"{folder}: {problem}")
    missing = [key for key in ("data", "dataset", "space", "search") if not isinstance(settings.get(key), dict)]
    if missing:
        raise ArtifactError(f"{path}: {', '.join(missing)} is missing. Search again.")
    return PastRun(folder, settings)
