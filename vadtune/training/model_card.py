"""The README of an exported model: what it was trained on, how it was scored, where it must not be used."""

from vadtune.settings import Nested, flatten
from vadtune.training.config import TrialConfig

_USE = """## Use

    python -m vadtune.impute THIS_FOLDER table.csv -o filled.csv

The table needs the columns below, by name, in the same units. Known cells come back unchanged.
"""

_REFITTED = (
    "After it was scored, the model was trained again by the same settings on every observed cell of every row. The "
    "scores are those of the model before, which had not seen what it was scored on: nothing is left to score this one."
)

_FURTHER = (
    "Each member was fitted further times, with the validation rows; what is scored is the average of all fits. The "
    "validation error is that of the first ones."
)

_RECALLED = (
    "Estimates are averaged with what rows like these were in training, by how likely the latents of training rows "
    "make them; `recalled_share` is the share of that."
)

_MOVED = (
    "Estimates of some columns are moved: hidden cells of validation rows lie elsewhere on average than what is "
    "observed says, and unknown cells are taken to be missing for the same reasons."
)

_LIMITS = """## Where it must not be used

- On rows of another kind than those it was trained on, or where cells are missing for other reasons: the error
  above says nothing about them.
- As a measurement. An imputed value is an estimate, and the average one: analyses that need the spread of what the
  value could have been must account for it.
- Alone, in decisions about people.
"""


def model_card(config: TrialConfig, dataset: Nested, metrics: Nested, columns: list[str]) -> str:
    """The text of the card, in Markdown."""
    shown = columns if len(columns) <= 40 else [*columns[:40], f"… and {len(columns) - 40} more"]
    return "\n".join(
        [
            f"# {config.model.kind.upper()} imputation model of {_escape(str(dataset.get('name', 'a table')))}",
            "",
            "Trained by vadtune. RMSE is over hidden cells only, which no model and no search has seen.",
            *([_FURTHER] if metrics.get("further_fits") else []),
            *([_REFITTED] if metrics.get("refitted") else []),
            *([_RECALLED] if metrics.get("recalled_share") else []),
            *([_MOVED] if metrics.get("moved_columns") else []),
            "",
            "## Scores",
            "",
            _table({key: value for key, value in metrics.items() if isinstance(value, float | int)}),
            "",
            "## Trained on",
            "",
            _table(flatten(dataset)),
            "",
            _USE,
            _LIMITS,
            "## Settings",
            "",
            _table(flatten(config.model_dump(mode="json"))),
            "",
            "## Columns",
            "",
            ", ".join(f"`{_escape(name)}`" for name in shown),
            "",
        ]
    )


def _table(values: Nested) -> str:
    rows = [f"| {_escape(str(key))} | {_number(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "|---|---|", *rows])


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else _escape(str(value))


def _escape(text: str) -> str:
    """Text of a stranger's table inside Markdown: no markup, no line breaks."""
    return " ".join(text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;").split())
