"""The objective against torch.distributions, and hidden cells that must not touch it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from tests.models.examples import holes, normal
from vadtune.models.config import VADConfig, VAEConfig
from vadtune.models.objective import Batch, Posterior, reconstruction_error, reconstruction_loss

NOISES = [torch.tensor(-1.3), torch.tensor([0.5, -2.0, 0.0, -9.0, 3.0])]


def test_kl_is_that_of_torch_distributions():
    mean, log_var = normal(7, 3), 2 * normal(7, 3, seed=1)
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(1)
    assert_close(Posterior(mean, log_var).kl(), expected)


def test_a_point_has_no_kl():
    assert_close(Posterior(normal(4, 3), None).kl(), torch.zeros(4))


@pytest.mark.parametrize("noise_log_var", NOISES, ids=["one noise", "a noise per column"])
def test_reconstruction_loss_is_the_normal_density_of_observed_cells_without_its_constant(noise_log_var):
    x, x_hat = holes(normal(6, 5)), normal(6, 5, seed=1)
    observed = ~x.isnan()
    density = Normal(x_hat, (0.5 * noise_log_var).exp()).log_prob(torch.where(observed, x, 0.0))
    expected = -(torch.where(observed, density, 0.0).sum(1) + observed.sum(1) * 0.5 * math.log(2 * math.pi))
    assert_close(reconstruction_loss(x_hat, Batch.of(x), noise_log_var), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("noise_log_var", NOISES, ids=["one noise", "a noise per column"])
def test_reconstruction_error_is_the_loss_without_the_log_of_the_noise(noise_log_var):
    x, x_hat = holes(normal(6, 5)), normal(6, 5, seed=1)
    logs = (~x.isnan() * 0.5 * noise_log_var).sum(1)
    batch = Batch.of(x)
    loss = reconstruction_loss(x_hat, batch, noise_log_var)
    assert_close(reconstruction_error(x_hat, batch, noise_log_var), loss - logs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [VADConfig(latent_dim=2), VAEConfig(latent_dim=2)], ids=["vad", "vae"])
def test_the_row_loss_is_the_negative_evidence_lower_bound(config):
    torch.manual_seed(0)
    model = config.model_copy(update={"kl_weight": 0.3}).build(5)
    batch, posterior = Batch.of(holes(normal(6, 5))), Posterior(normal(6, 2), -normal(6, 2, seed=1))
    noise = normal(6, 2, seed=2)
    z = posterior.mean + torch.exp(0.5 * posterior.log_var) * noise
    expected = reconstruction_loss(model.decoder(z), batch, model.noise.log_var()) + 0.3 * posterior.kl()
    losses, _ = model.losses(batch, posterior, noise, 1.0, learns=False)
    assert_close(losses, expected)


@pytest.mark.parametrize("noise_log_var", NOISES, ids=["one noise", "a noise per column"])
def test_the_gradient_of_the_reconstruction_loss_is_that_of_its_formula(noise_log_var):
    batch = Batch.of(holes(normal(6, 5)).double())
    inputs = normal(6, 5, seed=1).double().requires_grad_(), noise_log_var.double().requires_grad_()

    def formula(x_hat, log_var):
        terms = (x_hat - batch.x).square() / (2 * log_var.exp()) + 0.5 * log_var
        return (terms * batch.observed).sum(1)

    weights = normal(6, seed=2).double()
    known = torch.autograd.grad(reconstruction_loss(inputs[0], batch, inputs[1]), inputs, weights)
    assert_close(known, torch.autograd.grad(formula(*inputs), inputs, weights))


@pytest.mark.parametrize("shape", [(7, 3), (3,)], ids=["a draw for each row", "one draw for all"])
def test_a_draw_and_its_kl_are_those_of_their_formulas_and_so_are_the_gradients(shape):
    leaves = normal(7, 3).double().requires_grad_(), normal(7, 3, seed=1).double().requires_grad_()
    noise, posterior = normal(*shape, seed=2).double(), Posterior(*leaves)
    with torch.no_grad():
        z, kl, pull = posterior.vjp(noise)
    expected = leaves[0] + torch.exp(0.5 * leaves[1]) * noise, posterior.kl()
    assert_close((z, kl), expected)
    weights = normal(7, 3, seed=3).double(), normal(7, seed=4).double()
    found = pull.by_mean(*weights), pull.by_log_var(*weights)
    assert_close(found, torch.autograd.grad(expected, leaves, weights))


def test_a_point_draws_itself():
    mean = normal(7, 3)
    z, kl, pull = Posterior(mean, None).vjp(normal(7, 3))
    assert z is mean
    assert not kl.any()
    by_z = normal(7, 3, seed=1)
    assert pull.by_mean(by_z, torch.ones(7)).equal(by_z)


def test_a_row_without_observed_cells_costs_only_its_kl():
    batch = Batch.of(torch.full((2, 5), torch.nan))
    assert_close(reconstruction_loss(1e6 * normal(2, 5), batch, torch.tensor(-2.0)), torch.zeros(2))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), estimate=st.floats(-1e15, 1e15))
def test_no_reconstruction_of_a_hidden_cell_touches_loss_or_gradient(seed, estimate):
    x, weights = holes(normal(5, 4, seed=seed), seed=seed), normal(4, 4, seed=seed)
    hidden, batch = x.isnan(), Batch.of(x)

    def loss_and_gradient(bump):
        leaf = weights.clone().requires_grad_()
        x_hat = normal(5, 4, seed=seed + 1) @ leaf + torch.where(hidden, bump, 0.0)
        loss = reconstruction_loss(x_hat, batch, torch.tensor(-1.0))
        loss.sum().backward()
        return loss.detach(), leaf.grad

    for before, after in zip(loss_and_gradient(0.0), loss_and_gradient(estimate), strict=True):
        assert_close(before, after, rtol=0, atol=0)
        assert after.isfinite().all()


def test_a_batch_marks_and_fills_what_is_not_observed():
    batch = Batch.of(torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]]))
    assert batch.x.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert batch.observed.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert batch.rows(torch.tensor([1, 0])).observed.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert len(batch.rows(slice(0, 1))) == 1


def test_a_nan_that_slips_into_a_batch_is_a_nan_loss_and_not_a_good_score():
    x = holes(normal(8, 5))
    leak = Batch(x, (~x.isnan()).float())
    loss = reconstruction_loss(torch.zeros(8, 5), leak, torch.tensor(0.0))
    assert loss.isnan().equal(x.isnan().any(1))


def test_draws_have_the_posterior_s_mean_and_variance_and_repeat_with_the_generator():
    posterior = Posterior(torch.tensor([[1.0, -2.0]]).expand(40_000, 2), torch.tensor([[0.0, -3.0]]).expand(40_000, 2))
    draws = posterior.sample(torch.Generator().manual_seed(5))
    assert_close(draws.mean(0), torch.tensor([1.0, -2.0]), rtol=0, atol=0.02)
    assert_close(draws.var(0).log(), torch.tensor([0.0, -3.0]), rtol=0, atol=0.05)
    assert draws.equal(posterior.sample(torch.Generator().manual_seed(5)))


def test_a_point_is_its_own_draw():
    mean = normal(3, 2)
    assert Posterior(mean, None).sample(torch.Generator()) is mean


def test_shapes_that_do_not_fit_are_refused_while_tests_run():
    with pytest.raises(TypeCheckError):
        reconstruction_loss(normal(6, 4), Batch.of(normal(6, 5)), torch.zeros(3))
