"""Unseen images: what the model saw, what it made of it, how sure it was, and the truth."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from vadtune.report.evaluation import FloatArray, Gallery
from vadtune.report.theme import drawing, laid_out

GAP = 0.08


@dataclass(frozen=True, eq=False)
class Montage:
    """One missing rate of the gallery as rows of images: each `(h, G * (w + gap))`, NaN between images.

    `rmse` is over the hidden pixels of these images, `hidden_rate` the share of pixels hidden.
    """

    rate: float
    observed: FloatArray
    imputed: FloatArray
    std: FloatArray
    truth: FloatArray
    hidden: FloatArray
    rmse: float
    hidden_rate: float


def montages(gallery: Gallery, image_shape: tuple[int, int], n_most: int = 8) -> list[Montage]:
    """The gallery's first images, a montage a rate.

    Returns:
        In the order of the rates. Observed pixels are shown as observed in `imputed`, and have no `std` (NaN).
    """
    truth = gallery.truth[:n_most]
    made = []
    for i, rate in enumerate(gallery.rates):
        seen, mean, std = gallery.input[i, :n_most], gallery.mean[i, :n_most], gallery.std[i, :n_most]
        hidden = np.isnan(seen)
        error = (mean - truth)[hidden]
        made.append(
            Montage(
                rate=float(rate),
                observed=_row(seen, image_shape),
                imputed=_row(np.where(hidden, mean, seen), image_shape),
                std=_row(np.where(hidden, std, np.nan), image_shape),
                truth=_row(truth, image_shape),
                hidden=_row(np.where(hidden, 1.0, np.nan), image_shape),
                rmse=float(np.sqrt(np.mean(error**2))) if error.size else float("nan"),
                hidden_rate=float(hidden.mean()),
            )
        )
    return made


def draw_gallery(montage: Montage) -> go.Figure:
    """Four rows of images: observed (tinted where hidden), imputed, posterior standard deviation, truth."""
    height, width = montage.observed.shape
    rows = [
        ("observed", montage.observed),
        ("imputed", montage.imputed),
        ("std. dev.", montage.std),
        ("truth", montage.truth),
    ]
    if not np.isfinite(montage.std).any():
        rows.pop(2)
    gap = _gap(height)
    step = height + 2 * gap
    # The page makes the figure lower where it is narrow: images keep their shape.
    meta = {"aspect": len(rows) * step / (width * 1.08)}
    figure = drawing(118 * len(rows), showlegend=False, meta=meta)
    for i, (name, image) in enumerate(rows):
        place = {"y0": i * step, "dy": 1, "x0": 0, "dx": 1}
        if name == "observed":
            figure.add_trace(_tint(montage.hidden, place))
        figure.add_trace(_heat(image, name, place))
    ticks = {"tickvals": [i * step + height / 2 for i in range(len(rows))], "ticktext": [name for name, _ in rows]}
    flat = {"showgrid": False, "zeroline": False, "showline": False, "fixedrange": True}
    return laid_out(
        figure,
        xaxis={"visible": False, "range": [-1, width + 1], "constrain": "domain", **flat},
        yaxis={
            **ticks,
            **flat,
            "range": [len(rows) * step - gap, -gap],
            "scaleanchor": "x",
            "constrain": "domain",
            "ticks": "",
            "tickfont": {"color": "var(--muted)", "size": 12},
            "automargin": True,
        },
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
    )


def _heat(image: FloatArray, name: str, place: dict[str, int]) -> go.Heatmap:
    is_std = name == "std. dev."
    colours = [[0, "var(--paper)"], [1, "var(--c2)"]] if is_std else [[0, "var(--paper)"], [1, "var(--ink)"]]
    top = float(np.nanmax(image)) if is_std and np.isfinite(image).any() else 1.0
    return go.Heatmap(
        z=image.astype(np.float32),
        zmin=0,
        zmax=top or 1.0,
        colorscale=colours,
        showscale=False,
        hoverongaps=False,
        hovertemplate=name + " %{z:.2f}<extra></extra>",
        **place,
    )


def _tint(hidden: FloatArray, place: dict[str, int]) -> go.Heatmap:
    tint = [[0, "var(--hidden)"], [1, "var(--hidden)"]]
    return go.Heatmap(z=hidden.astype(np.float32), colorscale=tint, showscale=False, hoverinfo="skip", **place)


def _row(images: FloatArray, image_shape: tuple[int, int]) -> FloatArray:
    """Images `(G, D)` side by side `(h, G * (w + gap) - gap)`."""
    h, w = image_shape
    gap = _gap(w)
    padded = np.full((len(images), h, w + gap), np.nan)
    padded[:, :, :w] = images.reshape(len(images), h, w)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def _gap(size: int) -> int:
    """Pixels between images of this size."""
    return max(1, round(GAP * size))
