"""How pictures become a network's input: one description that travels with weights, checkpoints and exports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from paddlevit.errors import check_choice

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation, prediction and an exported network do to a picture before the first layer."""

    image_size: tuple[int, int] = (224, 224)
    """Height and width of the network's input in pixels."""
    crop_pct: float = 0.875
    """The short side is resized to floor(image_size / crop_pct), then the centre is cropped."""
    crop_mode: str = "center"
    """`center`: keep the aspect ratio and crop; `squash`: resize straight to image_size / crop_pct, then crop."""
    interpolation: str = "bicubic"
    """Pillow's filter for the resize."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Subtracted from each channel of a picture scaled to 0..1; its length is the number of channels."""
    std: tuple[float, ...] = IMAGENET_STD
    """Each channel is divided by this after the mean is subtracted."""

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("crop_mode", self.crop_mode, CROP_MODES)
        if not 0.0 < self.crop_pct <= 1.0:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1.")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; each needs one per channel.")
        if min(self.std) <= 0.0:
            raise ValueError(f"std is {self.std}; every value must be above 0.")
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size is {self.image_size}; it must be two positive numbers, height and width.")

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return len(self.mean)

    def adapted(self, image_size: tuple[int, int] | None = None, channels: int | None = None) -> Preprocessing:
        """The same preprocessing for another input size or number of channels.

        Args:
            image_size: New height and width; None keeps them.
            channels: New number of channels, whose mean and std are the average of the present ones; None keeps them.

        Returns:
            A new Preprocessing.
        """
        changes: dict[str, Any] = {}
        if image_size is not None:
            changes["image_size"] = image_size
        if channels is not None and channels != self.channels:
            changes["mean"] = (round(sum(self.mean) / self.channels, 6),) * channels
            changes["std"] = (round(sum(self.std) / self.channels, 6),) * channels
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`; unknown keys raise ValueError."""
        valid = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(valid))
        if unknown:
            raise ValueError(f"preprocessing has no key {unknown[0]!r}; its keys are {', '.join(valid)}.")
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)
