"""What is asked of whoever fills tables, and what is told to who watches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vadtune.data.tables import Column, FloatArray, Table


@dataclass(frozen=True)
class Output:
    """A file to write: a completed table, or the standard deviations of its cells.

    Attributes:
        path: Where.
        is_std: Whether it holds standard deviations.
        deviations: How many of them the filled cells lie above the best estimate; 0 but for the ends of intervals.
    """

    path: Path
    is_std: bool = False
    deviations: float = 0.0


class Known(Protocol):
    """Whoever knows the columns of tables like one that it has learned from."""

    @property
    def columns(self) -> Sequence[Column]:
        """The columns as the model knows them."""
        ...

    @property
    def missing(self) -> Sequence[str | float]:
        """What stands for an unknown cell, beside what always does."""
        ...

    def positions(self, names: Sequence[str], source: str) -> list[int]:
        """Where the model's columns stand among those of a file.

        Raises:
            DataError: One is not there.
        """
        ...


class Fill(Known, Protocol):
    """Completes parts of a table, one after the other, in the order of the rows."""

    def __call__(self, table: Table) -> list[FloatArray]:
        """Complete rows whose columns are the model's, in its order.

        Returns:
            One array `(N, D)` for each output, in the columns' own units.
        """
        ...


class Tell(Protocol):
    """Whoever shows how far the work is."""

    def __call__(self, n_rows: int, share: float | None) -> None:
        """So many rows, and this share of all, are done."""
        ...
