"""Search spaces: what may vary, in a TOML file that has the shape of the config.

A leaf is a value (fixed) or a range: `{low = 8, high = 64, log = true}`, `{choices = ["silu", "tanh"]}`, each perhaps
with `when = {"model.posterior" = "fixed"}`. `[[first]]` tables are points to try first.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import optuna

from vadtune.data.codec import Codec
from vadtune.data.splits import Rows
from vadtune.errors import ConfigError
from vadtune.models.config import check_columns
from vadtune.settings import Nested, Settings, flatten, nearest, parse, read_toml, set_path, unflatten
from vadtune.tuning.leaves import LEAF_KEYS, Fixed, Leaf, Params, is_one_of, leaf_class

MAX_GRID = 100_000


@dataclass(frozen=True)
class Space:
    """What may vary.

    Attributes:
        leaves: By dotted path; what a condition names comes before what it decides.
        first: Points to try first, by dotted path; what a point leaves out is drawn.
    """

    leaves: Mapping[str, Leaf]
    first: tuple[Params, ...] = ()

    def fixed(self, path: str, default: Any) -> Any:
        """The value of a setting that the whole search shares.

        Raises:
            ConfigError: The space gives a range for it.
        """
        leaf = self.leaves.get(path)
        if leaf is None:
            return default
        if not isinstance(leaf, Fixed):
            raise ConfigError(f"{path} is the same for all trials of a search: give a value, not a range.")
        return leaf.value

    def suggest(self, trial: optuna.Trial) -> Params:
        """Draw the params of one trial, by dotted path; fixed values and what does not apply are left out."""
        values: Params = {}
        for path, leaf in self.leaves.items():
            if leaf.applies(values):
                values[path] = leaf.suggest(trial, path)
        return self._drawn(values)

    def settle(self, path: str, value: Any) -> "Space":
        """The space in which one of its settings, if it is one, has this value; points that become equal stay once."""
        if path not in self.leaves:
            return self
        settled = Space({**self.leaves, path: Fixed(value=value)})
        points = [_fitting(point, settled) for point in self.first]
        return Space(settled.leaves, _each_once(points))

    def starting_at(self, points: Iterable[Params]) -> "Space":
        """The space that tries these points before its own; of each what can be drawn here, and each only once."""
        found = [kept for point in points if (kept := _fitting(point, self))]
        return Space(self.leaves, _each_once([*found, *self.first]))

    def at(self, n_rows: int) -> "Space":
        """The space with the values that it has for so many rows to train on; see `Fixed`."""
        leaves = {path: leaf.at(n_rows) if isinstance(leaf, Fixed) else leaf for path, leaf in self.leaves.items()}
        return Space(leaves, self.first)

    def holds_first(self, params: Params) -> bool:
        """Whether params are those of a first point, which may leave some of them open, but not all."""
        return any(bool(point) and point.items() <= params.items() for point in self.first)

    def config(self, params: Params) -> Nested:
        """The nested settings of a trial: its params and the fixed values that apply.

        Raises:
            ConfigError: A param is missing.
        """
        values: Params = {}
        for path, leaf in self.leaves.items():
            if not leaf.applies(values):
                continue
            if not isinstance(leaf, Fixed) and path not in params:
                raise ConfigError(f"The params of the trial lack {path}: they come from another search space.")
            values[path] = leaf.value if isinstance(leaf, Fixed) else params[path]
        return unflatten(values)

    def grid(self) -> list[Params]:
        """All points of the space.

        Raises:
            ConfigError: Some leaf has too many values to list.
        """
        endless = [path for path, leaf in self.leaves.items() if leaf.points() is None]
        if endless:
            raise ConfigError(f"A grid needs choices or a step: {', '.join(endless)} has neither.")
        points = list(itertools.islice(self._walk(list(self.leaves.items()), {}), MAX_GRID + 1))
        if len(points) > MAX_GRID:
            raise ConfigError(f"The grid has more than {MAX_GRID} points: use fewer choices or another sampler.")
        return points

    def to_dict(self) -> Nested:
        """The space as it would stand in a file."""
        nested = unflatten({path: leaf.plain() for path, leaf in sorted(self.leaves.items())})
        return nested | ({"first": [unflatten(point) for point in self.first]} if self.first else {})

    @classmethod
    def from_dict(cls, nested: Nested) -> "Space":
        """The space that `to_dict` wrote.

        Raises:
            ConfigError: It is not one.
        """
        mistakes: list[str] = []
        space = _read(dict(nested), "search space", {}, mistakes)
        _refuse(mistakes)
        return space

    def difference(self, other: "Space") -> list[str]:
        """What another space has differently, a line a path; the first points do not count."""
        mine, theirs = ({p: leaf.plain() for p, leaf in space.leaves.items()} for space in (self, other))
        lines = []
        for path in sorted(mine.keys() | theirs.keys()):
            if mine.get(path) != theirs.get(path):
                lines.append(f"{path}: {mine.get(path, 'not there')} became {theirs.get(path, 'not there')}")
        return lines

    def _drawn(self, values: Params) -> Params:
        return {path: value for path, value in values.items() if not isinstance(self.leaves[path], Fixed)}

    def _walk(self, leaves: list[tuple[str, Leaf]], values: Params) -> Iterator[Params]:
        if not leaves:
            yield self._drawn(values)
            return
        (path, leaf), *rest = leaves
        if not leaf.applies(values):
            yield from self._walk(rest, values)
            return
        for value in leaf.points() or ():
            yield from self._walk(rest, values | {path: value})


def load_space(path: Path, config_class: type[Settings], overrides: Nested | None = None) -> Space:
    """Read and check a search space.

    Args:
        path: A TOML file.
        config_class: The settings of a trial; the space has its shape, and may not leave its limits.
        overrides: Values or ranges of `--set`, which replace those of the file.

    Raises:
        ConfigError: Names all mistakes at once, each with the file and the dotted path.
    """
    return make_space(read_toml(path), config_class, str(path), overrides)


def make_space(nested: Nested, config_class: type[Settings], source: str, overrides: Nested | None = None) -> Space:
    """Check a search space given as nested values; see `load_space`."""
    mistakes: list[str] = []
    replaced = _find_leaves(overrides or {})
    space = _read(dict(nested), source, {}, mistakes)
    if replaced:
        merged = _read(dict(nested), source, replaced, mistakes)
        space = Space(merged.leaves, tuple(_fitting(point, merged) for point in space.first))
    if not mistakes:
        mistakes = _refused_ends(space, config_class, source, replaced)
    _refuse(mistakes)
    return space


def default_space(model: str, *, is_image: bool) -> str:
    """The name of the space of a model for images or for tables."""
    return f"{model}_{'images' if is_image else 'tables'}"


def for_table(space: Space, train: Rows) -> Space:
    """The space for rows to train on: with values for so many, without what says nothing of such columns.

    Where no number has levels, whether numbers are levels is left out; and so are normal scores.

    Raises:
        ConfigError: The decoder that all trials share is not one for such columns.
    """
    codec = train.codec or Codec.of_numbers(train.x.shape[1])
    kind = space.leaves.get("model.decoder.kind")
    if isinstance(kind, Fixed):
        check_columns(kind.value, codec.n_outputs, codec.image_shape)
    for key, places in (("model.levels", codec.leveled), ("model.normal_scores", codec.scored)):
        space = space if places.size else space.settle(key, value=False)
    return space.at(len(train.x))


def find_space(name_or_path: str) -> Path:
    """The file of a named space, or the path itself.

    Raises:
        ConfigError: There is no such space.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return Path(name_or_path)
    files = known_spaces()
    if name_or_path not in files:
        raise ConfigError(f"--space {name_or_path}: no such space. {nearest(name_or_path, files)} Or give a TOML file.")
    return files[name_or_path]


def known_spaces() -> dict[str, Path]:
    """The spaces that come with vadtune, by name: beside the package in the repository, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "search_spaces", package.parent / "search_spaces")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.toml"))}


def _read(nested: Nested, source: str, replaced: Params, mistakes: list[str]) -> Space:
    first = nested.pop("first", [])
    raw = _find_leaves(nested) | replaced
    if "seed" in raw:
        mistakes.append(f"{source}: seed does not belong in a search space: give --seed.")
    leaves: dict[str, Leaf] = {}
    for path, value in raw.items():
        where = f"{'--set' if path in replaced else source}: {path}"
        try:
            kind = leaf_class(value)
            leaves[path] = parse(kind, value if isinstance(value, Mapping) else {"value": value}, where)
        except ConfigError as error:
            mistakes.append(str(error))
    n_before = len(mistakes)
    space = Space(_order(leaves, source, mistakes))
    if replaced or len(mistakes) > n_before:
        return space
    return Space(space.leaves, _read_first(first, space, source, mistakes))


def _find_leaves(nested: Mapping[str, Any], prefix: str = "") -> Params:
    leaves: Params = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and not LEAF_KEYS & value.keys():
            leaves |= _find_leaves(value, f"{path}.")
        else:
            leaves[path] = value
    return leaves


def _order(leaves: dict[str, Leaf], source: str, mistakes: list[str]) -> dict[str, Leaf]:
    """Conditions before what they decide; the order of the file otherwise."""
    for path, leaf in leaves.items():
        for named, allowed in leaf.when.items():
            decider = leaves.get(named)
            if decider is None:
                hint = nearest(named, leaves)
                mistakes.append(f"{source}: {path}: when names {named}, which is not in the space. {hint}")
            elif isinstance(decider, Fixed) and decider.rows is not None:
                differs = f"which differs from table to table. Drop the condition, or the rows of {named}."
                mistakes.append(f"{source}: {path}: when names {named}, {differs}")
            elif not isinstance(decider, Fixed) and not any(decider.contains(value) for value in allowed):
                mistakes.append(f"{source}: {path}: {named} is never {' or '.join(repr(v) for v in allowed)}.")
    known = {path: [named for named in leaf.when if named in leaves] for path, leaf in leaves.items()}
    try:
        return {path: leaves[path] for path in TopologicalSorter(known).static_order()}
    except CycleError as error:
        mistakes.append(f"{source}: the conditions of {' and '.join(sorted(set(error.args[1])))} wait for each other.")
        return leaves


def _read_first(first: object, space: Space, source: str, mistakes: list[str]) -> tuple[Params, ...]:
    if not isinstance(first, list) or not all(isinstance(point, Mapping) for point in first):
        mistakes.append(f"{source}: first: write every point as a [[first]] table.")
        return ()
    points = []
    for number, nested in enumerate(first, 1):
        point = flatten(nested)
        mistakes += [f"{source}: first point {number}: {problem}" for problem in _misfits(point, space)]
        points.append(_fitting(point, space))
    return tuple(points)


def _misfits(point: Params, space: Space) -> Iterator[str]:
    for path, value in point.items():
        leaf = space.leaves.get(path)
        if leaf is None:
            yield f"{path} is not in the space. {nearest(path, space.leaves)}"
        elif not leaf.contains(value):
            yield f"{path} is {value!r}, which lies outside {leaf.plain()}"
        elif not _may_apply(leaf, point, space):
            yield f"{path} does not apply there: it needs {leaf.plain()['when']}"


def _fitting(point: Params, space: Space) -> Params:
    """The part of a point that can be drawn from the space."""
    kept: Params = {}
    for path, leaf in space.leaves.items():
        drawn = not isinstance(leaf, Fixed) and path in point
        if drawn and leaf.contains(point[path]) and _may_apply(leaf, point, space):
            kept[path] = leaf.read(point[path])
    return kept


def _each_once(points: Sequence[Params]) -> tuple[Params, ...]:
    return tuple(point for n, point in enumerate(points) if point not in points[:n])


def _may_apply(leaf: Leaf, point: Params, space: Space) -> bool:
    """Whether the conditions of a leaf hold at a point, or can hold where the point leaves them open."""
    for named, allowed in leaf.when.items():
        decider = space.leaves[named]
        if isinstance(decider, Fixed) or named in point:
            value = decider.value if isinstance(decider, Fixed) else point[named]
            if not is_one_of(value, allowed):
                return False
        elif not any(decider.contains(value) for value in allowed):
            return False
    return True


def _refused_ends(space: Space, config_class: type[Settings], source: str, replaced: Params) -> list[str]:
    """What the settings of a trial say to the ends of every range, and to the first points."""
    points = [{path: value} for path, leaf in space.leaves.items() for value in leaf.ends()]
    complaints = [line for point in points for line in _complaints(config_class, _point_with(space, point))]
    if not complaints:
        # An end that is refused would be refused in every first point again.
        for number, point in enumerate(space.first, 1):
            found = _complaints(config_class, _point_with(space, point))
            complaints += [f"first point {number}: {line}" for line in found]
    return [f"{'--set' if line.split(' ')[0] in replaced else source}: {line}" for line in dict.fromkeys(complaints)]


def _complaints(config_class: type[Settings], values: Params) -> list[str]:
    nested: Nested = {}
    try:
        for path, value in values.items():
            set_path(nested, path, value)
        parse(config_class, nested, "")
    except ConfigError as error:
        return [line.removeprefix(": ") for line in str(error).split("\n")]
    return []


def _point_with(space: Space, wanted: Params) -> Params:
    """Some point of the space at which the wanted values apply."""
    wanted, pending = dict(wanted), list(wanted)
    while pending:
        for named, allowed in space.leaves[pending.pop()].when.items():
            possible = [value for value in allowed if space.leaves[named].contains(value)]
            if named not in wanted and possible:
                wanted[named] = possible[0]
                pending.append(named)
    values: Params = {}
    for path, leaf in space.leaves.items():
        if leaf.applies(values):
            values[path] = wanted.get(path, leaf.ends()[0])
    return values


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))
