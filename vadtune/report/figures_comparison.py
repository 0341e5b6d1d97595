"""Several runs side by side: scores with their spread over seeds, overlaid histories, a paired test."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from vadtune.report.evaluation import Cells, FloatArray
from vadtune.report.figures_history import history_frame
from vadtune.report.figures_verdict import BASELINE_NAMES
from vadtune.report.run import Run, final_value
from vadtune.report.theme import BEST, SERIES, axis, drawing, label, laid_out
from vadtune.report.trials import score, trials_frame


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name a run, told apart by a number where folders are called alike."""
    names = [run.name for run in runs]
    return [f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def runs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, best first.

    Returns:
        Columns `run`, `group` (runs that differ only in their seeds share one), `model`, `seed`, `test_rmse`,
        `test_rmse_minmax`, `validation_rmse` (of its best trial), `trials`, `complete`, `seconds`, `order` (its place
        in the call, which decides its colour).
    """
    groups = _groups(runs)
    rows = []
    for i, (run, name, group) in enumerate(zip(runs, run_names(runs), groups, strict=True)):
        best, trial = run.summary.best, run.best_trial
        rows.append(
            {
                "run": name,
                "group": group,
                "model": run.settings.model,
                "seed": run.settings.search.seed,
                "test_rmse": _nan(best.test_rmse if best else None),
                "test_rmse_minmax": _nan(best.test_rmse_minmax if best else None),
                "validation_rmse": final_value(trial) if trial else math.nan,
                "trials": len(run.trials),
                "complete": len(run.complete),
                "seconds": _nan(run.summary.seconds),
                "order": i,
            }
        )
    return pd.DataFrame(rows).sort_values(["test_rmse", "validation_rmse"], ignore_index=True)


def groups_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """`group`, `mean` and `spread` (standard deviation; NaN of one) of test RMSE, `n` runs and `order`; best first."""
    scored = frame[frame["test_rmse"].notna()]
    grouped = scored.groupby("group", sort=False)
    made = pd.DataFrame(
        {
            "mean": grouped["test_rmse"].mean(),
            "spread": grouped["test_rmse"].std(ddof=1),
            "n": grouped["test_rmse"].size(),
            "order": grouped["order"].min(),
        }
    )
    return made.reset_index().sort_values("mean", ignore_index=True)


def baselines_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """`name` and `test_rmse` of the baselines on which all runs agree to four decimals (one data set, one mask)."""
    found: dict[str, set[float]] = {}
    for run in runs:
        for name, baseline in run.summary.baselines.items():
            if baseline.test_rmse is not None:
                found.setdefault(BASELINE_NAMES.get(name, name), set()).add(round(baseline.test_rmse, 4))
    rows = [(name, values.pop()) for name, values in found.items() if len(values) == 1]
    return pd.DataFrame(rows, columns=["name", "test_rmse"]).sort_values("test_rmse", ignore_index=True)


def draw_groups(groups: pd.DataFrame, baselines: pd.DataFrame) -> go.Figure:
    """Bars, best on top, whiskers of one standard deviation over seeds; baselines in grey below."""
    groups, baselines = groups.iloc[::-1], baselines.iloc[::-1]
    names = [
        *baselines["name"],
        *(f"{g} × {n}" if n > 1 else g for g, n in zip(groups["group"], groups["n"], strict=True)),
    ]
    values = [*baselines["test_rmse"], *groups["mean"]]
    spread = [0.0] * len(baselines) + groups["spread"].fillna(0).tolist()
    colours = ["var(--dim)"] * len(baselines) + [colour(int(order)) for order in groups["order"]]
    rows = list(range(len(names)))
    texts = [f"{score(v)} ± {s:.4f}" if s else score(v) for v, s in zip(values, spread, strict=True)]
    whiskers = {"array": spread, "color": "var(--ink)", "thickness": 1.2, "width": 4} if any(spread) else None
    figure = drawing(44 + 38 * len(names), showlegend=False)
    style = {"textposition": "outside", "cliponaxis": False, "hoverinfo": "skip", "width": 0.58}
    marker = {"color": colours, "cornerradius": 3}
    figure.add_trace(go.Bar(x=values, y=rows, orientation="h", text=texts, marker=marker, error_x=whiskers, **style))
    hidden = {"visible": False, "range": [0, (max(values, default=1.0) or 1.0) * 1.3], "fixedrange": True}
    ticks = axis(showgrid=False, tickvals=rows, ticktext=[label(n[:36]) for n in names], fixedrange=True)
    ticks["tickfont"] = {"color": "var(--ink)", "size": 13}
    return laid_out(figure, xaxis=hidden, yaxis=ticks)


def histories_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """`run`, `order`, `number`, `end_s`, `best_by_number` and `best_by_time` of each run's trials."""
    parts = []
    for i, (run, name) in enumerate(zip(runs, run_names(runs), strict=True)):
        frame = history_frame(trials_frame(run))
        parts.append(frame[["number", "end_s", "best_by_number", "best_by_time"]].assign(run=name, order=i))
    columns = ["run", "order", "number", "end_s", "best_by_number", "best_by_time"]
    return pd.concat(parts, ignore_index=True)[columns]


def draw_histories(frame: pd.DataFrame, *, over_time: bool) -> go.Figure:
    """The best so far of each run, over one another."""
    x, y, title = (
        ("end_s", "best_by_time", "seconds since the first trial")
        if over_time
        else ("number", "best_by_number", "trial")
    )
    figure = drawing(340)
    for name, mine in frame.groupby("run", sort=False):
        line = mine[[x, y]].dropna().sort_values(x)
        style = {"color": colour(int(mine["order"].iloc[0])), "width": 2.5, "shape": "hv"}
        values = {"x": line[x].to_numpy(np.float32), "y": line[y].to_numpy(np.float32)}
        figure.add_trace(go.Scatter(**values, mode="lines", line=style, name=label(name), hovertemplate="%{y:.4f}"))
    return laid_out(
        figure, xaxis=axis(title, showgrid=False), yaxis=axis("best validation error"), hovermode="x unified"
    )


def best_curves_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """`run`, `order`, `epoch` and `rmse` of each run's best trial."""
    rows = [
        (name, i, epoch, value)
        for i, (run, name) in enumerate(zip(runs, run_names(runs), strict=True))
        if run.best_trial is not None
        for epoch, value in sorted(run.best_trial.intermediate_values.items())
    ]
    return pd.DataFrame(rows, columns=["run", "order", "epoch", "rmse"])


def rates_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """`run`, `order`, `missing_rate` and `test_rmse` of the runs that were evaluated over rates."""
    rows = [
        (name, i, float(rate), float(rmse))
        for i, (run, name) in enumerate(zip(runs, run_names(runs), strict=True))
        if run.evaluation.rates is not None
        for rate, rmse in zip(run.evaluation.rates.rate, run.evaluation.rates.rmse, strict=True)
    ]
    return pd.DataFrame(rows, columns=["run", "order", "missing_rate", "test_rmse"])


def draw_lines(frame: pd.DataFrame, x: str, y: str, x_title: str, y_title: str) -> go.Figure:
    """A line a run."""
    figure = drawing(340)
    for name, mine in frame.groupby("run", sort=False):
        style = {"color": colour(int(mine["order"].iloc[0])), "width": 2.2}
        values = {"x": mine[x].to_numpy(np.float32), "y": mine[y].to_numpy(np.float32)}
        mode = "lines+markers" if len(mine) < 15 else "lines"
        figure.add_trace(go.Scatter(**values, mode=mode, line=style, name=label(name), hovertemplate="%{y:.4f}"))
    tickformat = ".0%" if x == "missing_rate" else None
    return laid_out(
        figure, xaxis=axis(x_title, showgrid=False, tickformat=tickformat), yaxis=axis(y_title), hovermode="x unified"
    )


@dataclass(frozen=True)
class Paired:
    """The best run against another one on the same cells (or columns).

    Attributes:
        best: Name of the run with the lowest test RMSE.
        other: Name of the other run.
        unit: `cells` or `columns`: what is paired.
        n: How many pairs.
        wins: Share of them in which the best run is nearer to the truth, ties counted half.
        p_value: Wilcoxon's signed-rank test, two-sided, corrected for the number of comparisons (Holm).
    """

    best: str
    other: str
    unit: str
    n: int
    wins: float
    p_value: float


def paired_tests(runs: Sequence[Run]) -> tuple[list[Paired], list[str]]:
    """The best run against each other one; and the names of those that share no cells with it.

    Errors of cells are divided by their column's spread, so that columns of large numbers do not decide alone.

    Source: Wilcoxon (1945), Individual comparisons by ranking methods; Holm (1979), A simple sequentially rejective
    multiple test procedure.
    """
    frame = runs_frame(runs)
    scored = frame[frame["test_rmse"].notna()]
    if len(scored) < 2:
        return [], []
    names = run_names(runs)
    best = int(scored["order"].iloc[0])
    found, apart = [], []
    for other in (int(order) for order in scored["order"].iloc[1:]):
        pair = _paired_errors(runs[best], runs[other])
        if pair is None:
            apart.append(names[other])
        else:
            found.append(_signed_rank(names[best], names[other], *pair))
    return _holm(found), apart


def differences(runs: Sequence[Run]) -> list[str]:
    """What makes the runs' scores hard to compare, in words; empty when they are on the same cells."""
    said = []
    if len({run.settings.dataset.sha256 for run in runs}) > 1:
        said.append("The runs are on different data: their scores cannot be compared.")
    for key, what in (("missing_rate", "missing rates"), ("mechanism", "mechanisms"), ("seed", "mask seeds")):
        if len({json.dumps(run.settings.data.get(key), sort_keys=True, default=str) for run in runs}) > 1:
            said.append(f"The runs have different {what}: their scores are over different cells.")
    return said


def params_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a param, a column a run: the best trials' values, None where a run has no such param."""
    columns = {}
    for run, name in zip(runs, run_names(runs), strict=True):
        columns[name] = dict(run.best_trial.params) if run.best_trial else {}
    paths = sorted({path for params in columns.values() for path in params})
    return pd.DataFrame({"param": paths} | {name: [p.get(path) for path in paths] for name, p in columns.items()})


def colour(order: int) -> str:
    """The colour of a run by its place in the call; the first one has the winner's orange."""
    palette = (BEST, *(c for c in SERIES if c != BEST))
    return palette[order % len(palette)]


def _groups(runs: Sequence[Run]) -> list[str]:
    keys = []
    for run in runs:
        data = {key: value for key, value in run.settings.data.items() if key != "seed"}
        same = [
            run.settings.model,
            run.settings.space,
            run.settings.dataset.sha256,
            data,
            run.settings.search.max_epochs,
        ]
        keys.append(json.dumps(same, sort_keys=True, default=str))
    names = run_names(runs)
    first = {key: names[keys.index(key)] for key in keys}
    return [first[key] for key in keys]


def _paired_errors(a: Run, b: Run) -> tuple[str, FloatArray, FloatArray] | None:
    if a.settings.dataset.sha256 != b.settings.dataset.sha256:
        return None
    mine, theirs = a.evaluation.cells, b.evaluation.cells
    if mine is not None and theirs is not None and _same_cells(mine, theirs):
        scale = pd.Series(mine.truth).groupby(mine.column).transform("std").fillna(1).replace(0, 1).to_numpy()
        return "cells", np.abs(mine.imputed - mine.truth) / scale, np.abs(theirs.imputed - theirs.truth) / scale
    ours, other = a.evaluation.columns, b.evaluation.columns
    if ours is not None and other is not None and len(ours.rmse) == len(other.rmse) > 5:
        scale = np.maximum((ours.rmse + other.rmse) / 2, 1e-300)
        return "columns", ours.rmse / scale, other.rmse / scale
    return None


def _same_cells(a: Cells, b: Cells) -> bool:
    return np.array_equal(a.column, b.column) and np.allclose(a.truth, b.truth, equal_nan=True)


def _signed_rank(best: str, other: str, unit: str, mine: FloatArray, theirs: FloatArray) -> Paired:
    known = np.isfinite(mine) & np.isfinite(theirs)
    difference = (theirs - mine)[known]
    wins = float(np.mean(difference > 0) + 0.5 * np.mean(difference == 0)) if len(difference) else math.nan
    p_value = float(stats.wilcoxon(difference).pvalue) if np.any(difference != 0) else 1.0
    return Paired(best, other, unit, len(difference), wins, p_value)


def _holm(found: list[Paired]) -> list[Paired]:
    order = sorted(range(len(found)), key=lambda i: found[i].p_value)
    corrected, worst = dict[int, float](), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(found) - rank) * found[i].p_value))
        corrected[i] = worst
    return [Paired(f.best, f.other, f.unit, f.n, f.wins, corrected[i]) for i, f in enumerate(found)]


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
