"""What the VAD paper's code leaves behind, under its names: results.json, pred.h5, final_latents.h5, missing_pred_*.h5.

Values are in the columns' own units; a cell that was not shown to the model is NaN in `input`.

    results.json              the scores
    pred.h5                   y_pred (N, D): the reconstruction of all cells of the test rows
    final_latents.h5          latents (N, L): their posterior means; train_latents, where a model was trained
    missing_pred_MODE.h5      RATE/pred and RATE/input (N, D): MODE is fixed or random, RATE such as 0.5
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vadtune.data.files import written_beside
from vadtune.data.tables import FloatArray
from vadtune.settings import Nested

Arrays = Mapping[str, npt.NDArray[np.floating]]


def write_results(folder: Path, document: Nested) -> None:
    """Write `results.json`."""
    with written_beside(folder / "results.json") as part:
        part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_predictions(folder: Path, y_pred: FloatArray, latents: Arrays) -> None:
    """Write `pred.h5` and `final_latents.h5`."""
    write_hdf5(folder / "pred.h5", {"y_pred": y_pred})
    write_hdf5(folder / "final_latents.h5", latents)


def write_missing_predictions(folder: Path, mode: str, arrays: Arrays) -> None:
    """Write `missing_pred_MODE.h5` of arrays named `RATE/pred` and `RATE/input`."""
    write_hdf5(folder / f"missing_pred_{mode}.h5", arrays)


def write_hdf5(path: Path, arrays: Arrays) -> None:
    """Write arrays by name, whole or not at all."""
    import h5py

    with written_beside(path) as part, h5py.File(part, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True)
