"""How well the winner fills in: by column, cell by cell, over the missing rate and by mechanism."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vadtune.report.evaluation import Cells, Evaluation, FloatArray, Mechanisms, RateCurve
from vadtune.report.run import Calibration, Run
from vadtune.report.theme import BEST, axis, drawing, label, laid_out, upright
from vadtune.report.trials import number, records, score

DISCRETE = frozenset({"categorical", "boolean", "ordinal"})
N_BINS = 26


def columns_frame(run: Run) -> pd.DataFrame:
    """Errors of each column, the hardest first.

    Returns:
        Columns `column`, `kind`, `rmse` and `mae` in original units, `spread` (standard deviation of its observed
        values; of codes, how often they are not the commonest one; NaN without a sample), `relative` (rmse / spread: 1
        is as bad as filling in the mean, or the commonest code), `exact` (share of hidden codes that are right; NaN for
        numbers). The errors of a column of codes are its error rate.
    """
    found = run.evaluation
    if found.columns is None:
        return pd.DataFrame(columns=["column", "kind", "rmse", "mae", "spread", "relative", "exact"])
    n_columns = len(found.columns.rmse)
    infos = run.settings.dataset.columns
    kinds = [infos[j].kind if j < len(infos) else "numeric" for j in range(n_columns)]
    is_coded = np.isin(kinds, list(DISCRETE))
    spread = np.where(is_coded, _uncommon(found.observed, n_columns), _spread(found.observed, n_columns))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(spread > 0, found.columns.rmse / spread, np.nan)
    frame = pd.DataFrame(
        {
            "number": range(n_columns),
            "column": [run.column_name(j) for j in range(n_columns)],
            "kind": kinds,
            "rmse": found.columns.rmse,
            "mae": found.columns.mae,
            "spread": spread,
            "relative": relative,
            "exact": np.where(is_coded, 1 - found.columns.rmse, np.nan),
        }
    )
    return frame.sort_values(["relative", "rmse"], ascending=False, ignore_index=True)


def draw_columns(frame: pd.DataFrame, n_most: int = 40) -> go.Figure:
    """A dot a column: its error as a share of its spread; the dotted line is what filling in the mean gets."""
    frame = frame[frame["relative"].notna()].head(n_most).iloc[::-1]
    figure = drawing(70 + 21 * len(frame), showlegend=False)
    rows = list(range(len(frame)))
    hover = [
        f"{label(row.column)}<br>RMSE {number(row.rmse)} · MAE {number(row.mae)}<br>spread {number(row.spread)}"
        for row in records(frame)
    ]
    marker = {"color": "var(--c1)", "size": 9}
    stem = {"color": "var(--grid)", "width": 2}
    stems = [
        {"type": "line", "x0": 0, "x1": x, "y0": i, "y1": i, "line": stem, "layer": "below"}
        for i, x in zip(rows, frame["relative"], strict=True)
    ]
    x = frame["relative"].to_numpy(np.float32)
    figure.add_trace(go.Scatter(x=x, y=rows, mode="markers", marker=marker, hovertext=hover, hoverinfo="text"))
    stems.append(upright(1.0))
    names = [label(name[:40]) for name in frame["column"]]
    y = axis(showgrid=False, tickvals=rows, ticktext=names, range=[-0.7, len(frame) - 0.3], fixedrange=True)
    top = max(1.08, float(frame["relative"].max()) * 1.05) if len(frame) else 1.08
    return laid_out(
        figure, xaxis=axis("RMSE in standard deviations of the column", range=[0, top]), yaxis=y, shapes=stems
    )


def draw_pixels(rmse: FloatArray, image_shape: tuple[int, int]) -> go.Figure:
    """Where in the image the errors are."""
    figure = drawing(340, showlegend=False)
    colours = [[0, "var(--paper)"], [1, "var(--c1)"]]
    bar = {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": "var(--muted)", "size": 11}, "len": 0.9}
    z = rmse.reshape(image_shape).astype(np.float32)
    hover = "row %{y}, column %{x}<br>RMSE %{z:.3f}<extra></extra>"
    figure.add_trace(go.Heatmap(z=z, colorscale=colours, zmin=0, colorbar=bar, hovertemplate=hover))
    flat = {"visible": False, "constrain": "domain", "fixedrange": True}
    return laid_out(figure, xaxis=flat, yaxis=flat | {"autorange": "reversed", "scaleanchor": "x"})


def example_columns(frame: pd.DataFrame, cells: Cells, n_most: int = 6) -> list[int]:
    """Numbers of columns that have sampled cells, spread evenly from the easiest to the hardest."""
    sampled = set(cells.column.tolist())
    varied = frame[frame["relative"].notna()] if frame["relative"].notna().any() else frame
    ordered = [int(j) for j in varied["number"].iloc[::-1] if int(j) in sampled]
    if not ordered:
        return []
    return [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, n_most).round().astype(int))]


def cells_frame(cells: Cells, column: int | None = None) -> pd.DataFrame:
    """`truth` and `imputed` of the sampled cells of one column (None: of all), in original units."""
    mine = np.ones(len(cells.column), bool) if column is None else cells.column == column
    return pd.DataFrame({"truth": cells.truth[mine], "imputed": cells.imputed[mine]})


def draw_cells(frame: pd.DataFrame, n_most: int = 400) -> go.Figure:
    """True against imputed values; on the line they are equal."""
    frame = frame.iloc[:n_most]
    both = frame.to_numpy(float)
    low, high = (float(np.nanmin(both)), float(np.nanmax(both))) if len(frame) else (0.0, 1.0)
    pad = 0.04 * ((high - low) or 1.0)
    figure = drawing(250, showlegend=False)
    span = [low - pad, high + pad]
    line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=span[0], x1=span[1], y0=span[0], y1=span[1], line=line)
    dots = {
        "x": frame["truth"].to_numpy(np.float32),
        "y": frame["imputed"].to_numpy(np.float32),
        "marker": {"color": "var(--c1)", "size": 5.5, "opacity": 0.55},
        "hovertemplate": "true %{x:.4g}, imputed %{y:.4g}<extra></extra>",
    }
    figure.add_trace(go.Scatter(mode="markers", **dots))
    return laid_out(figure, xaxis=axis("true", range=span, nticks=5), yaxis=axis("imputed", range=span, nticks=5))


def draw_cell_density(frame: pd.DataFrame) -> go.Figure:
    """True against imputed values of all sampled pixels, counted on a grid (darker is more, on a log scale)."""
    counts, _, _ = np.histogram2d(frame["imputed"], frame["truth"], bins=32, range=[[0, 1], [0, 1]])
    place = (np.arange(32) + 0.5) / 32
    figure = drawing(340, showlegend=False)
    shown = np.where(counts > 0, np.log10(np.maximum(counts, 1)), np.nan).astype(np.float32)
    colours = [[0, "var(--s4)"], [1, "var(--s0)"]]
    heat = {"x": place, "y": place, "z": shown, "colorscale": colours, "showscale": False, "text": counts.astype(int)}
    hover = "true %{x:.2f}, imputed %{y:.2f}<br>%{text} cells<extra></extra>"
    figure.add_trace(go.Heatmap(**heat, hovertemplate=hover, hoverongaps=False))
    line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line=line)
    return laid_out(figure, xaxis=axis("true", showgrid=False), yaxis=axis("imputed", showgrid=False))


def distribution_frame(observed: FloatArray, imputed: FloatArray) -> pd.DataFrame:
    """Two histograms over the same bins: `low`, `high`, and the `observed` and `imputed` share of values in each."""
    observed, imputed = observed[np.isfinite(observed)], imputed[np.isfinite(imputed)]
    both = np.concatenate([observed, imputed])
    edges = np.histogram_bin_edges(both, bins=_n_bins(len(imputed))) if len(both) else np.array([0.0, 1.0])
    shares = [np.histogram(values, bins=edges)[0] / max(len(values), 1) for values in (observed, imputed)]
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "observed": shares[0], "imputed": shares[1]})


def draw_distribution(frame: pd.DataFrame) -> go.Figure:
    """Observed values as an area, imputed ones as a line."""
    figure = drawing(220, showlegend=False)
    x = np.repeat(np.append(frame["low"], frame["high"].iloc[-1:]), 2)[1:-1].astype(np.float32)
    for name, colour, fill in (("observed", "var(--dim)", "tozeroy"), ("imputed", "var(--c1)", "none")):
        line = {"color": colour, "width": 2 if fill == "none" else 0}
        y = np.repeat(frame[name].to_numpy(np.float32), 2)
        hover = f"{name}: %{{y:.1%}} near %{{x:.4g}}<extra></extra>"
        style = {"fill": fill, "fillcolor": "var(--dim)"} if fill != "none" else {}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hovertemplate=hover, **style))
    return laid_out(
        figure, xaxis=axis(showgrid=False, nticks=5), yaxis=axis(tickformat=".0%", rangemode="tozero", nticks=4)
    )


def rates_frame(curve: RateCurve) -> pd.DataFrame:
    """`missing_rate`, `test_rmse`, `mean_rmse` (column mean) and `gain` over it, by rate."""
    frame = pd.DataFrame({"missing_rate": curve.rate, "test_rmse": curve.rmse, "mean_rmse": curve.mean_baseline})
    frame["gain"] = 1 - frame["test_rmse"] / frame["mean_rmse"]
    return frame.sort_values("missing_rate", ignore_index=True)


def draw_rates(frame: pd.DataFrame, searched_at: float | None) -> go.Figure:
    """Test RMSE over the missing rate, beside the column mean; a dotted line marks the rate that was searched at."""
    figure = drawing(320)
    x = frame["missing_rate"].to_numpy(np.float32)
    lines = (("mean_rmse", "column mean", "var(--dim)", 2.0), ("test_rmse", "winner", BEST, 3.0))
    for column, name, colour, width in lines:
        if frame[column].notna().any():
            style = {"line": {"color": colour, "width": width}, "marker": {"size": 7, "color": colour}}
            y = frame[column].to_numpy(np.float32)
            hover = f"{name}: %{{y:.4f}} at %{{x:.0%}} missing<extra></extra>"
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines+markers", name=name, hovertemplate=hover, **style))
    if searched_at is not None:
        figure.add_shape(upright(searched_at))
        note = {"text": "searched here", "showarrow": False, "font": {"size": 11, "color": "var(--muted)"}}
        figure.add_annotation(x=searched_at, y=1, yref="paper", xanchor="left", yanchor="top", xshift=4, **note)
    return laid_out(
        figure,
        xaxis=axis("missing rate", tickformat=".0%", showgrid=False),
        yaxis=axis("test error", rangemode="tozero"),
    )


def mechanisms_frame(found: Mechanisms) -> pd.DataFrame:
    """`mechanism` and its `test_rmse`, the easiest first."""
    frame = pd.DataFrame({"mechanism": found.names, "test_rmse": found.rmse})
    return frame.sort_values("test_rmse", ignore_index=True)


def draw_mechanisms(frame: pd.DataFrame, searched_with: str) -> go.Figure:
    """Bars by the mechanism that hid the cells; the one that was searched with is in colour."""
    figure = drawing(320, showlegend=False, bargap=0.5)
    colours = [BEST if name == searched_with else "var(--dim)" for name in frame["mechanism"]]
    rows = list(range(len(frame)))
    bar = {"marker": {"color": colours, "cornerradius": 3}, "text": [score(v) for v in frame["test_rmse"]]}
    style = {"textposition": "outside", "cliponaxis": False, "hoverinfo": "skip", "textfont": {"color": "var(--ink)"}}
    figure.add_trace(go.Bar(x=rows, y=frame["test_rmse"], **bar, **style))
    names = [label(name.upper()[:24]) for name in frame["mechanism"]]
    x = axis(showgrid=False, tickvals=rows, ticktext=names, fixedrange=True)
    return laid_out(figure, xaxis=x, yaxis=axis("test error", rangemode="tozero", fixedrange=True))


def coverage_frame(found: Calibration) -> pd.DataFrame:
    """`what` (intervals of numbers, or the likeliest codes), `promised` and `held`: shares of the hidden cells."""
    rows = [("interval", float(level), share) for level, share in (found.coverage or {}).items()]
    if found.accuracy is not None and found.confidence is not None:
        rows.append(("category", found.confidence, found.accuracy))
    return pd.DataFrame(rows, columns=["what", "promised", "held"])


def draw_coverage(frame: pd.DataFrame) -> go.Figure:
    """What was promised against what was held; on the line they are equal."""
    figure = drawing(260)
    line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=1, line=line)
    styles = (("interval", "intervals of numbers", "var(--c1)"), ("category", "categories", BEST))
    for what, name, colour in styles:
        mine = frame[frame["what"] == what]
        if len(mine):
            x, y = (mine[column].to_numpy(np.float32) for column in ("promised", "held"))
            hover = f"{name}: promised %{{x:.0%}}, held %{{y:.1%}}<extra></extra>"
            style = {"marker": {"size": 9, "color": colour}, "line": {"color": colour, "width": 2}}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines+markers", name=name, hovertemplate=hover, **style))
    share = {"range": [0, 1.02], "tickformat": ".0%"}
    return laid_out(figure, xaxis=axis("promised", **share), yaxis=axis("held", **share))


def evaluation_is_empty(found: Evaluation) -> bool:
    """Whether nothing was measured yet."""
    groups = (found.gallery, found.cells, found.columns, found.rates, found.mechanisms)
    return all(group is None for group in groups)


def _spread(observed: FloatArray | None, n_columns: int) -> FloatArray:
    if observed is None:
        return np.full(n_columns, np.nan)
    known = np.isfinite(observed)
    n = np.maximum(known.sum(0), 1)
    mean = np.where(known, observed, 0).sum(0) / n
    return np.asarray(np.sqrt(np.where(known, (observed - mean) ** 2, 0).sum(0) / n))


def _n_bins(n_values: int) -> int:
    """As many bins as so few values can fill."""
    return int(np.clip(2 * np.sqrt(n_values), 6, N_BINS))


def _uncommon(observed: FloatArray | None, n_columns: int) -> FloatArray:
    """How often a column's values are not the commonest one."""
    if observed is None:
        return np.full(n_columns, np.nan)
    shares = np.full(n_columns, np.nan)
    for j in range(n_columns):
        known = observed[np.isfinite(observed[:, j]), j]
        if known.size:
            shares[j] = 1 - np.unique(known, return_counts=True)[1].max() / known.size
    return shares
