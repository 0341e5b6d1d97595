"""What a model recalls of training rows: against its definition, and only where validation rows say that it serves."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.small_runs import SETTINGS, fitted, wine
from tests.training.artifacts import edit
from tests.training.examples import low_rank, small
from vadtune.data.codec import Codec
from vadtune.data.problem import Problem
from vadtune.data.splits import DataConfig, Rows, split
from vadtune.data.tables import Column, Table
from vadtune.errors import ArtifactError
from vadtune.models.objective import as_tensor
from vadtune.models.recall import MOST_ROWS, Memory
from vadtune.settings import merge, parse
from vadtune.training.artifact import Recall, load_artifact, save_artifact
from vadtune.training.config import TrialConfig
from vadtune.training.fill import Filler
from vadtune.training.fitting import fit_watched
from vadtune.training.recall import recalling
from vadtune.training.run import TrialRun
from vadtune.training.trainer import Trainer
from vadtune.tuning.conclude import artifact_of, score_artifact

RECALL = Recall(0.5, 2.0)


def clusters(n_rows=400, n_clusters=20, n_features=10):
    """Rows that repeat one of a few patterns: a smooth decoder has no way to know which values do not occur."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], (n_clusters, n_features))
    x = patterns[rng.integers(n_clusters, size=n_rows)] + 0.02 * rng.standard_normal((n_rows, n_features))
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(n_features))
    table = Table("clusters", "made", x, columns)
    config = parse(DataConfig, {"dataset": "clusters", "missing_rate": 0.4}, "test")
    return Problem(table, config, split(table, config))


def artifact(problem, **settings):
    config: TrialConfig = parse(TrialConfig, merge(SETTINGS, settings), "test")
    run = fitted(config, problem)
    run.finish()
    return artifact_of(config, run.best_model().eval(), problem, {"trial": 0, "epoch": run.best_epoch})


@pytest.fixture(scope="module")
def clustered():
    problem = clusters()
    model = {"latent_dim": 8, "decoder": {"hidden_dim": 64}, "noise": {"kind": "per_column"}}
    return artifact(problem, model=model, train={"n_epochs": 60}), problem


@pytest.mark.parametrize("n_rows", [50, MOST_ROWS + 904])
def test_some_latents_are_kept_evenly_chosen(n_rows):
    mean = torch.arange(float(n_rows))[:, None].expand(-1, 3)
    memory = Memory(3)
    memory.keep(mean)
    kept = memory.kept[:, 0]
    assert len(kept) == min(n_rows, MOST_ROWS)
    assert kept[0] == 0
    assert kept.diff().min() >= 1
    assert kept.diff().max() <= 2
    assert kept[-1] >= n_rows - 2


def test_what_is_recalled_is_the_mean_of_outputs_weighted_by_likelihoods():
    x = low_rank(80).x
    trainer = Trainer(small(), Rows(x.numpy()), torch.device("cpu"))
    trainer.fit_epoch()
    model = trainer.model.eval()
    model.remember(trainer.posteriors)
    rows = low_rank(7, seed=5).x
    rows[2] = torch.nan
    recalled = model.recall(model.batch(rows), 3.0)
    outputs = model.decoder(trainer.posteriors.all().mean).detach().double()
    noise_var = model.noise.log_var().exp().detach().double()
    for row, found in zip(rows.double(), recalled, strict=True):
        errors = ((outputs - row).square() / (2 * noise_var)).nan_to_num(nan=0.0).sum(1)
        weights = torch.softmax(-errors / 3.0, 0)
        assert_close(found.double(), weights @ outputs, atol=1e-4, rtol=1e-4)
    # A row of which nothing is known is like all.
    assert_close(recalled[2].double(), outputs.mean(0), atol=1e-4, rtol=1e-4)


def test_a_model_recalls_where_rows_lie_in_clusters(clustered):
    first, problem = clustered
    validation = problem.splits.validation
    posteriors = first.posteriors(as_tensor(validation.rows.x))
    found, with_recalled = recalling(first, validation, len(problem.splits.indices[1]), posteriors)
    assert found.recall is not None
    error = first.model.codec.score
    before, after = (
        error(model.estimate(each).numpy(), validation.truth)
        for model, each in ((first, posteriors), (found, with_recalled))
    )
    assert after < 0.9 * before
    tested = score_artifact(first, problem)
    assert tested.artifact.recall == found.recall
    assert tested.artifact.metrics["recalled_share"] == found.recall.share
    assert tested.validation_error == pytest.approx(after, rel=0.02)  # the delta may move it
    plain = first.reconstruct(as_tensor(problem.splits.test.rows.x)).numpy()
    assert tested.scores.rmse < error(plain, problem.splits.test.truth)


def test_rows_that_are_held_back_outside_of_a_search_say_it_too(clustered):
    first, problem = clustered
    alone = fit_watched(first.config, problem.table, 0.25, "cpu")
    assert alone.recall is not None
    assert alone.metrics["recalled_share"] == alone.recall.share


def test_nothing_is_recalled_where_the_gain_may_be_luck_or_the_rows_are_images(clustered):
    first, problem = clustered
    validation = problem.splits.validation
    posteriors = first.posteriors(as_tensor(validation.rows.x))
    few, _ = recalling(first, validation, 9, posteriors)
    pictured = replace(first, model=copy.copy(first.model))
    pictured.model.codec = Codec.of_images(2, 3)
    image, _ = recalling(pictured, validation, len(problem.splits.indices[1]), posteriors)
    assert few.recall is None
    assert image.recall is None


def test_a_vae_recalls_nothing():
    problem = wine()
    vae = artifact(problem, model={"kind": "vae"})
    assert score_artifact(vae, problem).artifact.recall is None
    assert vae.model.recall(vae.model.batch(as_tensor(problem.splits.test.rows.x)), 1.0) is None


def test_it_is_saved_with_the_model_and_each_row_stays_on_its_own(clustered, tmp_path):
    first, problem = clustered
    recalls = replace(first, recall=RECALL)
    x = as_tensor(problem.splits.test.rows.x)
    loaded = load_artifact(save_artifact(recalls, tmp_path / "best"))
    assert loaded.recall == RECALL
    assert loaded.reconstruct(x).equal(recalls.reconstruct(x))
    assert not loaded.reconstruct(x).equal(first.reconstruct(x))
    assert_close(loaded.reconstruct(x[5:6]), loaded.reconstruct(x)[5:6], atol=1e-5, rtol=1e-5)
    plain, recalled = (model.expect(model.posterior(x)) for model in (first, replace(first, recall=Recall(1.0, 2.0))))
    assert_close(recalls.expect(recalls.posterior(x)), (plain + recalled) / 2)


@pytest.mark.parametrize(
    "spoilt", [{"share": 1.5, "temperature": 1.0}, {"share": 0.5, "temperature": 0}, {"share": 1}, 7]
)
def test_a_spoilt_recall_is_refused(clustered, tmp_path, spoilt):
    folder = save_artifact(clustered[0], tmp_path / "best")
    edit(folder, "config.json", recall=spoilt)
    with pytest.raises(ArtifactError, match="Export it again"):
        load_artifact(folder)


def test_draws_lie_around_what_is_estimated(clustered):
    first, problem = clustered
    recalls = replace(first, recall=Recall(1.0, 1.0))
    values = problem.table.values[:40].copy()
    values[:, 0] = np.nan
    rows = replace(problem.table, values=values)
    best = Filler(recalls)(rows)[0][:, 0]
    draws = np.mean(Filler(recalls, n_draws=400)(rows), 0)[:, 0]
    plain = Filler(first)(rows)[0][:, 0]
    assert np.abs(draws - best).mean() < 0.4 * np.abs(plain - best).mean()


def test_a_resumed_trial_remembers(tmp_path):
    problem = wine()
    config: TrialConfig = parse(TrialConfig, SETTINGS, "test")
    run = fitted(config, problem)
    run.save(tmp_path)
    again = TrialRun.load(tmp_path, problem.splits.train.rows, problem.splits.validation)
    batch = run.best_model().batch(as_tensor(problem.splits.test.rows.x))
    assert again.best_model().recall(batch, 1.0).equal(run.best_model().recall(batch, 1.0))
