"""Scores by numbers, draws by their spread, figures' arrays by their shapes."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import exact_posterior, linear_vad, normal
from tests.training.examples import THOROUGH, small
from vadtune.data.codec import Codec
from vadtune.data.masks import Mcar
from vadtune.data.splits import Holdout, Rows, Scaler
from vadtune.data.tables import Column
from vadtune.errors import DataError
from vadtune.models.objective import Posterior
from vadtune.training.artifact import Artifact
from vadtune.training.evaluation import (
    cells,
    collect,
    complete,
    draw,
    gallery,
    hide,
    latents_2d,
    reconstruct_each,
    score,
)

NAN = np.nan
# Two rows of two columns; the model sees the first column, and is scored on one cell of the second.
HOLDOUT = Holdout(Rows(np.array([[1.0, NAN], [2.0, NAN]], np.float32)), np.array([[NAN, 4.0], [NAN, NAN]], np.float32))
X_HAT = np.array([[1.5, 3.0], [2.0, 99.0]], np.float32)


def artifact_of(model, n_features):
    scaler = Scaler(np.arange(n_features, dtype=np.float64), np.full(n_features, 10.0))
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(n_features))
    return Artifact(model, small().model_copy(update={"infer": THOROUGH}), scaler, columns)


def test_scores_are_over_the_cells_that_their_names_say():
    scores = score(X_HAT, HOLDOUT, np.array([7.0, 2.0]))
    assert scores.rmse == 1.0
    assert scores.rmse_minmax == 0.5
    assert scores.mae == 1.0
    assert scores.observed_rmse == pytest.approx(np.sqrt(0.25 / 2))
    assert scores.all_rmse == pytest.approx(np.sqrt((0.25 + 1.0) / 3))


def test_a_cell_that_nobody_knows_counts_nowhere():
    changed = X_HAT.copy()
    changed[1, 1] = -1e9
    assert score(changed, HOLDOUT, np.ones(2)) == score(X_HAT, HOLDOUT, np.ones(2))
    assert np.array_equal(complete(HOLDOUT), [[1.0, 4.0], [2.0, NAN]], equal_nan=True)


def test_hidden_cells_move_from_the_rows_to_the_truth():
    known = np.random.default_rng(0).normal(size=(50, 4))
    known[0] = NAN
    holdout = hide(known, Mcar(), 0.5, seed=1)
    seen, hidden = ~np.isnan(holdout.rows.x), ~np.isnan(holdout.truth)
    assert not (seen & hidden).any()
    assert np.array_equal(complete(holdout), known, equal_nan=True)
    assert 0.4 < hidden.mean() < 0.6
    assert np.array_equal(hide(known, Mcar(), 0.5, seed=1).truth, holdout.truth, equal_nan=True)


def test_draws_spread_as_the_posterior_of_a_linear_model_does():
    weight, x = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 2.0], [torch.nan, 2.0]])
    artifact = artifact_of(linear_vad(weight, torch.ones(2), 0.5), 2)
    mean, precision = exact_posterior(weight, torch.ones(2), 0.5, x)
    draws = draw(artifact, x, artifact.posterior(x), n_draws=1_500, seed=0)
    assert draws.shape == (1_500, 2, 2)
    assert_close(draws.mean(0).double(), mean @ weight.double().T + 1, rtol=0, atol=0.1)
    variance = torch.diagonal(weight.double() @ torch.linalg.inv(precision) @ weight.double().T, dim1=1, dim2=2)
    assert_close(draws.var(0).double(), variance, rtol=0.15, atol=0)


def test_draws_repeat_with_their_seed_and_those_of_points_are_equal():
    x = normal(3, 2)
    artifact = artifact_of(linear_vad(normal(2, 2), torch.zeros(2), 0.5), 2)
    posterior = artifact.posterior(x)
    one, same, other = (draw(artifact, x, posterior, n_draws=3, seed=seed) for seed in (1, 1, 2))
    assert one.equal(same)
    assert not one.equal(other)
    points = artifact_of(linear_vad(normal(2, 2), torch.zeros(2), 0.5, posterior="point"), 2)
    assert draw(points, x, points.posterior(x), n_draws=3, seed=1).std(0).max() == 0


def test_each_table_gets_the_estimate_that_it_gets_alone():
    artifact = artifact_of(linear_vad(normal(4, 2), torch.zeros(4), 0.5), 4)
    holdouts = [hide(normal(n, 4, seed=n).numpy(), Mcar(), 0.4, seed=n) for n in (3, 1, 5)]
    together = reconstruct_each(artifact, holdouts)
    assert [len(x_hat) for x_hat in together] == [3, 1, 5]
    for x_hat, holdout in zip(together, holdouts, strict=True):
        np.testing.assert_allclose(x_hat, reconstruct_each(artifact, [holdout])[0], atol=1e-3)


def test_pictures_show_what_was_seen_as_it_was():
    model = linear_vad(normal(4, 2), torch.zeros(4), 0.5)
    model.codec = Codec.of_images(2, 2)
    artifact = artifact_of(model, 4)
    known = normal(3, 4).numpy()
    arrays = gallery(artifact, known, (0.3, 0.8), Mcar(), seed=0)
    assert {name: array.shape for name, array in arrays.items()} == {
        "gallery_input": (2, 3, 4),
        "gallery_mean": (2, 3, 4),
        "gallery_std": (2, 3, 4),
        "gallery_truth": (3, 4),
        "gallery_rates": (2,),
    }
    seen = ~np.isnan(arrays["gallery_input"])
    assert np.array_equal(arrays["gallery_mean"][seen], np.broadcast_to(known, (2, 3, 4))[seen])
    assert np.isfinite(arrays["gallery_mean"]).all()
    assert (arrays["gallery_std"] > 0).all()


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_the_plane_of_latents_holds_their_two_main_directions(latent_dim):
    mean = normal(30, latent_dim) * torch.arange(1.0, latent_dim + 1).flip(0)
    truth = np.full((30, 2), NAN)
    truth[0] = [1.0, 2.0]
    arrays = latents_2d(Posterior(mean, None), np.zeros((30, 2)), truth, np.arange(30))
    plane = arrays["latent_2d"]
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(mean.numpy().T)))[::-1][:2]
    np.testing.assert_allclose(plane.var(0, ddof=1)[: len(variances)], variances, rtol=1e-4)
    assert plane.shape == (30, 2)
    assert arrays["latent_error"][:2].tolist() == pytest.approx([np.sqrt(2.5), 0.0])
    assert arrays["latent_label"].tolist() == list(range(30))


def test_cells_are_in_the_units_of_the_columns():
    artifact = artifact_of(linear_vad(normal(2, 1), torch.zeros(2), 0.5), 2)
    arrays = cells(artifact, X_HAT, HOLDOUT, seed=0)
    assert arrays["cell_column"].tolist() == [1]
    assert arrays["cell_truth"].tolist() == [41.0]
    assert arrays["cell_imputed"].tolist() == [31.0]
    assert arrays["column_rmse"].tolist()[1] == arrays["column_mae"].tolist()[1] == 10.0
    assert np.isnan(arrays["column_rmse"][0])
    assert sorted(arrays["column_observed_sample"][:, 0]) == [10.0, 20.0]


def test_a_part_that_the_table_does_not_allow_is_left_out():
    def refuse():
        raise DataError("no")

    assert collect([lambda: {"a": np.zeros(1)}, refuse, lambda: {"b": np.ones(1)}]).keys() == {"a", "b"}


def test_a_bug_in_a_part_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        collect([lambda: {"a": np.zeros(1 // 0)}])
