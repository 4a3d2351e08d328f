"""Training a part of a network only."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from paddle import nn

from paddlevit.config import ConfigError, TrainConfig
from paddlevit.errors import did_you_mean
from paddlevit.layers import DropPath
from paddlevit.weights.restore import HEADS


def freeze(network: nn.Layer, config: TrainConfig) -> list[nn.Layer]:
    """Stop the gradients of what is not to be trained.

    Args:
        network: Its classifier is called as in HEADS.
        config: Its freeze and linear_probe.

    Returns:
        Layers to keep in evaluation mode: with linear_probe all but the classifier, otherwise none.

    Raises:
        ConfigError: A pattern that matches no parameter.
    """
    parameters = dict(network.named_parameters())
    for pattern in config.freeze:
        matching = fnmatch.filter(parameters, pattern)
        if not matching:
            raise ConfigError(f"train.freeze: no parameter matches {pattern!r}.{did_you_mean(pattern, parameters)}")
        for name in matching:
            parameters[name].stop_gradient = True
    if not config.linear_probe:
        return []
    resting = list(_outside_heads(network))
    heads = {id(parameter) for layer in _heads(network) for parameter in layer.parameters()}
    for parameter in parameters.values():
        if id(parameter) not in heads:
            parameter.stop_gradient = True
    return resting


def set_constant_drop_path(network: nn.Layer) -> None:
    """Give every DropPath layer the probability of the deepest."""
    layers = [layer for layer in network.sublayers() if isinstance(layer, DropPath)]
    highest = max((layer.probability for layer in layers), default=0.0)
    for layer in layers:
        layer.probability = highest


def _heads(network: nn.Layer) -> list[nn.Layer]:
    return [layer for name, layer in network.named_sublayers() if name.rpartition(".")[2] in HEADS]


def _outside_heads(layer: nn.Layer) -> Iterator[nn.Layer]:
    """The largest layers that hold no classifier."""
    for name, child in layer.named_children():
        if name in HEADS:
            continue
        if _heads(child):
            yield from _outside_heads(child)
        else:
            yield child
