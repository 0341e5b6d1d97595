"""What rows that a model was not trained on say of it: how long inference takes, what to recall, how sure to be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vadtune.data.splits import Holdout
from vadtune.models.objective import Posterior, as_tensor
from vadtune.training.artifact import Artifact
from vadtune.training.calibration import calibrated
from vadtune.training.patience import patient
from vadtune.training.recall import recalling


def adjusted(artifact: Artifact, holdout: Holdout, n_distinct: int, error_name: str) -> Artifact:
    """The model with more steps of inference, recalled rows, spread, temperature and delta, as far as they serve.

    Args:
        artifact: A model, or several, as trained.
        holdout: Such rows, those of validation.
        n_distinct: How many they are; they may come several times, one after the other, with other cells hidden.
        error_name: What the error over their hidden cells is called among the metrics; where that changes, it is the
            new one.
    """
    longer = patient(artifact, holdout)
    posteriors: Sequence[Posterior] | None = None
    if longer is not artifact:
        posteriors = longer.posteriors(as_tensor(holdout.rows.x))
    recalled, posteriors = recalling(longer, holdout, n_distinct, posteriors)
    sure = calibrated(recalled, holdout, posteriors)
    about = {}
    if recalled is not artifact or sure.delta is not None:
        x_hat = sure.estimate(posteriors or sure.posteriors(as_tensor(holdout.rows.x))).cpu().numpy()
        about[error_name] = sure.model.codec.score(x_hat, holdout.truth)
    if sure.recall is not None:
        about["recalled_share"] = sure.recall.share
    if sure.delta is not None:
        about["moved_columns"] = int(np.count_nonzero(sure.delta))
    return replace(sure, metrics=sure.metrics | about) if about else sure
