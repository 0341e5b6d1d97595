import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vadtune.data.splits import Rows
from vadtune.models.config import DecoderConfig, NoiseConfig, VADConfig, VAEConfig
from vadtune.models.latents import LatentTable
from vadtune.models.objective import Batch, Posterior
from vadtune.models.regression import MAX_ROWS, RIDGE
from vadtune.training.config import InferConfig, TrainConfig, TrialConfig
from vadtune.training.inference import infer
from vadtune.training.trainer import Trainer


def example(**settings: object) -> tuple[torch.nn.Module, Batch]:
    torch.manual_seed(0)
    config = VADConfig(latent_dim=2, decoder=DecoderConfig(hidden_dim=8), **settings)
    x = torch.randn(12, 5)
    x[::3, 1] = torch.nan
    return config.build(5), Batch.of(x)


def posteriors_of(model: torch.nn.Module, train: Batch) -> LatentTable:
    x = torch.where(train.observed > 0, train.x, torch.nan)
    posteriors = model.training_posteriors(train)
    model.begin(posteriors, Rows(x.numpy()), train, torch.Generator().manual_seed(0))
    return posteriors


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


def test_pca_start_projects_mean_filled_rows_on_the_components_on_which_latents_begin():
    model, batch = example(inference_start="pca", latent_init="pca")
    latents = posteriors_of(model, batch).all().mean
    rows = Rows(torch.where(batch.observed > 0, batch.x, torch.nan).numpy())
    centred = batch.x - batch.observed * torch.from_numpy(rows.normal.mean).to(batch.x)
    assert_close(model.start(batch).mean, centred @ torch.from_numpy(rows.components[:, :2]).to(centred))
    whole = batch.observed.all(1)
    assert whole.sum() == 8
    assert_close(model.start(batch).mean[whole], latents[whole], atol=1e-5, rtol=0)


def test_no_more_rows_are_held_at_once_than_the_settings_say():
    model = VAEConfig(latent_dim=2).build(5)
    sizes = []
    model.encoder.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    infer(model, Batch.of(torch.randn(25, 5)), InferConfig(batch_size=10))
    assert sizes == [10, 10, 5]


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
    posteriors = posteriors_of(model, batch)
    assert_close(model.start(batch).mean, torch.zeros(12, 2, dtype=torch.float64))
    posteriors.table[0, 0] = torch.randn(12, 2, dtype=torch.float64)
    model.remember(posteriors)
    centred = np.nan_to_num((x - x.nanmean(0)).numpy())
    expected = centred @ ridge(centred, posteriors.all().mean.numpy())
    assert_close(model.start(batch).mean, torch.from_numpy(expected))
    assert_close(model.start(batch.rows(slice(3, 6))).mean, model.start(batch).mean[3:6])


def test_linear_start_of_many_rows_is_learned_from_some_of_them():
    x = torch.randn(2 * MAX_ROWS, 3, generator=torch.Generator().manual_seed(0))
    batch, coefficients = Batch.of(x), torch.tensor([[1.0, 0.5], [-2.0, 0.0], [0.3, 1.0]])
    model = VADConfig(latent_dim=2, inference_start="linear").build(3)
    posteriors = posteriors_of(model, batch)
    posteriors.table[0, 0] = x @ coefficients
    model.remember(posteriors)
    assert_close(model.start(batch).mean, x @ coefficients / (1 + RIDGE), atol=0.1, rtol=0)


def test_train_start_lies_where_training_latents_lie():
    model, batch = example(inference_start="train")
    posteriors = posteriors_of(model, batch)
    posteriors.table[0, 0] = torch.tensor([5.0, -3.0]) + 0.1 * torch.randn(12, 2)
    model.remember(posteriors)
    start = model.start(batch).mean
    assert_close(start, torch.tensor([5.0, -3.0]).expand(12, 2), atol=0.5, rtol=0)
    assert_close(start[0], start[7])


def remembering(n_rows: int) -> tuple[torch.nn.Module, torch.nn.Module, Batch]:
    """A model whose training latents lie apart, these, and its training rows: what the decoder makes of them."""
    model, _ = example(inference_start="importance", noise=NoiseConfig(log_var=-6.0))
    posteriors = posteriors_of(model, Batch.of(torch.randn(n_rows, 5)))
    latents = 3 * torch.randn(n_rows, 2, generator=torch.Generator().manual_seed(1))
    posteriors.table[0, 0] = latents
    model.remember(posteriors)
    return model.eval(), posteriors, Batch.of(model.decoder(latents).detach())


@pytest.mark.parametrize("n_rows", [8, 256])
def test_importance_start_is_the_mean_of_training_latents_by_their_likelihood(n_rows):
    model, posteriors, batch = remembering(n_rows)
    seen = Batch.of(torch.where(torch.arange(5) < 3, batch.x, torch.nan))
    latents = posteriors.all().mean
    log_likelihood = torch.stack([-model.likelihood.error(model.decoder(z.expand(n_rows, 2)), seen) for z in latents])
    expected = torch.softmax(log_likelihood, 0).T @ latents
    assert_close(model.start(seen).mean, expected, rtol=1e-3, atol=1e-3)
    assert (expected - latents).norm(dim=1).median() < 0.5 * latents.norm(dim=1).median()
    assert_close(model.start(seen.rows(slice(2, 5))).mean, model.start(seen).mean[2:5])


def test_importance_start_compares_in_parts_what_is_long(monkeypatch):
    model, _, batch = remembering(30)
    expected = model.start(batch).mean
    monkeypatch.setattr("vadtune.models.starts.MAX_COMPARED", 7)
    assert_close(model.start(batch).mean, expected)


def test_a_row_of_which_nothing_is_seen_stays_at_the_prior_s_mean_among_training_latents():
    model, _, _ = remembering(20)
    assert infer(model, Batch.of(torch.full((1, 5), torch.nan)), InferConfig()).mean.equal(torch.zeros(1, 2))


def test_rows_that_are_far_off_restart_and_others_stay_where_they_are():
    model, posteriors, batch = remembering(20)
    good = infer(model, batch, InferConfig(method="lbfgs", tolerance=1e-6))
    lost = torch.arange(20) < 5
    mean = torch.where(lost[:, None], 50.0, good.mean)
    warm = Posterior(mean, torch.full_like(mean, -1.0))
    found = model.restart(batch, warm, posteriors)
    assert found.mean[~lost].equal(good.mean[~lost])
    assert found.log_var[~lost].equal(warm.log_var[~lost])
    assert_close(found.mean[lost], model.start(batch).mean[lost])
    other, batch = example(inference_start="zeros")
    kept = Posterior(torch.full((12, 2), 50.0), torch.zeros(12, 2))
    assert other.restart(batch, kept, posteriors_of(other, batch)) is kept


def test_rows_of_clusters_end_in_their_own_only_from_the_importance_start():
    """Six lines in eight columns; the half of a row that is seen tells its line."""
    rng = np.random.default_rng(0)
    line, along = rng.integers(0, 6, 600), rng.normal(size=600)
    centers = 3 * rng.normal(size=(6, 8))
    x = centers[line] + np.outer(along, rng.normal(size=8))
    hidden = np.zeros_like(x, dtype=bool)
    hidden[500:, 4:] = True
    config = TrialConfig(model=VADConfig(latent_dim=8, kl_weight=0.3), train=TrainConfig(n_epochs=40, batch_size=64))
    errors = {}
    for start in ("zeros", "importance"):
        model = config.model.model_copy(update={"inference_start": start})
        trainer = Trainer(config.model_copy(update={"model": model}), Rows(x[:500]), torch.device("cpu"))
        for _ in range(40):
            trainer.fit_epoch()
        trainer.model.remember(trainer.posteriors)
        seen = Batch.of(torch.tensor(np.where(hidden, np.nan, x)[500:]).float())
        x_hat = trainer.model.estimate(infer(trainer.model, seen, InferConfig()).mean).detach().numpy()
        errors[start] = np.sqrt(np.mean((x_hat - x[500:])[hidden[500:]] ** 2))
    assert errors["importance"] < 0.7 * errors["zeros"]
