"""The table of all models, and the one way to build them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddlevit.errors import did_you_mean
from paddlevit.layers import to_pair
from paddlevit.models import deit, explained, foundation, swin, swin_v2, t2t_vit, vit
from paddlevit.models.options import check_options
from paddlevit.models.spec import ModelSpec

__all__ = ["MODELS", "create_model", "get_spec", "input_spec", "list_models"]

MODELS: dict[str, ModelSpec] = {
    **vit.MODELS,
    **deit.MODELS,
    **foundation.MODELS,
    **swin.MODELS,
    **swin_v2.MODELS,
    **t2t_vit.MODELS,
    **explained.MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` understands, in natural order.

    Args:
        pattern: Shell-style wildcard, for example `vit_*_384`.

    Returns:
        The matching names; an empty list when nothing matches.
    """

    def natural(name: str) -> list:
        return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]

    return sorted(fnmatch.filter(MODELS, pattern), key=natural)


def get_spec(name: str) -> ModelSpec:
    """The table's row for `name`.

    Raises:
        ValueError: No such model; the message names the nearest ones.
    """
    if name not in MODELS:
        hint = did_you_mean(name, MODELS) or f" There are {len(MODELS)}; paddlevit.list_models() shows them."
        raise ValueError(f"There is no model {name!r}.{hint}")
    return MODELS[name]


def create_model(
    name: str,
    num_classes: int | None = None,
    image_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    pretrained: bool | str | Path = False,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> nn.Layer:
    """Build a model by name.

    The model remembers how it was made and how its input is prepared: `model_name`, `model_options` (every keyword
    that differs from the name's own) and `preprocessing`; with `pretrained` also `load_report`.

    Args:
        name: One of `list_models()`.
        num_classes: Outputs; None is the name's own, or the weights', 0 gives features.
        image_size: Height and width of the input, one number or two; None is the name's own.
        in_channels: Channels of the input; None is the name's own, 3.
        pretrained: Weights to start from: True downloads the published ones, a tag such as `augreg_in1k` chooses among
            them, a path takes a file or folder of yours in any format that `paddlevit.load_weights` reads.
        cache_dir: Where downloads are kept; None is the hub client's own folder.
        **options: Keywords of the family's class, for example `drop_path=0.1`.

    Returns:
        A `paddle.nn.Layer` with fresh or pretrained parameters.

    Raises:
        ValueError: Unknown name, an unknown or wrong option, sizes that do not fit together, or weights that cannot be
            had or used.
    """
    spec = get_spec(name)
    asked = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    given = check_options(name, spec.build, {**asked, **options})
    preprocessing, weights = spec.preprocessing, None
    if pretrained:
        from paddlevit.weights import find_pretrained

        weights = find_pretrained(name, pretrained, preprocessing, cache_dir)
        preprocessing = weights.preprocessing
        if weights.num_classes is not None:
            given = {"num_classes": weights.num_classes, **given}
    if "image_size" in given:
        given["image_size"] = to_pair(given["image_size"], "image_size")
    preprocessing = preprocessing.adapted(given.get("image_size"), given.get("in_channels"))
    model = spec.build(**{"image_size": preprocessing.image_size, **spec.options, **given})
    model.model_name, model.model_options, model.preprocessing = name, given, preprocessing
    if weights is not None:
        model.load_report = weights.load(model)
    return model


def input_spec(network: nn.Layer) -> paddle.static.InputSpec:
    """What a model takes, for `paddle.Model` and exports: any number of pictures of its size."""
    preprocessing = network.preprocessing
    return paddle.static.InputSpec([None, preprocessing.channels, *preprocessing.image_size], "float32", "image")
