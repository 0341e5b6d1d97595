"""Dropout drops as many units as it says, keeps the mean, and draws from the generator it is given."""

import threading

import pytest
import torch

from vadtune.models.dropout import Dropout, drop_cells, dropping_by


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_as_many_units_are_dropped_as_it_says_and_the_mean_stays(share):
    x = torch.ones(1000, 401)
    with dropping_by(generator(0)):
        y = Dropout(share)(x)
    n = x.numel()
    assert float((y == 0).float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=1e-3)


def test_units_are_dropped_independently_of_their_neighbours_and_of_other_rows():
    with dropping_by(generator(0)):
        dropped = (Dropout(0.3)(torch.ones(4000, 64)) == 0).float()
    correlation = torch.corrcoef(dropped.T).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 5 / 4000**0.5
    rows = torch.corrcoef(dropped[:64]).fill_diagonal_(0)
    assert float(rows.abs().max()) < 5 / 64**0.5


def test_gradients_pass_where_units_do():
    x = torch.randn(7, 9, requires_grad=True)
    with dropping_by(generator(0)):
        y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)


def test_it_leaves_everything_as_it_is_outside_of_training_and_where_nothing_is_dropped():
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_equal_generators_drop_equal_units_whatever_the_global_seed():
    x, found = torch.ones(10, 10), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with dropping_by(generator(5)):
            found.append(Dropout(0.5)(x))
    assert found[0].equal(found[1])
    state = torch.get_rng_state()
    with dropping_by(generator(5)):
        Dropout(0.5)(x)
    assert torch.get_rng_state().equal(state)


def test_a_thread_does_not_draw_from_the_generator_of_another():
    x, ours = torch.ones(10, 10), generator(5)
    before = ours.get_state()
    with dropping_by(ours):
        thread = threading.Thread(target=Dropout(0.5), args=(x,))
        thread.start()
        thread.join()
    assert ours.get_state().equal(before)


def test_of_each_row_a_share_of_its_own_is_hidden_and_what_was_not_observed_stays_so():
    observed = torch.ones(2000, 500)
    observed[:, 400:] = 0
    with dropping_by(generator(0)):
        kept = drop_cells(observed, 0.6)
    assert kept.unique().tolist() == [0, 1]
    assert not kept[:, 400:].any()
    hidden = 1 - kept[:, :400].mean(1)
    assert float(hidden.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(hidden.std()) == pytest.approx(0.6 / 12**0.5, abs=0.02)
    assert float(hidden.max()) < 0.7
