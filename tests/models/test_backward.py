"""Gradients that are made by hand are those that autograd finds."""

import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import normal
from vadtune.models.config import DecoderConfig, ProjectiveConfig
from vadtune.models.decoder import ACTIVATIONS
from vadtune.models.dropout import dropping_by
from vadtune.models.likelihood import Noise

SEED = 3


def by_autograd(decoder, z, weights):
    leaf = z.clone().requires_grad_()
    with dropping_by(torch.Generator().manual_seed(SEED)):
        x_hat = decoder(leaf)
    return x_hat.detach(), torch.autograd.grad(x_hat, [leaf, *decoder.parameters()], weights)


def by_hand(decoder, z, weights):
    with torch.no_grad(), dropping_by(torch.Generator().manual_seed(SEED)):
        x_hat, pull = decoder.vjp(z, learns=True)
        by_z = pull(weights)
    return x_hat, (by_z, *(parameter.grad for parameter in decoder.parameters()))


DECODERS = {
    **{name: DecoderConfig(activation=name) for name in ACTIVATIONS},
    "normed": DecoderConfig(layer_norm=True),
    "dropping": DecoderConfig(dropout=0.4),
    "all of them": DecoderConfig(layer_norm=True, dropout=0.3, linear_path=True, output="sigmoid", activation="gelu"),
    "linear path": DecoderConfig(linear_path=True),
    "pixels": DecoderConfig(output="sigmoid"),
    "factor analysis": DecoderConfig(n_layers=0),
}


@pytest.mark.parametrize("is_training", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)
def test_a_decoder_s_outputs_and_gradients_are_those_of_autograd(config, is_training):
    torch.manual_seed(0)
    decoder = config.model_copy(update={"hidden_dim": 8}).build(3, 5).train(is_training).double()
    z, weights = 2 * normal(7, 3).double(), normal(7, 5, seed=1).double()
    assert_close(by_hand(decoder, z, weights), by_autograd(decoder, z, weights))


def test_a_decoder_without_a_way_of_its_own_asks_autograd():
    torch.manual_seed(0)
    decoder = ProjectiveConfig(hidden_dim=8).build(3, 6).double()
    z, weights = normal(7, 3).double(), normal(7, 6, seed=1).double()
    assert_close(by_hand(decoder, z, weights), by_autograd(decoder, z, weights))


@pytest.mark.parametrize("config", [DecoderConfig(layer_norm=True), ProjectiveConfig()], ids=["by hand", "by autograd"])
def test_weights_that_are_not_to_learn_get_no_gradients(config):
    decoder = config.build(3, 6)
    with torch.no_grad():
        _, pull = decoder.vjp(normal(7, 3), learns=False)
        assert pull(normal(7, 6)).shape == (7, 3)
    assert all(parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize("n_columns", [None, 4], ids=["one noise", "a noise per column"])
def test_noise_takes_the_gradient_of_its_log_variance_down_to_its_lowest(n_columns):
    raw = torch.tensor([-1.0, -20.0, 0.5, 2.0]) if n_columns else torch.tensor(-1.0)
    noise, by_log_var = Noise(raw.clone(), learned=True), normal(4)
    expected = torch.autograd.grad(noise.log_var().expand(4), noise.raw, by_log_var)
    noise.pull(by_log_var)
    assert_close((noise.raw.grad,), expected)


def test_noise_that_is_not_learned_takes_none():
    noise = Noise(torch.tensor(-1.0), learned=False)
    noise.pull(normal(4))
    assert noise.raw.grad is None
