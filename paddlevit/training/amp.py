"""Mixed precision: where the device has it, and gradients that overflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager

import paddle

DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


def autocast(amp: str) -> AbstractContextManager:
    """Within the block, products are computed in half precision; `off` leaves them alone.

    Args:
        amp: off, fp16 or bf16.
    """
    if amp == "off":
        return contextlib.nullcontext()
    return paddle.amp.auto_cast(enable=True, dtype=DTYPES[amp], level="O1")


class LossScaler:
    """Keeps the small gradients of fp16 above zero, and finds those that overflow.

    Mixed Precision Training (Micikevicius et al. 2018), section 3.2. Paddle's own GradScaler does not say which
    updates it left out, and its state cannot be tested without a GPU.

    Args:
        scale: First factor on the loss.
        growth_interval: Updates without overflow after which the factor doubles.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale, self.growth_interval, self.good_updates = scale, growth_interval, 0

    def unscale(self, parameters: Iterable[paddle.Tensor]) -> bool:
        """Divide the gradients by the factor, and choose the next factor.

        Args:
            parameters: Of the optimizer.

        Returns:
            Whether all gradients are finite; if not, this update is to be left out.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        with paddle.no_grad():
            for gradient in gradients:
                gradient.set_value(gradient / self.scale)
            finite = bool(paddle.isfinite(paddle.add_n([gradient.abs().sum() for gradient in gradients])))
        if not finite:
            self.scale, self.good_updates = self.scale / 2.0, 0
            return False
        self.good_updates += 1
        if self.good_updates == self.growth_interval:
            self.scale, self.good_updates = self.scale * 2.0, 0
        return True
