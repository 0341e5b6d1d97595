"""Latents of training rows: their first values, and Adam for each row alone."""

import itertools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import holes, normal
from vadtune.data.splits import Rows
from vadtune.models.config import VADConfig
from vadtune.models.latents import LatentTable, column_means, initial_latents
from vadtune.models.objective import Batch

BATCH = Batch.of(normal(9, 4))


def first_latents(kind, x, latent_dim, seed=0):
    return initial_latents(kind, Rows(x.numpy()), Batch.of(x), latent_dim, torch.Generator().manual_seed(seed))


def visit(table, batches, gradient_of, learning_rate):
    """Each batch takes a step on the mean of its row losses, whose gradients by latent are given."""
    index = torch.tensor([row for batch in batches for row in batch])
    visited, start = table.visit(index), 0
    for batch in batches:
        rows = slice(start, start + len(batch))
        posterior = visited.of(rows, BATCH.rows(index[rows]))
        moved = [posterior.mean, posterior.log_var] if table.kind == "free" else [posterior.mean]
        visited.update([gradient_of(value, index[rows]) / len(batch) for value in moved], learning_rate)
        start = rows.stop
    visited.end()


def towards(targets):
    """Gradients of sum (value - target)^4 / 4 of each row."""
    return lambda value, index: (value - targets[index]) ** 3


# All rows are visited equally often; batches differ in size, as the last one of an epoch does.
VISITS = [
    [[0, 1, 2, 3], [4, 5, 6, 7], [8]],
    [[3, 2, 1, 0]],
    [[8, 7, 6, 5, 4]],
    [[2], [8, 1], [7, 0, 6, 3, 5, 4]],
    [[0, 2, 4, 6, 8, 1, 3, 5, 7]],
]


@pytest.mark.parametrize("kind", ["point", "fixed", "free"])
def test_each_row_is_updated_as_by_an_adam_of_its_own(kind):
    first, targets = normal(9, 3), normal(9, 3, seed=1)
    table = LatentTable(first, kind, -2.0)
    rows = [row.clone().requires_grad_() for row in first]
    log_vars = [torch.full((3,), -2.0, requires_grad=True) for _ in rows]
    adams = [
        torch.optim.Adam(pair, 1.0, betas=LatentTable.BETAS, eps=LatentTable.EPSILON)
        for pair in zip(rows, log_vars, strict=True)
    ]
    for number, batches in enumerate(VISITS):
        learning_rate = 0.1 / (1 + number)
        visit(table, batches, towards(targets), learning_rate)
        for i in itertools.chain(*batches):
            adams[i].zero_grad()
            losses = [(rows[i] - targets[i]) ** 4 / 4]
            if kind == "free":
                losses.append((log_vars[i] - targets[i]) ** 4 / 4)
            torch.stack(losses).sum().backward()
            adams[i].param_groups[0]["lr"] = learning_rate
            adams[i].step()
    assert_close(table.all().mean, torch.stack(rows).detach(), rtol=1e-5, atol=1e-6)
    if kind == "free":
        assert_close(table.all().log_var, torch.stack(log_vars).detach(), rtol=1e-5, atol=1e-6)


def test_a_row_moves_by_plain_descent_along_its_own_gradient():
    first, targets = normal(9, 3), normal(9, 3, seed=1)
    table = LatentTable(first, "free", -2.0, "sgd")
    visit(table, [[4, 1], [0]], towards(targets), 0.1)
    expected = first - 0.1 * (first - targets) ** 3
    assert_close(table.all().mean[[0, 1, 4]], expected[[0, 1, 4]])
    assert_close(table.all().log_var[[0, 1, 4]], -2.0 - 0.1 * (-2.0 - targets[[0, 1, 4]]) ** 3)
    assert table.all().mean[[2, 3]].equal(first[[2, 3]])


def test_a_row_moves_as_far_in_a_full_batch_as_alone():
    targets = normal(9, 3, seed=1)
    together, alone = LatentTable(normal(9, 3), "free", -2.0), LatentTable(normal(9, 3), "free", -2.0)
    for index in ([0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]):
        visit(together, [index], towards(targets), 0.1)
        visit(alone, [[0]], towards(targets), 0.1)
    assert_close(together.all().mean[0], alone.all().mean[0])


def test_rows_outside_the_visit_do_not_move():
    table = LatentTable(normal(9, 3), "free", -2.0)
    before = table.table.clone()
    visit(table, [[1, 4]], towards(normal(9, 3, seed=1)), 0.1)
    others = [0, 2, 3, 5, 6, 7, 8]
    assert table.table[:, :, others].equal(before[:, :, others])
    assert (table.table[:, :, [1, 4]] != before[:, :, [1, 4]]).any(-1).all()
    assert table.n_updates.tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "n_learned"), [("point", 1), ("fixed", 1), ("free", 2)])
def test_a_posterior_holds_what_its_kind_learns(kind, n_learned):
    table = LatentTable(normal(9, 3), kind, -2.5)
    assert table.table.shape == (n_learned, 3, 9, 3)
    posterior = table.visit(torch.tensor([5, 3, 0])).of(slice(1, 3), BATCH)
    assert_close(posterior.mean, normal(9, 3)[[3, 0]])
    if kind == "point":
        assert posterior.log_var is None
    else:
        assert posterior.log_var.tolist() == [[-2.5] * 3] * 2


def test_latents_can_begin_at_zero():
    assert first_latents("zeros", normal(9, 4), 3).equal(torch.zeros(9, 3))


def test_latents_can_begin_at_small_normal_numbers_that_repeat_with_the_generator():
    x = normal(5000, 2)
    first = first_latents("normal", x, 3, seed=1)
    assert first.equal(first_latents("normal", x, 3, seed=1))
    assert abs(first.std().item() - 0.001) < 2e-5


def test_latents_can_begin_at_the_principal_components_of_rows_that_a_normal_completed():
    x = holes(normal(40, 6) @ normal(6, 6, seed=1) + 5.0)
    completed = Rows(x.numpy()).completed().astype(np.float64)
    scores = np.linalg.svd(completed, full_matrices=False)[0][:, :3] * np.sqrt(40)
    latents = first_latents("pca", x, 3).double().numpy()
    signs = np.sign((latents * scores).sum(0))
    np.testing.assert_allclose(latents, scores * signs, atol=1e-4)
    np.testing.assert_allclose((latents**2).mean(0), 1.0, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "rank"),
    [
        (normal(20, 2) @ normal(2, 6, seed=1), 2),
        (normal(2, 6), 1),
        (torch.full((5, 4), 3.0), 0),
        (torch.full((5, 4), torch.nan), 0),
        (normal(1, 6), 0),
    ],
    ids=["low rank", "fewer rows than latents", "constant", "all unknown", "one row"],
)
def test_principal_components_past_the_rank_are_zero(x, rank):
    latents = first_latents("pca", x, 4)
    assert latents.shape == (len(x), 4)
    assert_close(latents.square().mean(0), (torch.arange(4) < rank).float())
    assert (latents[:, rank:] == 0).all()


def test_column_means_are_over_observed_cells():
    x = torch.tensor([[1.0, torch.nan, torch.nan], [3.0, 5.0, torch.nan]])
    assert column_means(Batch.of(x)).tolist() == [2.0, 5.0, 0.0]


@pytest.mark.parametrize(("posterior", "weight"), [("point", 0.0), ("fixed", 0.7), ("free", 0.7)])
def test_a_point_has_no_prior_and_the_others_have_the_kl_weight(posterior, weight):
    assert VADConfig(posterior=posterior, kl_weight=0.7).build(4).prior_weight == weight


def test_every_unseen_row_starts_at_the_prior_mean():
    model = VADConfig(latent_dim=3).build(4)
    assert model.start(BATCH).mean.equal(torch.zeros(9, 3))
    assert model.max_refinement_steps is None
