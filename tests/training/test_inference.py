"""Inference with the decoder fixed: exact where there is a closed form, the same for a row in any company."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import exact_posterior, holes, linear_vad, normal
from tests.training.examples import MODEL_CONFIGS, THOROUGH, low_rank
from vadtune.models.config import DecoderConfig, VADConfig, VAEConfig
from vadtune.models.objective import Batch, Posterior
from vadtune.training.config import InferConfig
from vadtune.training.inference import N_PROBES, infer, with_curvature
from vadtune.training.lbfgs import descend

DATA = low_rank(12)


def curved(**settings):
    """A VAD with a decoder that bends, as after some training."""
    torch.manual_seed(0)
    decoder = DecoderConfig(hidden_dim=32, n_layers=2, activation="tanh", dropout=0.2)
    model = VADConfig(latent_dim=5, decoder=decoder, **settings).build(12)
    with torch.no_grad():
        for layer in model.decoder.network:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.mul_(2.0)
    return model.eval()


def encoded(refinement_steps):
    torch.manual_seed(0)
    return VAEConfig(latent_dim=5, refinement_steps=refinement_steps).build(12).eval()


def gradient_of(model, batch, mean):
    mean = mean.clone().requires_grad_()
    model.map_loss(batch, mean).sum().backward()
    return mean.grad


@pytest.mark.parametrize("kl_weight", [1.0, 0.3, 5.0])
@pytest.mark.parametrize("noise_std", [0.3, 0.05, 2.0])
def test_inference_finds_the_exact_posterior_of_a_linear_decoder(kl_weight, noise_std):
    model = linear_vad(DATA.weight, DATA.bias, noise_std, kl_weight)
    expected, _ = exact_posterior(DATA.weight, DATA.bias, noise_std, DATA.x, kl_weight)
    found = infer(model, Batch.of(DATA.x), THOROUGH).mean
    assert_close(found.double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("settings", "allowed"), [(InferConfig(method="lbfgs"), 0.1), (InferConfig(), 0.3)])
def test_default_settings_are_near_the_exact_posterior(settings, allowed):
    model = linear_vad(DATA.weight, DATA.bias, DATA.noise_std)
    expected, precision = exact_posterior(DATA.weight, DATA.bias, DATA.noise_std, DATA.x)
    error = infer(model, Batch.of(DATA.x), settings).mean.double() - expected
    # In posterior standard deviations: what is left is small beside what nobody can know.
    assert torch.einsum("nl,nlk,nk->n", error, precision, error).max() < allowed


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_the_bound_s_minimum_is_the_mean_field_optimum_of_a_linear_decoder(kl_weight):
    model = linear_vad(DATA.weight, DATA.bias, DATA.noise_std, kl_weight)
    expected, precision = exact_posterior(DATA.weight, DATA.bias, DATA.noise_std, DATA.x, kl_weight)
    found = infer(model, Batch.of(DATA.x), InferConfig(n_steps=3000, learning_rate=0.03))
    variance = kl_weight / precision.diagonal(dim1=1, dim2=2)
    # Adam weighs the skewed gradients of the log variance, so that it ends a little off.
    assert_close(found.log_var.double(), variance.log(), rtol=0, atol=0.2)
    assert ((found.mean - expected).square() / variance).max() < 0.01


def test_the_bound_ends_lower_than_where_the_density_is_highest():
    model, batch = curved(), Batch.of(DATA.x)
    by_density = with_curvature(model, DATA.x, infer(model, batch, THOROUGH))
    by_bound = infer(model, batch, InferConfig(n_steps=300))
    losses = []
    for posterior in (by_density, by_bound):
        rng = torch.Generator().manual_seed(9)
        noises = [posterior.noise(rng) for _ in range(200)]
        draws = [model.losses(batch, posterior, noise, 1.0, learns=False)[0] for noise in noises]
        losses.append(torch.stack(draws).mean())
    assert losses[1] < losses[0]


def test_a_fixed_variance_stays():
    model = curved(posterior="fixed", log_var=-4.0)
    assert infer(model, Batch.of(DATA.x), InferConfig()).log_var.equal(torch.full((12, 5), -4.0))


def test_latents_of_very_different_scales_are_found():
    # Steps are refused on the way, more than five in a row: that is no convergence.
    weight = DATA.weight * torch.tensor([10.0, 1.0, 0.1])
    expected, _ = exact_posterior(weight, DATA.bias, 0.1, DATA.x)
    found = infer(linear_vad(weight, DATA.bias, 0.1), Batch.of(DATA.x), THOROUGH).mean
    assert_close(found.double(), expected, rtol=0, atol=0.03)  # a tenth of what the widest posterior spreads


def test_a_row_far_from_all_others_is_found():
    model = linear_vad(DATA.weight, DATA.bias, 0.3)
    x = DATA.x * 1e4
    expected, _ = exact_posterior(DATA.weight, DATA.bias, 0.3, x)
    assert_close(infer(model, Batch.of(x), THOROUGH).mean.double(), expected, rtol=1e-3, atol=1.0)


def test_inference_ends_no_higher_than_a_long_adam():
    model, batch = curved(), Batch.of(DATA.x)
    mean = torch.zeros(12, 5, requires_grad=True)
    adam = torch.optim.Adam([mean], 0.05)
    for step in range(200):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        adam.zero_grad()
        model.map_loss(batch, mean).sum().backward()
        adam.step()
    by_adam = model.map_loss(batch, mean.detach()).detach()
    found = model.map_loss(batch, infer(model, batch, THOROUGH).mean).detach()
    # Minima are local: a row may end in another one than Adam does, yet not as a rule.
    assert found.sum() <= by_adam.sum() * 1.02
    assert (found <= by_adam * 1.001 + 1e-4).float().mean() > 0.8


def test_the_gradient_vanishes_at_convergence():
    # Where the loss curves down on the way, too: there no pair tells the length of a step.
    model, batch = curved(), Batch.of(DATA.x)
    start = gradient_of(model, batch, torch.zeros(12, 5)).norm(dim=1)
    end = gradient_of(model, batch, infer(model, batch, THOROUGH).mean).norm(dim=1)
    assert (end < 5e-3 * start + 1e-3).all()


def test_no_row_s_loss_rises_with_more_steps():
    model, batch = curved(), Batch.of(DATA.x)
    losses = [model.map_loss(batch, descend(model, batch, torch.zeros(12, 5), n)).detach() for n in range(0, 40, 3)]
    for before, after in itertools.pairwise(losses):
        assert (after <= before * (1 + 1e-5)).all()


@pytest.mark.parametrize("model", [curved(), encoded(10)], ids=["vad", "vae"])
def test_inference_repeats_to_the_digit_whatever_the_global_seed(model):
    torch.manual_seed(1)
    first = infer(model, Batch.of(DATA.x), InferConfig()).mean
    torch.manual_seed(2)
    assert infer(model, Batch.of(DATA.x), InferConfig()).mean.equal(first)


@pytest.mark.parametrize("settings", [THOROUGH, InferConfig()], ids=["lbfgs", "bound"])
@pytest.mark.parametrize("model", [curved(), encoded(10)], ids=["vad", "vae"])
@pytest.mark.parametrize("batch_size", [1, 7, 11, 12])
def test_a_row_gets_the_same_answer_in_any_batch(model, batch_size, settings):
    together = infer(model, Batch.of(DATA.x), settings)
    apart = infer(model, Batch.of(DATA.x), settings.model_copy(update={"batch_size": batch_size}))
    assert_close(model.decoder(apart.mean), model.decoder(together.mean), rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [THOROUGH, InferConfig()], ids=["lbfgs", "bound"])
@pytest.mark.parametrize("model", [curved(), encoded(10)], ids=["vad", "vae"])
def test_neither_order_nor_company_of_rows_matters(model, settings):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:5]
    all_rows = infer(model, Batch.of(DATA.x), settings).mean
    some = infer(model, Batch.of(DATA.x[order]), settings).mean
    assert_close(model.decoder(some), model.decoder(all_rows[order]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [THOROUGH, InferConfig()], ids=["lbfgs", "bound"])
@pytest.mark.parametrize("other", [torch.nan, torch.inf, 1e30])
def test_a_row_that_cannot_be_fitted_leaves_the_others_alone(other, settings):
    model, x = curved(), DATA.x.clone()
    expected = infer(model, Batch.of(x[1:]), settings).mean
    x[0] = other
    found = infer(model, Batch.of(x), settings).mean
    assert found.isfinite().all()
    assert_close(model.decoder(found[1:]), model.decoder(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("posterior", ["point", "fixed", "free"])
def test_a_fully_hidden_row_gets_the_prior_mean(posterior):
    x = torch.cat([DATA.x[:3], torch.full((2, 12), torch.nan)])
    mean = infer(curved(posterior=posterior), Batch.of(x), InferConfig()).mean
    assert mean[3:].equal(torch.zeros(2, 5))
    assert (mean[:3] != 0).all()


def test_no_rows_at_all_are_no_posteriors():
    assert infer(curved(), Batch.of(torch.empty(0, 12)), InferConfig()).mean.shape == (0, 5)


def test_refinement_lowers_the_loss_of_what_the_encoder_says():
    batch = Batch.of(DATA.x)
    losses = [encoded(n).map_loss(batch, infer(encoded(n), batch, THOROUGH).mean).detach() for n in (0, 5, 50)]
    assert (losses[1] < losses[0]).all()
    assert (losses[2] <= losses[1] * (1 + 1e-6)).all()


def test_without_refinement_the_encoder_s_answer_stands():
    model, batch = encoded(0), Batch.of(DATA.x)
    assert infer(model, batch, InferConfig()).mean.equal(model.start(batch).mean)


class Counter:
    """How often a decoder was asked, and for how many rows."""

    def __init__(self, model):
        self.n_rows = []
        model.decoder.forward = self._counted(model.decoder.forward)
        model.decoder.vjp = self._counted(model.decoder.vjp)

    def _counted(self, function):
        def counted(z, **kwargs):
            self.n_rows.append(len(z))
            return function(z, **kwargs)

        return counted


@pytest.mark.parametrize("n_steps", [1, 4, 5, 12])
def test_inference_takes_no_more_steps_than_allowed(n_steps):
    model = curved(inference_start="zeros")
    counter = Counter(model)
    infer(model, Batch.of(DATA.x), InferConfig(method="lbfgs", n_steps=n_steps, tolerance=0.0))
    assert len(counter.n_rows) == n_steps + 1  # and once where it starts


@pytest.mark.parametrize("n_steps", [0, 3])
def test_a_model_with_an_encoder_takes_no_more_steps_than_its_settings_say(n_steps):
    model = encoded(n_steps)
    counter = Counter(model)
    infer(model, Batch.of(DATA.x), InferConfig())
    assert len(counter.n_rows) == n_steps


def test_rows_that_have_converged_leave_and_a_loose_tolerance_ends_sooner():
    n_rows = {}
    for tolerance in (1e-1, 1e-5):
        model = curved()
        counter = Counter(model)
        infer(model, Batch.of(DATA.x), InferConfig(method="lbfgs", n_steps=500, tolerance=tolerance))
        assert sorted(counter.n_rows, reverse=True) == counter.n_rows
        assert counter.n_rows[-1] < 12
        n_rows[tolerance] = sum(counter.n_rows)
    assert n_rows[1e-1] < n_rows[1e-5]


@pytest.mark.parametrize("model", [curved(), encoded(3)], ids=["vad", "vae"])
def test_weights_neither_move_nor_get_gradients(model):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    posterior = infer(model, Batch.of(DATA.x), InferConfig())
    with_curvature(model, DATA.x, posterior)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not posterior.mean.requires_grad


@pytest.mark.parametrize("config", MODEL_CONFIGS, ids=lambda config: config.__name__)
def test_hidden_values_cannot_reach_an_answer(config):
    torch.manual_seed(0)
    model, full = config(latent_dim=3).build(6), normal(20, 6)
    seen = holes(full)
    changed = torch.where(seen.isnan(), full + 100.0, full)
    both = [
        infer(model, Batch.of(torch.where(seen.isnan(), torch.nan, x)), InferConfig()).mean for x in (full, changed)
    ]
    assert both[0].equal(both[1])


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_curvature_gives_the_variances_of_the_mean_field_optimum(kl_weight):
    # With orthogonal rows of W, cells do not mix in the probes, and the estimate has no error.
    weight = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    model = linear_vad(weight, torch.zeros(2), 0.5, kl_weight)
    x = torch.tensor([[1.0, 2.0], [torch.nan, 2.0], [torch.nan, torch.nan]])
    _, precision = exact_posterior(weight, torch.zeros(2), 0.5, x, kl_weight)
    found = with_curvature(model, x, infer(model, Batch.of(x), THOROUGH))
    expected = kl_weight / precision.diagonal(dim1=1, dim2=2)
    assert_close(found.log_var.exp().double(), expected, rtol=1e-5, atol=0)


def test_curvature_is_the_diagonal_of_the_precision_up_to_the_error_of_its_probes():
    model = linear_vad(DATA.weight, DATA.bias, DATA.noise_std)
    _, precision = exact_posterior(DATA.weight, DATA.bias, DATA.noise_std, DATA.x)
    found = with_curvature(model, DATA.x, Posterior(torch.zeros(12, 3), None)).log_var.exp().double()
    ratio = 1 / precision.diagonal(dim1=1, dim2=2) / found
    # The square of a sum with random signs: relative variance 2 a probe.
    assert (ratio - 1).abs().max() < 4 * (2 / N_PROBES) ** 0.5
    assert abs(ratio.mean().item() - 1) < (2 / N_PROBES) ** 0.5


def test_the_exact_mean_field_variances_minimise_the_bound():
    weight, noise_std, kl_weight = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), 0.5, 0.3
    model, x = linear_vad(weight, torch.zeros(2), noise_std, kl_weight), torch.tensor([[1.0, 2.0]])
    best = with_curvature(model, x, infer(model, Batch.of(x), THOROUGH))

    def bound(log_var):
        # E (x - W z)^2 = (x - W mu)^2 + sum of W^2 sigma^2
        posterior = Posterior(best.mean, log_var)
        error = (x - best.mean @ weight.T).square().sum() + (weight.square() @ log_var.exp().T).sum()
        return error / (2 * noise_std**2) + kl_weight * posterior.kl().sum()

    for nudge in (-0.1, 0.1):
        assert bound(best.log_var + nudge) > bound(best.log_var)


def test_points_stay_points():
    model = curved(posterior="point")
    assert with_curvature(model, DATA.x, infer(model, Batch.of(DATA.x), InferConfig())).log_var is None


def test_a_fully_hidden_row_has_the_prior_s_variance():
    model, x = curved(), torch.full((2, 12), torch.nan)
    assert with_curvature(model, x, infer(model, Batch.of(x), THOROUGH)).log_var.equal(torch.zeros(2, 5))
    assert_close(infer(model, Batch.of(x), InferConfig(n_steps=500)).log_var, torch.zeros(2, 5), rtol=0, atol=0.1)
