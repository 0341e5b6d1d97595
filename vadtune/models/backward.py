"""Layers with their way back, written by hand: vector-Jacobian products of all that decoders are made of.

Of a training step of a small model autograd's bookkeeping took two thirds. Each function here gives a layer's output
beside a function that takes the gradient by the output to that by the input. Weights and biases that learn get theirs
as `.grad`, where whatever was there is lost.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from vadtune.models.dropout import Dropout

Pull = Callable[[Tensor], Tensor]
aten = torch.ops.aten

# Of the gradient by the output, the input and the output.
ACTIVATIONS: dict[type[nn.Module], Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    nn.SiLU: lambda gradient, x, _: aten.silu_backward.default(gradient, x),
    nn.GELU: lambda gradient, x, _: aten.gelu_backward.default(gradient, x),
    nn.ReLU: lambda gradient, x, _: aten.threshold_backward.default(gradient, x, 0),
    nn.LeakyReLU: lambda gradient, x, _: aten.leaky_relu_backward.default(gradient, x, 0.01, self_is_result=False),
    nn.Tanh: lambda gradient, _, y: aten.tanh_backward.default(gradient, y),
}


def sequential(network: nn.Sequential, x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:
    """One layer after another."""
    pulls = []
    for layer in network:
        x, pull = VJPS[type(layer)](layer, x, learns=learns)
        pulls.append(pull)

    def pull_all(gradient: Tensor) -> Tensor:
        for pull in reversed(pulls):
            gradient = pull(gradient)
        return gradient

    return x, pull_all


def linear(layer: nn.Module, x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:
    """`nn.Linear` of `(N, I)`."""
    weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter | None, layer.bias)

    def pull(gradient: Tensor) -> Tensor:
        if learns:
            weight.grad = gradient.t() @ x
            if bias is not None:
                bias.grad = gradient.sum(0)
        return gradient @ weight

    return torch.nn.functional.linear(x, weight, bias), pull


def layer_norm(layer: nn.Module, x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:
    """`nn.LayerNorm` of `(N, I)`."""
    assert isinstance(layer, nn.LayerNorm)
    shape, weight, bias = list(layer.normalized_shape), layer.weight, layer.bias
    y, mean, inverse_std = torch.native_layer_norm(x, shape, weight, bias, layer.eps)

    def pull(gradient: Tensor) -> Tensor:
        wanted = [True, learns, learns]
        found = aten.native_layer_norm_backward.default(gradient, x, shape, mean, inverse_std, weight, bias, wanted)
        if learns:
            weight.grad, bias.grad = found[1:]
        return cast(Tensor, found[0])

    return y, pull


def activation(layer: nn.Module, x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:  # noqa: ARG001
    """One of `ACTIVATIONS`."""
    y, back = layer(x), ACTIVATIONS[type(layer)]
    return y, lambda gradient: back(gradient, x, y)


def dropout(layer: nn.Module, x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:  # noqa: ARG001
    """`Dropout`: what is dropped has no gradient either."""
    assert isinstance(layer, Dropout)
    factors = layer.factors(x)
    if factors is None:
        return x, lambda gradient: gradient
    return x * factors, lambda gradient: gradient * factors


def sigmoid(x: Tensor) -> tuple[Tensor, Pull]:
    """`torch.sigmoid`."""
    y = torch.sigmoid(x)
    return y, lambda gradient: aten.sigmoid_backward.default(gradient, y)


def by_autograd(function: Callable[[Tensor], Tensor], x: Tensor, *, learns: bool) -> tuple[Tensor, Pull]:
    """Any function of torch, whose parameters get their gradients added to what they have."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = function(leaf)

    def pull(gradient: Tensor) -> Tensor:
        if not learns:
            return torch.autograd.grad(y, leaf, gradient)[0]
        y.backward(gradient)
        assert leaf.grad is not None
        return leaf.grad

    return y.detach(), pull


VJPS: dict[type[nn.Module], Callable[..., tuple[Tensor, Pull]]] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    Dropout: dropout,
    **dict.fromkeys(ACTIVATIONS, activation),
}
