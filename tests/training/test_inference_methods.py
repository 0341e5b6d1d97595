import pytest
import torch
from torch.testing import assert_close

from vadtune.models.decoder import DecoderConfig
from vadtune.models.objective import Batch
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


def test_train_start_lies_where_training_latents_lie():
    model, batch = example(inference_start="train")
    posteriors = model.training_posteriors(batch, torch.Generator().manual_seed(0))
    posteriors.table[:, 0, :2] = torch.tensor([5.0, -3.0]) + 0.1 * torch.randn(12, 2)
    model.remember(posteriors)
    start = model.start(batch).mean
    assert_close(start, torch.tensor([5.0, -3.0]).expand(12, 2), atol=0.5, rtol=0)
    assert_close(start[0], start[7])
