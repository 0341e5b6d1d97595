"""Columns of codes: their encoding, their likelihoods against torch.distributions, their scores by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical
from torch.testing import assert_close

from tests.models.examples import check_gradients, normal
from vadtune.data.codec import Codec
from vadtune.data.splits import Rows
from vadtune.data.tables import Column
from vadtune.errors import ConfigError
from vadtune.models.codes import Thresholds
from vadtune.models.config import DecoderConfig, NoiseConfig, VADConfig, VAEConfig
from vadtune.models.likelihood import Gaussian, Mixed
from vadtune.models.objective import Batch

COLUMNS = (
    Column("colour", "categorical", "str", ("r", "g", "b", "unseen")),
    Column("height", "numeric", "float64"),
    Column("size", "ordinal", "str", ("S", "M", "L", "XL")),
    Column("smokes", "boolean", "bool"),
    Column("city", "categorical", "str", ("x", "y")),
)
NAN = np.nan
X = np.array(
    [
        [0, -1.5, 0, 1, 1],
        [1, 0.5, 2, 0, 0],
        [2, NAN, 3, NAN, NAN],
        [NAN, 1.0, 1, 1, 1],
        [0, 0.0, NAN, 0, 0],
    ],
    dtype=np.float32,
)
CODEC = Codec.fit(X, COLUMNS)
BOTH = [VADConfig(latent_dim=3), VAEConfig(latent_dim=3)]


def batch_of(x, model=BOTH[0]):
    return model.build(CODEC).batch(torch.from_numpy(np.asarray(x, np.float32)))


def outputs(n_rows=5):
    return 2 * normal(n_rows, CODEC.n_outputs)


def test_each_column_has_its_place_among_the_outputs():
    assert (CODEC.n_outputs, CODEC.widths, CODEC.n_levels) == (1 + 1 + 1 + 3 + 2, (3, 2), (4,))
    encoded = CODEC.encode(X)
    assert encoded[1].tolist() == [0.5, 0.0, pytest.approx(2 / 3), 0, 1, 0, 1, 0]
    assert np.isnan(encoded[3, 3:6]).all()
    assert np.isnan(encoded[2, [0, 1, 6, 7]]).all()


def test_latents_can_begin_at_the_principal_components_of_codes():
    rows, model = Rows(X, CODEC), VADConfig(latent_dim=3, latent_init="pca").build(CODEC)
    posteriors = model.training_posteriors(batch_of(X))
    model.begin(posteriors, rows, batch_of(X), torch.Generator())
    latents = posteriors.all().mean.numpy()
    expected = np.linalg.svd(rows.completed(), full_matrices=False)[0][:, :3] * np.sqrt(len(X))
    np.testing.assert_allclose(latents, expected * np.sign((latents * expected).sum(0)), atol=1e-4)


def test_what_was_encoded_is_decoded():
    full = np.where(np.isnan(X), 0, X)
    assert np.array_equal(CODEC.decode(CODEC.encode(full)), full)


def test_a_code_that_training_rows_do_not_have_is_not_observed_and_never_filled_in():
    x = np.full((1, 5), NAN, np.float32)
    x[0, 0] = 3
    assert np.isnan(CODEC.encode(x)).all()
    votes = np.random.default_rng(0).random((50, CODEC.n_outputs)).astype(np.float32)
    assert set(CODEC.decode(votes)[:, 0]) == {0, 1, 2}


def test_the_codec_comes_back_from_json():
    import json

    assert Codec.from_dict(json.loads(json.dumps(CODEC.to_dict()))) == CODEC


def test_a_table_of_numbers_passes_through_untouched():
    plain = Codec.of_numbers(3)
    x = normal(4, 3).numpy()
    assert plain.is_plain
    assert plain.encode(x) is x
    assert plain.decode(x) is x
    assert Codec.fit(x, [Column("a", "numeric", "f"), Column("b", "date", "d"), Column("c", "positive", "f")]).is_plain


def test_the_loss_is_the_likelihood_that_torch_distributions_give():
    likelihood, out = Mixed(NoiseConfig(log_var=-1.0).build(1), CODEC), outputs()
    batch = batch_of(X)
    x = torch.from_numpy(X)
    known = ~x.isnan()
    expected = torch.zeros(5)
    std = np.exp(-0.5)
    constant = 0.5 * np.log(2 * np.pi)
    gauss = torch.distributions.Normal(out[:, 0], std).log_prob(x[:, 1].nan_to_num()) + constant
    expected -= gauss.where(known[:, 1], 0)
    expected -= Bernoulli(logits=out[:, 1]).log_prob(x[:, 3].nan_to_num()).where(known[:, 3], 0)
    for column, block in ((0, slice(3, 6)), (4, slice(6, 8))):
        chance = Categorical(logits=out[:, block]).log_prob(x[:, column].nan_to_num())
        expected -= chance.where(known[:, column], 0)
    edges = torch.sigmoid(likelihood.thresholds.values()[0] - out[:, 2:3])
    chances = edges[:, 1:] - edges[:, :-1]
    level = x[:, 2].nan_to_num().long()
    expected -= chances[torch.arange(5), level].log().where(known[:, 2], 0)
    assert_close(likelihood.loss(out, batch), expected, rtol=1e-4, atol=1e-5)


def test_the_chances_of_all_levels_sum_to_one():
    likelihood, out = Mixed(NoiseConfig().build(1), CODEC), outputs(1).expand(4, -1)
    rows = np.full((4, 5), NAN)
    for column, n_levels, place in ((3, 2, 0), (2, 4, 1), (0, 3, 2), (4, 2, 3)):
        x = rows.copy()
        x[:n_levels, column] = np.arange(n_levels)
        found = likelihood.chances(out[:n_levels], batch_of(x[:n_levels]))
        assert_close(found[:, place].sum(), torch.tensor(1.0), rtol=0, atol=1e-4)


def test_huge_scores_keep_the_loss_and_its_gradient_finite():
    likelihood = Mixed(NoiseConfig().build(1), CODEC)
    for size in (1e3, -1e3):
        out = torch.full((5, CODEC.n_outputs), size, requires_grad=True)
        loss = likelihood.error(out, batch_of(X))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert out.grad.isfinite().all()


def test_the_gradients_of_a_model_are_those_of_its_loss():
    model = VADConfig(latent_dim=3).build(CODEC)
    check_gradients(model, model.batch(torch.from_numpy(X)))


@pytest.mark.parametrize("model", BOTH, ids=lambda model: model.kind)
def test_hidden_values_do_not_reach_the_loss(model):
    built = model.build(CODEC)
    x = torch.from_numpy(X)
    batch = built.batch(x)
    z = normal(5, 3)
    changed = type(batch)(torch.where(batch.observed > 0, batch.x, 7.0) * batch.observed, batch.observed)
    assert_close(built.map_loss(batch, z), built.map_loss(changed, z))
    assert (built.map_loss(batch, z) >= 0).all()
    assert_close(built.map_loss(built.batch(torch.full((1, 5), torch.nan)), torch.zeros(1, 3)), torch.zeros(1))


@pytest.mark.parametrize("kind", ["learned", "per_column"])
def test_errors_of_all_pairs_are_those_of_each_pair(kind):
    numbers = torch.from_numpy(X)
    for likelihood, batch, n_outputs in (
        (Mixed(NoiseConfig(kind=kind).build(1), CODEC), batch_of(X), CODEC.n_outputs),
        (Gaussian(NoiseConfig(kind=kind).build(5), 5), Batch.of(numbers), 5),
    ):
        some = 2 * normal(7, n_outputs)
        expected = torch.stack([likelihood.error(output.expand(len(X), -1), batch) for output in some])
        assert_close(likelihood.pairwise_error(some, batch), expected, rtol=1e-4, atol=1e-4)


def test_the_information_of_a_score_is_the_mean_square_of_its_slope():
    likelihood, out = Mixed(NoiseConfig(log_var=0.0).build(1), CODEC), outputs(1).double()
    likelihood = likelihood.double()
    everything = batch_of(np.array([[0, 0.0, 0, 0, 0]]))
    all_signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=CODEC.n_outputs)), dtype=torch.float64)
    probes = torch.cat([likelihood.probe(out, everything, signs) for signs in all_signs])
    jacobian = probes.T @ probes / len(all_signs)
    p = torch.softmax(out[0, 3:6], 0)
    assert_close(jacobian[3:6, 3:6], torch.diag(p) - torch.outer(p, p), rtol=0, atol=1e-6)
    chance = torch.sigmoid(out[0, 1])
    assert_close(jacobian[1, 1], chance * (1 - chance), rtol=0, atol=1e-6)
    scores = out[:, 2:3].clone().requires_grad_()
    edges = torch.sigmoid(likelihood.thresholds.values()[0] - scores)
    chances = (edges[:, 1:] - edges[:, :-1])[0]
    slopes = torch.stack([torch.autograd.grad(c.log(), scores, retain_graph=True)[0][0, 0] for c in chances])
    assert_close(jacobian[2, 2], (chances * slopes.square()).sum().detach(), rtol=1e-6, atol=1e-6)


def test_draws_come_as_often_as_their_chances():
    likelihood, out = Mixed(NoiseConfig().build(1), CODEC), outputs(1)
    drawn = likelihood.sample(out.expand(20000, -1), normal(20000, 5))
    expected = likelihood.expect(out)[0]
    assert_close(drawn[:, 3:].mean(0), expected[3:], rtol=0, atol=0.02)
    assert_close(drawn[:, 1].mean(), expected[1], rtol=0, atol=0.02)
    edges = torch.sigmoid(likelihood.thresholds.values()[0] - out[0, 2])
    for level in range(4):
        share = (drawn[:, 2] * 3).round().eq(level).float().mean()
        assert_close(share, edges[level + 1] - edges[level], rtol=0, atol=0.02)


def test_ordinal_columns_may_differ_in_their_number_of_levels():
    thresholds = Thresholds((2, 5, 1))
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.0]])
    scores = normal(3, 3)
    assert thresholds.loss(scores, x).isfinite().all()
    assert_close(thresholds.loss(scores, x)[:, 2], torch.zeros(3), rtol=0, atol=1e-5)
    assert thresholds.median(torch.full((1, 3), 99.0)).tolist() == [[1.0, 1.0, 0.0]]
    assert thresholds.median(torch.full((1, 3), -99.0)).tolist() == [[0.0, 0.0, 0.0]]


def test_the_error_is_the_mean_over_columns_as_hi_vae_has_it():
    truth = np.array([[0, 1.0, NAN, NAN, NAN], [1, NAN, 3, NAN, NAN], [2, -1.0, 0, 1, NAN]])
    x_hat = np.array([[0, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [2, -1.0, 0, 1, 0]])
    found = CODEC.errors(x_hat, truth)
    nrmse = np.sqrt((0.5**2 + 0) / 2) / 2.5
    rates = [1 / 3, (2 / 4 + 0) / 2, 0.0]
    assert found.nrmse == pytest.approx(nrmse)
    assert found.error_rate == pytest.approx(np.mean(rates))
    assert found.error == pytest.approx(np.mean([nrmse, *rates]))
    assert CODEC.score(x_hat, truth) == found.error
    x_hat[2, 3] = NAN
    assert np.isnan(CODEC.errors(x_hat, truth).error)


@pytest.mark.parametrize("model", BOTH, ids=lambda model: model.kind)
def test_the_output_begins_at_the_columns_means_and_shares(model):
    built = model.model_copy(update={"decoder": DecoderConfig(n_layers=0)}).build(CODEC)
    built.start_at(torch.tensor([0.3, 0.25, 0.5, 0.5, 0.3, 0.2, 0.6, 0.4]))
    expected = built.likelihood.expect(built.decoder(torch.zeros(1, 3)))[0]
    assert_close(expected[[0, 1, 3, 4, 5, 6, 7]], torch.tensor([0.3, 0.25, 0.5, 0.3, 0.2, 0.6, 0.4]))


def test_decoders_of_numbers_are_refused_for_codes():
    with pytest.raises(ConfigError, match="there are codes"):
        VADConfig(decoder=DecoderConfig(output="sigmoid")).build(CODEC)
