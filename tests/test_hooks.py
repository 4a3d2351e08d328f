"""Watching a model leaves no trace, whatever happens meanwhile."""

from __future__ import annotations

import paddle
import pytest
from paddle import nn

from paddlevit.hooks import watch


def test_hooks_are_called_in_evaluation_mode_and_gone_afterwards():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[0].eval()  # a frozen part stays frozen
    seen = []

    def hook(layer, inputs, output):
        seen.append((layer is model[2], inputs[0].shape == [5, 4], output.shape == [5, 2], layer.training))

    def fail_meanwhile():
        with watch(model, {model[2]: hook}):
            model(paddle.ones([5, 3]))
            raise RuntimeError("meanwhile")

    with pytest.raises(RuntimeError, match="meanwhile"):
        fail_meanwhile()
    model(paddle.ones([5, 3]))
    assert seen == [(True, True, True, False)]
    assert [layer.training for layer in model.sublayers(include_self=True)] == [True, False, True, True]
