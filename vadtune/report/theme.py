"""Colours and type of the page. Figures name colours by token, `var(--best)`; the page puts in those of its theme."""

import html
import re
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's colours, told apart with every common kind of colour blindness, shifted to be read on both grounds.
LIGHT = {
    "ground": "#fbfaf7",
    "paper": "#ffffff",
    "ink": "#1b1e23",
    "muted": "#5d646d",
    "line": "#e5e2db",
    "grid": "#ecebe6",
    "dim": "#aeb3b9",
    "hidden": "#c9dbe8",
    "accent": "#0a66a5",
    "c1": "#0072b2",
    "c2": "#d55e00",
    "c3": "#009e73",
    "c4": "#b0579a",
    "c5": "#c98a00",
    "c6": "#4aa3d8",
    "c7": "#7a5c3e",
    "c8": "#5a6b2f",
    "c9": "#7a5fc0",
    "c10": "#6e7680",
    "s0": "#08335c",
    "s1": "#1f6ea8",
    "s2": "#6aaed2",
    "s3": "#bcd6e6",
    "s4": "#e6e6e2",
}
DARK = {
    "ground": "#14171a",
    "paper": "#1b1f23",
    "ink": "#ebe9e4",
    "muted": "#a2abb4",
    "line": "#30363d",
    "grid": "#292f35",
    "dim": "#59616a",
    "hidden": "#2c4a60",
    "accent": "#6fb7ec",
    "c1": "#56a9e0",
    "c2": "#f58a4b",
    "c3": "#3fc79d",
    "c4": "#dd9acb",
    "c5": "#eab94a",
    "c6": "#9ad2f5",
    "c7": "#c4a07a",
    "c8": "#b3c472",
    "c9": "#b3a0f0",
    "c10": "#a7b0ba",
    "s0": "#e8f4fd",
    "s1": "#8ecbf3",
    "s2": "#3f8fc4",
    "s3": "#24597d",
    "s4": "#2a3239",
}
THEMES = {"light": LIGHT, "dark": DARK}
SERIES = tuple(f"var(--c{i})" for i in range(1, 11))
STATE_COLOURS = {
    "complete": "var(--c1)",
    "pruned": "var(--dim)",
    "failed": "var(--c4)",
    "waiting": "var(--c5)",
    "running": "var(--c3)",
}
BEST = "var(--c2)"
# Low values (good ones) stand out on either ground.
SCALE = [[i / 4, f"var(--s{i})"] for i in range(5)]
CONFIG = {
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
}
FONT = 'Inter, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def label(value: object) -> str:
    """Text for a figure: plotly reads some HTML and `%{…}`, which a user's names must not be able to write."""
    return html.escape(str(value), quote=False).replace("%{", "%\u200b{")


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """An axis with thin grid lines and a title in the muted colour."""
    base: dict[str, Any] = {
        "title": {"text": title, "font": {"color": "var(--muted)", "size": 12}, "standoff": 8},
        "gridcolor": "var(--grid)",
        "linecolor": "var(--line)",
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": "var(--muted)", "size": 11.5},
        "ticklabelstandoff": 4,
    }
    return base | more


def upright(x: float) -> dict[str, Any]:
    """A dotted line from top to bottom: a shape of a layout."""
    line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line, "opacity": 0.7}


def drawing(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the page's style."""
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12.5, "color": "var(--ink)"},
        "hoverlabel": {
            "bgcolor": "var(--paper)",
            "bordercolor": "var(--line)",
            "font": {"color": "var(--ink)", "family": FONT, "size": 12},
            "align": "left",
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "var(--muted)", "size": 12},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--dim)", "activecolor": "var(--ink)"},
        "hovermode": "closest",
        "uirevision": "kept",
        "dragmode": False,
        "template": "none",
    }
    return go.Figure(layout=base | layout)


def laid_out(figure: go.Figure, **layout: Any) -> go.Figure:
    """The figure with parts of its layout replaced: plotly's `update_layout` merges them, and takes 8 ms for it."""
    for name, value in layout.items():
        figure.layout[name] = value
    return figure


def resolve(value: Any, theme: str = "light") -> Any:
    """Plain colours for the tokens in a figure's dictionary: what the page does in the browser, for images."""
    colours = THEMES[theme]
    if isinstance(value, str):
        return re.sub(r"var\(--(\w+)\)", lambda match: colours.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: resolve(item, theme) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, theme) for item in value]
    return value


def css_variables(theme: str) -> str:
    """The theme's colours as CSS custom properties."""
    return "".join(f"--{name}:{colour};" for name, colour in THEMES[theme].items())
