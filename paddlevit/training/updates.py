"""Optimizers that Paddle does not have, on top of its own base class: clipping and layer rates come from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

TRUST = 0.001


class _MomentumOptimizer(paddle.optimizer.Optimizer):
    """Keeps one average per parameter; a subclass says in `change` what it does with it.

    Args:
        learning_rate: Until `set_lr` gives another.
        weight_decay: Of the parameters in `decayed`.
        parameters: What is updated.
        decayed: Paddle's own names of the parameters that decay.
        grad_clip: Applied to all gradients first.
    """

    def __init__(
        self,
        learning_rate: float,
        weight_decay: float,
        parameters: Sequence[paddle.Tensor],
        decayed: set[str],
        grad_clip: nn.ClipGradBase | None,
    ) -> None:
        super().__init__(learning_rate, parameters, grad_clip=grad_clip)
        self.decay, self.decayed = weight_decay, decayed

    def change(
        self, weight: paddle.Tensor, gradient: paddle.Tensor, average: paddle.Tensor, decay: float
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """What is subtracted from the weight at a learning rate of 1, and the new average."""
        raise AssertionError("a subclass says this")

    def _create_accumulators(self, block: Any, parameters: Sequence[paddle.Tensor]) -> None:
        for parameter in parameters:
            self._add_accumulator("average", parameter)

    def _append_optimize_op(self, block: Any, param_and_grad: tuple[paddle.Tensor, paddle.Tensor]) -> None:
        weight, gradient = param_and_grad
        average = self._get_accumulator("average", weight)
        decay = self.decay if weight.name in self.decayed else 0.0
        with paddle.no_grad():
            step, new_average = self.change(weight, gradient, average, decay)
            average.set_value(new_average)
            weight.set_value(weight - step * self._create_param_lr(param_and_grad))


class Lion(_MomentumOptimizer):
    """Symbolic Discovery of Optimization Algorithms (Chen et al. 2023), algorithm 2.

    Args:
        betas: Averaging inside the sign, and of the average that is kept.
    """

    def __init__(self, learning_rate: float, betas: tuple[float, float], *args: Any) -> None:
        super().__init__(learning_rate, *args)
        self.betas = betas

    def change(
        self, weight: paddle.Tensor, gradient: paddle.Tensor, average: paddle.Tensor, decay: float
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The sign of the averaged gradient, and decay beside it."""
        inner, outer = self.betas
        direction = paddle.sign(average * inner + gradient * (1.0 - inner))
        return direction + weight * decay, average * outer + gradient * (1.0 - outer)


class Lars(_MomentumOptimizer):
    """Large Batch Training of Convolutional Networks (You et al. 2017); vectors are updated by plain momentum.

    Args:
        momentum: Share of the last step in the next.
    """

    def __init__(self, learning_rate: float, momentum: float, *args: Any) -> None:
        super().__init__(learning_rate, *args)
        self.momentum = momentum

    def change(
        self, weight: paddle.Tensor, gradient: paddle.Tensor, average: paddle.Tensor, decay: float
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Momentum on a gradient scaled to the norm of its matrix."""
        gradient = gradient + weight * decay
        if weight.ndim > 1:
            norms = paddle.linalg.norm(weight), paddle.linalg.norm(gradient)
            trust = TRUST * norms[0] / norms[1].clip(min=1e-30)
            gradient = gradient * paddle.where(norms[0] * norms[1] > 0, trust, paddle.ones_like(trust))
        step = average * self.momentum + gradient
        return step, step
