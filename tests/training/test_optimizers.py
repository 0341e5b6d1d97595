"""Our optimizers move weights exactly as torch's do, and cost a worker none of its imports."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vadtune.training.optimizers import SGD, AdamW


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.SiLU(), nn.Linear(7, 3))


def torch_optimizer(kind, model, weight_decay):
    matrices = {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": weight_decay}
    others = {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}
    if kind is SGD:
        return torch.optim.SGD([matrices, others], 1.0)
    return torch.optim.AdamW([matrices, others], 1.0, betas=AdamW.BETAS, eps=AdamW.EPSILON)


def backward(model, step):
    model.zero_grad()
    rng = torch.Generator().manual_seed(step)
    model(torch.randn(4, 5, generator=rng)).square().sum().backward()


@pytest.mark.parametrize("kind", [AdamW, SGD])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_weights_move_as_torch_moves_them(kind, weight_decay):
    ours, theirs = network(), network()
    optimizer, reference = kind(ours.parameters(), weight_decay), torch_optimizer(kind, theirs, weight_decay)
    for step in range(30):
        rate = 0.01 / (1 + step)
        reference.param_groups[0]["lr"] = reference.param_groups[1]["lr"] = rate
        backward(ours, step)
        backward(theirs, step)
        optimizer.step(rate)
        reference.step()
    for moved, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(moved, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_what_has_no_gradient_stays(kind):
    model, unused = network(), nn.Parameter(torch.ones(2, 2))
    model[0].bias.requires_grad_(False)
    before = model[0].bias.clone()
    optimizer = kind([*model.parameters(), unused], 0.1)
    backward(model, 0)
    optimizer.step(0.1)
    assert model[0].bias.equal(before)
    assert unused.equal(torch.ones(2, 2))


def test_gradients_are_forgotten():
    model = network()
    optimizer = SGD(model.parameters(), 0.0)
    backward(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", [AdamW, SGD])
def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened(kind):
    model = network()
    optimizer = kind(model.parameters(), 0.1)
    backward(model, 0)
    optimizer.step(0.01)
    copied = copy.deepcopy(model)
    restored = kind(copied.parameters(), 0.1)
    restored.load_state_dict({name: tensor.clone() for name, tensor in optimizer.state_dict().items()})
    for trained, by in ((model, optimizer), (copied, restored)):
        backward(trained, 1)
        by.step(0.01)
    assert all(a.equal(b) for a, b in zip(model.parameters(), copied.parameters(), strict=True))


def test_training_does_not_import_the_compiler_of_torch():
    code = (
        "import sys, torch; from vadtune.data.splits import Rows; from vadtune.training.config import TrialConfig; "
        "from vadtune.training.trainer import Trainer; "
        "Trainer(TrialConfig(), Rows(torch.randn(20, 3).numpy()), torch.device('cpu')).fit_epoch(); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
