"""What comes from a file or a shell becomes a `Settings` once; unknown keys are refused by their path."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vadtune import __version__
from vadtune.errors import ConfigError

T = TypeVar("T")
Nested = dict[str, Any]
# A file of settings beyond these is a mistake, or an attack on whoever reads it.
MAX_TOML_BYTES = 1_000_000
MAX_JSON_BYTES = 256_000_000
MAX_DEPTH = 50
# tomllib takes time and memory with the square of the parts of a dotted key: one of 200 kB takes all there is.
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*\.[ \t]*"""
_LONG_KEY = re.compile(rf"""(?<![\w."'-])(?:{_PART}){{{MAX_DEPTH}}}""")


class Settings(BaseModel):
    """Base of all settings: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@overload
def parse(kind: type[T], values: object, source: str) -> T: ...


@overload
def parse(kind: object, values: object, source: str) -> Any: ...


def parse(kind: Any, values: object, source: str) -> Any:
    """Make settings of plain values.

    Args:
        kind: A `Settings` class, or a union of them.
        values: Nested dictionaries of plain values.
        source: What the user wrote them in (a file or a flag): it begins every line of the error.

    Raises:
        ConfigError: Names all mistakes at once, each by its dotted path.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        lines = [_explain(kind, problem, source) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def read_toml(path: Path) -> Nested:
    """Read a TOML file; a mistake in it is told with the file and the line.

    Raises:
        ConfigError: It cannot be read, is no TOML, or is too large or too deep to be settings.
    """
    text = _read_text(path, "TOML", MAX_TOML_BYTES)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def parse_toml(text: str) -> Nested:
    """Read TOML from whoever it comes.

    Raises:
        ValueError: It is none, or too deep to be settings; says in which line.
    """
    long_key = _LONG_KEY.search(text)
    if long_key is not None:
        line = text.count("\n", 0, long_key.start()) + 1
        raise ValueError(f"a key of more than {MAX_DEPTH} parts (at line {line})")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels within each other") from None
    _check_depth(values)
    return values


def read_json(path: Path) -> Nested:
    """Read a JSON object; a mistake in it is told with the file and the line.

    Raises:
        ConfigError: It cannot be read, is no JSON object, or is too large or too deep to be settings.
    """
    text = _read_text(path, "JSON", MAX_JSON_BYTES)
    try:
        values = json.loads(text, object_pairs_hook=_unique)
        _check_depth(values)
    except RecursionError:
        raise ConfigError(f"{path}: not JSON: more than {MAX_DEPTH} levels within each other") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found a {type(values).__name__}, expected an object.")
    return values


def _read_text(path: Path, kind: str, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Give the path of a {kind} file.") from None
    if len(content) > max_bytes:
        raise ConfigError(f"{path}: more than {max_bytes / 1e6:g} MB, which no settings have.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not {kind}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> Nested:
    """An object of JSON; of two equal keys the second would silently win."""
    values: Nested = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key!r} stands there twice")
        values[key] = value
    return values


def _check_depth(values: object, room: int = MAX_DEPTH) -> None:
    if room < 0:
        raise ValueError(f"more than {MAX_DEPTH} levels within each other")
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            _check_depth(value, room - 1)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"latent_dim": 8}}` becomes `{"model.latent_dim": 8}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Nested:
    """`{"model.latent_dim": 8}` becomes `{"model": {"latent_dim": 8}}`."""
    nested: Nested = {}
    for path, value in flat.items():
        set_path(nested, path, value)
    return nested


def set_path(nested: Nested, path: str, value: object) -> None:
    """Set the leaf at a dotted path, making the tables on the way."""
    *parents, leaf = path.split(".")
    for key in parents:
        nested = nested.setdefault(key, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"{path}: {key} is a value, not a group of settings.")
    nested[leaf] = value


def parse_assignments(assignments: Iterable[str]) -> Nested:
    """Read `--set PATH=VALUE` flags; a value is TOML (`8`, `1e-3`, `true`, `{low = 1, high = 3}`) or a bare word."""
    nested: Nested = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals or not path.strip() or path.count(".") > MAX_DEPTH:
            raise ConfigError(f"--set {text}: expected PATH=VALUE, such as --set model.latent_dim=8")
        set_path(nested, path.strip(), _toml_value(value.strip()))
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Nested:
    """Lay one nested dictionary over another; the second wins."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: ` Did you mean x?`, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known are: {', '.join(known)}."


def _toml_value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _explain(kind: Any, problem: Any, source: str) -> str:
    """One line for one of pydantic's errors: where, what was found, what is allowed."""
    model, location = _owner(kind, problem["loc"])
    path = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden" and model is not None:
        parent = path.rpartition(".")[0]
        known = [f"{parent}.{name}" if parent else name for name in model.model_fields]
        return f"{source}: {path} is not a setting{_of_kind(model)}. {nearest(path, known)}"
    if problem["type"] == "missing":
        return f"{source}: {path} is missing."
    if problem["type"] == "union_tag_not_found":
        field = model.model_fields[str(location[-1])] if model is not None else None
        tags = [tag for each in _models(field.annotation if field else kind) if (tag := _tag(each))]
        return f"{source}: {f'{path}.kind'.lstrip('.')} is missing. {nearest('', tags)}"
    if problem["type"] == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in str(problem["ctx"]["expected_tags"]).split(",")]
        found = str(problem["ctx"]["tag"])
        return f"{source}: {path}.kind is {found!r}. {nearest(found, tags)}"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
    where = f"{source}: {path}" if path else source
    return f"{where} is {problem['input']!r}: {message}" if _is_plain(problem["input"]) else f"{where}: {message}"


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _of_kind(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return f" of {kind.default!r}" if isinstance(kind, FieldInfo) and isinstance(kind.default, str) else ""


def _owner(kind: Any, location: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, list[int | str]]:
    """The settings class that holds the last part of pydantic's location, and the location without union tags."""
    path: list[int | str] = []
    owner: type[BaseModel] | None = None
    candidates = _models(kind)
    for part in location:
        tagged = [model for model in candidates if _tag(model) == part]
        if tagged and len(candidates) > 1:
            candidates = tagged
            continue
        owner = candidates[0] if candidates else None
        path.append(part)
        field = owner.model_fields.get(str(part)) if owner else None
        candidates = _models(field.annotation) if field else []
    return owner, path


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for argument in get_args(kind) for model in _models(argument)]


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    if field is None:
        return None
    literal: Any = field.annotation
    return get_args(literal)[0] if isinstance(literal, type(Literal["x"])) else None


def other_format(version: object, known: int, versions: object) -> str | None:
    """What is told of a file whose format is not the known one, and which vadtune reads it; None if it is.

    Args:
        version: Its `format_version`.
        known: That of this vadtune.
        versions: Of what wrote it, by package, as it says; vadtune's is told.
    """
    if version == known:
        return None
    writer = versions.get("vadtune") if isinstance(versions, dict) else None
    found = f"format_version is {str(version)[:20]}, this vadtune {__version__} reads {known}"
    if not isinstance(writer, str):
        return f"{found}. Use the vadtune that wrote it."
    later = " or a later one" if isinstance(version, int) and version > known else ""
    return f"{found}. Use vadtune {writer[:20]}, which wrote it{later}."
