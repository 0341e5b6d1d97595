"""What a page is made of: sections of charts and pieces of HTML."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from vadtune.report.markup import Html, table, tag


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with a title, a note in words and its numbers as a table. `id` is unique on a page."""

    id: str
    title: str
    figure: go.Figure
    numbers: pd.DataFrame | None = None
    note: str = ""

    def html(self) -> Html:
        """The place of the figure, filled in by the page's script, and the table beside it."""
        caption = tag("figcaption", tag("h3", self.title), tag("p", self.note) if self.note else None)
        height = f"height:{int(self.figure.layout.height or 300)}px"
        plot = tag(
            "div",
            class_="plot",
            id=f"plot-{self.id}",
            data_figure=self.id,
            style=height,
            role="img",
            aria_label=self.title,
        )
        return tag("figure", caption if self.title else None, plot, self._table())

    def _table(self) -> Html | None:
        if self.numbers is None:
            return None
        return tag("details", tag("summary", "Table"), table(self.numbers), id=f"table-{self.id}")


@dataclass(frozen=True, eq=False)
class Pair:
    """Charts side by side where there is room."""

    charts: tuple[Chart, ...]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page; `short` stands in the table of contents."""

    id: str
    short: str
    title: str
    blocks: tuple[Chart | Pair | Html, ...]
    lead: str = ""
    figures: tuple[Chart, ...] = ()  # charts that stand inside a piece of HTML
