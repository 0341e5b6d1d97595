import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vadtune.models.decoder import DecoderConfig
from vadtune.models.objective import Batch
from vadtune.models.regression import MAX_ROWS, RIDGE
from vadtune.models.vad import VADConfig, principal_components
from vadtune.training.config import InferConfig
from vadtune.training.inference import infer


def example(**settings: object) -> tuple[torch.nn.Module, Batch]:
    torch.manual_seed(0)
    config = VADConfig(latent_dim=2, decoder=DecoderConfig(hidden_dim=8), **settings)
    x = torch.randn(12, 5)
    x[::3, 1] = torch.nan
    return config.build(5), Batch.of(x)


@pytest.mark.parametrize(("method", "rate", "n_steps"), [("adam", 0.02, 1500), ("sgd", 0.02, 1500)])
def test_the_papers_schemes_come_to_losses_as_low_as_lbfgs(method, rate, n_steps):
    model, batch = example()
    expected = model.map_loss(batch, infer(model, batch, InferConfig(tolerance=1e-6, n_steps=500)).mean).mean()
    found = infer(model, batch, InferConfig(method=method, learning_rate=rate, n_steps=n_steps)).mean
    # Rows may end in different minima of a decoder that is not convex; on the whole they are as low.
    assert model.map_loss(batch, found).mean() < expected * 1.02


@pytest.mark.parametrize("method", ["adam", "sgd"])
def test_rows_do_not_depend_on_each_other(method):
    model, batch = example()
    settings = InferConfig(method=method, n_steps=20)
    assert_close(infer(model, batch, settings).mean[3:6], infer(model, batch.rows(slice(3, 6)), settings).mean)


def test_pca_start_is_the_projection_on_the_training_components():
    model, batch = example(inference_start="pca")
    model.training_posteriors(batch, torch.Generator().manual_seed(0))
    mean, components = principal_components(batch, 2)
    assert_close(model.start(batch).mean, (batch.x - batch.observed * mean) @ components.T)
    assert_close(model.start(batch).mean.square().mean(0), torch.ones(2))


def ridge(x, latents):
    """Coefficients of latents on centred rows, by numpy."""
    gram = x.T @ x + RIDGE * np.square(x).mean() * len(x) * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ latents)


@pytest.mark.parametrize("n_columns", [4, 30], ids=["narrow", "wider than long"])
def test_linear_start_is_the_ridge_regression_of_the_training_latents(n_columns):
    x = torch.randn(12, n_columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[::3, 1] = torch.nan
    batch = Batch.of(x)
    model = VADConfig(latent_dim=2, inference_start="linear").build(n_columns).double()
    posteriors = model.training_posteriors(batch, torch.Generator().manual_seed(0))
    assert_close(model.start(batch).mean, torch.zeros(12, 2, dtype=torch.float64))
    posteriors.table[:, 0, :2] = torch.randn(12, 2, dtype=torch.float64)
    model.remember(posteriors)
    centred = np.nan_to_num((x - x.nanmean(0)).numpy())
    expected = centred @ ridge(centred, posteriors.all().mean.numpy())
    assert_close(model.start(batch).mean, torch.from_numpy(expected))
    assert_close(model.start(batch.rows(slice(3, 6))).mean, model.start(batch).mean[3:6])


def test_linear_start_of_many_rows_is_learned_from_some_of_them():
    x = torch.randn(2 * MAX_ROWS, 3, generator=torch.Generator().manual_seed(0))
    batch, coefficients = Batch.of(x), torch.tensor([[1.0, 0.5], [-2.0, 0.0], [0.3, 1.0]])
    model = VADConfig(latent_dim=2, inference_start="linear").build(3)
    posteriors = model.training_posteriors(batch, torch.Generator().manual_seed(0))
    posteriors.table[:, 0, :2] = x @ coefficients
    model.remember(posteriors)
    assert_close(model.start(batch).mean, x @ coefficients / (1 + RIDGE), atol=0.1, rtol=0)


def test_train_start_lies_where_training_latents_lie():
    model, batch = example(inference_start="train")
    posteriors = model.training_posteriors(batch, torch.Generator().manual_seed(0))
    posteriors.table[:, 0, :2] = torch.tensor([5.0, -3.0]) + 0.1 * torch.randn(12, 2)
    model.remember(posteriors)
    start = model.start(batch).mean
    assert_close(start, torch.tensor([5.0, -3.0]).expand(12, 2), atol=0.5, rtol=0)
    assert_close(start[0], start[7])
