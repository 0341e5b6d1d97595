"""All trials of all runs as one CSV file."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vadtune.data.formulas import harmless
from vadtune.errors import ArtifactError
from vadtune.report.figures_comparison import run_names
from vadtune.report.run import Run
from vadtune.report.sections_trials import all_frame
from vadtune.report.trials import trials_frame


def write_trials(runs: Sequence[Run], path: Path) -> Path:
    """Write one row a trial, `run` first, whole or not at all.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, the name of a column, too.

    Raises:
        ArtifactError: The file cannot be written.
    """
    parts = [all_frame(run, trials_frame(run)) for run in runs]
    for part, name in zip(parts, run_names(runs), strict=True):
        part.insert(0, "run", name)
    table = pd.concat(parts, ignore_index=True).map(harmless).rename(columns=harmless)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            table.to_csv(file, index=False)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}. Choose another file with --csv.") from None
    return path
