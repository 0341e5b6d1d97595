"""What is dropped in training, of hidden units and of a row's cells, by a generator of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOWEST, N_STEPS = -(2**15), 2**16  # of 16-bit numbers
_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def dropping_by(generator: torch.Generator) -> Iterator[None]:
    """Let all that is dropped in this thread be drawn by a generator; else torch's global one draws."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


def drop_cells(observed: Float[Tensor, "N D"], rate: float) -> Float[Tensor, "N D"]:
    """Drop cells of a mask: of each row a share of its own, uniform in [0, `rate`)."""
    generator, device = _generator.get(), observed.device
    shares = rate * torch.rand(len(observed), 1, generator=generator, device=device)
    return observed * (torch.rand(observed.shape, generator=generator, device=device) >= shares)


class Dropout(nn.Module):
    """Sets units to zero in training, and scales the others so that the mean stays.

    torch's own draws a number for each unit: of 128 x 256 units 0.2 ms on a CPU, more than the layer's product takes.
    Four 16-bit numbers out of one of 64 bits take 0.08 ms.

    Args:
        share: Of the units that are dropped, in [0, 1), in steps of 2^-16.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov (2014), Dropout, JMLR 15.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        n_dropped = min(round(share * N_STEPS), N_STEPS - 1)
        self.share, self.first_kept = n_dropped / N_STEPS, LOWEST + n_dropped

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape."""
        factors = self.factors(x)
        return x if factors is None else x * factors

    def factors(self, x: Tensor) -> Tensor | None:
        """What the units of `x` are multiplied by; None if nothing is dropped."""
        if not self.training or not self.share:
            return None
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        bits.random_(-(2**63), None, generator=_generator.get())
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= self.first_kept
        return kept.to(x.dtype).mul_(1 / (1 - self.share))

    def extra_repr(self) -> str:
        """What torch prints."""
        return f"share={self.share:.3g}"
