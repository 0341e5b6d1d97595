"""A two-dimensional view of the posteriors of unseen rows."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vadtune.report.evaluation import Latent
from vadtune.report.theme import SCALE, SERIES, axis, drawing, laid_out


def latent_frame(latent: Latent, n_most: int = 2000) -> pd.DataFrame:
    """`x`, `y`, `label` (-1 where there is none) and `error` (NaN where unknown) of at most `n_most` rows, evenly."""
    n = len(latent.position)
    kept = np.unique(np.linspace(0, n - 1, min(n, n_most)).round().astype(int))
    label = np.full(n, -1) if latent.label is None else latent.label
    error = np.full(n, np.nan) if latent.error is None else latent.error
    x, y = latent.position[kept].T
    return pd.DataFrame({"x": x, "y": y, "label": label[kept], "error": error[kept]})


def draw_labels(frame: pd.DataFrame) -> go.Figure:
    """Points in the colour of their label, and the label itself at the middle of its points."""
    labels = sorted(frame["label"].unique())
    figure = _plane(showlegend=len(labels) > 1)
    for i, found in enumerate(labels):
        mine = frame[frame["label"] == found]
        colour = "var(--dim)" if found < 0 else SERIES[i % len(SERIES)]
        hover = "no label" if found < 0 else f"label {found}"
        dots = _dots(mine, {"color": colour, "size": 5, "opacity": 0.6}, hover + "<extra></extra>")
        figure.add_trace(dots.update(name="none" if found < 0 else str(found)))
    figure.update_layout(legend={"itemsizing": "constant", "itemwidth": 30})
    for found, middle in _apart(frame).items():
        pill = {
            "bgcolor": "var(--ground)",
            "opacity": 0.88,
            "borderpad": 2,
            "font": {"size": 13, "color": "var(--ink)"},
        }
        figure.add_annotation(x=middle["x"], y=middle["y"], text=f"<b>{found}</b>", showarrow=False, **pill)
    return figure


def _apart(frame: pd.DataFrame, n_most: int = 20) -> dict[int, "pd.Series[float]"]:
    """The middle of each label's points, without those that would be written over one another; the legend has all."""
    size = float(max(np.ptp(frame["x"]), np.ptp(frame["y"]))) or 1.0
    known = [found for found in sorted(frame["label"].unique()) if found >= 0]
    placed: dict[int, pd.Series[float]] = {}
    for found in known[:n_most]:
        middle = frame.loc[frame["label"] == found, ["x", "y"]].median()
        if all(float(np.hypot(*(middle - other))) > 0.07 * size for other in placed.values()):
            placed[int(found)] = middle
    return placed


def draw_errors(frame: pd.DataFrame) -> go.Figure:
    """Points coloured by how far off their row is; the worst are drawn last."""
    frame = frame[frame["error"].notna()].sort_values("error")
    figure = _plane(showlegend=False)
    bar = {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": "var(--muted)", "size": 11}, "len": 0.9}
    bar |= {"title": {"text": "RMSE of the row", "side": "right", "font": {"color": "var(--muted)", "size": 12}}}
    colour = {"color": frame["error"].to_numpy(np.float32), "colorscale": _towards_dark(), "colorbar": bar, "size": 5.5}
    high = float(frame["error"].quantile(0.98)) if len(frame) else 1.0
    marker = colour | {"opacity": 0.85, "cmin": float(frame["error"].min()) if len(frame) else 0.0, "cmax": high}
    figure.add_trace(_dots(frame, marker, "RMSE %{marker.color:.4f}<extra></extra>"))
    return figure


def _plane(**layout: object) -> go.Figure:
    figure = drawing(400, **layout)
    bare = axis(showticklabels=False, showgrid=False, showline=False, ticks="")
    return laid_out(figure, xaxis=bare, yaxis=bare | {"scaleanchor": "x"})


def _dots(frame: pd.DataFrame, marker: dict[str, object], hover: str) -> go.Scatter:
    x, y = frame["x"].to_numpy(np.float32), frame["y"].to_numpy(np.float32)
    return go.Scatter(x=x, y=y, mode="markers", marker=marker, hovertemplate=hover)


def _towards_dark() -> list[list[object]]:
    """Pale for rows that are right, dark for those that are wrong."""
    return [[i / 4, colour] for i, (_, colour) in enumerate(reversed(SCALE))]
