"""One way to classify pictures, whatever the user has: a run, a checkpoint, a configuration with weights, an export."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import paddle
from paddle import nn

from paddlevit.config import ConfigError, load_config
from paddlevit.data import eval_transform
from paddlevit.data.images import Picture
from paddlevit.data.labels import imagenet_class_names
from paddlevit.errors import did_you_mean
from paddlevit.inference.folder import is_export
from paddlevit.inference.predictor import Predictor
from paddlevit.models import MODELS, create_model, input_spec
from paddlevit.preprocessing import Preprocessing
from paddlevit.training.build import resolve_preprocessing
from paddlevit.weights.restore import is_own_checkpoint, restore_model


class Classifier(Protocol):
    """What predicts: a Predictor of an export, or a network."""

    class_names: list[str]
    task: str
    preprocessing: Preprocessing

    def preprocess(self, image: Picture) -> np.ndarray:
        """A picture -> what `outputs` takes, without the batch."""

    def outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Preprocessed pictures -> `logits`, or `probabilities`, [B, K], and what else an export gives."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, C, H, W] -> float32 [B, K]."""


class NetworkClassifier:
    """A network run by `paddle.Model.predict_batch`.

    Args:
        network: With the attributes `class_names` and `preprocessing`, and `task` if that is not classes.
    """

    def __init__(self, network: nn.Layer) -> None:
        self.network = network
        self.class_names, self.preprocessing = network.class_names, network.preprocessing
        self.task = getattr(network, "task", "classes")
        self.model = paddle.Model(network, input_spec(network))

    def preprocess(self, image: Picture) -> np.ndarray:
        """A picture -> float32 [C, H, W]."""
        return eval_transform(self.preprocessing)(image)

    def outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """float32 [B, C, H, W] -> `logits`, float32 [B, K]."""
        return {"logits": self.logits(batch)}

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, C, H, W] -> float32 [B, K]."""
        return self.model.predict_batch([images])[0]


def open_network(source: str | Path, use_ema: bool = False, fresh: bool = False) -> nn.Layer:
    """The network that a user means.

    Args:
        source: A run's folder, a checkpoint, a configuration whose `model.weights` names weights, or a model's name,
            which stands for its published weights.
        use_ema: Take the averaged weights.
        fresh: Build a name, or a configuration without weights, with random weights.

    Returns:
        The network in eval mode, with `preprocessing` and, unless fresh, `class_names`.

    Raises:
        ValueError: None of these, or no weights.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        network = _from_config(path, use_ema, fresh)
    elif path.exists():
        network = restore_model(path, use_ema)
    elif str(source) in MODELS:
        network = create_model(str(source), pretrained=not fresh)
    else:
        hint = did_you_mean(str(source), MODELS)
        raise ValueError(f"{source} is neither a file nor a folder nor the name of a model.{hint}")
    if not fresh and not hasattr(network, "class_names"):
        network.class_names = default_class_names(network.num_classes)
    network.eval()
    return network


def _from_config(path: Path, use_ema: bool, fresh: bool) -> nn.Layer:
    config = load_config(path)
    model, weights = config.model, config.model.weights
    if isinstance(weights, str) and Path(weights).exists() and is_own_checkpoint(weights):
        return restore_model(weights, use_ema)
    if not weights and not fresh:
        raise ConfigError(
            f"{path} names no weights. Give a run's folder or checkpoint instead, or set model.weights in it."
        )
    preprocessing = resolve_preprocessing(config)
    network = create_model(
        model.name,
        model.num_classes,
        preprocessing.image_size,
        preprocessing.channels,
        pretrained=weights or False,
        **model.options,
    )
    network.preprocessing, network.task = preprocessing, config.data.task
    if weights and not hasattr(network, "class_names"):
        network.class_names = default_class_names(network.num_classes)
    return network


def default_class_names(num_classes: int) -> list[str]:
    """Names for outputs that nobody has named: ImageNet's words for 1,000 of them, numbers otherwise."""
    words = list(imagenet_class_names().values())
    return words if num_classes == len(words) else [str(index) for index in range(num_classes)]


def open_classifier(source: str | Path, use_ema: bool = False) -> Classifier:
    """What `open_network` opens, or an export."""
    if is_export(source):
        if use_ema:
            raise ValueError(f"{source} is an export; it holds one set of weights, chosen when it was exported.")
        return Predictor(source)
    return NetworkClassifier(open_network(source, use_ema))
