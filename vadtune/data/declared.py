"""What a user says of the columns of a file: by flags, or in a TOML file beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from vadtune.errors import ConfigError
from vadtune.settings import Nested, Settings, merge, nearest, parse, read_toml


class Declared(Settings):
    """What the user says of the columns of a file: flags, or `TABLE.toml` beside it (`my.csv.toml` for `my.csv`).

    Attributes:
        numeric: Numbers whatever they look like.
        categorical: Codes without an order, though they look like numbers.
        positive: Numbers above 0 whose logarithm is to be modelled: prices, incomes, durations.
        ordinal: Levels in their order; an empty list for numbers, which have one.
        date: How the dates of a column are written (strftime).
        bounds: Lowest and highest value that may be filled in.
        ignore: Columns that no model sees; `impute` carries them through.
        id: The same, of columns that name the row.
        missing: What stands for an unknown cell in any column, such as -999 or "?".
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    ordinal: dict[str, tuple[str | float, ...]] = Field(default_factory=dict)
    date: dict[str, str] = Field(default_factory=dict)
    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    missing: tuple[str | float, ...] = ()

    @model_validator(mode="after")
    def _one_kind_each(self) -> Self:
        named = [*self.numeric, *self.categorical, *self.positive, *self.ordinal, *self.date, *self.left_out]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]!r} is declared twice: it has one kind")
        wrong = [name for name, (low, high) in self.bounds.items() if low >= high]
        if wrong:
            raise ValueError(f"bounds of {wrong[0]!r}: the first has to be below the second")
        return self

    @property
    def left_out(self) -> tuple[str, ...]:
        """Columns that no model sees."""
        return (*self.ignore, *self.id)

    def check(self, names: Sequence[str], source: str) -> None:
        """Refuse what is said of a column that is not there.

        Raises:
            ConfigError: Names it, and what it may be called.
        """
        said = [self.numeric, self.categorical, self.positive, self.ordinal, self.date, self.bounds, self.left_out]
        for name in (name for group in said for name in group):
            if name not in names:
                raise ConfigError(f"{source}: there is no column {name!r} to declare. {nearest(name, names)}")


NOTHING = Declared()


def beside(path: Path, given: Declared) -> Declared:
    """What `TABLE.toml` beside a table says of its columns, and over it what is given.

    Raises:
        ConfigError: The file has a mistake.
    """
    file = path.with_name(path.name + ".toml")
    if not file.is_file():
        return given
    over: Nested = given.model_dump(exclude_unset=True)
    declared: Declared = parse(Declared, merge(read_toml(file), over), str(file))
    return declared


def texts_of(missing: Iterable[str | float]) -> list[str]:
    """What stands for an unknown cell, as text: -999 may be written -999.0, too."""
    return [text for value in missing for text in ((value,) if isinstance(value, str) else (f"{value:g}", str(value)))]
