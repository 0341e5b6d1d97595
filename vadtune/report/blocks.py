"""What a page is made of: sections of charts and pieces of HTML."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from vadtune.report.markup import Html, table, tag


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with a title, a note in words and its numbers as a table.

    `id` is unique on a page; a `wide` one scrolls sideways on a phone.
    """

    id: str
    title: str
    figure: go.Figure
    numbers: pd.DataFrame | None = None
    note: str = ""
    wide: bool = False

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
        plot = tag("div", plot, class_="scroll-x") if self.wide else plot
        return tag("figure", caption if self.title else None, plot, self._table())

    def _table(self) -> Html | None:
        return None if self.numbers is None else _details(self.numbers, f"table-{self.id}")


@dataclass(frozen=True, eq=False)
class Grid:
    """Charts side by side where there is room, in one to three columns; `numbers` is one table for all of them."""

    charts: tuple[Chart, ...]
    columns: int = 2
    title: str = ""
    note: str = ""
    numbers: pd.DataFrame | None = None

    def html(self) -> Html:
        """The charts in a row, under one heading where there is one."""
        heading = tag("div", tag("h3", self.title), tag("p", self.note) if self.note else None, class_="heading")
        charts = tag("div", *(chart.html() for chart in self.charts), class_=f"grid{self.columns}")
        table_id = f"table-{self.charts[0].id}-all" if self.charts else ""
        below = None if self.numbers is None else _details(self.numbers, table_id)
        return tag("div", heading if self.title else None, charts, below)


Block = Chart | Grid | Html


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Attributes:
        id: Anchor, unique on a page.
        short: What stands in the table of contents.
        title: The heading; empty for none.
        blocks: In the order of reading.
        lead: One paragraph under the heading.
        inner: Charts that stand inside a piece of HTML among the blocks.
    """

    id: str
    short: str
    title: str
    blocks: tuple[Block, ...]
    lead: str = ""
    inner: tuple[Chart, ...] = ()

    def html(self) -> Html:
        """The whole section."""
        lead = tag("p", self.lead, class_="lead") if self.lead else None
        heading = tag("h2", self.title) if self.title else None
        blocks = (block if isinstance(block, Html) else block.html() for block in self.blocks)
        return tag("section", heading, lead, *blocks, id=self.id)

    def charts(self) -> list[Chart]:
        """All charts in it."""
        found = [*self.inner]
        for block in self.blocks:
            if not isinstance(block, Html):
                found += block.charts if isinstance(block, Grid) else [block]
        return found


def nothing(why: str) -> Html:
    """One line in the place of what there is no data for."""
    return tag("p", why, class_="none")


def command(line: str, title: str = "") -> Html:
    """A command to copy."""
    button = tag("button", "Copy", type="button", data_copy=line)
    kicker = tag("p", title, class_="kicker") if title else None
    return tag("div", kicker, tag("div", tag("code", line), button, class_="command"), class_="again")


def _details(numbers: pd.DataFrame, element_id: str) -> Html:
    return tag("details", tag("summary", "Table"), table(numbers), id=element_id)
