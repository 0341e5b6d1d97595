"""What the columns of a file are, inferred from their cells where nobody declares it; codes, dates and back."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vadtune.data.declared import NOTHING, Declared
from vadtune.data.tables import Column, FloatArray, Kind, Level, Table
from vadtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

# From here on, whole numbers are not exact in float64: such a column is an identifier, not a measurement.
INEXACT = 2**53
# More levels than this are an identifier or free text; each costs an output of the decoder.
MAX_LEVELS = 200
DAY_S = 86_400.0
LONG_TAIL = 3.0  # a skewness: that of an exponential distribution is 2
# How dates are written. Day and month first exclude each other, unless no day is above the 12th.
DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
)


def find_kind(cells: "pd.Series[Any]", name: str, source: str, declared: Declared) -> tuple[Column, FloatArray]:
    """What a column holds, and its values `(N,)`, NaN where unknown.

    Raises:
        DataError: It holds something that cannot be modelled, or has too many levels.
    """
    import pandas as pd
    from pandas.api import types

    cells = _typed(cells)
    dtype = cells.dtype
    if name in declared.ordinal or name in declared.categorical:
        return _with_levels(cells, name, source, _declared_levels(cells, name, source, declared), declared)
    if isinstance(dtype, pd.CategoricalDtype) and name not in declared.numeric:
        levels = [_level(level, name, source) for level in dtype.categories]
        return _with_levels(cells, name, source, levels, declared)
    if types.is_datetime64_any_dtype(dtype) or name in declared.date:
        return _dates(cells, name, source, declared.date.get(name, ""))
    if not cells.isna().all() and (types.is_string_dtype(dtype) or types.is_object_dtype(dtype)):
        return _text(cells, name, source, declared)
    return _numbers(cells, name, source, declared)


def as_known(cells: "pd.Series[Any]", known: Column, source: str) -> tuple[Column, FloatArray]:
    """The values of a column that is known already: codes of its levels, dates in its format.

    A level that is not known gets a code past the last one.

    Raises:
        DataError: It holds something else.
    """
    from pandas.api import types

    if known.levels:
        return known, codes_of(cells, known.levels)
    cells = _typed(cells)
    if known.kind == "date" and not cells.isna().all():
        is_dates = types.is_datetime64_any_dtype(cells.dtype)
        return known, _dates(cells, known.name, source, "" if is_dates else known.format)[1]
    declared = Declared(positive=(known.name,)) if known.kind == "positive" else NOTHING
    return _numbers(cells, known.name, source, declared)


def codes_of(cells: "pd.Series[Any]", levels: Sequence[Level]) -> FloatArray:
    """The codes of levels, `(N,)`: NaN where unknown, `len(levels)` for a level that is not among them."""
    import pandas as pd

    is_text = any(isinstance(level, str) for level in levels)
    number, found = pd.factorize(cells.astype("object"))
    keys = [str(cell) if is_text else _as_number(cell) for cell in found]
    wanted = [level if is_text else _as_number(level) for level in levels]
    place = pd.Index(wanted, dtype="object").get_indexer(pd.Index(keys, dtype="object"))
    codes = np.append(np.where(place < 0, len(levels), place), np.nan)  # the last is that of unknown cells
    return codes[number]


def recode(values: FloatArray, column: Column, known: Column, source: str) -> FloatArray:
    """The values `(N,)` of a column in the codes of the same column of another table.

    Raises:
        DataError: One holds levels and the other numbers.
    """
    import pandas as pd

    if column.levels == known.levels:
        return values
    if not known.levels:
        raise DataError(
            f"{source}: column {known.name!r} holds {column.levels[0]!r} and other levels, and the model knows it as "
            "one of numbers."
        )
    if not column.levels:
        return codes_of(pd.Series(values), known.levels)
    cells = np.full(len(values), None, dtype=object)
    is_known = ~np.isnan(values)
    cells[is_known] = levels_at(column, values[is_known])
    return codes_of(pd.Series(cells, dtype="object"), known.levels)


def levels_at(column: Column, codes: FloatArray) -> list[Level]:
    """The levels that codes `(N,)` stand for."""
    return [column.levels[min(int(code), len(column.levels) - 1)] for code in codes]


def date_text(seconds: float, column: Column) -> str:
    """Seconds since 1970 as the column writes its dates."""
    date = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return date.strftime(column.format) if column.format else date.isoformat(" ")


def skewed(table: Table) -> list[str]:
    """Columns of positive numbers with a long tail, of which the logarithm has none: candidates for `positive`."""
    found = []
    for column, values in zip(table.columns, table.values.T, strict=True):
        known = values[~np.isnan(values)]
        if column.kind == "numeric" and known.size >= 50 and known.min() > 0:
            tail, of_logarithm = _skewness(known), _skewness(np.log(known))
            if tail > LONG_TAIL and abs(of_logarithm) < tail / LONG_TAIL:
                found.append(column.name)
    return found


def _skewness(values: FloatArray) -> float:
    """The third standardised moment, 0 of a constant."""
    centred = (values - values.mean()) / (values.std() or 1.0)
    return float(np.mean(centred**3))


def _typed(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column of Python objects as one of a type, if they are of one."""
    import pandas as pd
    from pandas.api import types

    if not types.is_object_dtype(cells.dtype):
        return cells
    found = types.infer_dtype(cells, skipna=True)
    if found in ("date", "datetime", "datetime64"):
        return pd.to_datetime(cells)
    return cells.astype("Float64") if found == "decimal" else cells.convert_dtypes()


def _as_number(cell: object) -> object:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return cell


def _declared_levels(cells: "pd.Series[Any]", name: str, source: str, declared: Declared) -> list[Level]:
    """Levels in the order declared, or all that are there, sorted."""
    given = declared.ordinal.get(name, ())
    known = cells.dropna().unique()
    found = sorted({_level(level, name, source) for level in known}, key=lambda level: (isinstance(level, str), level))
    if not given:
        if name in declared.ordinal and any(isinstance(level, str) for level in found):
            raise ConfigError(
                f"{source}: the order of the levels of {name!r} is not known: {', '.join(map(str, found[:6]))} …. "
                f'Write in {Path(source).name}.toml: [ordinal] {name} = ["lowest", "…", "highest"]'
            )
        return found
    codes = codes_of(cells, given)
    strange = np.flatnonzero(codes == len(given))
    if strange.size:
        raise ConfigError(
            f"{source}: column {name!r} holds {str(cells.iloc[strange[0]])[:40]!r}, which is not among its declared "
            f"levels {', '.join(map(str, given))}."
        )
    return list(given)


def _with_levels(
    cells: "pd.Series[Any]", name: str, source: str, levels: list[Level], declared: Declared
) -> tuple[Column, FloatArray]:
    if len(levels) > MAX_LEVELS:
        raise DataError(_too_many(cells, name, source, len(levels)))
    is_ordered = name in declared.ordinal or (
        name not in declared.categorical and bool(getattr(cells.dtype, "ordered", False))
    )
    kind: Kind = "ordinal" if is_ordered else "categorical"
    # Without a level nothing is known: any number is as good.
    column = Column(name, kind, str(cells.dtype), tuple(levels)) if levels else Column(name, "numeric", "float64")
    return column, codes_of(cells, levels) if levels else np.full(len(cells), np.nan)


def _text(cells: "pd.Series[Any]", name: str, source: str, declared: Declared) -> tuple[Column, FloatArray]:
    """Dates, or a few levels; text that is mostly numbers is a mistake in a column of numbers."""
    known = cells.dropna()
    strange = known[[not isinstance(cell, str) for cell in known]]
    if len(strange):
        raise DataError(
            f"{source}: column {name!r} holds {str(strange.iloc[0])[:40]!r}, a {type(strange.iloc[0]).__name__}; "
            f"expected numbers, text or dates. Leave it out: --ignore {name}"
        )
    texts = sorted(set(known))
    numbers = [text for text in texts if not isinstance(_as_number(text), str)]
    if name in declared.numeric or 2 * len(numbers) > len(texts):
        raise DataError(_not_numbers(cells, name, source))
    form = _date_format(texts, name, source)
    if form:
        return _dates(cells, name, source, form)
    if len(texts) > MAX_LEVELS or (len(texts) == len(known) > 20):
        raise DataError(_too_many(cells, name, source, len(texts)))
    return Column(name, "categorical", str(cells.dtype), tuple(texts)), codes_of(cells, texts)


def _numbers(cells: "pd.Series[Any]", name: str, source: str, declared: Declared) -> tuple[Column, FloatArray]:
    from pandas.api import types

    kind = _number_kind(cells)
    if kind is None:
        raise DataError(_not_numbers(cells, name, source))
    values = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    if kind == "integer" and np.nanmax(np.abs(values), initial=0) >= INEXACT:
        raise DataError(
            f"{source}: column {name!r} holds whole numbers beyond 2**53, an identifier? Leave it out: --id {name}"
        )
    known_as = str(cells.dtype) if kind != "numeric" or types.is_float_dtype(cells.dtype) else "float64"
    low, high = declared.bounds.get(name, (None, None))
    _check_range(values, name, source, low, high)
    if name in declared.positive:
        _check_positive(values, name, source)
        known_as = known_as if kind == "numeric" else "float64"
        kind = "positive"
    if name in declared.numeric:
        kind, known_as = "numeric", known_as if types.is_float_dtype(cells.dtype) else "float64"
    return Column(name, kind, known_as.removesuffix("[pyarrow]"), low=low, high=high), values


def _number_kind(cells: "pd.Series[Any]") -> Kind | None:
    """What the numbers of a column are, or None when it holds something else."""
    import pandas as pd
    from pandas.api import types

    if isinstance(cells.dtype, pd.CategoricalDtype) or types.is_complex_dtype(cells.dtype):
        return None
    if types.is_bool_dtype(cells.dtype):
        return "boolean"
    if types.is_integer_dtype(cells.dtype):
        return "integer"
    return "numeric" if types.is_float_dtype(cells.dtype) or bool(cells.isna().all()) else None


def _check_range(values: FloatArray, name: str, source: str, low: float | None, high: float | None) -> None:
    if low is None or high is None:
        return
    outside = np.flatnonzero((values < low) | (values > high))
    if outside.size:
        raise DataError(
            f"{source}: column {name!r} holds {values[outside[0]]:g} in row {outside[0]}, outside its declared bounds "
            f"{low:g} to {high:g}."
        )


def _check_positive(values: FloatArray, name: str, source: str) -> None:
    wrong = np.flatnonzero(values <= 0)
    if wrong.size:
        raise DataError(
            f"{source}: column {name!r} is declared positive and holds {values[wrong[0]]:g} in row {wrong[0]} (the "
            "first is 0). Leave it a number, or leave the cell empty when it is unknown."
        )


def _dates(cells: "pd.Series[Any]", name: str, source: str, form: str) -> tuple[Column, FloatArray]:
    """Seconds since 1970, in UTC where the column has a zone."""
    import pandas as pd

    dtype = str(cells.dtype)
    found = cells
    if form:
        found = pd.to_datetime(cells, format=form, errors="coerce", utc=False)
        strange = np.flatnonzero((found.isna() & cells.notna()).to_numpy())
        if strange.size:
            raise DataError(
                f"{source}: column {name!r} holds {str(cells.iloc[strange[0]])[:40]!r} in row {strange[0]} (the "
                f"first is 0); expected a date written as {form}."
            )
    elif not pd.api.types.is_datetime64_any_dtype(found.dtype):
        found = pd.to_datetime(cells)
    if getattr(found.dt, "tz", None) is not None:
        found = found.dt.tz_convert("UTC").dt.tz_localize(None)
    values = np.asarray((found - pd.Timestamp(0)).dt.total_seconds().to_numpy(dtype=np.float64))
    known = values[~np.isnan(values)]
    step = next((step for step in (DAY_S, 60.0, 1.0) if not np.any(known % step)), 1e-6)
    return Column(name, "date", dtype, step=step, format=form), values


def _date_format(texts: list[str], name: str, source: str) -> str:
    """How dates are written, if that is what all the texts are.

    Raises:
        DataError: Day and month may stand in either order.
    """
    import pandas as pd

    def fits(form: str, some: list[str]) -> bool:
        return bool(pd.to_datetime(pd.Series(some, dtype="string"), format=form, errors="coerce").notna().all())

    forms = [form for form in DATE_FORMATS if fits(form, texts[:5]) and fits(form, texts)]
    if len(forms) > 1:
        raise DataError(
            f"{source}: column {name!r} holds dates such as {texts[0]!r}: day or month first? Write in "
            f'{Path(source).name}.toml: [date] {name} = "{forms[0]}" or "{forms[1]}"'
        )
    return forms[0] if forms else ""


def _level(level: Any, name: str, source: str) -> Level:
    """A category as plain text or number."""
    if isinstance(level, str | bool | int | float):
        return level
    if isinstance(level, np.generic) and level.dtype.kind in "biuf":
        plain: Level = level.item()
        return plain
    raise DataError(
        f"{source}: column {name!r} has the category {str(level)[:40]!r}, a {type(level).__name__}; expected text or "
        "numbers. Convert it, or leave it out: --ignore " + name
    )


def _too_many(cells: "pd.Series[Any]", name: str, source: str, n_levels: int) -> str:
    return (
        f"{source}: column {name!r} holds {n_levels:,} different values in {int(cells.notna().sum()):,} known cells, "
        f"such as {str(cells.dropna().iloc[0])[:40]!r}: a name or free text? Leave it out (impute carries it through): "
        f"--id {name} or --ignore {name}. A category has at most {MAX_LEVELS} levels."
    )


def _not_numbers(cells: "pd.Series[Any]", name: str, source: str) -> str:
    """Name the first cell that is not a number."""
    known = np.flatnonzero(cells.notna().to_numpy())
    texts = [row for row in known if isinstance(cells.iloc[row], str)]
    strange = [row for row in texts if isinstance(_as_number(cells.iloc[row]), str)]
    row = int(strange[0] if strange else known[0])
    found = str(cells.iloc[row])[:40]
    return (
        f"{source}: column {name!r} holds text ({found!r} in row {row}, the first is 0); expected numbers. If it "
        f"stands for an unknown cell: --missing {found}; if the numbers are codes: --categorical {name}"
    )
