"""The decoder of images."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import check_gradients, holes, normal
from vadtune.data.codec import Codec
from vadtune.errors import ConfigError
from vadtune.models.config import ConvolutionalConfig, VADConfig
from vadtune.models.objective import Batch
from vadtune.settings import parse


def decoder(height, width, **settings):
    return ConvolutionalConfig(**settings).build(3, height * width, (height, width)).eval()


@pytest.mark.parametrize(("height", "width", "n_doublings"), [(8, 8, 1), (5, 7, 2), (1, 9, 3), (28, 28, 2)])
def test_images_of_any_size_are_drawn_from_latents_of_any_shape(height, width, n_doublings):
    drawn = decoder(height, width, n_doublings=n_doublings, channels=3)
    z = normal(2, 5, 3)
    x_hat = drawn(z)
    assert x_hat.shape == (2, 5, height * width)
    assert_close(x_hat[1], drawn(z[1]))
    assert (x_hat > 0).all()
    assert (x_hat < 1).all()


def test_it_begins_at_the_mean_image():
    mean = torch.linspace(0.1, 0.9, 15)
    for output in ("sigmoid", "identity"):
        drawn = decoder(3, 5, output=output)
        drawn.doublings[-1].weight.data.zero_()
        drawn.start_at(mean)
        assert_close(drawn(normal(4, 3)), mean.expand(4, 15))


def test_neighbours_share_what_a_pixel_of_the_coarse_map_says():
    drawn = decoder(8, 8, n_doublings=1, channels=2, layer_norm=False, output="identity")
    linear = drawn.coarse[0]
    linear.weight.data.zero_()
    linear.bias.data.zero_()
    linear.bias.data[5] = 1.0  # the first channel of a map of 4 x 4: second row, second column
    image = drawn(torch.zeros(1, 3)).view(8, 8)
    rows, columns = np.nonzero(image.detach().numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 1, 4)


@pytest.mark.parametrize("settings", [{}, {"layer_norm": True, "n_layers": 1, "hidden_dim": 6}, {"output": "identity"}])
def test_gradients_are_those_of_autograd(settings):
    config = ConvolutionalConfig(channels=4, **settings)
    model = VADConfig(latent_dim=3, decoder=config).build(Codec.of_images(5, 6)).eval()
    check_gradients(model, Batch.of(holes(normal(7, 30))))


def test_its_work_counts_the_pixels_that_weights_meet():
    model = VADConfig(latent_dim=3, decoder=ConvolutionalConfig(channels=4)).build(Codec.of_images(8, 8))
    # Latents to 4 channels of 2 x 2 pixels, 2 x 2 to 4 x 4 and that to 8 x 8; 4 x 4 weights each.
    products = 3 * 16 + 4 * (4 * 4 * 16) + 16 * (4 * 16)
    assert products <= model.work(1) <= products + 100
    assert model.work(10) == 10 * model.work(1)


def test_columns_that_are_no_pixels_are_refused_with_the_kind_to_use():
    with pytest.raises(ConfigError, match=r"'convolutional'.*6 columns.*'mlp'"):
        VADConfig(decoder=ConvolutionalConfig()).build(6)


def test_it_is_chosen_by_its_name_and_knows_its_settings():
    chosen = parse(VADConfig, {"decoder": {"kind": "convolutional", "channels": 7}}, "test")
    assert isinstance(chosen.decoder, ConvolutionalConfig)
    with pytest.raises(ConfigError, match=r"decoder\.channels is not a setting of 'mlp'"):
        parse(VADConfig, {"decoder": {"channels": 7}}, "test")
