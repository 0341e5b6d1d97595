"""Row-wise L-BFGS: the maximum of each row's posterior density.

All rows take their steps at once, but each with its own directions, step lengths and end: no step depends on another
row, on noise or on the size of a batch. To the same loss on MNIST digits it needs about a tenth of Adam's passes
through the decoder.

Source: Nocedal (1980), Updating quasi-Newton matrices with limited storage, Mathematics of Computation 35.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vadtune.models.base import Model
from vadtune.models.objective import Batch

MEMORY = 8
CHECK_EVERY = 5
FIRST_STEP = 0.3  # length of a row's first step, in prior standard deviations
SUFFICIENT_DECREASE = 1e-4
SHRINK = 0.3
FORGET_BELOW = 0.1  # a step this short has been refused twice: the row's curvature pairs mislead it


@torch.no_grad()
def descend(
    model: Model, batch: Batch, start: Float[Tensor, "N L"], n_steps: int, tolerance: float = 0.0
) -> Float[Tensor, "N L"]:
    """Lower each row's loss by at most `n_steps` steps of its own; a row that has converged leaves."""
    result = start.clone()
    if n_steps == 0:
        return result
    least = max(tolerance, torch.finfo(start.dtype).eps)
    rows = torch.arange(len(start), device=start.device)
    state = _begin(model, batch, start)
    before = state.loss
    for step in range(1, n_steps + 1):
        _step(model, batch, state)
        if step % CHECK_EVERY:
            continue
        # A refused step is no convergence as long as a shorter one may still lower the loss.
        going = torch.maximum(before - state.loss, state.refused) > least * state.loss
        before = state.loss
        if not going.all():
            result[rows] = state.mean
            index = going.nonzero()[:, 0]
            rows, before, batch, state = rows[index], before[index], batch.rows(index), state.keep(index)
        if len(rows) == 0:
            return result
    result[rows] = state.mean
    return result


@dataclass(eq=False)
class _Rows:
    """Where each row is, and what it knows of its loss around there; M remembered pairs, 0 where there is none.

    `refused` is by how much a step along the slope would lower the loss, if the last step was refused; else 0.
    """

    mean: Float[Tensor, "N L"]
    loss: Float[Tensor, " N"]
    refused: Float[Tensor, " N"]
    gradient: Float[Tensor, "N L"]
    length: Float[Tensor, "N 1"]
    scale: Float[Tensor, "N 1"]
    steps: Float[Tensor, "N M L"]
    changes: Float[Tensor, "N M L"]
    weights: Float[Tensor, "N M"]

    def keep(self, index: Int[Tensor, " K"]) -> "_Rows":
        """Some of the rows."""
        return _Rows(*(getattr(self, field.name)[index] for field in fields(self)))


def _begin(model: Model, batch: Batch, start: Float[Tensor, "N L"]) -> _Rows:
    loss, gradient = evaluate(model, batch, start)
    scale = FIRST_STEP / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
    memory = start.new_zeros(len(start), MEMORY, start.shape[1])
    refused, length = torch.zeros_like(loss), torch.ones_like(scale)
    return _Rows(start.clone(), loss, refused, gradient, length, scale, memory, memory.clone(), memory[:, :, 0].clone())


def _step(model: Model, batch: Batch, state: _Rows) -> None:
    """Try one step of every row; a row whose loss does not fall enough stays, and tries a shorter one next."""
    direction = _direction(state)
    slope = state.length[:, 0] * (direction * state.gradient).sum(1)
    mean = state.mean + state.length * direction
    loss, gradient = evaluate(model, batch, mean)
    accepted = loss <= state.loss + SUFFICIENT_DECREASE * slope
    _remember(state, accepted, mean - state.mean, gradient - state.gradient)
    column = accepted.unsqueeze(1)
    state.mean = torch.where(column, mean, state.mean)
    state.gradient = torch.where(column, gradient, state.gradient)
    state.loss = torch.where(accepted, loss, state.loss)
    state.length = torch.where(column, 1.0, state.length * SHRINK)
    state.refused = torch.where(accepted, 0.0, -SHRINK * slope)


def _direction(state: _Rows) -> Float[Tensor, "N L"]:
    """The two-loop recursion (Nocedal 1980), row by row; downhill along the gradient where it fails."""
    weights = torch.where(state.length < FORGET_BELOW, 0.0, state.weights)
    q = state.gradient
    alphas = []
    for pair in reversed(range(MEMORY)):
        alpha = weights[:, pair, None] * (state.steps[:, pair] * q).sum(1, keepdim=True)
        q = q - alpha * state.changes[:, pair]
        alphas.append(alpha)
    q = q * state.scale
    for pair, alpha in enumerate(reversed(alphas)):
        beta = weights[:, pair, None] * (state.changes[:, pair] * q).sum(1, keepdim=True)
        q = q + state.steps[:, pair] * (alpha - beta)
    downhill = ((q * state.gradient).sum(1, keepdim=True) > 0) & q.isfinite().all(1, keepdim=True)
    return -torch.where(downhill, q, state.gradient * state.scale)


def _remember(
    state: _Rows, accepted: Bool[Tensor, " N"], step: Float[Tensor, "N L"], change: Float[Tensor, "N L"]
) -> None:
    """Put the newest pair at the end of a row's memory, unless the step was refused or the curvature is negative.

    Pairs that have misled a row are gone for good, and where the curvature is negative its next step may be longer:
    or else the same direction would be tried, and refused, again and again.
    """
    product = (step * change).sum(1)
    useful = accepted & (product > 1e-10)
    forgotten = accepted.unsqueeze(1) & (state.length < FORGET_BELOW)
    state.weights = torch.where(forgotten, 0.0, state.weights)
    state.scale = torch.where((accepted & (product < 0)).unsqueeze(1), 2 * state.scale, state.scale)
    cell = useful[:, None, None]
    state.steps = torch.where(cell, torch.cat([state.steps[:, 1:], step.unsqueeze(1)], 1), state.steps)
    state.changes = torch.where(cell, torch.cat([state.changes[:, 1:], change.unsqueeze(1)], 1), state.changes)
    weight = 1.0 / product.clamp(min=1e-10)
    rolled = torch.cat([state.weights[:, 1:], weight.unsqueeze(1)], 1)
    state.weights = torch.where(useful.unsqueeze(1), rolled, state.weights)
    scale = product / change.square().sum(1).clamp(min=1e-20)
    state.scale = torch.where(useful.unsqueeze(1), scale.unsqueeze(1), state.scale)


def evaluate(
    model: Model, batch: Batch, mean: Float[Tensor, "N L"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N L"]]:
    """Each row's loss and its gradient, infinite where it is not a number."""
    mean = mean.detach().requires_grad_()
    with torch.enable_grad():
        losses = model.map_loss(batch, mean)
        # The weights of the decoder get no gradients: the graph is asked for the latents alone.
        (gradient,) = torch.autograd.grad(losses.sum(), mean)
    return losses.detach().nan_to_num(nan=torch.inf), gradient
