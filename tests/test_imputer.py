"""The scikit-learn estimators: their contract, and what a user of scikit-learn relies on beyond it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tests.small_runs import modules_after, train_small, wine
from vadtune import VADImputer, VAEImputer, evaluate, impute
from vadtune.errors import ArtifactError, ConfigError, DataError, NoUsableTrial
from vadtune.settings import Nested, parse
from vadtune.train import default_config
from vadtune.training.config import TrialConfig

SMALL: Nested = {"latent_dim": 3, "hidden_dim": 16, "n_layers": 1, "n_epochs": 5, "random_state": 0}
SMALL_VAE = SMALL | {"encoder_hidden_dim": 16, "encoder_n_layers": 1, "refinement_steps": 5}

both = pytest.mark.parametrize("imputer", [VADImputer(**SMALL), VAEImputer(**SMALL_VAE)], ids=["vad", "vae"])


@parametrize_with_checks([VADImputer(**SMALL), VAEImputer(**SMALL_VAE)])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def low_rank():
    """A table of rank 3 with a little noise, and the same with a quarter of its cells unknown."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12)) * 5 + 100 + rng.normal(size=(300, 12)) * 0.1
    return truth, np.where(rng.random(truth.shape) < 0.25, np.nan, truth)


@pytest.fixture
def frame():
    """Every numeric dtype of pandas that holds unknown cells, an odd index, and a column without holes."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=60)
    holes = rng.random((60, 7)) < 0.3
    columns = {
        "float": pd.Series(z + 3).mask(holes[:, 0]),
        "single": pd.Series(z, dtype="float32").mask(holes[:, 1]),
        "whole": pd.Series(np.rint(10 * z)).mask(holes[:, 2]).astype("Int64"),
        "small": pd.Series(np.rint(20 * np.abs(z))).mask(holes[:, 3]).astype("UInt8"),
        "yes": pd.Series(z > 0).astype("boolean").mask(holes[:, 4]),
        "arrow": pd.Series(z * 2).mask(holes[:, 5]).astype("double[pyarrow]"),
        "full": pd.Series(np.arange(60)),
    }
    return pd.DataFrame(columns).set_index(pd.Index([f"row {i // 2}" for i in range(60)]))


# What it learns


@pytest.mark.parametrize("kind", [VADImputer, VAEImputer])
def test_a_low_rank_table_is_found_again_far_better_than_by_column_means(low_rank, kind):
    truth, x = low_rank
    hidden = np.isnan(x)
    filled = kind(n_epochs=60, hidden_dim=64, latent_dim=6, random_state=0).fit_transform(x)
    error = np.sqrt(np.mean((filled - truth)[hidden] ** 2))
    mean_error = np.sqrt(np.mean((np.nanmean(x, 0) - truth)[hidden] ** 2))
    assert error < 0.4 * mean_error


@pytest.mark.parametrize("kind", ["vad", "vae"])
def test_the_constructors_defaults_are_the_first_point_of_the_default_space(kind):
    estimator = {"vad": VADImputer, "vae": VAEImputer}[kind](random_state=0)
    assert estimator._config() == parse(TrialConfig, default_config(kind, wine()), "first point")


@both
def test_a_seed_decides_everything_and_another_changes_it(low_rank, imputer):
    _, x = low_rank
    first, second = (clone(imputer).fit_transform(x) for _ in range(2))
    assert_array_equal(first, second)
    assert not np.array_equal(first, clone(imputer).set_params(random_state=1).fit_transform(x))


@both
def test_what_comes_back_for_a_row_does_not_depend_on_the_other_rows(low_rank, imputer):
    _, x = low_rank
    fitted = clone(imputer).fit(x)
    alone = np.vstack([fitted.transform(row[None]) for row in x[:40]])
    assert_allclose(alone, fitted.transform(x)[:40], rtol=1e-9)


def test_held_back_rows_choose_the_epoch_and_their_score_is_kept(low_rank):
    _, x = low_rank
    imputer = VADImputer(**SMALL | {"n_epochs": 30}, validation_share=0.2).fit(x)
    assert imputer.artifact_.metrics["epoch"] <= 30
    assert 0 < imputer.artifact_.metrics["validation_rmse"] < 1.5


def test_the_score_is_about_minus_one_before_training_and_near_zero_after(low_rank):
    _, x = low_rank
    assert -1.2 < VADImputer(**SMALL | {"n_epochs": 1, "learning_rate": 1e-6}).fit(x).score(x) < -0.6
    assert VADImputer(n_epochs=60, hidden_dim=64, latent_dim=6, random_state=0).fit(x).score(x) > -0.4


# What comes back


@both
def test_observed_cells_come_back_bit_identical_in_their_precision(low_rank, imputer):
    _, x = low_rank
    for dtype in (np.float64, np.float32):
        values = x.astype(dtype)
        filled = clone(imputer).fit_transform(values)
        assert filled.dtype == dtype
        assert not np.isnan(filled).any()
        assert_array_equal(filled[~np.isnan(values)], values[~np.isnan(values)])


def test_a_dataframe_keeps_columns_index_dtypes_and_known_cells(frame):
    filled = VADImputer(**SMALL).set_output(transform="pandas").fit_transform(frame)
    assert list(filled.dtypes) == list(frame.dtypes)
    assert filled.columns.equals(frame.columns)
    assert filled.index.equals(frame.index)
    assert not filled.isna().any(axis=None)
    for name in frame:
        known = frame[name].notna().to_numpy()
        assert filled[name][known].equals(frame[name][known])


def test_by_default_a_dataframe_becomes_an_array_as_scikit_learns_imputers_have_it(frame):
    filled = VADImputer(**SMALL).fit_transform(frame)
    assert isinstance(filled, np.ndarray)
    assert filled.dtype == np.float64
    yes = filled[:, list(frame.columns).index("yes")]
    assert set(yes) == {0.0, 1.0}


def test_polars_in_and_out_keeps_types_and_known_cells(frame):
    table = pl.DataFrame(pa.Table.from_pandas(frame, preserve_index=False))
    filled = VADImputer(**SMALL).set_output(transform="polars").fit_transform(table)
    assert filled.schema == table.schema
    assert sum(filled.null_count().row(0)) == 0
    for name in table.columns:
        known = table[name].is_not_null()
        assert filled[name].filter(known).equals(table[name].filter(known))


def test_a_masked_array_an_object_array_and_nan_mean_the_same(low_rank):
    _, x = low_rank
    x = x[:50]
    imputer = VADImputer(**SMALL).fit(x)
    objects = x.astype(object)
    objects[np.isnan(x)] = pd.NA
    assert_array_equal(imputer.transform(objects), imputer.transform(x))
    masked = np.ma.MaskedArray(np.nan_to_num(x), np.isnan(x))
    assert_array_equal(imputer.transform(masked), imputer.transform(x))


def test_empty_columns_are_left_out_or_filled_with_zero(low_rank):
    x = low_rank[1][:60].copy()
    x[:, 2] = np.nan
    with pytest.warns(UserWarning, match=r"columns \['x2'\] have no observed cell"):
        dropped = VADImputer(**SMALL).fit(x)
    assert dropped.transform(x).shape == (60, 11)
    assert "x2" not in dropped.get_feature_names_out()
    kept = VADImputer(**SMALL, keep_empty_features=True).fit(x)
    assert_array_equal(kept.transform(x)[:, 2], np.zeros(60))
    assert_array_equal(np.delete(kept.transform(x), 2, axis=1), dropped.transform(x))


def test_indicator_columns_say_what_was_unknown(frame):
    imputer = VADImputer(**SMALL, add_indicator=True).set_output(transform="pandas").fit(frame)
    filled = imputer.transform(frame)
    assert list(filled.columns) == list(imputer.get_feature_names_out())
    assert_array_equal(filled["missingindicator_whole"].to_numpy(), frame["whole"].isna().to_numpy())
    assert "missingindicator_full" not in filled
    assert_array_equal(
        imputer.set_output(transform="default").transform(frame)[:, 7:], filled.iloc[:, 7:].to_numpy(float)
    )


# What it is used with


@both
def test_a_pickle_gives_equal_digits(low_rank, imputer):
    _, x = low_rank
    fitted = clone(imputer).fit(x)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(x), fitted.transform(x))


@both
def test_an_artifact_gives_equal_digits_and_the_same_parameters(tmp_path, frame, imputer):
    fitted = clone(imputer).set_params(settings={"train.schedule": "cosine"}).fit(frame)
    loaded = type(imputer).from_artifact(fitted.to_artifact(tmp_path / "model"))
    assert_array_equal(loaded.transform(frame), fitted.transform(frame))
    assert_array_equal(loaded.feature_names_in_, fitted.feature_names_in_)
    assert clone(loaded)._config() == fitted._config()
    assert_array_equal(clone(loaded).fit_transform(frame), fitted.transform(frame))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return train_small(wine(), tmp_path_factory.mktemp("wine") / "model")


def test_from_artifact_fills_what_the_command_fills(tmp_path, artifact):
    truth = pd.DataFrame(wine().table.values, columns=[column.name for column in wine().table.columns])
    table = truth.mask(np.random.default_rng(0).random(truth.shape) < 0.3)
    table.to_parquet(tmp_path / "in.parquet")
    impute.main([str(artifact), str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.parquet"), "--device", "cpu"])
    expected = pd.read_parquet(tmp_path / "out.parquet")
    filled = VADImputer.from_artifact(artifact).set_output(transform="pandas").transform(table)
    # The command infers in float32.
    assert_allclose((filled - expected) / truth.std(), np.zeros(truth.shape), atol=1e-4)
    assert filled[table.notna()].equals(expected[table.notna()])


def test_the_commands_take_what_an_estimator_writes(tmp_path, capsys):
    table = pd.DataFrame(wine().table.values, columns=[column.name for column in wine().table.columns])
    model = VADImputer(**SMALL).fit(table[:100]).to_artifact(tmp_path / "model")
    evaluate.main([str(model), "wine", "--missing-rates", "0.2", "--json", "--device", "cpu"])
    (scores,) = json.loads(capsys.readouterr().out)["rates"]
    assert 0 < scores["rmse"] < 2
    assert "imputation model of X" in (model / "README.md").read_text()


def test_an_artifact_of_another_model_or_of_nothing_is_refused(tmp_path, artifact):
    with pytest.raises(ArtifactError, match=r"holds a vad. Use VADImputer"):
        VAEImputer.from_artifact(artifact)
    with pytest.raises(ArtifactError, match="not an exported model"):
        VADImputer.from_artifact(tmp_path)


def test_an_imputer_works_in_a_pipeline_and_a_grid_search(low_rank):
    truth, x = low_rank
    pipeline = make_pipeline(VADImputer(**SMALL), StandardScaler(), Ridge())
    grid = GridSearchCV(pipeline, {"vadimputer__latent_dim": np.array([1, 4])}, cv=2)
    grid.fit(x[:, 1:], truth[:, 0])
    assert grid.best_params_["vadimputer__latent_dim"] in (1, 4)
    assert grid.predict(x[:, 1:]).shape == (300,)


def test_a_grid_search_without_a_predictor_finds_the_rank_that_is_needed(low_rank):
    _, x = low_rank
    imputer = VADImputer(n_epochs=40, hidden_dim=64, random_state=0)
    grid = GridSearchCV(imputer, {"latent_dim": [1, 6]}, cv=2).fit(x)
    assert grid.best_params_ == {"latent_dim": 6}


def test_importing_vadtune_is_light_and_loading_an_artifact_needs_no_ray_and_no_optuna(artifact):
    assert not modules_after("import vadtune")
    assert modules_after("import vadtune; vadtune.VADImputer") == {"torch", "sklearn"}
    code = f"from vadtune import VADImputer; VADImputer.from_artifact({str(artifact)!r}).transform([[1.0] * 13])"
    assert modules_after(f"import warnings; warnings.simplefilter('ignore'); {code}") == {"torch", "sklearn"}


# What is refused


def test_wrong_parameters_are_named_all_at_once():
    with pytest.raises(ConfigError) as caught:
        VADImputer(latent_dim=0, dropout=2.0, settings={"train.batchsize": 3}).fit([[1.0, 2.0]])
    for path in ("model.latent_dim", "model.decoder.dropout", "Did you mean train.batch_size?"):
        assert path in str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"device": "gpu"}, "^device gpu: expected auto"),
        ({"settings": ["train.schedule"]}, "give a dictionary"),
        ({"settings": {"seed": 3}}, "give random_state"),
        ({"random_state": -1}, "random_state is -1"),
        ({"validation_share": "half"}, "validation_share is 'half'"),
        ({"validation_share": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_a_wrong_parameter_is_told_by_its_name_here(params, words):
    with pytest.raises(ConfigError, match=words):
        VADImputer(**SMALL | params).fit([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, np.inf], [2.0, 3.0]], "column 'x1' holds inf in row 0"),
        (pd.DataFrame({"a": [1.0, -np.inf]}), "column 'a' holds -inf in row 1"),
        ([[np.nan], [np.nan]], "not one cell is observed"),
        (pd.DataFrame({"a": ["1.5", "2", "high"]}), "column 'a' holds text"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "more than one column is named 'a'"),
        (np.array([[2**60, 1]]), "identifiers"),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(x, words):
    with pytest.raises(DataError, match=words):
        VADImputer(**SMALL).fit(x)


def test_columns_that_are_not_those_of_fit_are_refused_as_scikit_learn_does(frame):
    imputer = VADImputer(**SMALL).fit(frame)
    with pytest.raises(ValueError, match="Feature names seen at fit time, yet now missing"):
        imputer.transform(frame.drop(columns="whole"))


def test_training_that_diverges_says_what_to_change(low_rank):
    with pytest.raises(NoUsableTrial, match="Lower learning_rate"):
        VADImputer(**SMALL | {"learning_rate": 1e30, "n_epochs": 50}).fit(low_rank[1])


def test_one_row_is_enough_to_fit_but_not_to_hold_some_back():
    one = VADImputer(**SMALL).fit([[1.0, 3.0]])
    assert_allclose(one.transform([[1.0, np.nan], [np.nan, np.nan]]), [[1.0, 3.0], [1.0, 3.0]], atol=0.5)
    with pytest.raises(DataError, match="too few"):
        VADImputer(**SMALL, validation_share=0.5).fit([[1.0, 2.0]])
