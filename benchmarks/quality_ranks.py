"""Scores of one imputation, and what they say of the methods over many cases: ranks, ratios, a table, a figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import rankdata, studentized_range, wasserstein_distance

from vadtune.data.metrics import mae, rmse, rmse_minmax
from vadtune.data.tables import FloatArray

SEARCHES = ("vad", "vae")
OURS = ("vad_imputer", *SEARCHES)
KEYS = ("dataset", "mechanism", "missing_rate", "seed")
Result = dict[str, Any]
RATIO_TICKS = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
# Blue and grey of Okabe and Ito (2008): told apart by colour-blind readers.
OWN_COLOR, OTHER_COLOR = "#0072B2", "#777777"


def score(x_hat: FloatArray, truth: FloatArray, column_range: FloatArray) -> dict[str, float]:
    """Errors over hidden cells, in scaled units but for the one on min-max columns."""
    return {
        "rmse": rmse(x_hat, truth),
        "rmse_minmax": rmse_minmax(x_hat, truth, column_range),
        "mae": mae(x_hat, truth),
        "wasserstein": wasserstein(x_hat, truth),
    }


def wasserstein(x_hat: FloatArray, truth: FloatArray) -> float:
    """Between imputed and true values of the hidden cells of a column, the mean over columns that hide any."""
    hidden = ~np.isnan(truth)
    columns = np.flatnonzero(hidden.any(axis=0))
    distances = [wasserstein_distance(x_hat[hidden[:, j], j], truth[hidden[:, j], j]) for j in columns]
    return float(np.mean(distances))


def coverage(low: FloatArray, high: FloatArray, truth: FloatArray) -> float:
    """Share of the hidden cells whose true value lies between `low` and `high`, all `(N, D)`."""
    hidden = ~np.isnan(truth)
    return float(np.mean((low[hidden] <= truth[hidden]) & (truth[hidden] <= high[hidden])))


@dataclass(frozen=True, eq=False)
class Board:
    """Test RMSE of methods over cases.

    Attributes:
        cases: What tells the cases apart, in the order of `KEYS`.
        methods: Their names.
        errors: `(cases, methods)`; NaN where a method was not run, infinite where it failed or ran out of time.
    """

    cases: list[tuple[Any, ...]]
    methods: list[str]
    errors: FloatArray

    def ratios(self) -> FloatArray:
        """`(cases, methods)` errors over that of the best opponent of the case; NaN where either has none."""
        others = [number for number, method in enumerate(self.methods) if method not in OURS]
        rivals = np.where(np.isnan(self.errors), np.inf, self.errors)[:, others].min(axis=1, initial=np.inf)
        finite = np.isfinite(self.errors) & np.isfinite(rivals)[:, None]
        found: FloatArray = np.full_like(self.errors, np.nan)
        np.divide(self.errors, rivals[:, None], out=found, where=finite)
        return found

    def ranked(self) -> "Board":
        """The methods run in at least half of the cases that any of ours was, and the cases all of these were.

        Without a case of ours, all cases count.
        """
        was_run = ~np.isnan(self.errors)
        ours = was_run[:, [method in OURS for method in self.methods]].any(axis=1)
        rows = np.flatnonzero(ours) if ours.any() else np.arange(len(self.cases))
        columns = np.flatnonzero(was_run[rows].mean(axis=0) >= 0.5)
        rows = rows[was_run[np.ix_(rows, columns)].all(axis=1)]
        return Board(
            [self.cases[row] for row in rows],
            [self.methods[column] for column in columns],
            self.errors[np.ix_(rows, columns)],
        )

    def average_ranks(self) -> FloatArray:
        """`(methods,)`, 1 is best; equal errors, and failures, share the mean of their ranks."""
        return np.asarray(rankdata(self.errors, axis=1).mean(axis=0))


def board(results: Sequence[Result], part: str = "test") -> Board:
    """Collect the errors on `test` or `train` rows; ours come last."""
    cases = sorted({tuple(result[key] for key in KEYS) for result in results})
    methods = sorted({result["method"] for result in results}, key=lambda method: (method in OURS, method))
    errors = np.full((len(cases), len(methods)), np.nan)
    for result in results:
        row = cases.index(tuple(result[key] for key in KEYS))
        errors[row, methods.index(result["method"])] = result[part]["rmse"] if part in result else np.inf
    return Board(cases, methods, errors)


def critical_difference(n_methods: int, n_cases: int, alpha: float = 0.05) -> float:
    """How far average ranks have to be apart to differ: the test of Nemenyi.

    Source: Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7, section 3.2.2.
    """
    q = float(studentized_range.ppf(1 - alpha, n_methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_cases)))


def markdown(results: Sequence[Result]) -> str:
    """RMSE of each method in each case, the best in bold; then ratios and ranks. On test rows, then in-sample."""
    titles = {"test": "Hidden cells of unseen rows", "train": "Hidden cells of the fitted rows, eight times as many"}
    return "\n\n".join(f"{title}:\n\n{_table(board(results, part))}" for part, title in titles.items())


def _table(found: Board) -> str:
    lines = ["| case | " + " | ".join(found.methods) + " |", "|---" * (len(found.methods) + 1) + "|"]
    for case, errors in zip(found.cases, found.errors, strict=True):
        best = np.nanmin(errors)
        lines.append(f"| {case_name(case)} | " + " | ".join(_cell(error, best) for error in errors) + " |")
    means = [_mean(column) for column in found.ratios().T]
    lines.append("| ratio to the best opponent (cases) | " + " | ".join(means) + " |")
    return "\n".join([*lines, "", *_ranking(found.ranked())])


def _ranking(found: Board) -> list[str]:
    n_cases, n_methods = len(found.cases), len(found.methods)
    if n_cases == 0 or n_methods < 2:
        return ["No case was run by all methods yet."]
    order = sorted(zip(found.average_ranks(), found.methods, strict=True))
    ranks = ", ".join(f"{method} {rank:.2f}" for rank, method in order)
    difference = critical_difference(n_methods, n_cases)
    return [f"Average ranks over {n_cases} cases: {ranks}. Critical difference (Nemenyi, .05): {difference:.2f}."]


def figure(results: Sequence[Result]) -> go.Figure:
    """Left: error of each method in each case over that of the best opponent. Right: average ranks."""
    found = board(results)
    ranked = found.ranked()
    names = ["RMSE / best opponent's, a dot a case", f"average rank over {len(ranked.cases)} cases"]
    made = make_subplots(1, 2, subplot_titles=names, horizontal_spacing=0.18)
    for method, ratios in zip(found.methods, found.ratios().T, strict=True):
        color = OWN_COLOR if method in OURS else OTHER_COLOR
        dots = go.Scatter(x=ratios, y=[method] * len(ratios), mode="markers", marker={"color": color, "opacity": 0.6})
        made.add_trace(dots.update(text=[case_name(case) for case in found.cases], showlegend=False), 1, 1)
    if ranked.cases and len(ranked.methods) > 1:
        _add_ranks(made, ranked)
    made.add_vline(x=1, line_color=OTHER_COLOR, line_dash="dot", row=1, col=1)
    made.update_xaxes(type="log", tickvals=RATIO_TICKS, tickformat="~g", row=1, col=1)
    return made.update_layout(template="simple_white", width=1100, height=440)


def _add_ranks(made: go.Figure, ranked: Board) -> None:
    """Ranks with half the critical difference to both sides: methods whose bars are apart differ."""
    order = sorted(zip(ranked.average_ranks(), ranked.methods, strict=True), reverse=True)
    half = critical_difference(len(ranked.methods), len(ranked.cases)) / 2
    ranks, methods = zip(*order, strict=True)
    colors = [OWN_COLOR if method in OURS else OTHER_COLOR for method in methods]
    bars = {"type": "constant", "value": half, "color": OTHER_COLOR}
    dots = go.Scatter(x=ranks, y=methods, mode="markers", marker={"color": colors, "size": 9}, error_x=bars)
    made.add_trace(dots.update(showlegend=False), 1, 2)


def case_name(case: tuple[Any, ...]) -> str:
    dataset, mechanism, rate, seed = case
    return f"{dataset}, {mechanism.upper()} {rate:.0%}, seed {seed}"


def _cell(error: float, best: float) -> str:
    if np.isnan(error):
        return "–"
    if np.isinf(error):
        return "failed"
    return f"**{error:.4f}**" if error == best else f"{error:.4f}"


def _mean(ratios: FloatArray) -> str:
    known = ratios[~np.isnan(ratios)]
    return f"{known.mean():.3f} ({known.size})" if known.size else "–"
