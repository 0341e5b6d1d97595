"""A run folder, read once into one immutable value. Nothing is unpickled and nothing is written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vadtune.errors import ArtifactError, ConfigError
from vadtune.report.evaluation import Evaluation, read_evaluation
from vadtune.report.study import StudyReader
from vadtune.settings import other_format, read_json

FORMAT_VERSION = 1
M = TypeVar("M", bound=BaseModel)


class _Read(BaseModel):
    """What is read of a file: keys that this version does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ColumnInfo(_Read):
    """A column's name and kind."""

    name: str
    kind: str = "numeric"


class DatasetInfo(_Read):
    """What was searched on; `unit` is what errors are counted in: `mixed` where some columns are codes."""

    name: str
    source: str = ""
    sha256: str = ""
    n_rows: int = 0
    n_features: int = 0
    n_unknown: int = 0
    unit: Literal["pixel", "sd", "mixed"] = "sd"
    image_shape: tuple[int, int] | None = None
    columns: tuple[ColumnInfo, ...] = ()

    @property
    def measure(self) -> str:
        """What the objective is called: with codes it is no RMSE."""
        return "mean error" if self.unit == "mixed" else "RMSE"


class SearchInfo(_Read):
    """How it was searched."""

    sampler: str = ""
    scheduler: str = ""
    trials: int | None = None
    max_epochs: int | None = None
    time_budget_s: float | None = None
    concurrent: int | None = None
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    seed: int | None = None
    rungs: tuple[int, ...] = ()


class HardwareInfo(_Read):
    """Where it was searched."""

    cpus: float | None = None
    gpus: float | None = None
    memory_gb: float | None = None
    platform: str = ""
    host: str = ""


class RunSettings(_Read):
    """`settings.json`."""

    format_version: int
    command: str = ""
    created: str = ""
    versions: dict[str, str] = {}
    dataset: DatasetInfo
    data: dict[str, Any] = {}
    model: str = ""
    space: dict[str, Any] = {}
    search: SearchInfo = Field(default_factory=SearchInfo)
    hardware: HardwareInfo = Field(default_factory=HardwareInfo)


class _Scored(_Read):
    """A score; where some columns are codes, the mean error stands in the place of the RMSE throughout the report."""

    test_nrmse: float | None = None
    test_error_rate: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _objective(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        found = {key: values.get(key.replace("rmse", "error")) for key in ("test_rmse", "validation_rmse")}
        return values | {key: value for key, value in found.items() if value is not None}


class Calibration(_Read):
    """How often intervals hold hidden numbers, by level; how often the likeliest codes are right."""

    n_numbers: int = 0
    coverage: dict[str, float] | None = None
    crps: float | None = None
    n_codes: int = 0
    accuracy: float | None = None
    confidence: float | None = None


class BestInfo(_Scored):
    """The winner; `test_rmse_repeats` are test scores of the same params under other seeds, where there are any.

    `ensemble` holds the weights of the trials that are averaged, where they are; `trial` is the best of them.
    `further_fits` is the number of fits among what is averaged that saw the validation rows, too.
    """

    trial: int
    params: dict[str, Any] = {}
    validation_rmse: float | None = None
    test_rmse: float | None = None
    test_rmse_minmax: float | None = None
    test_mae: float | None = None
    observed_rmse: float | None = None
    all_rmse: float | None = None
    artifact: str | None = None
    calibration: Calibration | None = None
    refitted: bool = False
    is_complete: bool = True
    test_rmse_repeats: tuple[float, ...] = ()
    ensemble: dict[str, float] = {}
    further_fits: int = 0


class BaselineInfo(_Scored):
    """A baseline's score on the same hidden cells, or why it has none."""

    test_rmse: float | None = None
    test_rmse_minmax: float | None = None
    seconds: float | None = None
    failure: str | None = None
    test_rmse_repeats: tuple[float, ...] = ()


class Summary(_Read):
    """`summary.json`, all of it optional."""

    best: BestInfo | None = None
    baselines: dict[str, BaselineInfo] = {}
    scored_cells: int | None = None
    seconds: float | None = None
    seconds_by_phase: dict[str, float] = {}


@dataclass(frozen=True, eq=False)
class Run:
    """One search, finished or not. All text in it comes from files and is to be escaped wherever it is shown."""

    path: Path
    settings: RunSettings
    trials: tuple[FrozenTrial, ...] = ()
    summary: Summary = field(default_factory=Summary)
    evaluation: Evaluation = field(default_factory=Evaluation)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def best_trial(self) -> FrozenTrial | None:
        """The winner: as the search named it, else the COMPLETE trial of the lowest validation RMSE."""
        if self.summary.best is not None:
            named = [trial for trial in self.trials if trial.number == self.summary.best.trial]
            if named:
                return named[0]
        return min(self.complete, key=lambda trial: final_value(trial), default=None)

    @property
    def complete(self) -> tuple[FrozenTrial, ...]:
        """COMPLETE trials of a finite value."""
        return tuple(t for t in self.trials if t.state == TrialState.COMPLETE and math.isfinite(final_value(t)))

    @property
    def is_running(self) -> bool:
        """Whether a trial runs, as far as the study knows, and no result is written yet."""
        return self.summary.best is None and any(trial.state == TrialState.RUNNING for trial in self.trials)

    def column_name(self, number: int) -> str:
        """Name of a column, or its number when the settings hold no names (pixels)."""
        columns = self.settings.dataset.columns
        return columns[number].name if number < len(columns) else f"column {number}"


def final_value(trial: FrozenTrial) -> float:
    """A trial's validation RMSE at its best epoch, NaN when it has none."""
    values = trial.values
    return float(values[0]) if values else math.nan


def read_run(run_dir: Path, reader: StudyReader | None = None) -> Run:
    """Read a run folder as it is now; a search may be writing to it.

    Args:
        run_dir: The folder, `runs/<name>`.
        reader: Of its study, from `study_reader`, to read only what is new; None reads everything.

    Raises:
        ArtifactError: Not a run, made by a newer version, or a file in it is spoilt.
    """
    run_dir = run_dir.resolve()
    settings = _settings(run_dir)
    notes: list[str] = []
    trials: tuple[FrozenTrial, ...] = ()
    if (run_dir / "study.log").is_file():
        reader = reader or study_reader(run_dir)
        trials = tuple(reader.trials())
        if reader.n_spoilt:
            notes.append(f"{reader.n_spoilt} lines of study.log could not be read and are left out.")
    else:
        notes.append("There is no study.log in this run, so it has no trials to show.")
    summary = _optional(Summary, run_dir / "summary.json", notes)
    evaluation = read_evaluation(run_dir / "evaluation.npz", settings.dataset.n_features)
    return Run(run_dir, settings, trials, summary, evaluation, tuple(notes))


def study_reader(run_dir: Path) -> StudyReader:
    """A reader of the run's study that may be asked again and again."""
    return StudyReader(run_dir.resolve() / "study.log", run_dir.resolve().name)


def _settings(run_dir: Path) -> RunSettings:
    path = run_dir / "settings.json"
    if not path.is_file():
        raise ArtifactError(f"{run_dir}: not a run: it has no settings.json. Give a folder such as runs/NAME.")
    values = _json(path)
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ArtifactError(f"{path}: {other_format(version, FORMAT_VERSION, values.get('versions'))}")
    return _validated(RunSettings, values, path)


def _optional(model: type[M], path: Path, notes: list[str]) -> M:
    if not path.is_file():
        return model()
    try:
        return _validated(model, _json(path), path)
    except ArtifactError as error:  # the study is worth showing without it
        notes.append(str(error).replace(f"{path}:", f"{path.name} is left out:"))
        return model()


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def _validated(model: type[M], values: Mapping[str, Any], path: Path) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ArtifactError(f"{path}: {problems}") from None
