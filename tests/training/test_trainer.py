"""Single steps: accumulation, overflow, losses that are no numbers, teachers, layers at rest."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image

from paddlevit.config import ConfigError, OptimizerConfig
from paddlevit.inference.source import NetworkClassifier
from paddlevit.models import create_model
from paddlevit.preprocessing import Preprocessing
from paddlevit.training import NonFiniteLoss, Steps, Teacher, Trainer
from paddlevit.training.amp import LossScaler
from paddlevit.training.losses import Loss, cross_entropy
from paddlevit.training.optimizer import build_optimizer
from paddlevit.weights.restore import add_head_norm, restore_model
from tests.training.toy import toy_run

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((12, 3, 16, 16)).astype(np.float32)
LABELS = RNG.integers(0, 5, 12)


def network(**options) -> nn.Layer:
    paddle.seed(3)
    sizes = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)
    return create_model("vit_tiny_patch16_224", image_size=16, num_classes=5, **{**sizes, **options})


def trainer_of(model: nn.Layer, optimizer: str = "sgd", **steps) -> Trainer:
    settings = {"rate": lambda update: 0.1, "batches_per_epoch": 3, **steps}
    updater = build_optimizer(model, OptimizerConfig(name=optimizer, clip_norm=1.0))
    return Trainer(model).setup(updater, Loss(cross_entropy), Steps(**settings))


def weights(model: nn.Layer) -> np.ndarray:
    return np.concatenate([parameter.numpy().ravel() for parameter in model.parameters()])


def test_accumulation_averages_and_updates_at_the_end_of_a_window():
    whole, parts = network(), network()
    trainer_of(whole, batches_per_epoch=1).train_batch([IMAGES], [LABELS])
    trainer = trainer_of(parts, batches_per_epoch=3, accumulate=3)
    start, losses = weights(parts), []
    for place in range(3):
        assert (weights(parts) == start).all()
        losses += trainer.train_batch([IMAGES[place * 4 : place * 4 + 4]], [LABELS[place * 4 : place * 4 + 4]])[0]
    np.testing.assert_allclose(weights(parts), weights(whole), atol=1e-6)
    assert trainer.progress.update == 1
    assert trainer.progress.loss_sum == pytest.approx(4 * sum(losses))


def test_the_window_at_the_epochs_end_is_shorter_but_weighs_as_much():
    whole, parts = network(), network()
    last = trainer_of(parts, batches_per_epoch=5, accumulate=4)
    last.progress.batch = 4
    last.train_batch([IMAGES], [LABELS])
    trainer_of(whole, batches_per_epoch=1).train_batch([IMAGES], [LABELS])
    assert last.progress.update == 1
    np.testing.assert_allclose(weights(parts), weights(whole), atol=1e-7)


def test_training_accuracy_is_of_what_the_network_saw():
    def turned(images: paddle.Tensor, labels: paddle.Tensor, _) -> tuple[paddle.Tensor, paddle.Tensor]:
        return images, paddle.nn.functional.one_hot((labels + 1) % 5, 5)

    model, images = network(), np.random.default_rng(0).random((6, 3, 16, 16), np.float32)
    model.eval()
    with paddle.no_grad():
        answers = model(paddle.to_tensor(images)).numpy().argmax(-1)
    trainer = trainer_of(model, mixing=turned)
    trainer.train_batch(images, (answers - 1) % 5)
    assert (trainer.progress.hits, trainer.progress.pictures) == (6, 6)
    trainer = trainer_of(network())
    trainer.train_batch(images, (answers - 1) % 5)
    assert trainer.progress.hits == 0


def test_the_scaler_leaves_out_updates_that_overflow_and_lowers_the_factor():
    parameter = paddle.create_parameter([3], "float32")
    scaler = LossScaler(scale=8.0, growth_interval=2)
    (parameter * paddle.to_tensor([1.0, 2.0, 3.0]) * 8.0).sum().backward()
    assert scaler.unscale([parameter])
    assert parameter.grad.numpy().tolist() == [1.0, 2.0, 3.0]
    assert scaler.unscale([parameter])
    assert (scaler.scale, scaler.good_updates) == (16.0, 0)
    parameter.clear_grad()
    (parameter * float("inf")).sum().backward()
    assert not scaler.unscale([parameter])
    assert (scaler.scale, scaler.good_updates) == (8.0, 0)


def test_overflow_is_counted_and_changes_nothing():
    model, plain = network(), network()
    model.classifier.weight.set_value(paddle.randn([16, 5]) * 20)
    plain.set_state_dict(model.state_dict())
    trainer = trainer_of(model)
    trainer.progress.loss_scale = 2.0**127  # times a gradient above 2 this is more than float32 holds
    start = weights(model)
    for _ in range(2):
        trainer.train_batch([IMAGES], [LABELS])
    assert trainer.progress.skipped_updates == 2
    assert trainer.progress.update == 2
    assert trainer.progress.loss_scale == 2.0**125
    assert (weights(model) == start).all()
    trainer.progress.loss_scale = 4.0
    trainer_of(plain).train_batch([IMAGES], [LABELS])
    trainer.train_batch([IMAGES], [LABELS])
    np.testing.assert_allclose(weights(model), weights(plain), atol=1e-6)


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path, monkeypatch):
    plain = Trainer.train_batch

    def poisoned(self, inputs, labels=None, update=True):
        if self.progress.epoch == 1 and self.progress.batch == 3:
            inputs = [inputs[0] * float("nan")]
        return plain(self, inputs, labels, update)

    monkeypatch.setattr(Trainer, "train_batch", poisoned)
    with pytest.raises(NonFiniteLoss) as error:
        toy_run(tmp_path / "run", data={"batch_size": 6, "fake_train": 30}, train={"accumulate": 1})
    message = str(error.value)
    assert message.startswith("The loss is nan at epoch 2, batch 4 (update 9, learning rate 0.00")
    listing = (tmp_path / "run" / "non_finite_batch.txt").read_text().splitlines()
    assert len(listing) == 6
    assert f"Its pictures: {', '.join(listing[:4])} and 2 more, all in " in message
    assert "The last good checkpoint is" in message
    assert "last.safetensors; a lower optimizer.lr" in message


def test_the_pictures_named_are_those_of_the_batch(tmp_path, monkeypatch):
    plain, seen = Trainer.train_batch, []

    def poisoned(self, inputs, labels=None, update=True):
        seen.append(inputs[0].numpy().copy())
        return plain(self, [inputs[0] * float("nan")] if len(seen) == 2 else inputs, labels, update)

    monkeypatch.setattr(Trainer, "train_batch", poisoned)
    with pytest.raises(NonFiniteLoss, match="There is no checkpoint yet"):
        toy_run(tmp_path / "run", augment={"crop": "none", "horizontal_flip": 0.0}, run={"save_every": None})
    from paddlevit.data import build_datasets
    from paddlevit.training import resolve_preprocessing
    from tests.training.toy import toy_config

    config = toy_config(augment={"crop": "none", "horizontal_flip": 0.0})
    train_set, _ = build_datasets(config, resolve_preprocessing(config), 0)
    numbers = [int(line.split()[-1]) for line in (tmp_path / "run" / "non_finite_batch.txt").read_text().splitlines()]
    np.testing.assert_array_equal(np.stack([train_set[number][0] for number in numbers]), seen[1])


def test_the_files_of_a_batch_with_such_a_loss_are_named(tmp_path, monkeypatch):
    for number in range(12):
        folder = tmp_path / "pictures" / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shade = 255 if number == 7 else 10 * number
        Image.new("RGB", (20, 18), (shade, shade, shade)).save(folder / f"{number}.png")
    plain = Trainer.train_batch

    def poisoned(self, inputs, labels=None, update=True):
        white = (inputs[0] > 0.9).numpy().all(axis=(1, 2, 3)).any()
        return plain(self, [inputs[0] * float("nan")] if white else inputs, labels, update)

    monkeypatch.setattr(Trainer, "train_batch", poisoned)
    with pytest.raises(NonFiniteLoss) as error:
        toy_run(
            tmp_path / "run",
            model={"num_classes": 2},
            data={"dataset": "folder", "root": str(tmp_path / "pictures"), "batch_size": 3, "num_workers": 2},
        )
    named = re.search(r"Its pictures: (.+?)\. (The last|There is)", str(error.value)).group(1).split(", ")
    assert len(named) == 3
    assert all((tmp_path / "pictures" / "train" / name.split("train/")[-1]).exists() for name in named)
    assert any(name.endswith("b/7.png") for name in named)


def classifier(model: nn.Layer, preprocessing: Preprocessing) -> NetworkClassifier:
    model.preprocessing, model.class_names = preprocessing, list("abcde")
    model.eval()
    return NetworkClassifier(model)


class Exported:
    """Answers through NumPy only, as an export does."""

    def __init__(self, inner: NetworkClassifier) -> None:
        self.class_names, self.preprocessing, self.logits = inner.class_names, inner.preprocessing, inner.logits


def test_a_teacher_sees_the_pictures_in_its_own_normalisation_and_size():
    own = Preprocessing((16, 16), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    student = Preprocessing((16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    model = network()
    model.classifier.weight.set_value(paddle.randn(model.classifier.weight.shape))
    inner = classifier(model, own)
    pixels = RNG.random((4, 3, 16, 16)).astype(np.float32)
    theirs, ours = ((pixels - np.reshape(p.mean, (3, 1, 1))) / np.reshape(p.std, (3, 1, 1)) for p in (own, student))
    expected = inner.logits(theirs.astype(np.float32))
    for teacher in (Teacher(inner, student, list("abcde")), Teacher(Exported(inner), student, list("abcde"))):
        answers = teacher(paddle.to_tensor(ours.astype(np.float32)))
        np.testing.assert_allclose(answers.numpy(), expected, atol=1e-4)
        assert answers.stop_gradient
        assert teacher(paddle.zeros([2, 3, 24, 32])).shape == [2, 5]


def test_a_teacher_of_other_classes_or_channels_is_refused():
    inner = classifier(network(), Preprocessing((16, 16)))
    with pytest.raises(ConfigError, match=r"distill.teacher knows 5 classes \(a, b, c, ...\), the data has 2"):
        Teacher(inner, inner.preprocessing, ["a", "b"])
    with pytest.raises(ConfigError, match="distill.teacher takes 3 channels, the student 1"):
        Teacher(inner, Preprocessing((16, 16), mean=(0.5,), std=(0.5,)), list("abcde"))


def test_both_heads_of_a_distilled_model_learn(tmp_path):
    distilled = {"name": "deit_tiny_distilled_patch16_224", "image_size": 16, "options": {"depth": 1}}
    model = {**distilled, "options": {"embed_dim": 24, "depth": 1, "num_heads": 2}, "image_size": 32}
    before, after = {}, {}
    for epochs, state in ((1, before), (3, after)):
        trainer, _ = toy_run(tmp_path / str(epochs), model=model, schedule={"epochs": epochs})
        state.update({name: tensor.numpy() for name, tensor in trainer.network.state_dict().items()})
    for head in ("classifier", "classifier_distillation"):
        assert (before[f"{head}.weight"] != after[f"{head}.weight"]).any()


def test_a_normalised_head_is_trained_kept_and_restored(tmp_path):
    trainer, recorder = toy_run(tmp_path / "run", model={"head_norm": True}, train={"linear_probe": True})
    restored = restore_model(recorder.folder.checkpoint("last"))
    last = recorder.folder.load_last().model
    assert (last["classifier.0._mean"] != 0).any()
    assert {name for name, p in trainer.network.named_parameters() if not p.stop_gradient} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    for name, tensor in restored.state_dict().items():
        assert (tensor.numpy() == last[name]).all()
    features = network()
    add_head_norm(features)
    features.train()
    out = features.classifier[0](paddle.randn([64, 16]) * 3 + 5).numpy()
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-3)


def test_layers_at_rest_stay_in_evaluation_mode():
    model = network(dropout=0.5)
    model.classifier.weight.set_value(paddle.randn(model.classifier.weight.shape))
    model.eval()
    expected = float(cross_entropy(model(paddle.to_tensor(IMAGES)), paddle.to_tensor(LABELS)))
    awake = trainer_of(model).train_batch([IMAGES], [LABELS])[0][0]
    assert abs(awake - expected) > 1e-2
    rested = network(dropout=0.5)
    rested.set_state_dict(model.state_dict())
    rested.eval()
    expected = float(cross_entropy(rested(paddle.to_tensor(IMAGES)), paddle.to_tensor(LABELS)))
    trainer = trainer_of(rested, at_rest=[rested.patch_embedding, rested.encoder])
    assert trainer.train_batch([IMAGES], [LABELS])[0][0] == pytest.approx(expected, rel=1e-5)
