"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn


class ExponentialMovingAverage:
    """Averages floating-point parameters and buffers; whole-number buffers are copied.

    Args:
        network: Whose weights are averaged, starting from its present ones.
        decay: Share of the old average that is kept at every update, in (0, 1).
    """

    def __init__(self, network: nn.Layer, decay: float) -> None:
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, network: nn.Layer) -> None:
        """Move the average towards the network's weights: average = decay * average + (1 - decay) * weights."""
        with paddle.no_grad():
            for name, tensor in network.state_dict().items():
                average = self.average[name]
                if paddle.is_floating_point(tensor):
                    average.set_value(average * self.decay + tensor * (1.0 - self.decay))
                else:
                    average.set_value(tensor)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take an average that a checkpoint kept.

        Raises:
            ValueError: The checkpoint kept none, or one of another network.
        """
        if self.average.keys() != state.keys():
            raise ValueError("The checkpoint has no running average (train.ema_decay) of this network.")
        for name, tensor in self.average.items():
            tensor.set_value(state[name])

    @contextmanager
    def applied(self, network: nn.Layer) -> Iterator[None]:
        """Within the block, the network has the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.set_state_dict(self.average)
        try:
            yield
        finally:
            network.set_state_dict(own)
