"""How the search went: best so far over trials and over time, what the workers did, how the scores spread."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vadtune.report.theme import BEST, STATE_COLOURS, axis, drawing, label, laid_out
from vadtune.report.trials import duration, sample_trials, score, told


def history_frame(trials: pd.DataFrame) -> pd.DataFrame:
    """Every trial that reported something, with the best COMPLETE score up to it.

    Returns:
        `trials_frame`'s columns and `shown` (its value; of an unfinished or pruned one its last report),
        `best_by_number` (lowest value among trials up to this number) and `best_by_time` (among those that ended no
        later; NaN before the first one ended).
    """
    frame = trials.copy()
    frame["shown"] = frame["value"].fillna(frame["last_value"])
    frame["best_by_number"] = frame["value"].cummin().ffill()
    in_time = frame.sort_values("end_s", kind="stable")
    frame["best_by_time"] = in_time["value"].cummin().ffill()
    return frame[frame["shown"].notna()].reset_index(drop=True)


def draw_history(
    frame: pd.DataFrame, params: Mapping[int, Mapping[str, object]], *, over_time: bool, n_most: int = 700
) -> go.Figure:
    """Points are trials by state, their params (by number) on hover; the line is the best so far."""
    x, title = ("end_s", "seconds since the first trial") if over_time else ("number", "trial")
    best = "best_by_time" if over_time else "best_by_number"
    frame = frame[frame[x].notna()]
    figure = drawing(330)
    sample = sample_trials(frame, n_most)
    for state in ("pruned", "failed", "waiting", "running", "complete"):
        points = sample[sample["state"] == state]
        if not points.empty:
            figure.add_trace(_points(points, x, state, params))
    line = frame.sort_values(x)[[x, best]].dropna().drop_duplicates(best)
    if not line.empty:
        end = pd.DataFrame({x: [frame[x].max()], best: [line[best].iloc[-1]]})
        line = pd.concat([line, end], ignore_index=True)
        figure.add_trace(_best_line(line[x], line[best]))
    x_axis = axis(title, showgrid=False, rangemode="tozero" if over_time else "normal")
    return laid_out(figure, xaxis=x_axis, yaxis=axis("validation error", range=_focus(frame)))


def timeline_frame(trials: pd.DataFrame) -> pd.DataFrame:
    """The spans in which workers were busy.

    Returns:
        Columns `number`, `state`, `row` (of the worker, by first appearance), `worker`, `start_s`, `end_s`, `shown`; a
        running trial ends at the last known moment. Trials whose worker is unknown are in lanes that do not overlap.
    """
    frame = trials[trials["start_s"].notna()].copy()
    now = float(frame[["start_s", "end_s"]].max().max()) if len(frame) else 0.0
    frame["end_s"] = frame["end_s"].fillna(now)
    frame["shown"] = frame["value"].fillna(frame["last_value"])
    frame = frame.sort_values("start_s", kind="stable")
    unknown = frame["worker"] == ""
    frame.loc[unknown, "worker"] = _lanes(frame[unknown])
    frame["row"] = pd.factorize(frame["worker"])[0]
    return frame[["number", "state", "row", "worker", "start_s", "end_s", "shown"]].reset_index(drop=True)


@dataclass(frozen=True)
class Busy:
    """How much of the workers' time went into trials; `share` in [0, 1]."""

    share: float
    n_workers: int
    wall_s: float


def busy(timeline: pd.DataFrame) -> Busy:
    """Busy worker-seconds over all worker-seconds from the first start to the last end (overlaps count once)."""
    if timeline.empty:
        return Busy(float("nan"), 0, 0.0)
    wall = float(timeline["end_s"].max() - timeline["start_s"].min())
    spans = (_covered(group) for _, group in timeline.groupby("row"))
    n_workers = int(timeline["row"].nunique())
    total = sum(spans)
    return Busy(total / (wall * n_workers) if wall > 0 else float("nan"), n_workers, wall)


def merged(timeline: pd.DataFrame, n_steps: int = 1500) -> pd.DataFrame:
    """Spans of one worker and one state that lie closer than a step of the whole time become one.

    Returns:
        `timeline_frame`'s columns and `n`, the trials in each span; `number` is its first one.
    """
    frame = timeline.sort_values(["row", "start_s"], kind="stable").assign(n=1)
    if len(frame) < 2:
        return frame
    step = float(frame["end_s"].max() - frame["start_s"].min()) / n_steps
    alike = (frame["row"] == frame["row"].shift()) & (frame["state"] == frame["state"].shift())
    near = frame["start_s"] - frame["end_s"].shift() < step
    rules = {"number": "first", "state": "first", "row": "first", "worker": "first", "start_s": "first"}
    rules |= {"end_s": "max", "shown": "min", "n": "sum"}
    return frame.groupby((~(alike & near)).cumsum(), sort=False).agg(rules).reset_index(drop=True)


def draw_timeline(frame: pd.DataFrame, n_workers_most: int = 64) -> go.Figure:
    """A lane per worker, a bar per trial in the colour of its end; bare ground is idle time."""
    frame = frame[frame["row"] < n_workers_most]
    frame = merged(frame) if len(frame) > 600 else frame.assign(n=1)
    n_rows = int(frame["row"].max()) + 1 if len(frame) else 1
    lane = 22 if n_rows <= 12 else 12
    figure = drawing(104 + lane * n_rows, bargap=0)
    for state, colour in STATE_COLOURS.items():
        spans = frame[frame["state"] == state]
        if not spans.empty:
            figure.add_trace(_spans(spans, state, colour, lane))
    names = frame.drop_duplicates("row")
    lanes: dict[str, Any] = {
        "tickvals": names["row"],
        "ticktext": [label(w)[:32] for w in names["worker"]],
        "showgrid": False,
    }
    y = axis(range=[n_rows - 0.4, -0.6], fixedrange=True, **lanes)
    return laid_out(figure, xaxis=axis("seconds since the first trial"), yaxis=y)


def spread_frame(trials: pd.DataFrame) -> pd.DataFrame:
    """Empirical distribution of COMPLETE scores: `value`, and `share` of trials at or below it."""
    values = np.sort(trials["value"].dropna().to_numpy())
    return pd.DataFrame({"value": values, "share": np.arange(1, len(values) + 1) / max(len(values), 1)})


def draw_spread(frame: pd.DataFrame) -> go.Figure:
    """Steps: what share of the completed trials is at least this good."""
    figure = drawing(260, showlegend=False)
    x, y = frame["value"].to_numpy(np.float32), frame["share"].to_numpy(np.float32)
    line = {"color": "var(--c1)", "width": 2, "shape": "hv"}
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", line=line, hovertemplate="%{y:.0%} at or below %{x:.4f}<extra></extra>")
    )
    return laid_out(
        figure,
        xaxis=axis("validation error", showgrid=False),
        yaxis=axis("share of completed trials", tickformat=".0%", range=[0, 1.02]),
    )


def _points(points: pd.DataFrame, x: str, state: str, params: Mapping[int, Mapping[str, object]]) -> go.Scatter:
    symbol = {"failed": "x", "waiting": "circle-open", "running": "circle-open"}.get(state, "circle")
    size = 5 if state == "pruned" else 7
    hover = [
        "<br>".join([f"trial {n} · {state}", score(v) + (f" after {e:.0f} epochs" if e == e else ""), *told(params[n])])
        for n, v, e in zip(points["number"], points["shown"], points["last_epoch"], strict=True)
    ]
    return go.Scatter(
        x=points[x].to_numpy(np.float32),
        y=points["shown"].to_numpy(np.float32),
        mode="markers",
        name=state,
        marker={"color": STATE_COLOURS[state], "size": size, "symbol": symbol, "opacity": 0.75},
        hovertext=hover,
        hoverinfo="text",
    )


def _best_line(x: pd.Series, y: pd.Series) -> go.Scatter:
    return go.Scatter(
        x=x.to_numpy(np.float32),
        y=y.to_numpy(np.float32),
        mode="lines",
        name="best so far",
        line={"color": BEST, "width": 2.5, "shape": "hv"},
        hovertemplate="best so far %{y:.4f}<extra></extra>",
    )


def _spans(spans: pd.DataFrame, state: str, colour: str, lane: int) -> go.Scatter:
    """One broken line for all spans of a state: thousands of trials stay a single path."""
    gap = np.full(len(spans), np.nan)
    start, end = spans["start_s"].to_numpy(float), spans["end_s"].to_numpy(float)
    x = np.stack([start, (start + end) / 2, end, gap], axis=1).ravel()
    y = np.repeat(spans["row"].to_numpy(float), 4)
    texts = [
        f"trial {number}{f' and {n - 1} more' if n > 1 else ''} · {state}<br>{score(v)} · {duration(e - s)}"
        for number, n, v, s, e in zip(spans["number"], spans["n"], spans["shown"], start, end, strict=True)
    ]
    hover = [text for text in texts for _ in range(4)]
    line = {"color": colour, "width": lane * 0.62}
    return go.Scatter(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        mode="lines",
        name=state,
        line=line,
        hovertext=hover,
        hoverinfo="text",
    )


def _focus(frame: pd.DataFrame) -> list[float] | None:
    """A range that shows the completed trials well; far worse ones lie above it, and a double click shows them."""
    values = frame["shown"][np.isfinite(frame["shown"])]
    if values.empty:
        return None
    complete = frame["value"].dropna()
    low = float(values.min())
    middle = float((complete if len(complete) > 2 else values).quantile(0.95))
    span = max(middle - low, 0.15 * (float(values.quantile(0.5)) - low)) or 0.01
    return [low - 0.08 * span, min(low + 2 * span, float(values.max()) + 0.05 * span)]


def _covered(spans: pd.DataFrame) -> float:
    total, until = 0.0, -np.inf
    for start, end in spans.sort_values("start_s")[["start_s", "end_s"]].itertuples(index=False):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def _lanes(frame: pd.DataFrame) -> list[str]:
    """First free lane for each span, so that trials side by side lie under one another."""
    free: list[float] = []
    lanes = []
    for start, end in frame[["start_s", "end_s"]].itertuples(index=False):
        lane = next((i for i, until in enumerate(free) if until <= start), len(free))
        free[lane : lane + 1] = [end]
        lanes.append(f"lane {lane + 1}")
    return lanes
