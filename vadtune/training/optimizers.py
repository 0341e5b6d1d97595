"""How weights, and the posteriors of unseen rows, move: Adam with decoupled decay, or plain gradient descent.

They compute what torch's own compute. But the first optimizer of torch that a process makes takes it two seconds of
imports, in each worker of a search, and its bookkeeping was a tenth of a step of 2 x 200 decoders at batch 32.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Optimizer(ABC):
    """Moves parameters along their gradients.

    Args:
        parameters: Those that need gradients are moved.
        weight_decay: Share of a weight that a step at learning rate 1 takes away; of weight matrices alone, since
            biases, norms and the noise mean something at zero.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.groups: dict[float, list[nn.Parameter]] = {}  # by weight decay
        for parameter in self.parameters:
            self.groups.setdefault(weight_decay if parameter.ndim >= 2 else 0.0, []).append(parameter)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient along it."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs to go on, by name."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay, all parameters of one decay in one call; without decay plain Adam.

    Args:
        parameters: As of every optimizer.
        weight_decay: As of every optimizer.
        betas: How much of the gradients' mean and of their squares' mean a step keeps.

    Source: Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv:1711.05101, algorithm 2.
    """

    BETAS = (0.9, 0.99)
    EPSILON = 1e-8

    def __init__(
        self, parameters: Iterable[nn.Parameter], weight_decay: float, betas: tuple[float, float] = BETAS
    ) -> None:
        super().__init__(parameters, weight_decay)
        self.betas = betas
        zeros = torch.zeros_like
        moments = {parameter: (zeros(parameter), zeros(parameter)) for parameter in self.parameters}
        self.moments = list(moments.values())
        self.slots = [
            (decay, [(parameter, *moments[parameter]) for parameter in group]) for decay, group in self.groups.items()
        ]
        self.n_steps = torch.zeros((), device=self.parameters[0].device)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient along it."""
        self.n_steps += 1
        for weight_decay, group in self.slots:
            moved = [slot for slot in group if slot[0].grad is not None]
            if not moved:
                continue
            parameters, moment1, moment2 = zip(*moved, strict=True)
            # What torch.optim.AdamW calls when it is told to be fused.
            torch._fused_adamw_(
                parameters,
                [_gradient(parameter) for parameter in parameters],
                moment1,
                moment2,
                [],
                [self.n_steps] * len(parameters),
                lr=learning_rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=weight_decay,
                eps=self.EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Tensor]:
        """The number of steps, and the moments of each parameter by its place."""
        named = {
            f"moment{order}.{place}": moment
            for place, moments in enumerate(self.moments)
            for order, moment in enumerate(moments, 1)
        }
        return {"n_steps": self.n_steps, **named}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


class SGD(Optimizer):
    """Plain gradient descent; decay is part of the gradient."""

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient along it."""
        for weight_decay, group in self.groups.items():
            for parameter in group:
                if parameter.grad is None:
                    continue
                parameter.sub_(_gradient(parameter).add(parameter, alpha=weight_decay), alpha=learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: it remembers nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """There is nothing to go on from."""


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
