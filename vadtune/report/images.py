"""PNG and SVG of every figure, where kaleido and a browser are there."""

import importlib.util
from pathlib import Path

import plotly.graph_objects as go

from vadtune.errors import ConfigError
from vadtune.report.blocks import Chart
from vadtune.report.page import Page, charts
from vadtune.report.theme import LIGHT, label, resolve

WIDTH = 900
SCALE = 2


def write_images(page: Page, folder: Path) -> list[Path]:
    """Write `<chart>.png` and `<chart>.svg` of every chart into a folder, in light colours.

    Raises:
        ConfigError: kaleido or the browser it drives is missing, or the folder cannot be written.
    """
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError("--images needs kaleido and Chrome or Chromium: pip install kaleido. The page needs neither.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--images {folder}: {error.strerror}. Choose another folder.") from None
    figures = {name: plain_figure(chart) for name, chart in charts(page).items()}
    files = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    _export([figures[file.stem] for file in files], files)
    return files


def plain_figure(chart: Chart) -> go.Figure:
    """A figure that stands alone: its title over it, light colours in place of tokens, on paper."""
    plain = go.Figure(resolve(chart.figure.to_plotly_json()))
    layout: dict[str, object] = {"paper_bgcolor": LIGHT["ground"], "width": WIDTH}
    if chart.title:
        top = 44 + (plain.layout.margin.t or 0)
        title = {"text": label(chart.title), "x": 0.01, "xanchor": "left", "y": 0.985, "yanchor": "top"}
        layout |= {"title": title, "margin": {"t": top}, "height": (plain.layout.height or 300) + 44}
    return plain.update_layout(layout)


def _export(figures: list[go.Figure], files: list[Path]) -> None:
    import kaleido  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from kaleido.errors import ChromeNotFoundError  # type: ignore[import-not-found,import-untyped,unused-ignore]

    specs = [
        {
            "fig": figure.to_dict(),
            "path": str(file),
            "opts": {"format": file.suffix[1:], "scale": SCALE, "width": WIDTH},
        }
        for figure, file in zip(figures, files, strict=True)
    ]
    try:
        kaleido.write_fig_from_object_sync(specs, kopts={"mathjax": False})
    except ChromeNotFoundError:
        raise ConfigError("--images found no browser: install Chromium, or name one by BROWSER_PATH.") from None
