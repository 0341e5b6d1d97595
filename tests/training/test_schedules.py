"""Learning rates by numbers, against those of torch where it has the same schedule."""

import pytest
import torch

from vadtune.training.schedules import Plateau, cosine, one_cycle


def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.04), (0.15, 0.52), (0.3, 1.0), (0.65, 0.5005), (1.0, 0.001), (1.5, 0.001)],
)
def test_one_cycle_rises_for_three_tenths_and_falls_along_a_cosine(progress, factor):
    assert one_cycle(progress) == pytest.approx(factor, abs=1e-9)


def test_cosine_is_that_of_torch():
    sgd = optimizer()
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 20, eta_min=1e-3)
    for step in range(21):
        assert cosine(step / 20) == pytest.approx(annealing.get_last_lr()[0])
        sgd.step()
        annealing.step()
    assert cosine(1.5) == pytest.approx(1e-3)


def test_plateau_halves_as_that_of_torch():
    sgd, plateau = optimizer(), Plateau()
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=Plateau.PATIENCE, threshold=0.0)
    losses = [5.0, 4.0, *[4.5] * 9, 3.9, *[4.0] * 30, 3.0, *[3.0] * 12]
    factors = []
    for loss in losses:
        plateau.observe(loss)
        reference.step(loss)
        factors.append(plateau.factor)
        assert plateau.factor == sgd.param_groups[0]["lr"]
    assert factors[11] == 1.0
    assert factors[-1] == 0.125
