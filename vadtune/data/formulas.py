"""Cells of CSV files that a spreadsheet would run."""

BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


def is_formula(text: str) -> bool:
    """Whether a spreadsheet takes a cell for a formula; a number is none."""
    if not text.startswith(BEGINNINGS):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def harmless(cell: object) -> object:
    """A cell of any type, a formula with an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and is_formula(cell) else cell
