"""The trials of a run as pandas frames: what every figure starts from."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from vadtune.report.run import Run, final_value
from vadtune.report.theme import label

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}


def trials_frame(run: Run) -> pd.DataFrame:
    """One row a trial, in the order of their numbers.

    Returns:
        Columns `number`, `state` (a word of STATES), `value` (validation RMSE of a COMPLETE trial, else NaN),
        `last_value` and `last_epoch` (of the last report), `best_epoch`, `start_s` and `end_s` (seconds since the
        first trial began; NaN when unknown), `worker`, `host`, `train_s`, `infer_s`, `stopped_by`, `failure`.
    """
    began = [trial.datetime_start for trial in run.trials if trial.datetime_start is not None]
    zero = min(began, default=None)
    rows = [_row(trial, zero) for trial in run.trials]
    nobody = _row(_NOBODY, None)
    frame = pd.DataFrame(rows, columns=list(nobody)).sort_values("number", ignore_index=True)
    numbers = {name: "int64" if name == "number" else "float64" for name, v in nobody.items() if not isinstance(v, str)}
    return frame.astype(numbers)


def params_frame(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """The params of trials, indexed by trial number: one column a dotted path, None where a trial has it not."""
    paths = sorted({path for trial in trials for path in trial.params})
    rows = [[trial.params.get(path) for path in paths] for trial in trials]
    index = pd.Index([trial.number for trial in trials], name="number")
    return pd.DataFrame(rows, columns=paths, index=index, dtype=object)


def sample_trials(frame: pd.DataFrame, n_most: int, n_best: int = 25) -> pd.DataFrame:
    """At most `n_most` trials: the best `n_best` COMPLETE ones always, the rest spread evenly over the search.

    Half of the rest are COMPLETE ones while there are that many, so that survivors are not drowned.
    """
    if len(frame) <= n_most:
        return frame
    best = frame.dropna(subset=["value"]).nsmallest(min(n_best, n_most), "value")
    rest = frame.drop(best.index)
    survivors = _spread(rest[rest["state"] == "complete"], (n_most - len(best)) // 2)
    losers = _spread(rest[rest["state"] != "complete"], n_most - len(best) - len(survivors))
    return frame.loc[best.index.union(survivors.index).union(losers.index)]


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame as named tuples."""
    return list(frame.itertuples(index=False))


def value_at(trial: FrozenTrial, epoch: int) -> float:
    """The validation RMSE that a trial reported at this epoch, NaN when it did not get there."""
    return float(trial.intermediate_values.get(epoch, math.nan))


def word(value: Any) -> str:
    """A param's value in words: four significant digits are enough to read."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "–"}[value]
    if isinstance(value, float):
        return number(value)
    return str(value)


def told(params: Mapping[str, Any], n_most: int = 14) -> list[str]:
    """Params for a figure's hover, one `path = value` a line."""
    return [f"{label(path)} = {label(word(value))}" for path, value in list(params.items())[:n_most]]


def number(value: float | None, digits: int = 4) -> str:
    """A number of so many significant digits, without a needless exponent; a dash for what is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{max(digits - 2, 1)}e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def score(value: float | None) -> str:
    """An RMSE, four decimals, so that scores stand under one another."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}" if abs(value) < 100 else number(value)


def duration(seconds: float | None) -> str:
    """Seconds in words: `8.3 s`, `2 min 51 s`, `3 h 4 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _spread(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    if len(frame) <= n:
        return frame
    return frame.iloc[np.linspace(0, len(frame) - 1, max(n, 0)).round().astype(int)]


def _row(trial: FrozenTrial, zero: datetime | None) -> dict[str, Any]:
    attrs = trial.user_attrs
    last_epoch = max(trial.intermediate_values, default=None)
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "value": final_value(trial) if trial.state == TrialState.COMPLETE else math.nan,
        "last_value": math.nan if last_epoch is None else float(trial.intermediate_values[last_epoch]),
        "last_epoch": math.nan if last_epoch is None else float(last_epoch),
        "best_epoch": _number(attrs.get("best_epoch")),
        "start_s": _since(trial.datetime_start, zero),
        "end_s": _since(trial.datetime_complete, zero),
        "worker": str(attrs.get("worker", "")),
        "host": str(attrs.get("host", "")),
        "train_s": _number(attrs.get("train_s")),
        "infer_s": _number(attrs.get("infer_s")),
        "stopped_by": str(attrs.get("stopped_by") or ""),
        "failure": str(attrs.get("failure") or ""),
    }


def _since(moment: datetime | None, zero: datetime | None) -> float:
    return math.nan if moment is None or zero is None else (moment - zero).total_seconds()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


_NOBODY = FrozenTrial(0, TrialState.WAITING, None, None, None, {}, {}, {}, {}, {}, 0)
