"""Mixing the pictures of a batch with each other: mixup and CutMix.

mixup (Zhang et al. 2017), CutMix (Yun et al. 2019). Picture i is mixed with picture B - 1 - i, as in timm; the middle
one of an odd batch with itself, which leaves it as it is.

Shapes: B batch, C channels, H W height and width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import paddle

from paddlevit.config import AugmentConfig


@dataclass(frozen=True)
class Mixing:
    """Mixes a batch on the device; all randomness comes from the generator that is passed in."""

    num_classes: int
    mixup: float = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0 is no mixup."""
    cutmix: float = 0.0
    """alpha of CutMix's Beta(alpha, alpha); 0 is no CutMix."""
    probability: float = 1.0
    """Of mixing at all, for each draw."""
    switch_probability: float = 0.5
    """Of CutMix rather than mixup when both are on."""
    mode: str = "batch"
    """Draw once for the batch, for each pair (i, B - 1 - i), or for each element."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes; of marks in a multi-label task, pulled towards a half."""

    def __call__(
        self, images: paddle.Tensor, labels: paddle.Tensor, rng: np.random.Generator
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mix pictures, and their targets in the same proportion.

        Args:
            images: [B, C, H, W].
            labels: [B] int64, or [B, K] marks or values.
            rng: Source of randomness.

        Returns:
            Images [B, C, H, W] and targets [B, K] float32.
        """
        share, weight = self.draw(images.shape[0], tuple(images.shape[2:]), rng)
        targets = soft_targets(labels, self.num_classes, self.label_smoothing)  # [B, K]
        if (share == 1.0).all():
            return images, targets
        share, weight = paddle.to_tensor(share), paddle.to_tensor(weight.astype(np.float32)).astype(images.dtype)
        images = images * weight + paddle.flip(images, axis=[0]) * (1.0 - weight)
        return images, targets * share + paddle.flip(targets, axis=[0]) * (1.0 - share)

    def draw(self, batch: int, size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw how much of each picture stays, and where.

        Args:
            batch: B; 1 row is drawn in mode batch, B / 2 in mode pair.
            size: Height and width.
            rng: Source of randomness.

        Returns:
            Share of each picture's own target, float32 [B or 1, 1], and weight of each of its pixels,
            [B or 1, 1, H or 1, W or 1].
        """
        draws = {"batch": 1, "pair": (batch + 1) // 2, "element": batch}[self.mode]
        rows = [self._draw_one(size, rng) for _ in range(draws)]
        if self.mode == "pair":
            rows += rows[: batch - draws][::-1]
        share = np.array([[lam] for lam, _ in rows], np.float32)  # [B or 1, 1]
        if all(box is None for _, box in rows):
            return share, share[:, :, None, None]
        weight = np.ones((len(rows), 1, *size), np.float32)  # [B or 1, 1, H, W]
        for plane, (lam, box) in zip(weight, rows):
            if box is None:
                plane[...] = lam
            else:
                plane[:, box[0] : box[1], box[2] : box[3]] = 0.0
        return share, weight

    def _draw_one(
        self, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[float, Optional[tuple[int, int, int, int]]]:
        """Share that stays, and the box (top, bottom, left, right) that goes; no box is a blend."""
        mixes, cuts = rng.random() < self.probability, rng.random() < self.switch_probability
        cuts = self.cutmix > 0 and (cuts or self.mixup == 0)
        alpha = self.cutmix if cuts else self.mixup
        lam, row, column = rng.beta(alpha, alpha), rng.random(), rng.random()
        if not mixes:
            return 1.0, None
        if not cuts:
            return lam, None
        height, width = size
        box_height, box_width = int(height * np.sqrt(1 - lam)), int(width * np.sqrt(1 - lam))
        top, left = int(row * height) - box_height // 2, int(column * width) - box_width // 2
        top, bottom = max(top, 0), min(top + box_height, height)
        left, right = max(left, 0), min(left + box_width, width)
        # A box that overlaps the edge is smaller than drawn; the targets follow what is really visible.
        return 1.0 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)


def soft_targets(labels: paddle.Tensor, num_classes: int, smoothing: float) -> paddle.Tensor:
    """Targets [B, K] float32 from classes [B], or from marks or values [B, K].

    Args:
        labels: int64 [B] or floats [B, K].
        num_classes: K.
        smoothing: Share spread evenly over the classes; marks are pulled towards a half by it.
    """
    if labels.ndim == 2 and labels.dtype in (paddle.float32, paddle.float64):
        return labels.astype("float32") * (1.0 - smoothing) + 0.5 * smoothing
    return paddle.nn.functional.one_hot(labels.reshape([-1]), num_classes) * (1.0 - smoothing) + smoothing / num_classes


def build_mixing(augment: AugmentConfig, num_classes: int, label_smoothing: float = 0.0) -> Optional[Mixing]:
    """The mixing that a configuration asks for; None when it asks for none.

    Args:
        augment: The section of the configuration.
        num_classes: Width of the targets.
        label_smoothing: Of the targets.
    """
    if augment.mixup == 0 and augment.cutmix == 0:
        return None
    return Mixing(
        num_classes=num_classes,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        probability=augment.mix_probability,
        switch_probability=augment.mix_switch,
        mode=augment.mix_mode,
        label_smoothing=label_smoothing,
    )
