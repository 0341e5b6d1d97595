"""The params against the score: parallel coordinates, slices, contours, and the edges of the ranges."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from vadtune.report.evaluation import FloatArray
from vadtune.report.figures_importance import comparison_epoch, ranked
from vadtune.report.run import final_value
from vadtune.report.scales import ABSENT, Scale, positions
from vadtune.report.theme import BEST, SCALE, STATE_COLOURS, axis, drawing, label, laid_out
from vadtune.report.trials import records, score, value_at, word

EDGE = 0.03
GRID = 36
# Lines up to these ranks, 0 the best and 1 the worst, and how wide they are drawn.
BINS = ((0.05, 1.9), (0.2, 1.5), (0.5, 1.1), (1.0, 0.8))


@dataclass(frozen=True, eq=False)
class Parallel:
    """Trials as lines over axes.

    Attributes:
        frame: One row a trial, worst first: `number`, `rank` (0 the best, 1 the worst of all), `final_rmse` (NaN for a
            pruned one), `epochs`, then one column a path of positions from 0 to 1 (ABSENT where it has no value).
        scales: Of those paths, in their order.
        n_all: Trials before thinning.
    """

    frame: pd.DataFrame
    scales: tuple[Scale, ...]
    n_all: int


def parallel(trials: Sequence[FrozenTrial], scales: Sequence[Scale], n_most: int = 500, n_best: int = 50) -> Parallel:
    """The lines of at most `n_most` trials, of which the best `n_best` always."""
    ended = ranked(trials)
    n = len(ended)
    rest: Any = np.linspace(min(n_best, n), n - 1, max(n_most - n_best, 0)).round().astype(int) if n > n_best else []
    kept = sorted({*range(min(n_best, n)), *(int(i) for i in rest)}, reverse=True)
    shown = [ended[i] for i in kept]
    columns = {
        "number": [trial.number for trial in shown],
        "rank": np.array(kept) / max(n - 1, 1),
        "final_rmse": [final_value(t) if t.state == TrialState.COMPLETE else np.nan for t in shown],
        "epochs": [max(t.intermediate_values) for t in shown],
    }
    paths = {s.path: np.nan_to_num(positions(s, shown), nan=ABSENT) for s in scales}
    return Parallel(pd.DataFrame(columns | paths), tuple(scales), n)


def draw_parallel(data: Parallel) -> go.Figure:
    """Parallel coordinates as plain lines, strong for good trials, the winner on top.

    The first trace is empty: the page's script moves lines there that are brushed away. Plotly's own `parcoords` needs
    WebGL and lets scripts be compiled from text, which the page's content policy refuses.
    """
    axes = [
        _score_axis(data.frame),
        _epochs_axis(data.frame),
        *(_param_axis(s, data.frame[s.path]) for s in data.scales),
    ]
    figure = drawing(
        440, showlegend=False, margin={"l": 16, "r": max(30, int(6 * len(axes[-1].name)) - 20), "t": 76, "b": 8}
    )
    figure.add_trace(go.Scatter(x=[], y=[], mode="lines", line={"color": "var(--line)", "width": 1}, hoverinfo="skip"))
    bins = [(limit, f"var(--s{i})", width) for i, (limit, width) in enumerate(BINS)]
    for limit, colour, width in reversed(bins):
        mine = data.frame["rank"].between(_below(limit), limit, inclusive="right").to_numpy()
        figure.add_trace(_lines(data.frame[mine], [axis.places[mine] for axis in axes], colour, width))
    winner = np.arange(len(data.frame)) == len(data.frame) - 1
    figure.add_trace(_lines(data.frame[winner], [axis.places[winner] for axis in axes], BEST, 3))
    low = min([0.0, *(place for axis in axes for place in axis.ticks[0])])
    line = {"type": "line", "y0": low, "y1": 1, "line": {"color": "var(--muted)", "width": 1}, "opacity": 0.7}
    shapes = [line | {"x0": i, "x1": i} for i in range(len(axes))]
    texts = [text for i, drawn in enumerate(axes) for text in _axis_texts(i, drawn, tilted=len(axes) > 7)]
    flat = {"visible": False, "fixedrange": True}
    x, y = flat | {"range": [-0.55, len(axes) - 0.6]}, flat | {"range": [low - 0.03, 1.04]}
    meta = {"n_axes": len(axes), "low": low - 0.02, "names": [axis.name for axis in axes]}
    return laid_out(figure, xaxis=x, yaxis=y, meta=meta, dragmode=False, shapes=shapes, annotations=texts)


def slice_frame(trials: Sequence[FrozenTrial], scale: Scale, n_most: int = 600) -> pd.DataFrame:
    """Every ended trial that has this param: `number`, `state`, `position`, `value`, `rmse`; best last.

    `rmse` is the final one of a COMPLETE trial, and the last report of a pruned one.
    """
    shown = [trial for trial in ranked(trials) if scale.path in trial.params]
    keep = shown if len(shown) <= n_most else [*shown[: n_most // 2], *_thin(shown[n_most // 2 :], n_most // 2)]
    is_complete = [trial.state == TrialState.COMPLETE for trial in keep]
    frame = pd.DataFrame(
        {
            "number": [trial.number for trial in keep],
            "state": ["complete" if c else "pruned" for c in is_complete],
            "position": positions(scale, keep),
            "value": [word(trial.params[scale.path]) for trial in keep],
            "rmse": [_score(trial) for trial in keep],
        }
    )
    return frame.iloc[::-1].reset_index(drop=True)


def draw_slice(frame: pd.DataFrame, scale: Scale, rmse_range: list[float] | None) -> go.Figure:
    """Points over the param's range, the best one marked; pruned trials are faint."""
    figure = drawing(236, showlegend=False)
    spread = (frame["number"].to_numpy() * 0.618 % 1 - 0.5) * 0.3 / max(len(scale.choices), 1) if scale.choices else 0.0
    x = frame["position"].to_numpy() + spread
    for state, size, opacity in (("pruned", 4.5, 0.55), ("complete", 6, 0.75)):
        mine = (frame["state"] == state).to_numpy()
        hover = [f"trial {n}: {label(v)}<br>{score(r)} · {state}" for n, v, r in _rows(frame[mine])]
        marker = {"color": STATE_COLOURS[state], "size": size, "opacity": opacity}
        xs, ys = x[mine].astype(np.float32), frame["rmse"].to_numpy(np.float32)[mine]
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="markers", marker=marker, hovertext=hover, hoverinfo="text"))
    if len(frame):
        ring = {"size": 12, "color": "rgba(0,0,0,0)", "line": {"color": BEST, "width": 2.5}}
        last = {"x": x[-1:].astype(np.float32), "y": frame["rmse"].to_numpy(np.float32)[-1:]}
        figure.add_trace(go.Scatter(**last, mode="markers", marker=ring, hoverinfo="skip"))
    return laid_out(figure, xaxis=_positions_axis(scale), yaxis=axis(range=rmse_range, nticks=5))


@dataclass(frozen=True, eq=False)
class Surface:
    """A smoothed error over two params: `rmse (GRID, GRID)`, rows along `second`; NaN where no trial is near.

    `trials` has `number`, `first`, `second` (positions) and `rmse` at `epoch`, the points it was made of.
    """

    first: Scale
    second: Scale
    rmse: FloatArray
    trials: pd.DataFrame
    epoch: int


def surface(trials: Sequence[FrozenTrial], first: Scale, second: Scale) -> Surface | None:
    """Gaussian kernel regression of the error at the epoch that most trials reported (Nadaraya–Watson)."""
    ended = [t for t in ranked(trials) if first.path in t.params and second.path in t.params]
    epoch = comparison_epoch(ended)
    if epoch is None:
        return None
    having = [trial for trial in ended if np.isfinite(value_at(trial, epoch))]
    points = np.stack([positions(first, having), positions(second, having)], axis=1).reshape(-1, 2)
    values = np.array([value_at(trial, epoch) for trial in having])
    if len(values) < 10:
        return None
    names = {"number": [t.number for t in having], "first": points[:, 0], "second": points[:, 1], "rmse": values}
    return Surface(first, second, _smoothed(points, values), pd.DataFrame(names), epoch)


def draw_surface(found: Surface) -> go.Figure:
    """Filled contours, dark where the error is low, and the trials as points."""
    place = np.linspace(0, 1, GRID)
    points = found.trials.iloc[:250]
    best = points["rmse"].to_numpy()
    low, high = float(np.nanmin(found.rmse)), float(np.nanquantile(found.rmse, 0.95))
    contour = go.Contour(
        x=place,
        y=place,
        z=found.rmse.astype(np.float32),
        colorscale=SCALE,
        contours={"start": low, "end": high, "size": max((high - low) / 10, 1e-9), "showlines": False},
        showscale=False,
        hoverinfo="skip",
        connectgaps=False,
    )
    hover = [
        f"trial {n}<br>{score(r)} at epoch {found.epoch}" for n, r in zip(points["number"], points["rmse"], strict=True)
    ]
    is_best = [i == int(np.argmin(best)) for i in range(len(points))]
    colours = [BEST if first else "var(--ink)" for first in is_best]
    sizes = [12 if first else 6 for first in is_best]
    marker = {"color": colours, "size": sizes, "opacity": 0.9, "line": {"color": "var(--ground)", "width": 1.2}}
    where = {"x": points["first"].to_numpy(np.float32), "y": points["second"].to_numpy(np.float32)}
    figure = drawing(300, showlegend=False)
    figure.add_trace(contour)
    figure.add_trace(go.Scatter(**where, mode="markers", marker=marker, hovertext=hover, hoverinfo="text"))
    x, y = _positions_axis(found.first), _positions_axis(found.second)
    return laid_out(figure, xaxis=x | {"showgrid": False}, yaxis=y | {"showgrid": False})


def edges_frame(best: FrozenTrial, trials: Sequence[FrozenTrial], scales: Mapping[str, Scale]) -> pd.DataFrame:
    """Where the winner's numeric params lie in their ranges.

    Returns:
        Columns `param`, `value`, `low`, `high`, `position`, `edge` (`lower`, `upper` or empty: within EDGE of an end),
        `n_near` (of the best ten trials, how many lie in that outer tenth) and `n_best`.
    """
    top = [trial for trial in ranked(trials) if trial.state == TrialState.COMPLETE][:10]
    rows = []
    for path, value in best.params.items():
        scale = scales.get(path)
        if scale is None or scale.choices:
            continue
        place = scale.position(value)
        edge = "lower" if place <= EDGE else "upper" if place >= 1 - EDGE else ""
        near = positions(scale, top)
        n_near = int(np.sum(near <= 0.1)) if edge == "lower" else int(np.sum(near >= 0.9)) if edge == "upper" else 0
        rows.append((path, value, scale.low, scale.high, place, edge, n_near, len(top)))
    return pd.DataFrame(rows, columns=["param", "value", "low", "high", "position", "edge", "n_near", "n_best"])


@dataclass(frozen=True)
class Hint:
    """A range that is too narrow, in words, and the setting that widens it."""

    words: str
    setting: str


def edge_hints(edges: pd.DataFrame, scales: Mapping[str, Scale]) -> list[Hint]:
    """Which range to widen, and to what: a third of its length further out."""
    hints = []
    for row in records(edges[edges["edge"] != ""]):
        scale = scales[str(row.param)]
        low, high = (_further(scale, down=True), scale.high) if row.edge == "lower" else (scale.low, _further(scale))
        if (low, high) == (scale.low, scale.high):
            continue
        words = (
            f"{row.param} = {word(row.value)} lies at the {row.edge} end of its range ({scale.range_in_words()}), and "
            f"{row.n_near} of the best {row.n_best} trials lie near it. If it may go further, widen the range:"
        )
        log = ", log = true" if scale.is_log else ""
        hints.append(
            Hint(words, f"--set '{row.param}={{low = {_toml(scale, low)}, high = {_toml(scale, high)}{log}}}'")
        )
    return hints


def focus(trials: Sequence[FrozenTrial]) -> list[float] | None:
    """A range of RMSE that shows completed trials well and cuts off far worse ones."""
    complete = np.array([final_value(t) for t in trials if t.state == TrialState.COMPLETE])
    complete = complete[np.isfinite(complete)]
    shown = complete if len(complete) > 3 else np.array([_score(trial) for trial in ranked(trials)])
    if not len(shown):
        return None
    low, high = float(shown.min()), float(np.quantile(shown, 0.95))
    span = (high - low) or 0.01
    return [low - 0.12 * span, high + 0.6 * span]


def _further(scale: Scale, *, down: bool = False) -> float:
    """An end a third of the range further out; the old one where 0 or 1 looks like the end of what makes sense."""
    value = float(f"{scale.value(-1 / 3 if down else 4 / 3):.1e}")
    if scale.is_integer:
        return max(min(round(value), scale.low - 1), min(scale.low, 1)) if down else max(round(value), scale.high + 1)
    if down and not scale.is_log and scale.low >= 0:
        return max(value, 0.0)
    return scale.high if not down and not scale.is_log and scale.high == 1 else value


def _toml(scale: Scale, value: float) -> str:
    return str(round(value)) if scale.is_integer else repr(float(value))


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of parallel coordinates: where each trial crosses it, and its ticks as places and texts."""

    name: str
    places: FloatArray
    ticks: tuple[list[float], list[str]]


def _score_axis(frame: pd.DataFrame) -> _Axis:
    """The final RMSE, low at the bottom; pruned trials cross at the top, where brushing reaches them, too."""
    values = frame["final_rmse"].to_numpy(np.float64)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    places = np.where(np.isfinite(values), 0.88 * (values - low) / ((high - low) or 1.0), 1.0)
    ticks = _score_ticks(low, high) if len(known) else []
    if not np.isfinite(values).all():
        ticks.append((1.0, "pruned"))
    return _Axis("validation error", places, ([place for place, _ in ticks], [text for _, text in ticks]))


def _score_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Places and texts, with as many decimals as tell neighbours apart: scores may differ in the sixth only."""
    if high <= low:
        return [(0.0, score(low))]
    decimals = min(max(4, -math.floor(math.log10((high - low) / 4))), 9)
    marks = [low + i / 4 * (high - low) for i in range(5)]
    return [(0.22 * i, f"{v:.{decimals}f}" if abs(v) < 100 else score(v)) for i, v in enumerate(marks)]


def _epochs_axis(frame: pd.DataFrame) -> _Axis:
    epochs = frame["epochs"].to_numpy(np.float64)
    scale = Scale("epochs", 0.0, float(max(epochs.max(initial=1.0), 1.0)), is_log=False, is_integer=True, choices=())
    return _Axis("epochs", epochs / scale.high, scale.ticks())


def _param_axis(scale: Scale, places: "pd.Series[float]") -> _Axis:
    ticks, texts = scale.ticks()
    if (places == ABSENT).any():
        ticks, texts = [ABSENT, *ticks], ["none", *texts]
    return _Axis(scale.path, places.to_numpy(np.float64), (ticks, texts))


def _below(limit: float) -> float:
    return max((other for other, _ in BINS if other < limit), default=-1.0)


def _lines(frame: pd.DataFrame, places: list[FloatArray], colour: str, width: float) -> go.Scatter:
    """Whole lines, each of one point an axis and a gap, as plain lists, which the page's script reads."""
    n = len(places)
    x = [None if i == n else i for _ in range(len(frame)) for i in range(n + 1)]
    table = np.stack(places, axis=1).round(4).tolist() if len(frame) else []
    y = [value for line in table for value in (*line, None)]
    named = zip(frame["number"], frame["final_rmse"], frame["epochs"], strict=True)
    hover = [
        f"trial {number}<br>{score(value) if value == value else f'pruned after {epochs} epochs'}"
        for number, value, epochs in named
    ]
    texts = [text for text in hover for _ in range(n + 1)]
    line = {"color": colour, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hovertext=texts, hoverinfo="text")


def _axis_texts(place: int, drawn: _Axis, *, tilted: bool) -> list[dict[str, object]]:
    """Annotations: a text at each tick, and the name above."""
    common = {"x": place, "showarrow": False}
    tick = common | {"xanchor": "right", "xshift": -5, "font": {"size": 11, "color": "var(--ink)"}}
    tick |= {"bgcolor": "var(--ground)", "opacity": 0.86, "borderpad": 1}
    texts = [tick | {"y": y, "text": label(text[:16])} for y, text in zip(*drawn.ticks, strict=True)]
    angle = {"textangle": -18, "xanchor": "left", "xshift": -14} if tilted else {"xanchor": "center"}
    font = {"size": 12, "color": "var(--ink)"}
    name = {"text": label(drawn.name[:40]), "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": 6, "font": font}
    return [*texts, common | name | angle]


def _positions_axis(scale: Scale) -> dict[str, object]:
    places, texts = scale.ticks(5)
    span = [-0.5 / len(scale.choices), 1 + 0.5 / len(scale.choices)] if scale.choices else [-0.04, 1.04]
    return axis(tickvals=places, ticktext=[label(text) for text in texts], range=span)


def _smoothed(points: FloatArray, values: FloatArray, width: float = 0.11) -> FloatArray:
    place = np.linspace(0, 1, GRID)
    first, second = np.meshgrid(place, place)
    distance = (first[..., None] - points[:, 0]) ** 2 + (second[..., None] - points[:, 1]) ** 2
    weight = np.exp(-distance / (2 * width**2))
    total = weight.sum(-1)
    return np.where(total > 0.35, (weight * values).sum(-1) / np.maximum(total, 1e-12), np.nan)


def _score(trial: FrozenTrial) -> float:
    if trial.state == TrialState.COMPLETE and np.isfinite(final_value(trial)):
        return final_value(trial)
    return value_at(trial, max(trial.intermediate_values))


def _thin(trials: Sequence[FrozenTrial], n: int) -> list[FrozenTrial]:
    return [trials[i] for i in np.linspace(0, len(trials) - 1, n).round().astype(int)]


def _rows(frame: pd.DataFrame) -> "zip[tuple[int, str, float]]":
    return zip(frame["number"], frame["value"], frame["rmse"], strict=True)
