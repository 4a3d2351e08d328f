"""Forty steps of training follow PyTorch's AdamW with timm's groups, schedule, clipping, layer decay and EMA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlevit.config import OptimizerConfig, ScheduleConfig
from paddlevit.data.mixing import soft_targets
from paddlevit.models.vit import VisualTransformer
from paddlevit.training.losses import Loss, cross_entropy
from paddlevit.training.optimizer import build_optimizer
from paddlevit.training.schedule import learning_rate_schedule
from paddlevit.training.trainer import Steps, Trainer
from paddlevit.weights import load_weights
from tests.golden.fill import fill, image

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "training"
STEPS = 40


def _start(meta) -> VisualTransformer:
    network = VisualTransformer(image_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=10)
    load_weights(network, {name: fill(name, tuple(shape)) for name, shape in meta["state"].items()})
    return network


def _trainer(network: VisualTransformer, layer_decay: float | None, fast_cpu: bool) -> Trainer:
    config = OptimizerConfig(lr=1e-3, weight_decay=0.05, clip_norm=1.0, layer_decay=layer_decay)
    schedule = ScheduleConfig(epochs=STEPS, warmup_epochs=5, warmup_lr=0.0, min_lr=1e-5)
    steps = Steps(
        learning_rate_schedule(schedule, config.lr, updates_per_epoch=1),
        batches_per_epoch=STEPS,
        mixing=lambda images, labels, generator: (images, soft_targets(labels, 10, 0.1)),
        fast_cpu=fast_cpu,
    )
    return Trainer(network).setup(build_optimizer(network, config), Loss(cross_entropy), steps, ema_decay=0.9)


def _relative(ours: np.ndarray, golden: np.ndarray) -> float:
    return float(np.linalg.norm(ours - golden) / np.linalg.norm(golden))


@pytest.mark.parametrize("fast_cpu", [False, True], ids=["paddle", "fast_cpu"])
@pytest.mark.parametrize("name", ["adamw", "adamw_layer_decay"])
def test_training_equals_torch(name, fast_cpu):
    golden = np.load(FOLDER / f"{name}.npz")
    meta = json.loads(str(golden["meta"]))
    network = _start(meta)
    trainer = _trainer(network, meta["layer_decay"], fast_cpu)
    losses = []
    for step in range(STEPS):
        labels = (np.arange(16) * 7 + step) % 10
        losses += trainer.train_batch([image((16, 3, 32, 32), f"step{step}")], [labels])[0]
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-3)

    network.eval()
    x = paddle.to_tensor(image((4, 3, 32, 32), "eval"))
    with paddle.no_grad():
        assert _relative(network(x).numpy(), golden["logits"]) < 1e-2
        with trainer.ema.applied(network):
            assert _relative(network(x).numpy(), golden["ema_logits"]) < 1e-2
