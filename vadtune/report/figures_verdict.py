"""The verdict: the winner's test error against baselines on the same hidden cells, and in words."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vadtune.report.run import BaselineInfo, Run, final_value
from vadtune.report.theme import BEST, axis, drawing, label, laid_out
from vadtune.report.trials import score

BASELINE_NAMES = {
    "mean": "Column mean",
    "knn": "k nearest neighbours",
    "iterative_pca": "Iterative PCA",
    "iterative": "IterativeImputer",
}
UNITS = {
    "pixel": "on a scale from 0 to 1",
    "sd": "counted in standard deviations of the training columns",
    "mixed": "the mean over columns of RMSE by range (numbers) and error rate (categories)",
}


@dataclass(frozen=True)
class Verdict:
    """The one number of a run and what it means; `is_test` is False while only a validation score is there."""

    rmse: float
    headline: str
    sentence: str
    is_test: bool


def verdict_frame(run: Run) -> pd.DataFrame:
    """The winner and each baseline, best first.

    Returns:
        Columns `name`, `is_winner`, `test_rmse` and `test_rmse_minmax` (NaN when there is none), `spread` (standard
        deviation over seeds, NaN without repeats), `seconds`, `failure`.
    """
    rows = [_baseline_row(name, found) for name, found in run.summary.baselines.items()]
    best = run.summary.best
    if best is not None and best.test_rmse is not None:
        which = f"{len(best.ensemble)} trials averaged" if len(best.ensemble) > 1 else f"trial {best.trial}"
        name = f"{run.settings.model.upper() or 'Model'}, {which}"
        spread = _spread(best.test_rmse_repeats)
        rows.append((name, True, best.test_rmse, _nan(best.test_rmse_minmax), spread, math.nan, ""))
    columns = ["name", "is_winner", "test_rmse", "test_rmse_minmax", "spread", "seconds", "failure"]
    return pd.DataFrame(rows, columns=columns).sort_values("test_rmse", ignore_index=True, kind="stable")


def verdict(run: Run) -> Verdict:
    """The result in one number, one headline and one sentence, as far as the run has got."""
    frame = verdict_frame(run)
    winner = frame[frame["is_winner"]]
    rivals = frame[~frame["is_winner"] & frame["test_rmse"].notna()]
    unit = UNITS[run.settings.dataset.unit]
    if winner.empty:
        return _unfinished(run, unit)
    rmse = float(winner["test_rmse"].iloc[0])
    scale = f"Hidden cells of unseen rows are off by {score(rmse)} (root mean square), {unit}."
    if run.settings.dataset.unit == "pixel":
        scale = f"Hidden pixels of unseen images are off by {score(rmse)} (root mean square) {unit}."
    if run.settings.dataset.unit == "mixed":
        scale = f"The error on hidden cells of unseen rows is {score(rmse)}, {unit}."
    if run.summary.best is not None and not run.summary.best.is_complete:
        scale += " The winner was still training when the search ended."
    if rivals.empty:
        return _tested(rmse, "No baseline was scored to compare with", scale)
    rival = rivals.iloc[0]
    gain = 1 - rmse / float(rival["test_rmse"])
    against = f"the best baseline, {rival['name']} ({score(float(rival['test_rmse']))})"
    if gain >= 0.0005:
        return _tested(rmse, f"{gain:.1%} less error than {against}", scale)
    if gain > -0.0005:
        return _tested(rmse, f"As good as {against}", scale)
    advice = "Keep that baseline, or search on with more trials or a wider space."
    return _tested(rmse, f"{-gain:.1%} more error than {against}", f"{scale} {advice}")


def draw_verdict(frame: pd.DataFrame) -> go.Figure:
    """Horizontal bars, the best on top; whiskers are one standard deviation over seeds; a failure is told in words."""
    frame = frame.iloc[::-1]
    scored = frame["test_rmse"].notna()
    shown = [
        f"<b>{score(rmse)}</b>" if is_winner else (score(rmse) if ok else label(failure or "not scored"))
        for rmse, is_winner, ok, failure in zip(
            frame["test_rmse"], frame["is_winner"], scored, frame["failure"], strict=True
        )
    ]
    largest = float(np.nanmax(frame["test_rmse"].to_numpy(), initial=0.0)) or 1.0
    names = [f"<b>{label(n)}</b>" if w else label(n) for n, w in zip(frame["name"], frame["is_winner"], strict=True)]
    rows = list(range(len(frame)))
    bar = go.Bar(
        x=frame["test_rmse"].fillna(0),
        y=rows,
        orientation="h",
        width=0.58,
        marker={"color": [BEST if w else "var(--dim)" for w in frame["is_winner"]], "cornerradius": 3},
        text=shown,
        textposition="outside",
        cliponaxis=False,
        textfont={"color": "var(--ink)", "size": 13},
        hoverinfo="skip",
        error_x={"array": frame["spread"].fillna(0), "color": "var(--ink)", "thickness": 1.2, "width": 4}
        if frame["spread"].notna().any()
        else None,
    )
    figure = drawing(44 + 38 * len(frame), showlegend=False)
    figure.add_trace(bar)
    hidden = {"visible": False, "range": [0, largest * 1.28], "fixedrange": True}
    ticks: dict[str, Any] = {
        "tickvals": rows,
        "ticktext": names,
        "tickfont": {"color": "var(--ink)", "size": 13},
        "fixedrange": True,
    }
    return laid_out(figure, xaxis=hidden, yaxis=axis(showgrid=False, **ticks), margin={"l": 8, "r": 8, "t": 4, "b": 4})


def _tested(rmse: float, headline: str, sentence: str) -> Verdict:
    return Verdict(rmse, headline, sentence, is_test=True)


def _unfinished(run: Run, unit: str) -> Verdict:
    best = run.best_trial
    if best is None:
        reason = "The search still runs." if run.is_running else "No trial was completed."
        return Verdict(math.nan, "No result yet", reason, is_test=False)
    state = "so far; the search still runs" if run.is_running else "of the completed trials; the test was not scored"
    sentence = f"Trial {best.number} is the best {state}. This is the error on hidden validation cells, {unit}."
    return Verdict(final_value(best), "Best validation error so far", sentence, is_test=False)


def _baseline_row(name: str, found: BaselineInfo) -> tuple[str, bool, float, float, float, float, str]:
    shown = BASELINE_NAMES.get(name, name)
    numbers = (_nan(found.test_rmse), _nan(found.test_rmse_minmax), _spread(found.test_rmse_repeats))
    return (shown, False, *numbers, _nan(found.seconds), found.failure or "")


def _spread(repeats: tuple[float, ...]) -> float:
    return float(np.std(repeats, ddof=1)) if len(repeats) > 1 else math.nan


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
