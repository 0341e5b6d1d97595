"""What is to be imputed: a table, its row splits, and what is hidden in them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vadtune.data.datasets import load, table_file
from vadtune.data.declared import beside
from vadtune.data.splits import DataConfig, Splits, split
from vadtune.data.tables import Table
from vadtune.settings import Nested

LEAST_RATE, MOST_RATE = 0.1, 0.5


@dataclass(frozen=True, eq=False)
class Problem:
    """A table, what is hidden in it, and its splits."""

    table: Table
    config: DataConfig
    splits: Splits

    @property
    def title(self) -> str:
        """The table in a line: name, size, source, and how much of it nobody knows."""
        table, unknown = self.table, np.isnan(self.table.values).mean()
        holes = f", {unknown:.1%} of the cells unknown" if unknown else ""
        return f"{table.name}: {table.n_rows:,} rows x {table.n_features} columns ({table.source}){holes}"

    def describe(self) -> Nested:
        """What an artifact says about the table it was trained on."""
        train, validation, test = (len(part) for part in self.splits.indices)
        return {
            "name": self.table.name,
            "source": self.table.source,
            "sha256": self.table.sha256,
            "n_rows": self.table.n_rows,
            "n_features": self.table.n_features,
            "unit": self.table.unit,
            "n_unknown": int(np.isnan(self.table.values).sum()),
            "n_train": train,
            "n_validation": validation,
            "n_test": test,
            "hidden": self.config.model_dump(mode="json"),
        }


def load_problem(config: DataConfig, data_dir: Path) -> Problem:
    """Load the table, split its rows and hide cells.

    What a TOML file beside the table says of its columns becomes part of the settings, and so does `usual_rate` where
    no missing rate is given.
    """
    table, config = load_table(config, data_dir)
    if "missing_rate" not in config.model_fields_set:
        config = config.model_copy(update={"missing_rate": usual_rate(table)})
    return Problem(table, config, split(table, config))


def usual_rate(table: Table) -> float:
    """The share of the known cells to hide, where nobody says: of a table with holes as many as it has, within bounds.

    Fewer would leave too few cells to compare trials by, more too few to learn from. Columns of which nothing is known
    do not count. Pictures, and tables that bring their own hidden cells, are as complete tables: half is hidden.
    """
    unknown = np.isnan(table.values)
    unknown = unknown[:, ~unknown.all(axis=0)]
    if table.image_shape is not None or table.given is not None or not unknown.any():
        return MOST_RATE
    return round(float(np.clip(unknown.mean(), LEAST_RATE, MOST_RATE)), 2)


def load_table(config: DataConfig, data_dir: Path) -> tuple[Table, DataConfig]:
    """The table of the settings, and the settings with all that is declared of its columns."""
    file = table_file(config.dataset, data_dir)
    if file is not None:
        config = config.model_copy(update={"columns": beside(file, config.columns)})
    return load(config.dataset, data_dir=data_dir, declared=config.columns), config
