"""A first guess of a row's latents from its observed cells: ridge regression of the training rows' latents on them."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vadtune.models.objective import Batch

MAX_ROWS = 5000
RIDGE = 0.1  # of the mean square of a column


class LatentRegression:
    """Regresses latents on mean-filled, centred rows.

    Args:
        train: The training rows; evenly chosen ones if there are more than 5,000.
        column_mean: `(E,)`, of the observed cells.
    """

    def __init__(self, train: Batch, column_mean: Float[Tensor, " E"]) -> None:
        n_rows = len(train)
        self.index: Tensor | slice = slice(None)
        if n_rows > MAX_ROWS:
            self.index = torch.linspace(0, n_rows - 1, MAX_ROWS, device=train.x.device).long()
        self.train, self.column_mean = train, column_mean

    def fit(self, latents: Float[Tensor, "N L"]) -> Float[Tensor, "E L"]:
        """The coefficients for latents of all training rows."""
        centred, latents = self._centred(), latents[self.index]
        if self._is_wide:
            return centred.T @ torch.cholesky_solve(latents, self._factor)
        return torch.cholesky_solve(centred.T @ latents, self._factor)

    @property
    def _is_wide(self) -> bool:
        return self.train.x.shape[1] > min(len(self.train), MAX_ROWS)

    def _centred(self) -> Float[Tensor, "M E"]:
        rows = self.train.rows(self.index) if isinstance(self.index, Tensor) else self.train
        return rows.x - rows.observed * self.column_mean

    @cached_property
    def _factor(self) -> Tensor:
        """Cholesky factor of the smaller of the two equivalent systems; the same for all latents."""
        centred = self._centred()
        products = centred @ centred.T if self._is_wide else centred.T @ centred
        # A table without any spread regresses on nothing.
        ridge = RIDGE * len(centred) * centred.square().mean().clamp(min=1e-6)
        products.diagonal().add_(ridge)
        factor: Tensor = torch.linalg.cholesky(products)
        return factor
