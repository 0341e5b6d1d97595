"""The estimator that searches: the run folder of a search behind scikit-learn's interface."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.utils.estimator_checks import estimator_checks_generator

from tests.small_runs import assert_filled
from vadtune import SearchImputer, VADImputer
from vadtune.data.tables import FloatArray
from vadtune.errors import ConfigError
from vadtune.report.run import read_run
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.plan import N_FURTHER_FITS

SPACE = {
    "model.kind": "vad",
    "model.latent_dim": {"low": 2, "high": 6},
    "model.decoder.hidden_dim": 16,
    "train.n_epochs": 40,
    "train.batch_size": 32,
}
# Ray's workers take seconds to start: of the checks that fit, those that ask something of the search itself.
# All of them pass.
CHECKS = {
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_dict_unchanged",
    "check_dont_overwrite_attributes",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_estimator_repr",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_set_params",
    "check_valid_tag_types",
}


@pytest.fixture(scope="module")
def x() -> FloatArray:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(120, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(120, 6))
    return np.where(rng.random(truth.shape) < 0.15, np.nan, truth)


@pytest.fixture(scope="module")
def fitted(cluster: Cluster, x: FloatArray, tmp_path_factory: pytest.TempPathFactory) -> SearchImputer:
    assert cluster.is_ready(timeout_s=60)
    runs = tmp_path_factory.mktemp("runs")
    return SearchImputer(n_trials=3, n_jobs=1, space=SPACE, runs=runs, random_state=0).fit(x)


@pytest.mark.cluster
def test_the_run_folder_is_that_of_a_search(fitted: SearchImputer) -> None:
    names = {path.name for path in fitted.run_folder_.iterdir()}
    assert {"settings.json", "study.log", "trials.csv", "report.html", "summary.json", "evaluation.npz"} <= names
    assert len(read_run(fitted.run_folder_).trials) == 3


@pytest.mark.cluster
def test_the_best_trial_is_told_as_scikit_learn_does(fitted: SearchImputer) -> None:
    study = fitted.study_
    assert len(study.trials) == 3
    # Trials that are averaged are at least as good as the best alone.
    assert fitted.best_score_ >= -study.best_value
    assert fitted.best_params_ == study.best_params
    assert 2 <= fitted.best_params_["model.latent_dim"] <= 6


@pytest.mark.cluster
def test_the_best_settings_are_trained_again_on_all_rows(fitted: SearchImputer, x: FloatArray) -> None:
    artifact = fitted.artifact_
    assert artifact.config.model.latent_dim == fitted.best_params_["model.latent_dim"]
    assert artifact.metrics["validation_rmse"] == -fitted.best_score_
    assert artifact.dataset["n_rows"] == 120
    # The scaler of a part of the rows would have another center.
    np.testing.assert_allclose(artifact.scaler.center, np.nanmean(x, 0))
    filled = fitted.transform(x)
    assert_array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])
    assert not np.isnan(filled).any()
    assert fitted.score(x) > -0.9


@pytest.mark.cluster
def test_the_best_trials_are_averaged_where_that_is_better(cluster: Cluster, x: FloatArray, tmp_path: Path) -> None:
    assert cluster.is_ready(timeout_s=60)
    imputer = SearchImputer(n_trials=5, scheduler="none", ensemble=3, space=SPACE, runs=tmp_path, random_state=0).fit(x)
    members = imputer.artifact_.members
    trials = {member.metrics["trial"] for member in members}
    assert 2 <= len(trials) <= 3
    assert len(members) == len(trials) + N_FURTHER_FITS
    assert sum(member.weight for member in members) == pytest.approx(1.0)
    assert all(member.dataset["n_rows"] == 120 for member in members)
    assert imputer.best_score_ > -imputer.study_.best_value


@pytest.mark.cluster
def test_one_trial_at_a_time_equal_seeds_are_equal_to_the_digit(fitted: SearchImputer, x: FloatArray) -> None:
    again = clone(fitted).fit(x)
    assert again.best_params_ == fitted.best_params_
    assert_array_equal(again.transform(x), fitted.transform(x))
    assert again.run_folder_ != fitted.run_folder_


@pytest.mark.cluster
def test_a_dataframe_of_categories_dates_and_holes_comes_back_filled_as_it_was(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert cluster.is_ready(timeout_s=60)
    rng = np.random.default_rng(0)
    size = rng.integers(0, 3, 150)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(10 * size, unit="D")
    frame = pd.DataFrame(
        {
            "size": pd.Categorical(np.array(["S", "M", "L"])[size], ["S", "M", "L"], ordered=True),
            "colour": np.array(["red", "green", "blue"])[size],
            "day": days,
            "n": pd.array(size * 2, "Int64"),
            "big": pd.array(size == 2, "boolean"),
            "price": np.exp(size + rng.normal(0, 0.1, 150)),
        },
        index=pd.Index([f"r{k}" for k in range(150)], name="row"),
    )
    frame = frame.mask(pd.DataFrame(rng.random(frame.shape) < 0.2, index=frame.index, columns=frame.columns))
    few = {"infer.n_steps": 20}
    imputer = SearchImputer(n_trials=2, n_jobs=1, space=SPACE, settings=few, runs=tmp_path, random_state=0)
    filled = imputer.set_output(transform="pandas").fit_transform(frame)
    assert filled.dtypes.equals(frame.dtypes)
    assert filled.index.equals(frame.index)
    assert_filled(filled, frame)
    # Guesses would be right a third of the time.
    hidden = frame["size"].isna().to_numpy() & frame["colour"].notna().to_numpy()
    right = filled["size"].astype(str).to_numpy() == np.array(["S", "M", "L"])[size]
    assert right[hidden].mean() > 0.6
    best = read_run(imputer.run_folder_).summary.best
    assert best is not None
    assert best.test_error_rate is not None
    assert imputer.artifact_.dataset["unit"] == "mixed"


@pytest.mark.cluster
def test_what_was_found_needs_no_search_any_more(fitted: SearchImputer, x: FloatArray, tmp_path: Path) -> None:
    expected = fitted.transform(x)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(x), expected)
    for folder in (fitted.run_folder_ / "best", fitted.to_artifact(tmp_path / "model")):
        assert_array_equal(VADImputer.from_artifact(folder).transform(x), expected)
    (tmp_path / "fitted.pkl").write_bytes(pickle.dumps(fitted))
    code = "import pickle, sys; pickle.load(open('fitted.pkl', 'rb')).transform([[float('nan')] * 6]); "
    code += "print({'ray', 'optuna'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.cluster
@pytest.mark.usefixtures("fitted")
def test_scikit_learns_own_checks_pass(tmp_path: Path) -> None:
    imputer = SearchImputer(n_trials=1, space=SPACE, settings={"train.n_epochs": 1}, runs=tmp_path, random_state=0)
    n_checks = 0
    for estimator, check in estimator_checks_generator(imputer):
        if getattr(check, "func", check).__name__ in CHECKS:
            check(estimator)
            n_checks += 1
    assert n_checks > 10


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"n_trials": None}, "give n_trials or time_budget_s"),
        ({"n_trials": 0}, "n_trials is 0"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"model": "gan"}, "model is 'gan'"),
        ({"mechanism": "mcarr"}, "mcar"),
        ({"missing_rate": 1.0}, "missing_rate is 1.0"),
        ({"sampler": "tpr"}, "tpe"),
        ({"space": "vae_tables"}, "search space is for 'vae'"),
        ({"space": "vad_tabels"}, "^space vad_tabels: .*vad_tables"),
        ({"settings": ["model.latent_dim"]}, "give a dictionary"),
        ({"settings": {"model.latent_dim": {"low": 9, "high": 3}}}, "^settings: model.latent_dim"),
        ({"settings": {"model.latent_dims": 3}}, "Did you mean model.latent_dim?"),
        ({"device": "gpu"}, "expected auto, cpu, cuda"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(
    tmp_path: Path, x: FloatArray, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchImputer(runs=tmp_path, **params).fit(x)
    assert not [path for folder in tmp_path.iterdir() for path in folder.iterdir()]


def test_a_table_too_small_to_hide_cells_in_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a minimum of 3 is required"):
        SearchImputer(runs=tmp_path).fit([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"3 sample\(s\) and 1 feature\(s\)"):
        SearchImputer(runs=tmp_path).fit([[1.0], [2.0], [3.0]])
    assert not any(tmp_path.iterdir())
