import pytest
import torch
from torch.testing import assert_close

from vadtune.errors import ConfigError
from vadtune.models.config import ProjectiveConfig, VADConfig
from vadtune.settings import parse


def test_projection_begins_orthographic_at_the_column_means():
    decoder = ProjectiveConfig(hidden_dim=8).build(3, 6)
    decoder.points.weight.data.zero_()
    decoder.camera.weight.data.zero_()
    decoder.start_at(torch.arange(6.0))
    assert_close(decoder(torch.randn(4, 3)), torch.arange(6.0).expand(4, 6) / (1 + decoder.MIN_DEPTH))


def test_projection_divides_by_depth():
    decoder = ProjectiveConfig(n_layers=0).build(1, 2)
    for layer in (decoder.points, decoder.camera):
        layer.weight.data.zero_()
    decoder.points.bias.data = torch.tensor([2.0, 3.0, 5.0])
    # The camera passes x and y on and takes the third coordinate for depth.
    decoder.camera.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
    depth = torch.nn.functional.softplus(torch.tensor(5.0)) + decoder.MIN_DEPTH
    assert_close(decoder(torch.zeros(1, 1)), torch.tensor([[2.0, 3.0]]) / depth)


def test_an_odd_number_of_columns_is_refused_with_the_kind_to_use():
    with pytest.raises(ConfigError, match=r"3 columns.*'mlp'"):
        ProjectiveConfig().build(2, 3)


def test_decoder_kind_is_chosen_by_its_name_and_is_mlp_by_default():
    assert parse(VADConfig, {"decoder": {"hidden_dim": 7}}, "test").decoder.kind == "mlp"
    chosen = parse(VADConfig, {"decoder": {"kind": "projective", "hidden_dim": 7}}, "test")
    assert isinstance(chosen.decoder, ProjectiveConfig)


def test_a_key_of_the_other_decoder_is_refused_by_its_path():
    with pytest.raises(ConfigError, match=r"decoder\.linear_path is not a setting of 'projective'"):
        parse(VADConfig, {"decoder": {"kind": "projective", "linear_path": True}}, "test")
