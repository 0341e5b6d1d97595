"""HTML in which text is text: whatever is not `Html` already is escaped on its way in."""

import html
from collections.abc import Iterable

import pandas as pd

VOID = frozenset({"meta", "input", "link", "wbr"})


class Html(str):
    """A piece of HTML that this package made. No text of a user ever becomes one but through `text` or `tag`."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as text."""
    return value if isinstance(value, Html) else Html(html.escape(_visible(str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; `class_` is class, `data_id` is data-id; False and None leave an attribute out, True bares it."""
    opening = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Pieces one after the other; None is nothing."""
    return Html("".join(text(child) for child in children if child is not None))


def table(frame: pd.DataFrame, caption: str = "", n_most: int = 100) -> Html:
    """A frame as a table, its column names as heads, at most `n_most` rows; numbers are set right."""
    shown = frame.head(n_most)
    if len(frame) > n_most:
        caption = f"{caption} The first {n_most} of {len(frame)} rows; --csv writes every trial.".strip()
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    head = tag("tr", *(tag("th", name, scope="col", class_=_side(n)) for name, n in zip(frame, numeric, strict=True)))
    body = [
        tag("tr", *(tag("td", cell(value), class_=_side(n)) for value, n in zip(row, numeric, strict=True)))
        for row in shown.itertuples(index=False)
    ]
    caption_tag = tag("caption", caption) if caption else None
    return tag("div", tag("table", caption_tag, tag("thead", head), tag("tbody", *body)), class_="scroll", tabindex="0")


def cell(value: object) -> str:
    """A table's cell: five significant digits, a dash for what is unknown."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.5g}"
    return "–" if value is None or value is pd.NA else str(value)


def _side(numeric: bool) -> str | None:  # noqa: FBT001
    return "n" if numeric else None


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'


def _visible(value: str) -> str:
    """Control characters and lone surrogates would spoil the file; they are shown as a replacement character."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() or c in "\n\t " else "�" for c in value)
