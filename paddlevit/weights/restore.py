"""A network from what training left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import paddle
from paddle import ParamAttr, nn

from paddlevit.models import create_model
from paddlevit.preprocessing import Preprocessing
from paddlevit.weights.checkpoint import SUFFIX, Checkpoint, read_checkpoint

HEADS = ("classifier", "classifier_distillation", "head")
"""What our models call their classifiers."""


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means: the file itself, or the best one of a run's folder.

    Raises:
        ValueError: Neither a file nor a folder with checkpoints.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in ("best", "last", "previous"):
        candidate = path / f"{name}{SUFFIX}"
        if candidate.is_file():
            return candidate
    what = "holds no checkpoint (best, last)" if path.is_dir() else "is neither a file nor a folder"
    raise ValueError(f"{path} {what}; give a run's folder or a {SUFFIX} file.")


def is_own_checkpoint(path: str | Path) -> bool:
    """Whether a path is a run's folder or a file that our training wrote."""
    try:
        read_checkpoint(find_checkpoint(path), ())
    except ValueError:
        return False
    return True


def describe_model(network: nn.Layer, class_names: list[str]) -> dict[str, Any]:
    """What a checkpoint says of its network: all that `restore_model` needs.

    Args:
        network: Made by `create_model`.
        class_names: Names of the classifier's outputs.

    Returns:
        Plain values for JSON.
    """
    return {
        "model_name": network.model_name,
        "model_options": network.model_options,
        "preprocessing": network.preprocessing.to_dict(),
        "class_names": list(class_names),
        "task": getattr(network, "task", "classes"),
        "head_norm": getattr(network, "head_norm", False),
    }


def restore_model(path: str | Path, use_ema: bool = False) -> nn.Layer:
    """Rebuild the network of a checkpoint with its weights, in eval mode.

    Args:
        path: A run's folder (its best checkpoint) or one checkpoint file.
        use_ema: Take the averaged weights instead of the last ones.

    Returns:
        The network, with the attributes `class_names`, `task`, `preprocessing`, `model_name` and `model_options`.

    Raises:
        ValueError: No checkpoint, a damaged one, or one without averaged weights when they are asked for.
    """
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file, ("model", "ema"))
    if use_ema and not checkpoint.ema:
        raise ValueError(f"{file} holds no averaged weights (EMA); the run did not keep any.")
    network = build_network(checkpoint.meta)
    set_weights(network, checkpoint, use_ema)
    network.eval()
    return network


def build_network(meta: dict[str, Any]) -> nn.Layer:
    """The network that `describe_model` described, with fresh weights."""
    network = create_model(meta["model_name"], **meta["model_options"])
    network.preprocessing = Preprocessing.from_dict(meta["preprocessing"])
    network.class_names, network.task = meta["class_names"], meta.get("task", "classes")
    if meta.get("head_norm"):
        add_head_norm(network)
    return network


def add_head_norm(network: nn.Layer) -> None:
    """Put a batch normalisation without learned scale and shift before each classifier (MAE, linear probing)."""
    for name in HEADS:
        head = getattr(network, name, None)
        if isinstance(head, nn.Linear):
            fixed = dict(weight_attr=ParamAttr(trainable=False), bias_attr=ParamAttr(trainable=False))
            norm = nn.BatchNorm1D(head.weight.shape[0], epsilon=1e-6, **fixed)
            setattr(network, name, nn.Sequential(norm, head))
    network.head_norm = True


def set_weights(network: nn.Layer, checkpoint: Checkpoint, use_ema: bool = False) -> None:
    """Put a checkpoint's arrays into a network of exactly that structure.

    Raises:
        ValueError: A parameter is missing, left over, or of another shape.
    """
    state = checkpoint.ema if use_ema else checkpoint.model
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name in sorted(own.keys() ^ state.keys()):
        where = "the checkpoint" if name in own else "the network"
        raise ValueError(f"The checkpoint belongs to another network: {where} has no {name}.")
    for name, array in state.items():
        if array.shape != own[name]:
            raise ValueError(
                f"The checkpoint belongs to another network: {name} is {list(array.shape)}, not {list(own[name])}."
            )
    network.set_state_dict({name: paddle.to_tensor(array) for name, array in state.items()})
