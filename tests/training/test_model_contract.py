"""What every model of the union does; a new one is found here by itself."""

from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.training.examples import MODEL_CONFIGS, THOROUGH, holdout, low_rank
from vadtune.data.splits import Rows, Scaler
from vadtune.data.tables import Column
from vadtune.models.objective import Batch
from vadtune.settings import parse
from vadtune.training.artifact import Artifact, load_artifact, save_artifact
from vadtune.training.config import MODELS, ModelConfig, TrainConfig, TrialConfig
from vadtune.training.run import TrialRun
from vadtune.training.trainer import Trainer


def variants():
    """Every model with its defaults, and with every word that one of its own settings may hold."""
    for config in MODEL_CONFIGS:
        for name, field in config.model_fields.items():
            words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
            for word in words:
                yield pytest.param(config(**{name: word}), id=f"{config.__name__}-{name}-{word}")


every_model = pytest.mark.parametrize("model", list(variants()))


def trial(model):
    return TrialConfig(model=model, train=TrainConfig(n_epochs=2, batch_size=16))


@pytest.fixture
def table():
    """Values in units far from those of a model, a row and a column without any, and a column that never varies."""
    x = low_rank(40, n_features=6).x.double().numpy() * 1000 + 5e6
    x[3], x[:, 4], x[5:, 2] = np.nan, np.nan, 7.0
    return x


def fitted(model, x):
    scaler = Scaler.fit(x, "sd")
    trainer = Trainer(trial(model), Rows(scaler.transform(x)), torch.device("cpu"))
    trainer.fit_epoch()
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(x.shape[1]))
    return Artifact(trainer.model.eval(), trial(model), scaler, columns)


def test_the_names_of_models_are_those_of_the_union():
    assert tuple(config.model_fields["kind"].default for config in MODEL_CONFIGS) == MODELS
    assert all(parse(ModelConfig, {"kind": kind}, "test").kind == kind for kind in MODELS)


@every_model
def test_all_cells_are_filled_and_known_ones_come_back_unchanged(model, table):
    before = table.copy()
    filled = fitted(model, table).impute(table)
    known = ~np.isnan(table)
    assert np.isfinite(filled).all()
    assert filled.dtype == table.dtype
    assert np.array_equal(filled[known], table[known])
    assert np.array_equal(table, before, equal_nan=True), "the input is not written to"


@every_model
def test_single_precision_stays_single(model, table):
    x = table.astype(np.float32)
    filled = fitted(model, x).impute(x)
    assert filled.dtype == np.float32
    assert np.array_equal(filled[~np.isnan(x)], x[~np.isnan(x)])


@every_model
def test_a_table_without_any_known_cell_is_filled(model, table):
    assert np.isfinite(fitted(model, table).impute(np.full((2, 6), np.nan))).all()


@every_model
def test_one_row_and_no_row_are_tables_too(model, table):
    artifact = fitted(model, table)
    assert artifact.impute(table[:1]).shape == (1, 6)
    assert artifact.impute(table[:0]).shape == (0, 6)


@every_model
def test_a_model_saves_and_loads_to_equal_output(model, table, tmp_path):
    artifact = fitted(model, table)
    loaded = load_artifact(save_artifact(artifact, tmp_path / "best"))
    assert loaded.config == artifact.config
    assert np.array_equal(loaded.impute(table), artifact.impute(table))


@every_model
def test_a_row_is_filled_alike_in_any_company(model, table):
    artifact = fitted(model, table)
    config = artifact.config.model_copy(update={"infer": THOROUGH})
    artifact = Artifact(artifact.model, config, artifact.scaler, artifact.columns)
    rows = table[:4]
    together, alone = artifact.impute(rows)[::-1], np.concatenate([artifact.impute(row[None]) for row in rows[::-1]])
    np.testing.assert_allclose(artifact.scaler.transform(alone), artifact.scaler.transform(together), rtol=0, atol=2e-3)


@every_model
def test_training_lowers_the_loss_and_a_trial_gets_a_score(model):
    train, validation = low_rank(60, n_features=6), low_rank(20, n_features=6, seed=9)
    config = trial(model).model_copy(update={"train": TrainConfig(n_epochs=10, batch_size=16, schedule="constant")})
    trainer = Trainer(config, Rows(train.x.numpy()), torch.device("cpu"))
    losses = [trainer.fit_epoch() for _ in range(10)]
    assert losses[-1] < losses[0]
    run = TrialRun(config, Rows(train.x.numpy()), holdout(validation))
    run.advance(3)
    assert 0 < run.finish() < 5


@every_model
def test_the_map_loss_is_never_negative_and_zero_for_a_hidden_row_at_the_prior_mean(model):
    torch.manual_seed(0)
    built, batch = model.build(6), Batch.of(low_rank(30, n_features=6).x)
    start = built.start(batch).mean.detach()
    losses = built.map_loss(batch, start)
    assert (losses >= 0).all()
    empty = built.map_loss(Batch.of(torch.full((1, 6), torch.nan)), torch.zeros(1, start.shape[1]))
    assert_close(empty, torch.zeros(1))
