"""Which params mattered: PED-ANOVA and fANOVA, over trials that can be compared, pruned ones among them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from vadtune.report.run import final_value
from vadtune.report.theme import axis, drawing, label
from vadtune.report.trials import value_at

N_LEAST = 10
N_PED_ANOVA = 800
N_FANOVA = 200
COMPARABLE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Basis:
    """The trials an importance was computed on: so many, compared by their error at this epoch."""

    epoch: int
    n_trials: int


@dataclass(frozen=True, eq=False)
class Importances:
    """Importances and what they were computed on.

    Attributes:
        frame: Columns `param`, `ped_all`, `fanova_all`, `ped_best`, `fanova_best` (each sums to 1 over its params; NaN
            where the method cannot tell), `rank_correlation` (Spearman, of numeric params with the error over all:
            negative means that more is better); most important first.
        everyone: What `*_all` were computed on.
        best: What `*_best` were computed on: the best quarter; None where that is too few.
    """

    frame: pd.DataFrame
    everyone: Basis
    best: Basis | None


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Ended trials that reported, best first: COMPLETE ones by value, then those that got furthest, by last report."""
    ended = [trial for trial in trials if trial.state in COMPARABLE and trial.intermediate_values and trial.params]
    return sorted(ended, key=_merit)


def comparison_epoch(trials: Sequence[FrozenTrial]) -> int | None:
    """The last epoch that three quarters of these trials reported: there they can be compared."""
    epochs = sorted({epoch for trial in trials for epoch in trial.intermediate_values}, reverse=True)
    enough = 0.75 * len(trials)
    return next((e for e in epochs if sum(e in trial.intermediate_values for trial in trials) >= enough), None)


def importances(trials: Sequence[FrozenTrial], seed: int = 0) -> Importances | None:
    """PED-ANOVA and fANOVA over all ended trials, pruned ones among them, and over the best quarter.

    Optuna's own default uses COMPLETE trials only: where a scheduler stops the poor ones, few and alike are left.

    Returns:
        None where too few trials reported to tell anything.

    Source: Watanabe, Bansal, Hutter (2023), PED-ANOVA, arXiv:2304.10255; Hutter, Hoos, Leyton-Brown (2014), An
    efficient approach for assessing hyperparameter importance, ICML.
    """
    ended = ranked(trials)
    everyone = _compare(ended)
    if everyone is None:
        return None
    best = _compare(ended[: len(ended) // 4])
    columns = _both(everyone, "all", seed) | (
        _both(best, "best", seed) if best else {"ped_best": {}, "fanova_best": {}}
    )
    paths = _varied(ended)
    frame = pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in columns.items()}).reindex(paths)
    frame["rank_correlation"] = [_spearman(everyone, path) for path in paths]
    frame.insert(0, "param", paths)
    order = frame[["ped_all", "fanova_all"]].fillna(0).mean(axis=1).sort_values(ascending=False, kind="stable")
    basis = Basis(best.epoch, len(best.trials)) if best else None
    return Importances(
        frame.loc[order.index].reset_index(drop=True), Basis(everyone.epoch, len(everyone.trials)), basis
    )


def draw_importances(frame: pd.DataFrame, *, best: bool, n_most: int = 12) -> go.Figure:
    """Horizontal bars of both methods, the most important param on top."""
    frame = frame.head(n_most).iloc[::-1]
    suffix = "best" if best else "all"
    figure = drawing(90 + 36 * len(frame), barmode="group", bargap=0.34, bargroupgap=0.08)
    rows = list(range(len(frame)))
    for method, name, colour in (("fanova", "fANOVA", "var(--c6)"), ("ped", "PED-ANOVA", "var(--c1)")):
        hover = f"{name} %{{x:.0%}}<extra></extra>"
        x = frame[f"{method}_{suffix}"].to_numpy(np.float64)
        bar = {"marker": {"color": colour, "cornerradius": 2}, "hovertemplate": hover}
        figure.add_trace(go.Bar(x=x, y=rows, orientation="h", name=name, **bar))
    ticks: dict[str, Any] = {"tickvals": rows, "ticktext": [label(p) for p in frame["param"]], "fixedrange": True}
    figure.update_layout(
        xaxis=axis(tickformat=".0%", rangemode="tozero"),
        yaxis=axis(showgrid=False, **ticks),
        legend={"traceorder": "reversed"},
    )
    return figure


@dataclass(frozen=True, eq=False)
class _Compared:
    """Trials, best first at one epoch that all of them reported."""

    trials: list[FrozenTrial]
    epoch: int


def _compare(trials: Sequence[FrozenTrial]) -> _Compared | None:
    epoch = comparison_epoch(trials)
    if epoch is None:
        return None
    having = [trial for trial in trials if math.isfinite(value_at(trial, epoch))]
    having.sort(key=lambda trial: value_at(trial, epoch))
    if len(having) < N_LEAST or value_at(having[0], epoch) == value_at(having[-1], epoch):
        return None
    return _Compared(having, epoch)


def _both(compared: _Compared, suffix: str, seed: int) -> dict[str, dict[str, float]]:
    """Both methods; each is given so many trials, thinned evenly by rank, that it ends within about a second."""
    target = min(0.25, max(0.1, 5 / len(compared.trials)))
    ped_anova = PedAnovaImportanceEvaluator(target_quantile=target)
    fanova = FanovaImportanceEvaluator(n_trees=16, seed=seed)
    with _study(_thinned(compared, N_PED_ANOVA)) as study:
        by_ped_anova = get_param_importances(study, evaluator=ped_anova)
    with _study(_thinned(compared, N_FANOVA)) as study:
        by_fanova = get_param_importances(study, evaluator=fanova)
    return {f"ped_{suffix}": by_ped_anova, f"fanova_{suffix}": by_fanova}


def _thinned(compared: _Compared, n_most: int) -> _Compared:
    chosen = np.unique(np.linspace(0, len(compared.trials) - 1, n_most).round().astype(int))
    return _Compared([compared.trials[i] for i in chosen], compared.epoch)


def _merit(trial: FrozenTrial) -> tuple[bool, float, float]:
    value = final_value(trial)
    if trial.state == TrialState.COMPLETE and math.isfinite(value):
        return (False, 0.0, value)
    last = max(trial.intermediate_values)
    return (True, -float(last), value_at(trial, last))


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Params that took more than one value."""
    seen: dict[str, set[object]] = {}
    for trial in trials:
        for path, value in trial.params.items():
            seen.setdefault(path, set()).add(value)
    return sorted(path for path, values in seen.items() if len(values) > 1)


def _spearman(compared: _Compared, path: str) -> float:
    having = [trial for trial in compared.trials if path in trial.params]
    if len(having) < N_LEAST or isinstance(having[0].distributions[path], CategoricalDistribution):
        return math.nan
    params = pd.Series([float(trial.params[path]) for trial in having])
    scores = pd.Series([value_at(trial, compared.epoch) for trial in having])
    if params.nunique() < 2 or scores.nunique() < 2:
        return math.nan
    return float(np.corrcoef(params.rank(), scores.rank())[0, 1])


@contextmanager
def _study(compared: _Compared) -> Iterator[optuna.Study]:
    """A study in memory in which every trial is COMPLETE with its value at the epoch; Optuna's log keeps quiet."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study()
        values = [value_at(trial, compared.epoch) for trial in compared.trials]
        study.add_trials(
            [
                create_trial(params=trial.params, distributions=trial.distributions, value=value)
                for trial, value in zip(compared.trials, values, strict=True)
            ]
        )
        yield study
    finally:
        optuna.logging.set_verbosity(before)
