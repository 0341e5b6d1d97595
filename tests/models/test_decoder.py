"""The decoder, its noise, and where both begin."""

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import normal
from vadtune.errors import ConfigError
from vadtune.models.config import MIN_NOISE_LOG_VAR, Activation, DecoderConfig, NoiseConfig
from vadtune.models.decoder import ACTIVATIONS
from vadtune.models.objective import Batch, reconstruction_loss
from vadtune.settings import parse


def test_every_activation_that_can_be_set_exists():
    assert set(get_args(Activation)) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("linear_path", [False, True])
def test_latents_of_any_leading_shape_become_columns(activation, n_layers, linear_path):
    config = DecoderConfig(
        hidden_dim=7, n_layers=n_layers, activation=activation, linear_path=linear_path, layer_norm=True, dropout=0.2
    )
    decoder = config.build(3, 5).eval()
    assert decoder(normal(4, 3)).shape == (4, 5)
    assert decoder(normal(2, 4, 3)).shape == (2, 4, 5)


def test_layers_widths_and_parts_are_those_of_the_settings():
    decoder = DecoderConfig(hidden_dim=7, n_layers=2, layer_norm=True, dropout=0.2).build(3, 5)
    names = [type(layer).__name__ for layer in decoder.network]
    assert names == ["Linear", "LayerNorm", "SiLU", "Dropout"] * 2 + ["Linear"]
    assert [tuple(layer.weight.shape) for layer in decoder.network if type(layer).__name__ == "Linear"] == [
        (7, 3),
        (7, 7),
        (5, 7),
    ]


def test_the_linear_path_adds_z_w():
    decoder = DecoderConfig(hidden_dim=7, linear_path=True).build(3, 5)
    z = normal(4, 3)
    assert_close(decoder(z), decoder.network(z) + z @ decoder.linear_path.weight.T)


def test_a_bounded_output_stays_within_pixels_however_far_z_is():
    decoder = DecoderConfig(output="sigmoid", linear_path=True).build(3, 5)
    x_hat = decoder(1e6 * normal(50, 3))
    assert ((x_hat >= 0) & (x_hat <= 1)).all()


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
def test_a_linear_decoder_begins_exactly_at_the_column_means(output):
    decoder = DecoderConfig(n_layers=0, linear_path=True, output=output).build(3, 4)
    mean = torch.tensor([0.02, 0.3, 0.5, 0.9])
    decoder.start_at(mean)
    assert_close(decoder(torch.zeros(2, 3)), mean.expand(2, 4))


def test_columns_that_are_all_black_or_all_white_begin_at_finite_weights():
    decoder = DecoderConfig(n_layers=0, output="sigmoid").build(3, 2)
    decoder.start_at(torch.tensor([0.0, 1.0]))
    assert decoder.network[-1].bias.isfinite().all()
    assert_close(decoder(torch.zeros(1, 3)), torch.tensor([[0.01, 0.99]]))


@pytest.mark.parametrize(
    ("kind", "shape", "learned"), [("fixed", (), False), ("learned", (), True), ("per_column", (5,), True)]
)
def test_noise_is_fixed_or_learned_once_or_per_column(kind, shape, learned):
    noise = NoiseConfig(kind=kind, log_var=-1.5).build(5)
    assert noise.log_var().shape == shape
    assert noise.log_var().requires_grad is learned
    assert_close(noise.log_var(), torch.full(shape, -1.5))


def test_noise_has_a_floor():
    noise = NoiseConfig(kind="per_column").build(2)
    with torch.no_grad():
        noise.raw.copy_(torch.tensor([-100.0, 1.0]))
    assert noise.log_var().tolist() == [MIN_NOISE_LOG_VAR, 1.0]
    with pytest.raises(ConfigError, match=r"log_var is -20"):
        parse(NoiseConfig, {"log_var": -20.0}, "space.toml")


def test_learned_noise_rests_at_the_variance_of_the_residuals():
    batch, residual = Batch.of(torch.zeros(2000, 2)), normal(2000, 2) * torch.tensor([0.1, 2.0])
    noise = NoiseConfig(kind="per_column").build(2)
    with torch.no_grad():
        noise.raw.copy_(residual.square().mean(0).log())
    reconstruction_loss(residual, batch, noise.log_var()).mean().backward()
    assert_close(noise.raw.grad, torch.zeros(2), rtol=0, atol=1e-5)


def test_all_weights_come_from_the_global_generator():
    def build(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in DecoderConfig(hidden_dim=4).build(3, 5).parameters()])

    assert build(1).equal(build(1))
    assert not build(1).equal(build(2))
