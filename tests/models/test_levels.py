"""Numbers of few values: which they are, and their likelihood as chances of these values."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Categorical
from torch.testing import assert_close

from tests.models.examples import check_gradients, normal
from vadtune.data.codec import LEAST_REPEATS, MOST_IN_ALL, MOST_LEVELS, Codec
from vadtune.data.tables import Column
from vadtune.errors import ConfigError
from vadtune.models.codes import Blocks
from vadtune.models.config import DecoderConfig, ProjectiveConfig, VADConfig, VAEConfig
from vadtune.models.levels import Leveled
from vadtune.models.objective import Batch

RNG = np.random.default_rng(0)
RATING = np.array([-1.0, 0.25, 2.0], np.float32)  # levels of x1
HALVES = np.array([-0.5, 0.5], np.float32)  # levels of x3
X = np.column_stack([RNG.normal(size=40), RNG.choice(RATING, 40), RNG.normal(size=40), RNG.choice(HALVES, 40)]).astype(
    np.float32
)
X[::7, 1] = X[::5, 0] = np.nan
NUMBERS = Codec.fit(X, [Column(f"x{j}", "numeric", "float64") for j in range(4)])
CITY = RNG.integers(0, 3, 40).astype(np.float32)
MIXED = Codec.fit(
    np.column_stack([CITY, X]),
    [Column("city", "categorical", "str", ("a", "b", "c")), *(Column(f"x{j}", "numeric", "float64") for j in range(4))],
)
TABLES = {"numbers": (NUMBERS, X), "mixed": (MIXED, np.column_stack([CITY, X]))}
every_table = pytest.mark.parametrize("table", TABLES)
every_model = pytest.mark.parametrize("model", [VADConfig, VAEConfig])


def built(table, model=VADConfig):
    codec, x = TABLES[table]
    made = model(latent_dim=3, levels=True).build(codec)
    return made, made.batch(torch.from_numpy(x))


def levels_of(columns):
    return Codec.fit(np.column_stack(columns).astype(np.float32), [Column("x", "numeric", "float64")] * len(columns))


def test_columns_of_few_repeated_values_have_levels():
    assert NUMBERS.leveled.tolist() == [1, 3]
    assert MIXED.leveled.tolist() == [1, 3]  # places among the E, where numbers come first
    assert NUMBERS.columns[1].codes == tuple(RATING.tolist())
    assert NUMBERS.is_plain
    assert Codec.from_dict(NUMBERS.to_dict()) == NUMBERS


def test_too_many_too_rare_and_single_values_are_no_levels():
    n = LEAST_REPEATS * (MOST_LEVELS + 1)
    few, many = np.arange(n) % MOST_LEVELS, np.arange(n) % (MOST_LEVELS + 1)
    rare, single = np.arange(n) // (LEAST_REPEATS - 1), np.zeros(n)
    assert levels_of([few, many, rare, single]).leveled.tolist() == [0]


def test_of_too_many_levels_in_all_those_of_the_fewest_stay():
    n = LEAST_REPEATS * MOST_LEVELS
    columns = [np.arange(n) % MOST_LEVELS] * (MOST_IN_ALL // MOST_LEVELS + 1)
    codec = levels_of([*columns, np.arange(n) % 2])
    assert len(codec.leveled) == MOST_IN_ALL // MOST_LEVELS
    assert codec.leveled[-1] == len(columns)


@every_table
def test_the_loss_is_that_of_the_other_columns_and_minus_log_p_of_the_levels(table):
    model, batch = built(table)
    outputs = normal(40, model.likelihood.n_outputs)
    others = Batch(batch.x.clone(), batch.observed.clone())
    others.x[:, [1, 3]] = others.observed[:, [1, 3]] = 0.0
    n = model.codec.n_outputs
    expected = model.likelihood.inner.loss(outputs[:, :n], others)
    for column, levels, logits in ((1, RATING, outputs[:, n : n + 3]), (3, HALVES, outputs[:, n + 3 :])):
        known = torch.from_numpy(~np.isnan(X[:, column]))
        level = torch.from_numpy(np.abs(X[known.numpy(), column][:, None] - levels).argmin(1))
        expected[known] -= Categorical(logits=logits[known]).log_prob(level)
    assert_close(model.likelihood.loss(outputs, batch), expected, rtol=1e-5, atol=1e-5)


@every_table
def test_the_gradients_of_a_model_are_those_of_its_loss(table):
    check_gradients(*built(table))


@pytest.mark.parametrize("widths", [[3, 1, 4], [150, 2, 90]], ids=["narrow", "wide"])
def test_sums_over_blocks_are_those_of_each_block_and_so_are_their_slopes(widths):
    logits = (50 * torch.randn(5, sum(widths), dtype=torch.float64)).requires_grad_()
    expected = torch.stack([block.exp().sum(1).log() for block in logits.split(widths, 1)], 1)
    found = Blocks(widths).log_sums(logits)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    slopes = [torch.autograd.grad((sums * weights).sum(), logits)[0] for sums in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_blocks_one_by_one_say_what_they_say_all_at_once(monkeypatch):
    widths = [9, 1, 30]
    logits, values, signs = normal(5, 40), normal(5, 3), torch.sign(normal(40))
    found = []
    for least in (8, 100):
        monkeypatch.setattr("vadtune.models.codes.WIDE", least)
        blocks = Blocks(widths)
        each = [blocks.spread(values), blocks.sums(logits), blocks.log_chances(logits), blocks.chances(logits)]
        found.append([*each, blocks.probe(logits, signs)])
    for one_by_one, at_once in zip(*found, strict=True):
        assert_close(one_by_one, at_once)
    assert_close(found[0][3].split(widths, 1)[2], torch.softmax(logits[:, 10:], 1))


@every_table
def test_the_estimate_is_the_mean_of_the_values_and_its_variance_theirs(table):
    model, _ = built(table)
    outputs, n = normal(6, model.likelihood.n_outputs), model.codec.n_outputs
    expected, variance = model.likelihood.expect(outputs), model.likelihood.number_variance(outputs)
    p = torch.softmax(outputs[:, n : n + 3], 1)
    mean = p @ torch.from_numpy(RATING)
    assert expected.shape == (6, n)
    assert variance.shape == (6, 4)
    assert_close(expected[:, 1], mean)
    assert_close(variance[:, 1], p @ torch.from_numpy(RATING).square() - mean.square(), rtol=1e-4, atol=1e-5)
    inner = model.likelihood.inner
    assert_close(expected[:, [0, 2]], inner.expect(outputs[:, :n])[:, [0, 2]])
    assert_close(variance[:, 0], model.noise.log_var().exp().expand(6))


def test_draws_are_levels_and_come_as_often_as_their_chances():
    model, _ = built("numbers")
    outputs = normal(1, model.likelihood.n_outputs)
    drawn = model.likelihood.sample(outputs.expand(20000, -1), normal(20000, 4))
    chances = torch.softmax(outputs[0, 4:7], 0)
    for value, chance in zip(RATING, chances, strict=True):
        assert_close((drawn[:, 1] == float(value)).float().mean(), chance, rtol=0, atol=0.02)


def test_a_temperature_levels_the_chances():
    model, batch = built("mixed")
    outputs = normal(40, model.likelihood.n_outputs)
    n = model.codec.n_outputs
    hot = torch.softmax(outputs[:, n : n + 3] / 2, 1)
    level = torch.from_numpy(np.abs(X[:, 1, None] - RATING).argmin(1))
    expected = torch.where(batch.observed[:, 1] > 0, hot[torch.arange(40), level], 1.0)
    chances = model.likelihood.all_chances(outputs, batch, 2.0)
    assert_close(chances[:, -2], expected)
    assert_close(chances[:, :-2], model.likelihood.inner.chances(outputs[:, :n], batch, 2.0))
    mean = hot @ torch.from_numpy(RATING)
    variance = hot @ torch.from_numpy(RATING).square() - mean.square()
    assert_close(model.likelihood.number_variance(outputs, 2.0)[:, 1], variance, rtol=1e-4, atol=1e-5)
    assert model.gaussian.tolist() == [1, 3]  # columns of the table: the city is the first


def test_a_value_between_levels_counts_as_the_nearer_one():
    model, _ = built("numbers")
    outputs = normal(1, model.likelihood.n_outputs)
    rows = np.zeros((4, 4), np.float32)
    rows[:, 1] = [0.25, 1.0, -9.0, -1.0]
    near, also_near, far, lowest = model.likelihood.loss(
        outputs.expand(4, -1), model.batch(torch.from_numpy(rows))
    ).unbind()
    assert_close(near, also_near)
    assert_close(far, lowest)


@every_table
def test_errors_of_all_pairs_are_those_of_each_pair(table):
    model, batch = built(table)
    likelihood = model.likelihood
    some = 2 * normal(7, likelihood.n_outputs)
    expected = torch.stack([likelihood.error(output.expand(len(batch), -1), batch) for output in some])
    assert_close(likelihood.pairwise_error(some, batch), expected, rtol=1e-4, atol=1e-4)


def test_the_information_of_logits_is_that_of_a_category_and_nothing_of_unknown_cells():
    model, _ = built("numbers")
    likelihood, n = model.likelihood.double(), model.likelihood.n_outputs
    outputs = normal(1, n).double()
    batch = model.batch(torch.tensor([[0.0, 0.25, 0.0, torch.nan]], dtype=torch.float64))
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)
    probes = torch.cat([likelihood.probe(outputs, batch, sign) for sign in signs])
    p = torch.softmax(outputs[0, 4:7], 0)
    information = probes.T @ probes / len(signs)
    assert_close(information[4:7, 4:7], torch.diag(p) - torch.outer(p, p), rtol=0, atol=1e-6)
    assert not information[1].any()  # the output that stood for the number
    assert not information[7:].any()


@every_table
@every_model
def test_hidden_values_change_nothing(table, model):
    made, batch = built(table, model)
    changed = Batch(torch.where(batch.observed > 0, batch.x, 7.0) * batch.observed, batch.observed)
    z = normal(len(batch), 3)
    assert_close(made.map_loss(batch, z), made.map_loss(changed, z))
    assert (made.map_loss(batch, z) >= 0).all()
    assert made.estimate(z).shape == (len(batch), len(made.codec.columns))


def test_weights_are_there_once_and_the_noise_is_one():
    model, _ = built("numbers")
    names = [name for name in model.state_dict() if "noise" in name]
    assert names == ["likelihood.inner.noise.raw"]
    assert model.noise is model.likelihood.inner.noise


def test_where_no_column_has_levels_the_setting_changes_nothing():
    made = VADConfig(latent_dim=3, levels=True).build(4)
    assert not isinstance(made.likelihood, Leveled)


@pytest.mark.parametrize("decoder", [ProjectiveConfig(), DecoderConfig(output="sigmoid")])
def test_decoders_for_other_outputs_are_refused(decoder):
    with pytest.raises(ConfigError, match="codes, levels or"):
        VADConfig(latent_dim=3, levels=True, decoder=decoder).build(NUMBERS)
