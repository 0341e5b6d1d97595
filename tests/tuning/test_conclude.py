"""What is told of a winner at the end of a search."""

import numpy as np

from tests.data.test_splits import table_of
from tests.small_runs import SETTINGS, fitted
from vadtune.data.masks import Mar
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, split
from vadtune.settings import parse
from vadtune.training.config import TrialConfig
from vadtune.tuning.conclude import artifact_of, evaluation_arrays, score_artifact


def test_of_few_columns_rates_that_the_mechanism_cannot_hide_are_left_out():
    rng = np.random.default_rng(0)
    table = table_of(rng.normal(size=(120, 2)) @ rng.normal(size=(2, 4)))
    data = DataConfig(dataset="t", missing_rate=0.3, mechanism=Mar())
    problem = Problem(table, data, split(table, data))
    config = parse(TrialConfig, SETTINGS, "test")
    artifact = artifact_of(config, fitted(config, problem).best_model(), problem, {})
    arrays = evaluation_arrays(score_artifact(artifact, problem), problem)
    assert arrays["rate_grid"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]  # one of the four columns stays
    assert len(arrays["rate_rmse"]) == len(arrays["rate_baseline_mean"]) == 7
    assert len(arrays["mechanism_names"]) == len(arrays["mechanism_rmse"])
