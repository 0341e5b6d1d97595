"""Skewed numbers that are seen as normal scores, too."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from tests.models.examples import check_gradients, normal
from vadtune.data.codec import Codec
from vadtune.data.tables import Column
from vadtune.errors import ConfigError
from vadtune.models.config import DecoderConfig, ProjectiveConfig, VADConfig, VAEConfig
from vadtune.models.normal_scores import Scored
from vadtune.models.objective import Batch

N = 120
RNG = np.random.default_rng(0)
NUMBERS = [Column(f"x{j}", "numeric", "float64") for j in range(4)]
# The second and the last are skewed; the last takes few values, some of them often.
X = np.column_stack([RNG.normal(size=N), np.exp(2 * RNG.normal(size=N)), RNG.normal(size=N), np.arange(N) % 24 * 1.0])
X[:, 3] = np.exp(X[:, 3] / 3)
X = X.astype(np.float32)
X[::7, 1] = X[::5, 0] = X[::11, 3] = np.nan
CITY = RNG.integers(0, 3, N).astype(np.float32)
TABLES = {
    "numbers": (Codec.fit(X, NUMBERS), X),
    "mixed": (
        Codec.fit(np.column_stack([CITY, X]), [Column("city", "categorical", "str", ("a", "b", "c")), *NUMBERS]),
        np.column_stack([CITY, X]),
    ),
}
every_table = pytest.mark.parametrize("table", TABLES)
with_levels_or_without = pytest.mark.parametrize("levels", [False, True])


def built(table, model=VADConfig, *, levels=False):
    codec, x = TABLES[table]
    made = model(latent_dim=3, levels=levels, normal_scores=True, noise={"kind": "per_column"}).build(codec)
    with torch.no_grad():
        made.likelihood.score_noise.raw.copy_(torch.linspace(-1.0, 0.5, len(made.likelihood.places)))
    return made, made.batch(torch.from_numpy(x))


@every_table
@with_levels_or_without
def test_the_loss_is_the_others_and_minus_log_p_of_the_scores(table, levels):
    model, batch = built(table, levels=levels)
    likelihood, codec = model.likelihood, model.codec
    places = [1] if levels else [1, 3]
    assert likelihood.places.tolist() == places
    outputs, n = normal(N, likelihood.n_outputs), likelihood.inner.n_outputs
    scores = torch.from_numpy(codec.normal_scores(codec.encode(TABLES[table][1]), np.array(places)))
    log_p = Normal(outputs[:, n:], likelihood.score_noise.raw.exp().sqrt()).log_prob(scores.nan_to_num())
    own = torch.where(scores.isnan(), 0.0, -log_p - 0.5 * np.log(2 * np.pi)).sum(1)
    inner = likelihood.inner.loss(outputs[:, :n], Batch(batch.x, batch.observed))
    assert_close(likelihood.loss(outputs, batch), inner + own, rtol=1e-5, atol=1e-4)


@every_table
@with_levels_or_without
def test_the_gradients_of_a_model_are_those_of_its_loss(table, levels):
    check_gradients(*built(table, levels=levels))


@every_table
@with_levels_or_without
def test_errors_of_all_pairs_are_those_of_each_pair(table, levels):
    model, batch = built(table, levels=levels)
    some = 2 * normal(7, model.likelihood.n_outputs)
    expected = torch.stack([model.likelihood.error(output.expand(N, -1), batch) for output in some])
    assert_close(model.likelihood.pairwise_error(some, batch), expected, rtol=1e-4, atol=1e-4)


def test_the_information_of_a_score_is_that_of_a_gaussian_and_nothing_of_unknown_cells():
    model, _ = built("numbers")
    likelihood, n = model.likelihood, model.likelihood.n_outputs
    batch = model.batch(torch.tensor([[0.0, 2.0, 0.0, torch.nan]]))
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)))
    probes = torch.cat([likelihood.probe(normal(1, n), batch, sign) for sign in signs])
    information = probes.T @ probes / len(signs)
    variances = torch.cat([model.noise.raw, likelihood.score_noise.raw]).exp()
    known = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    assert_close(information, torch.diag(known / variances), rtol=1e-4, atol=1e-5)


@every_table
@with_levels_or_without
def test_what_is_said_of_cells_is_what_the_other_says(table, levels):
    model, batch = built(table, levels=levels)
    likelihood, inner = model.likelihood, model.likelihood.inner
    outputs, noise = normal(N, likelihood.n_outputs), normal(N, 6)[:, : 5 if table == "mixed" else 4]
    of_inner = outputs[:, : inner.n_outputs]
    assert_close(likelihood.expect(outputs), inner.expect(of_inner))
    assert_close(likelihood.sample(outputs, noise), inner.sample(of_inner, noise))
    assert_close(likelihood.number_variance(outputs, 2.0), inner.number_variance(of_inner, 2.0))
    assert_close(likelihood.chances(outputs, batch, 2.0), inner.chances(of_inner, batch, 2.0))
    assert_close(likelihood.all_chances(outputs, batch, 2.0), inner.all_chances(of_inner, batch, 2.0))
    assert likelihood.gaussian.tolist() == inner.gaussian.tolist()
    assert likelihood.expect(outputs).shape == (N, model.codec.n_outputs)


@every_table
@pytest.mark.parametrize("model", [VADConfig, VAEConfig])
def test_hidden_values_change_nothing_and_parts_are_those_of_the_whole(table, model):
    made, batch = built(table, model)
    codec, x = TABLES[table]
    z = normal(N, 3)
    losses = made.map_loss(batch, z)
    assert (losses >= 0).all()
    for part, index in zip(batch.split(50), torch.arange(N).split(50), strict=True):
        assert_close(made.map_loss(part, z[index]), losses[index])
        assert_close(made.map_loss(batch.rows(index), z[index]), losses[index])
        assert_close(made.map_loss(made.batch(torch.from_numpy(x[index])), z[index]), losses[index])
    assert batch.scored is not None
    assert not batch.scored.x[:, batch.x.shape[1] :][batch.observed[:, made.likelihood.places] == 0].any()
    assert made.estimate(z).shape == (N, len(codec.columns))


def test_weights_are_there_once_and_the_noise_is_that_of_the_numbers():
    model, _ = built("numbers", levels=True)
    names = sorted(name for name in model.state_dict() if "noise" in name)
    assert names == ["likelihood.inner.inner.noise.raw", "likelihood.score_noise.raw"]
    assert model.noise is model.likelihood.inner.inner.noise


def test_where_no_column_is_skewed_the_setting_changes_nothing():
    assert not isinstance(VADConfig(latent_dim=3, normal_scores=True).build(4).likelihood, Scored)


@pytest.mark.parametrize("decoder", [ProjectiveConfig(), DecoderConfig(output="sigmoid")])
def test_decoders_for_other_outputs_are_refused(decoder):
    with pytest.raises(ConfigError, match="normal scores"):
        VADConfig(latent_dim=3, normal_scores=True, decoder=decoder).build(TABLES["numbers"][0])
