"""Watching a model run without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from paddle import nn


@contextmanager
def watch(model: nn.Layer, hooks: Mapping[nn.Layer, Callable]) -> Iterator[None]:
    """Within a `with` block the model is in evaluation mode and calls the hooks; afterwards it is as it was.

    Args:
        model: Any layer; each of its sub-layers gets its own mode back.
        hooks: For sub-layers, what is called as hook(layer, inputs, output) after their forward.
    """
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    handles = [layer.register_forward_post_hook(hook) for layer, hook in hooks.items()]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, training in modes:
            layer.training = training
