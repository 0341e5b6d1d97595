"""Mechanisms: which known cells to hide.

Every mechanism hides known cells only, meets its rate over the known cells, and repeats with its generator.
A column that never varies drives nothing and is hidden at the same rate as the others.
"""

from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field

from vadtune.data.tables import BoolArray, FloatArray, IntArray
from vadtune.errors import ConfigError
from vadtune.settings import Settings

Rng = np.random.Generator
MAX_LOANS = 200  # of unknown cells from row to row
CHUNK_ROWS = 8192  # bounds the memory that a mechanism takes beside the table


class Mcar(Settings):
    """Missing completely at random: every known cell alike."""

    kind: Literal["mcar"] = "mcar"

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `mcar`."""
        del image_shape
        return mcar(x, missing_rate, rng)


class Mar(Settings):
    """Missing at random: some columns stay observed, and their values decide what is hidden in the others."""

    kind: Literal["mar"] = "mar"
    observed_rate: float = Field(0.3, gt=0, lt=1)
    strength: float = Field(1.0, ge=0)

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `mar`."""
        del image_shape
        return mar(x, missing_rate, rng, observed_rate=self.observed_rate, strength=self.strength)


class Mnar(Settings):
    """Missing not at random: the larger a value within its column, the likelier it is hidden."""

    kind: Literal["mnar"] = "mnar"
    strength: float = Field(1.0, ge=0)

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `mnar`."""
        del image_shape
        return mnar(x, missing_rate, rng, strength=self.strength)


class Block(Settings):
    """A rectangle of each image, or a run of columns in each row of a table."""

    kind: Literal["block"] = "block"

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `block`."""
        return block(x, missing_rate, rng, image_shape)


class Landmark(Settings):
    """Whole landmarks: two columns that follow each other, both or none."""

    kind: Literal["landmark"] = "landmark"

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `landmark`."""
        del image_shape
        return landmark(x, missing_rate, rng)


class Pattern(Settings):
    """As the table's own cells are missing: what is unknown in one row is hidden in another."""

    kind: Literal["pattern"] = "pattern"

    def target_mask(
        self, x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None
    ) -> BoolArray:
        """The known cells of `x` `(N, D)` to hide: see `pattern`."""
        del image_shape
        return pattern(x, missing_rate, rng)


Mechanism = Annotated[Mcar | Mar | Mnar | Block | Landmark | Pattern, Field(discriminator="kind")]
MECHANISMS: tuple[str, ...] = tuple(kind.model_fields["kind"].default for kind in get_args(get_args(Mechanism)[0]))


def mcar(x: FloatArray, missing_rate: float, rng: Rng) -> BoolArray:
    """Choose cells to hide, independently of all values (missing completely at random).

    Args:
        x: Table of shape `(N, D)`, NaN where unknown, in any unit.
        missing_rate: Expected share of the known cells to hide, in [0, 1).
        rng: The only source of randomness: equal state, equal mask.

    Returns:
        The target mask, True where a known cell is to be hidden.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1).

    Source: Rubin (1976), Inference and missing data, Biometrika 63(3).
    """
    _check_rate(missing_rate)
    # [0, 1) in float32: at rate 0 nothing is below it.
    return (rng.random(x.shape, dtype=np.float32) < np.float32(missing_rate)) & ~np.isnan(x)


def mar(
    x: FloatArray, missing_rate: float, rng: Rng, *, observed_rate: float = 0.3, strength: float = 1.0
) -> BoolArray:
    """Choose cells to hide by a logistic model of columns that stay observed (missing at random).

    A random subset of the columns is never hidden. For each other column, a random linear combination of them,
    standardised, is the log odds; one intercept is solved so that the share over all known cells is met exactly (to
    one cell). A driver's unknown cell counts as its column's mean.

    Args:
        x: Table of shape `(N, D)`, NaN where unknown, in any unit.
        missing_rate: Share of the known cells of the whole table to hide, in [0, 1).
        rng: The only source of randomness: equal state, equal mask.
        observed_rate: Share of the columns that stay observed; fewer at high rates (one at least), since all hidden
            cells must find room in the others.
        strength: Change of the log odds for one standard deviation of the combination; 0 is MCAR in these columns.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1), or cannot be met: with one column there is nothing to drive,
            and with D columns at most (D - 1) / D of the cells can be hidden.

    Source: Muzellec et al. (2020), Missing data imputation using optimal transport, ICML, appendix.
    """
    _check_rate(missing_rate)
    if missing_rate == 0:
        return np.zeros(x.shape, dtype=np.bool_)
    drivers = _choose_drivers(x, missing_rate, rng, observed_rate)
    driven = np.setdiff1d(np.arange(x.shape[1]), drivers)
    standard = _standardise(x[:, drivers])
    weights = rng.standard_normal((drivers.size, driven.size), dtype=np.float32)
    combination = _standardise(standard @ weights)
    known = ~np.isnan(x)
    n_hidden = round(missing_rate * known.sum())
    if n_hidden > known[:, driven].sum():
        room = known[:, driven].sum() / known.sum()
        raise ConfigError(
            f"missing_rate is {missing_rate:g}: mar keeps a column observed and can hide at most {room:.3g} of the "
            f"known cells of this table ({x.shape[1]} columns). Lower the rate or take mcar."
        )
    mask = np.zeros(x.shape, dtype=np.bool_)
    mask[:, driven] = _hide_by_log_odds(strength * combination, known[:, driven], n_hidden, rng)
    return mask


def mnar(x: FloatArray, missing_rate: float, rng: Rng, *, strength: float = 1.0) -> BoolArray:
    """Choose cells to hide by a logistic model of their own value (self-masking, missing not at random).

    The log odds of a cell rise by `strength` with each standard deviation of its column; one intercept is solved so
    that the share over all known cells is met exactly (to one cell).

    Args:
        x: Table of shape `(N, D)`, NaN where unknown, in any unit.
        missing_rate: Share of the known cells to hide, in [0, 1).
        rng: The only source of randomness: equal state, equal mask.
        strength: 0 is MCAR, a negative one would hide low values.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1).

    Source: Little and Rubin (2019), Statistical analysis with missing data, 3rd edition, chapter 15.
    """
    _check_rate(missing_rate)
    known = ~np.isnan(x)
    return _hide_by_log_odds(strength * _standardise(x), known, round(missing_rate * known.sum()), rng)


def block(x: FloatArray, missing_rate: float, rng: Rng, image_shape: tuple[int, int] | None = None) -> BoolArray:
    """Choose a rectangle of each image, or a run of columns in each row of a table.

    The centre is uniform and the sides' ratio lies between 1/2 and 2. The rectangle grows from its centre by one
    edge at a time until the row's share of hidden cells is met; between the two last sizes chance decides, so that
    the rate is met in expectation, whatever cells of the row are unknown.

    Args:
        x: Table of shape `(N, D)`, NaN where unknown, in any unit.
        missing_rate: Expected share of the known cells of each row to hide, in [0, 1).
        rng: The only source of randomness: equal state, equal mask.
        image_shape: Height and width of an image; a table is one line of cells.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1).
    """
    _check_rate(missing_rate)
    height, width = image_shape or (1, x.shape[1])
    mask = np.empty(x.shape, dtype=np.bool_)
    for start in range(0, len(x), CHUNK_ROWS):
        known = ~np.isnan(x[start : start + CHUNK_ROWS])
        order = _distance_from_a_centre(len(known), height, width, rng)
        mask[start : start + CHUNK_ROWS] = _hide_nearest(order, known, missing_rate, rng)
    return mask


def landmark(x: FloatArray, missing_rate: float, rng: Rng) -> BoolArray:
    """Choose landmarks to hide, independently of all values: columns 0 and 1 are the first, 2 and 3 the second.

    Args:
        x: Table of shape `(N, 2 * P)`, NaN where unknown, in any unit.
        missing_rate: Expected share of the landmarks, and so of the known cells, to hide, in [0, 1).
        rng: The only source of randomness: equal state, equal mask.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1), or the number of columns is odd.

    Source: the landmark experiment of Zadeh et al. (2019), arXiv:1903.00840.
    """
    _check_rate(missing_rate)
    n_rows, n_features = x.shape
    if n_features % 2:
        raise ConfigError(f"landmark hides pairs of columns, and this table has {n_features}. Take another mechanism.")
    hidden = rng.random((n_rows, n_features // 2), dtype=np.float32) < np.float32(missing_rate)
    return hidden.repeat(2, axis=1) & ~np.isnan(x)


def pattern(x: FloatArray, missing_rate: float, rng: Rng) -> BoolArray:
    """Choose cells to hide as the table's own are unknown: columns as often, and together, as in its rows.

    Each row is lent the unknown cells of another row; at rates above the table's own it is lent those of more rows,
    at rates below only some rows are lent any. Columns without an unknown cell are never hidden.

    Args:
        x: Table of shape `(N, D)`, NaN where unknown, in any unit.
        missing_rate: Share of the known cells to hide, in [0, 1); met but for less than a row.
        rng: The only source of randomness: equal state, equal mask.

    Raises:
        ConfigError: `missing_rate` is outside [0, 1), nothing is unknown, or the columns with unknown cells have too
            few known ones.
    """
    _check_rate(missing_rate)
    unknown = np.isnan(x)
    known = ~unknown
    mask = np.zeros(x.shape, dtype=np.bool_)
    n_hidden = round(missing_rate * known.sum())
    for _ in range(MAX_LOANS):
        missing = n_hidden - int(mask.sum())
        if missing <= 0:
            return mask
        lent = unknown[rng.permutation(len(x))] & known & ~mask
        order = rng.permutation(len(x))
        # Whole rows, until what is missing is hidden.
        so_far = np.cumsum(lent[order].sum(axis=1))
        lent[order[so_far > missing]] = False
        if not lent.any() and (so_far[-1:] > 0).any():
            return mask
        mask |= lent
    raise ConfigError(
        f"missing_rate is {missing_rate:g}: pattern imitates the table's own unknown cells, and {unknown.mean():.1%} "
        "are unknown, perhaps in some columns only. Lower the rate or take mcar."
    )


def _check_rate(missing_rate: float) -> None:
    if not 0 <= missing_rate < 1:
        raise ConfigError(
            f"missing_rate is {missing_rate:g}: expected a share of the known cells, at least 0, below 1."
        )


def _standardise(x: FloatArray) -> FloatArray:
    """Columns of mean 0 and deviation 1 in float32; 0 where unknown, and everywhere in a column that never varies."""
    known = ~np.isnan(x)
    share = (1 / np.maximum(known.sum(0), 1)).astype(x.dtype)
    filled = np.where(known, x, 0)
    centred = np.where(known, filled - (filled * share).sum(0), 0)
    largest = np.abs(centred).max(0, initial=0)
    varies = largest > 1e-9 * np.abs(filled).max(0, initial=0)
    # Divide by the largest first: squares of very small or large numbers leave the range of floats.
    centred /= np.where(varies, largest, 1)
    deviation = np.sqrt((np.square(centred) * share).sum(0))
    return np.where(varies, centred / np.where(varies, deviation, 1), 0).astype(np.float32)


def _choose_drivers(x: FloatArray, missing_rate: float, rng: Rng, observed_rate: float) -> IntArray:
    """Columns that stay observed: those that vary come first; few enough that the rate has room in the others."""
    n_features = x.shape[1]
    # With this many the driven columns are hidden at (1 + rate) / 2 at most: some of their cells remain.
    roomy = int(n_features * (1 - missing_rate) / (1 + missing_rate))
    n_drivers = max(1, min(round(observed_rate * n_features), roomy))
    shuffled = rng.permutation(n_features)
    low = np.where(np.isnan(x), np.inf, x).min(0, initial=np.inf)
    high = np.where(np.isnan(x), -np.inf, x).max(0, initial=-np.inf)
    constant = ~(high > low)
    return np.sort(shuffled[np.argsort(constant[shuffled], kind="stable")][:n_drivers])


def _hide_by_log_odds(log_odds: FloatArray, known: BoolArray, n_hidden: int, rng: Rng) -> BoolArray:
    """Hide exactly `n_hidden` known cells, each with probability sigmoid(intercept + log_odds).

    A cell is hidden if its standard logistic noise lies below intercept + log_odds. So the intercept that hides
    exactly so many is an order statistic of noise - log_odds.
    """
    mask = np.zeros(known.shape, dtype=np.bool_)
    if n_hidden == 0:
        return mask
    uniform = np.maximum(rng.random(log_odds.shape, dtype=np.float32), np.float32(1e-9))
    score = np.where(known, np.log(uniform) - np.log1p(-uniform) - log_odds, np.float32(np.inf))
    threshold = np.partition(score, n_hidden - 1, axis=None)[n_hidden - 1]
    mask |= score < threshold
    equal = np.flatnonzero(score == threshold)  # float32 has ties among millions of cells
    mask.flat[equal[: n_hidden - mask.sum()]] = True
    return mask


def _distance_from_a_centre(n_rows: int, height: int, width: int, rng: Rng) -> FloatArray:
    """`(n_rows, height * width)`: the size at which a rectangle grown from a random centre reaches each cell."""
    ratio = np.exp(rng.uniform(-0.5, 0.5, (n_rows, 1, 1)) * np.log(2)).astype(np.float32)
    centre = rng.random((2, n_rows, 1, 1), dtype=np.float32)
    vertical = np.abs(np.arange(height, dtype=np.float32)[:, None] + 0.5 - centre[0] * height) * ratio
    horizontal = np.abs(np.arange(width, dtype=np.float32) + 0.5 - centre[1] * width) / ratio
    reached = np.maximum(vertical if height > 1 else 0, horizontal).reshape(n_rows, height * width)
    return np.asarray(reached, dtype=np.float32)


def _hide_nearest(order: FloatArray, known: BoolArray, missing_rate: float, rng: Rng) -> BoolArray:
    """Hide each row's known cells of lowest order; equal ones together, so chance picks the size below or above."""
    rows = np.arange(len(order))
    wanted = missing_rate * known.sum(1)
    among_known = np.where(known, order, np.inf)
    n_below = np.minimum(wanted.astype(np.intp), known.shape[1] - 1)
    last = np.sort(among_known, axis=1)[rows, n_below][:, None]
    inside, reached = known & (among_known < last), known & (among_known <= last)
    n_inside, n_reached = inside.sum(1), reached.sum(1)
    share = (wanted - n_inside) / np.maximum(n_reached - n_inside, 1)
    grows = rng.random(len(order)) < share
    hidden: BoolArray = np.where(grows[:, None], reached, inside)
    return hidden
