"""Learning curves, and which rung stopped how many."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from vadtune.report.theme import BEST, STATE_COLOURS, axis, drawing, laid_out, upright
from vadtune.report.trials import records, sample_trials, score, told


def curves_frame(trials: Sequence[FrozenTrial], frame: pd.DataFrame, n_most: int = 240) -> pd.DataFrame:
    """The reports of a sample of trials, in which the best are always.

    Args:
        trials: All trials of the run.
        frame: Their `trials_frame`.
        n_most: How many curves to keep.

    Returns:
        Columns `number`, `state`, `epoch`, `rmse`, sorted by number and epoch.
    """
    reported = {trial.number: trial for trial in trials if trial.intermediate_values}
    kept = sample_trials(frame[frame["number"].isin(list(reported))], n_most)
    rows = [
        (number, state, epoch, value)
        for number, state in zip(kept["number"], kept["state"], strict=True)
        for epoch, value in sorted(reported[number].intermediate_values.items())
        if np.isfinite(value)
    ]
    return pd.DataFrame(rows, columns=["number", "state", "epoch", "rmse"])


def rungs_frame(frame: pd.DataFrame, rungs: Sequence[int]) -> pd.DataFrame:
    """What happened at each rung, and wherever else a trial was stopped, over all trials.

    Args:
        frame: `trials_frame` of the run.
        rungs: Epochs of the settings; others that a trial's `stopped_by` names are added.

    Returns:
        Columns `epoch`, `reached` (trials that reported there or later), `stopped` (there), `went_on`.
    """
    stopped_at = frame["stopped_by"].map(_stopped_at)
    epochs = sorted({*rungs, *(int(epoch) for epoch in stopped_at.dropna().unique())})
    rows = []
    for epoch in epochs:
        reached = int((frame["last_epoch"] >= epoch).sum())
        stopped = int((stopped_at == epoch).sum())
        rows.append((epoch, reached, stopped, reached - stopped))
    return pd.DataFrame(rows, columns=["epoch", "reached", "stopped", "went_on"])


def draw_curves(
    curves: pd.DataFrame, rungs: pd.DataFrame, trials: Sequence[FrozenTrial], best: int | None
) -> go.Figure:
    """A line a trial: pruned ones dimmed, the best bold; dotted verticals where trials were stopped. Hover: params."""
    params = {trial.number: trial.params for trial in trials}
    figure = drawing(430)
    order = {"pruned": 0, "failed": 1, "waiting": 2, "running": 3, "complete": 4}
    groups: list[Any] = sorted(
        curves.groupby("number"), key=lambda item: (item[0] == best, order[item[1]["state"].iloc[0]])
    )
    named: set[str] = set()
    traces = []
    for number, curve in groups:
        kind = "best" if number == best else str(curve["state"].iloc[0])
        traces.append(_curve(curve, kind, _hover(number, kind, params[number]), first=kind not in named))
        named.add(kind)
    figure.add_traces(traces)
    stopping = [rung for rung in records(rungs) if rung.stopped]
    note = {"showarrow": False, "font": {"size": 11, "color": "var(--muted)"}, "y": 1, "yref": "paper"}
    note |= {"xanchor": "left", "yanchor": "top", "xshift": 3}
    return laid_out(
        figure,
        shapes=[upright(rung.epoch) for rung in stopping],
        annotations=[note | {"x": rung.epoch, "text": f"−{rung.stopped}"} for rung in stopping],
        xaxis=axis("epoch", showgrid=False),
        yaxis=axis("validation error", range=_curve_range(curves)),
        hoverdistance=12,
    )


def draw_rungs(rungs: pd.DataFrame) -> go.Figure:
    """Of the trials that reached a rung: how many it stopped and how many went on."""
    figure = drawing(250, barmode="stack", bargap=0.45)
    names = [f"epoch {epoch}" for epoch in rungs["epoch"]]
    for column, name, colour in (
        ("went_on", "went on", "var(--c1)"),
        ("stopped", "stopped here", "var(--dim)"),
    ):
        text = [str(n) if n else "" for n in rungs[column]]
        hover = f"%{{y}} {name}<extra></extra>"
        inside = {"textposition": "inside", "insidetextanchor": "middle", "textangle": 0, "constraintext": "none"}
        figure.add_trace(
            go.Bar(x=names, y=rungs[column], name=name, marker_color=colour, text=text, hovertemplate=hover, **inside)
        )
    return laid_out(figure, xaxis=axis(showgrid=False, type="category"), yaxis=axis("trials"))


def _curve(curve: pd.DataFrame, kind: str, hover: str, *, first: bool) -> go.Scatter:
    style: dict[str, tuple[str, float, float]] = {
        "best": (BEST, 3, 1),
        "complete": (STATE_COLOURS["complete"], 1.3, 0.6),
        "running": (STATE_COLOURS["running"], 1.5, 0.9),
        "waiting": (STATE_COLOURS["waiting"], 1.3, 0.8),
        "failed": (STATE_COLOURS["failed"], 1.3, 0.8),
        "pruned": (STATE_COLOURS["pruned"], 1, 0.6),
    }
    colour, width, opacity = style[kind]
    return go.Scatter(
        x=curve["epoch"].to_numpy(np.int32),
        y=curve["rmse"].to_numpy(np.float32),
        mode="lines+markers" if len(curve) == 1 else "lines",
        marker={"size": 4},
        line={"color": colour, "width": width},
        opacity=opacity,
        name=kind,
        legendgroup=kind,
        showlegend=first,
        text=hover,
        hovertemplate="epoch %{x}: <b>%{y:.4f}</b><br>%{text}<extra></extra>",
    )


def _hover(number: int, kind: str, params: dict[str, object]) -> str:
    return "<br>".join([f"trial {number} · {kind}", *told(params)])


def _curve_range(curves: pd.DataFrame) -> list[float] | None:
    """From the best to a little over where curves begin typically: a wild first epoch must not flatten all."""
    values = curves["rmse"]
    if values.empty:
        return None
    low, high = float(values.min()), float(values.quantile(0.97))
    pad = 0.05 * (high - low) or 0.01
    return [low - pad, high + pad]


def _stopped_at(text: str) -> float:
    found = re.fullmatch(r"(?:rung|far behind at epoch) (\d{1,9})", text)
    return float(found[1]) if found else np.nan


def curves_table(curves: pd.DataFrame) -> pd.DataFrame:
    """One row a curve: where it began, its lowest point and where it ended."""
    columns = ["trial", "state", "epochs", "first", "lowest", "last"]
    rows = [
        (number, curve["state"].iloc[0], int(curve["epoch"].max()), *(score(v) for v in _marks(curve["rmse"])))
        for number, curve in curves.groupby("number")
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("lowest", ignore_index=True)


def _marks(rmse: "pd.Series[float]") -> tuple[float, float, float]:
    return float(rmse.iloc[0]), float(rmse.min()), float(rmse.iloc[-1])
