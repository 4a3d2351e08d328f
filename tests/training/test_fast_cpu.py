"""fast_cpu.py gives the gradients of plain Paddle in float64, and steps aside wherever it cannot."""

from __future__ import annotations

import copy
import gc
import os

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.config import OptimizerConfig
from paddlevit.models import create_model
from paddlevit.models.vit import Attention, VisualTransformer
from paddlevit.training import fast_cpu
from paddlevit.training.fast_cpu import fast_gradients
from paddlevit.training.losses import Loss, cross_entropy
from paddlevit.training.optimizer import build_optimizer
from paddlevit.training.trainer import NonFiniteLoss, Steps, Trainer
from tests.training.toy import toy_run

LAYERS = {
    "linear": (lambda: nn.Linear(33, 17), (3, 5, 33)),
    "linear, many rows": (lambda: nn.Linear(8, 3), (701, 8)),
    "norm": (lambda: nn.LayerNorm(33, epsilon=1e-6), (3, 5, 33)),
    "norm, large epsilon": (lambda: nn.LayerNorm(48, epsilon=1e-3), (2, 7, 3, 48)),
    "gelu": (nn.GELU, (3, 5, 33)),
    "attention": (lambda: Attention(24, 4), (3, 7, 24)),
    "attention, one token": (lambda: Attention(8, 1), (2, 1, 8)),
    "attention, factor, no bias": (lambda: Attention(12, 3, qkv_bias=False, qk_scale=0.7), (5, 11, 12)),
}


@pytest.fixture
def many_pieces(monkeypatch):
    """Toy sizes are cut into pieces for several threads, as real ones are."""
    monkeypatch.setattr(fast_cpu, "PIECE", 64)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")


@pytest.fixture(params=[False, True], ids=["copies", "views"])
def views(request):
    """With and without tensors that share memory with gaps."""
    before = paddle.get_flags("FLAGS_use_stride_kernel")
    paddle.set_flags({"FLAGS_use_stride_kernel": request.param})
    yield
    paddle.set_flags(before)


def numbers(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Random, and not centred on 0."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale + scale / 4).astype("float32")


def build(name: str) -> tuple[nn.Layer, np.ndarray]:
    make, shape = LAYERS[name]
    layer = make()
    for number, parameter in enumerate(layer.parameters()):
        parameter.set_value(numbers(*parameter.shape, seed=number + 1, scale=0.2))
    return layer, numbers(*shape)


def results(layer: nn.Layer, x: np.ndarray, on: bool) -> list[np.ndarray]:
    """Output and gradients."""
    layer.clear_gradients()
    tensor = paddle.to_tensor(x, stop_gradient=False)
    with fast_gradients(layer, on):
        out = layer(tensor)
        paddle.autograd.backward([out], [paddle.to_tensor(numbers(*out.shape, seed=99).astype(x.dtype))])
    gradients = [tensor.grad, *[parameter.grad for parameter in layer.parameters()]]
    return [out.numpy(), *[np.array(0.0) if gradient is None else gradient.numpy() for gradient in gradients]]


def in_float64(layer: nn.Layer) -> nn.Layer:
    return copy.deepcopy(layer).to(dtype="float64")


def distance(ours: list[np.ndarray], oracle: list[np.ndarray]) -> float:
    """The largest relative error of any output or gradient; those that are 0 but for rounding are compared as such."""
    assert len(ours) == len(oracle)
    largest = max(np.linalg.norm(b) for b in oracle)
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-2 * largest) for a, b in zip(ours, oracle))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_equal_those_in_float64(name, views, many_pieces):
    layer, x = build(name)
    assert distance(results(layer, x, on=True), results(in_float64(layer), x.astype("float64"), on=False)) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_real_pieces_of_a_few_rows(name):
    layer, x = build(name)
    assert distance(results(layer, x, on=True), results(layer, x, on=False)) < 1e-5


class _Context:
    """Stands in for Paddle's, and shows what is kept."""

    def save_for_backward(self, *tensors):
        self.tensors = tensors

    def saved_tensor(self):
        return self.tensors


OPERATIONS = {
    "linear": (fast_cpu._LinearGradient, [(3, 5, 8), (8, 6), (6,)], ()),
    "norm": (fast_cpu._LayerNormGradient, [(3, 5, 8), (8,), (8,)], (1e-6,)),
    "gelu": (fast_cpu._GeluGradient, [(3, 5, 8)], ()),
    "attention": (fast_cpu._AttentionGradient, [(3, 5, 24)], (2, 0.5)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_that_others_see_is_written_to(name, many_pieces):
    operation, shapes, options = OPERATIONS[name]
    context, inputs = _Context(), [paddle.to_tensor(numbers(*shape), stop_gradient=False) for shape in shapes]
    with paddle.no_grad():
        out = operation.forward(context, *inputs, *options)
        gradient = paddle.to_tensor(numbers(*out.shape, seed=5))
        seen = [*inputs, out, gradient, *context.tensors]
        before = [tensor.numpy().copy() for tensor in seen]
        first = operation.backward(context, gradient)
        second = operation.backward(context, gradient)
    assert all((tensor.numpy() == values).all() for tensor, values in zip(seen, before))
    assert all((values == numbers(*shape)).all() for values, shape in zip(before, shapes))
    as_list = [value if isinstance(value, tuple) else (value,) for value in (first, second)]
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(*as_list))


@pytest.mark.parametrize("name", ["linear", "norm", "gelu", "attention"])
def test_inputs_with_gaps_in_memory(name, views, many_pieces):
    layer, x = build(name)

    class Transposed(nn.Layer):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x.transpose([1, 0, 2])).transpose([2, 1, 0])

    assert distance(results(Transposed(), x, on=True), results(Transposed(), x, on=False)) < 1e-5


def test_large_scores_do_not_overflow():
    layer, x = build("attention")
    for factor in (30.0, -30.0):
        ours, oracle = (results(layer, x * np.float32(factor), on) for on in (True, False))
        assert all(np.isfinite(values).all() for values in ours)
        assert distance(ours[:1], oracle[:1]) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"drop_path": 0.3, "dropout": 0.2, "attention_dropout": 0.2}),
        ("vit_tiny_patch16_224", {"use_checkpoint": True}),
        ("vit_tiny_patch16_224", {"norm_order": "post", "pool": "average"}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 24, "num_heads": (2, 4), "window_size": 4}),
    ],
    ids=["dropout", "recompute", "post-norm", "two heads", "windows"],
)
def test_whole_networks(name, options, many_pieces):
    if "vit" in name or "deit" in name:
        options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, **options}
    network = create_model(name, image_size=32, num_classes=5, **options)
    network.train()
    x = paddle.to_tensor(numbers(4, 3, 32, 32))

    def gradients(on: bool) -> list[np.ndarray]:
        network.clear_gradients()
        paddle.seed(1)
        with fast_gradients(network, on):
            out = network(x)
            loss = sum(head.square().mean() for head in (out if isinstance(out, (list, tuple)) else [out]))
            loss += cross_entropy(out[0] if isinstance(out, (list, tuple)) else out, paddle.arange(4))
            loss.backward()
        return [loss.numpy(), *[parameter.grad.numpy() for parameter in network.parameters()]]

    assert distance(gradients(True), gradients(False)) < 1e-5


@pytest.mark.parametrize("frozen", ["weight", "bias", "input", "all"])
@pytest.mark.parametrize("name", ["linear", "norm"])
def test_what_is_frozen_gets_no_gradient(name, frozen):
    layer, x = build(name)
    # Nothing is frozen here: Paddle 2.6.2 and 3.3.1 forget a frozen LayerNorm's weight in the gradient of its input.
    _, *oracle = results(in_float64(layer), x.astype("float64"), on=False)
    for part in ("weight", "bias"):
        getattr(layer, part).stop_gradient = frozen in (part, "all")
    tensor = paddle.to_tensor(x, stop_gradient=frozen in ("input", "all"))
    with fast_gradients(layer):
        out = layer(tensor)
    assert out.stop_gradient == (frozen == "all")
    if frozen != "all":
        paddle.autograd.backward([out], [paddle.to_tensor(numbers(*out.shape, seed=99))])
    for part, value, expected in zip(("input", "weight", "bias"), (tensor, layer.weight, layer.bias), oracle):
        assert (value.grad is None) == (frozen in (part, "all"))
        assert value.grad is None or distance([value.grad.numpy()], [expected]) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_other_types_are_left_to_paddle(name):
    layer, x = build(name)
    layer, x = in_float64(layer), x.astype("float64")
    ours, plain = results(layer, x, on=True), results(layer, x, on=False)
    assert all((a == b).all() for a, b in zip(ours, plain))


def test_an_empty_batch_is_left_to_paddle():
    layer, _ = build("gelu")
    with fast_gradients(layer):
        assert layer(paddle.zeros([0, 4])).shape == [0, 4]


class _Own(nn.Linear):
    """A class that somebody else derived."""


def test_only_layers_that_are_known_exactly_are_changed():
    others = [
        nn.Linear(4, 4, bias_attr=False),
        nn.LayerNorm([3, 4]),
        nn.LayerNorm(4, weight_attr=False),
        nn.LayerNorm(4, bias_attr=False),
        nn.GELU(approximate=True),
        _Own(4, 4),
    ]
    known = [nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), Attention(4, 2)]
    network = nn.LayerList(others + known)
    before = [type(layer) for layer in network]
    with fast_gradients(network):
        after = [type(layer) for layer in network]
    assert after[: len(others)] == before[: len(others)]
    assert not set(after[len(others) :]) & set(before)
    assert [type(layer) for layer in network] == before


def test_the_network_is_untouched_after_an_error_and_when_off():
    network = nn.Sequential(nn.Linear(4, 4))
    with fast_gradients(network, on=False):
        assert type(network[0]) is nn.Linear
    with pytest.raises(RuntimeError, match="in the block"), fast_gradients(network):
        raise RuntimeError("in the block")
    assert type(network[0]) is nn.Linear


def test_who_watches_the_softmax_still_sees_it():
    layer, x = build("attention")
    seen = []
    handle = layer.softmax.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.shape))
    results(layer, x, on=True)
    assert seen == [[3, 4, 7, 7]]
    handle.remove()
    results(layer, x, on=True)
    assert len(seen) == 1


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("threads", ["1", "2", "5", "", "0", "-1", "two", "2,1", "99999999999"])
def test_the_number_of_threads_changes_nothing(name, threads, many_pieces, monkeypatch):
    layer, x = build(name)
    expected = results(layer, x, on=True)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert all((a == b).all() for a, b in zip(results(layer, x, on=True), expected))


def test_the_number_of_threads_is_paddles(many_pieces, monkeypatch):
    counts = {"1": 1, "4": 4, "100": 8, "2,1": 2, " 3 ": 3, "two": 1, "0": 1, "": 1}
    for value, count in counts.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert fast_cpu._num_threads() == count
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert fast_cpu._num_threads() == 1


def test_a_forked_process_starts_threads_of_its_own(many_pieces, monkeypatch):
    layer, x = build("gelu")
    expected = results(layer, x, on=True)
    pool = fast_cpu._pool(2, os.getpid())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    monkeypatch.setattr(pool, "submit", lambda *args: pytest.fail("the parent's threads"))
    assert all((a == b).all() for a, b in zip(results(layer, x, on=True), expected))


def test_arrays_keep_the_memory_they_look_at():
    tensor = paddle.full([300, 100], 7.0)
    values = fast_cpu._values(tensor)
    del tensor
    gc.collect()
    others = [paddle.full([300, 100], float(number)) for number in range(8)]
    assert (values == 7.0).all()
    assert len(others) == 8


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_not_finite_stays_so_without_a_warning(name, value, many_pieces):
    layer, x = build(name)
    x.flat[5] = value
    ours, plain = results(layer, x, on=True), results(layer, x, on=False)
    assert not np.isfinite(ours[0]).all()
    for a, b in zip(ours, plain):
        finite = np.isfinite(b)
        assert (np.isfinite(a) == finite).all()
        np.testing.assert_allclose(a[finite], b[finite], rtol=1e-4, atol=1e-4)


def toy_trainer(fast: bool) -> Trainer:
    network = VisualTransformer(
        image_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5, dropout=0.1, drop_path=0.1
    )
    network.set_state_dict(
        {
            name: paddle.to_tensor(numbers(*tensor.shape, seed=number, scale=0.1))
            for number, (name, tensor) in enumerate(network.state_dict().items())
        }
    )
    steps = Steps(lambda update: 1e-3, batches_per_epoch=8, accumulate=2, fast_cpu=fast)
    return Trainer(network).setup(build_optimizer(network, OptimizerConfig()), Loss(cross_entropy), steps, None, 0.9)


def test_a_loss_that_is_not_a_number_is_reported(many_pieces):
    trainer = toy_trainer(fast=True)
    images = numbers(4, 3, 16, 16)
    images[0, 0, 0, 0] = np.inf
    with pytest.raises(NonFiniteLoss, match="The loss is nan at epoch 1, batch 1"):
        trainer.train_batch([images], [np.arange(4)])


def test_training_is_repeatable_and_equals_plain_training(many_pieces):
    def weights(fast: bool) -> list[np.ndarray]:
        trainer = toy_trainer(fast)
        for step in range(8):
            trainer.train_batch([numbers(4, 3, 16, 16, seed=step)], [np.arange(4)])
        return [tensor.numpy() for tensor in (*trainer.network.parameters(), *trainer.ema.average.values())]

    first, second, plain = weights(True), weights(True), weights(False)
    assert all((a == b).all() for a, b in zip(first, second))
    assert all(np.abs(a - b).max() < 1e-3 for a, b in zip(first, plain))
    assert any((a != b).any() for a, b in zip(first, plain))


def test_the_key_switches_it(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(fast_cpu._GeluGradient, "apply", lambda x: used.append(1) or nn.functional.gelu(x))
    toy_run(tmp_path / "off", schedule={"epochs": 1, "warmup_epochs": 0}, run={"fast_cpu": False})
    assert not used
    toy_run(tmp_path / "on", schedule={"epochs": 1, "warmup_epochs": 0}, run={"fast_cpu": True})
    assert used
