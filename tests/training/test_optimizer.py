"""Updates against NumPy, and which parameters they reach."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.config import ConfigError, OptimizerConfig, TrainConfig
from paddlevit.layers import DropPath
from paddlevit.models import create_model
from paddlevit.training.freezing import freeze, set_constant_drop_path
from paddlevit.training.optimizer import build_optimizer, decayed_parameters, optimizer_state, restore_optimizer

LR, DECAY, STEPS = 0.01, 0.1, 4
BETAS, EPSILON, MOMENTUM = (0.8, 0.9), 1e-6, 0.7


def adamw(weight, gradient, state, step, decay):
    state["m"] = BETAS[0] * state.get("m", 0) + (1 - BETAS[0]) * gradient
    state["v"] = BETAS[1] * state.get("v", 0) + (1 - BETAS[1]) * gradient**2
    m, v = state["m"] / (1 - BETAS[0] ** step), state["v"] / (1 - BETAS[1] ** step)
    return weight * (1 - LR * decay) - LR * m / (np.sqrt(v) + EPSILON)


def lamb(weight, gradient, state, step, decay):
    state["m"] = BETAS[0] * state.get("m", 0) + (1 - BETAS[0]) * gradient
    state["v"] = BETAS[1] * state.get("v", 0) + (1 - BETAS[1]) * gradient**2
    m, v = state["m"] / (1 - BETAS[0] ** step), state["v"] / (1 - BETAS[1] ** step)
    direction = m / (np.sqrt(v) + EPSILON) + decay * weight
    trust = np.linalg.norm(weight) / np.linalg.norm(direction) if decay else 1.0
    return weight - LR * trust * direction


def sgd(weight, gradient, state, step, decay):
    state["m"] = MOMENTUM * state.get("m", 0) + gradient + decay * weight
    return weight - LR * state["m"]


def lion(weight, gradient, state, step, decay):
    average = state.get("m", np.zeros_like(weight))
    direction = np.sign(BETAS[0] * average + (1 - BETAS[0]) * gradient)
    state["m"] = BETAS[1] * average + (1 - BETAS[1]) * gradient
    return weight - LR * (direction + decay * weight)


def lars(weight, gradient, state, step, decay):
    gradient = gradient + decay * weight
    if weight.ndim > 1:
        gradient = gradient * 0.001 * np.linalg.norm(weight) / np.linalg.norm(gradient)
    state["m"] = MOMENTUM * state.get("m", 0) + gradient
    return weight - LR * state["m"]


class Toy(paddle.nn.Layer):
    """A matrix, a vector, and a token that is not to decay."""

    def __init__(self):
        super().__init__()
        self.fc = paddle.nn.Linear(3, 4)
        self.token = self.create_parameter([1, 4])

    def forward(self, x):
        return (self.fc(x) + self.token) ** 2

    def no_weight_decay(self):
        return {"token"}

    def layer_index(self, name):
        return 0 if name == "token" else 2


def config(name: str, **keys) -> OptimizerConfig:
    common = dict(lr=LR, weight_decay=DECAY, betas=BETAS, epsilon=EPSILON, momentum=MOMENTUM)
    return OptimizerConfig(name=name, **{**common, **keys})


def steps(network: Toy, settings: OptimizerConfig) -> tuple[list[dict], list[dict]]:
    """Weights before and after, and gradients of, every step."""
    optimizer = build_optimizer(network, settings)
    weights, gradients = [], []
    for step in range(STEPS):
        weights.append({name: p.numpy().astype(np.float64) for name, p in network.named_parameters()})
        network(paddle.ones([2, 3]) * (step + 1.0)).sum().backward()
        gradients.append({name: p.grad.numpy().astype(np.float64) for name, p in network.named_parameters()})
        optimizer.step()
        optimizer.clear_grad()
    weights.append({name: p.numpy().astype(np.float64) for name, p in network.named_parameters()})
    return weights, gradients


@pytest.mark.parametrize("oracle", [adamw, lamb, sgd, lion, lars], ids=lambda oracle: oracle.__name__)
def test_updates_equal_the_formulas_and_only_matrices_decay(oracle):
    network = Toy()
    weights, gradients = steps(network, config(oracle.__name__))
    for name in weights[0]:
        state: dict = {}
        for step in range(STEPS):
            decay = DECAY if name == "fc.weight" else 0.0
            expected = oracle(weights[step][name], gradients[step][name], state, step + 1, decay)
            np.testing.assert_allclose(weights[step + 1][name], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd", "lion", "lars"])
def test_layer_decay_slows_lower_layers(name):
    network, slow = Toy(), Toy()
    slow.set_state_dict(network.state_dict())
    keys = dict(
        weight_decay=0.0, lr=1.0 if name == "lars" else LR
    )  # its steps on matrices are a thousand times smaller
    plain, _ = steps(network, config(name, **keys))
    scaled, _ = steps(slow, config(name, **keys, layer_decay=0.5))
    step = {key: scaled[1][key] - scaled[0][key] for key in scaled[0]}
    whole = {key: plain[1][key] - plain[0][key] for key in plain[0]}
    np.testing.assert_allclose(step["token"], whole["token"] * 0.25, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(step["fc.weight"], whole["fc.weight"], rtol=1e-3, atol=1e-7)


def test_the_clip_sees_one_global_norm():
    network = Toy()
    optimizer = build_optimizer(network, config("sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.5))
    before = {name: p.numpy().copy() for name, p in network.named_parameters()}
    (network(paddle.ones([2, 3])) * 100).sum().backward()
    optimizer.step()
    moved = [p.numpy() - before[name] for name, p in network.named_parameters()]
    assert np.sqrt(sum((part**2).sum() for part in moved)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd", "lion", "lars"])
def test_state_goes_into_a_new_optimizer(name):
    first, second = Toy(), Toy()
    optimizer = build_optimizer(first, config(name))
    other = build_optimizer(second, config(name))
    for _ in range(2):
        first(paddle.ones([2, 3])).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    second.set_state_dict(first.state_dict())
    restore_optimizer(second, other, {k: v.numpy() for k, v in optimizer_state(first, optimizer).items()})
    for network, updater in ((first, optimizer), (second, other)):
        network(paddle.ones([2, 3]) * 2.0).sum().backward()
        updater.step()
    for ours, theirs in zip(first.parameters(), second.parameters()):
        assert (ours.numpy() == theirs.numpy()).all()


def test_decay_leaves_tokens_positions_and_vectors_alone():
    network = create_model("deit_tiny_distilled_patch16_224", image_size=32, depth=1, num_classes=3)
    kept = {name for name, _ in network.named_parameters()} - decayed_parameters(network)
    assert {f"patch_embedding.{name}" for name in ("class_token", "distillation_token", "position_embedding")} <= kept
    assert all("token" in name or "position" in name or "norm" in name or "bias" in name for name in kept)


def tiny(**options):
    sizes = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)
    return create_model("vit_tiny_patch16_224", image_size=16, num_classes=3, **sizes, **options)


def test_freezing_by_patterns():
    network = tiny()
    assert freeze(network, TrainConfig(freeze=("patch_embedding.*", "encoder.layers.0.*"))) == []
    frozen = {name for name, parameter in network.named_parameters() if parameter.stop_gradient}
    assert len(frozen) == 4 + 12
    assert all(name.startswith(("patch_embedding.", "encoder.layers.0.")) for name in frozen)
    optimizer = build_optimizer(network, OptimizerConfig())
    assert {p.name for p in optimizer._parameter_list} == {p.name for p in network.parameters() if not p.stop_gradient}
    with pytest.raises(ConfigError, match=r"train.freeze: no parameter matches 'encodr.norm.weight'. Did you mean"):
        freeze(network, TrainConfig(freeze=("encodr.norm.weight",)))
    freeze(network, TrainConfig(freeze=("*",)))
    with pytest.raises(ConfigError, match="leaves no parameter to train"):
        build_optimizer(network, OptimizerConfig())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
        ("swin_tiny_patch4_window7_224", {"depths": [1, 1], "num_heads": [1, 2], "embed_dim": 16}),
    ],
)
def test_a_linear_probe_trains_the_classifiers_alone(name, options):
    network = create_model(name, image_size=32, num_classes=3, drop_path=0.5, **options)
    resting = freeze(network, TrainConfig(linear_probe=True))
    trained = {name for name, parameter in network.named_parameters() if not parameter.stop_gradient}
    assert {name.partition(".")[0] for name in trained} <= {"classifier", "classifier_distillation", "head"}
    assert trained
    network.train()
    for layer in resting:
        layer.eval()
    x = paddle.randn([4, 3, 32, 32])
    first, second = network(x), network(x)
    first, second = (y[0] if isinstance(y, tuple) else y for y in (first, second))
    assert (first.numpy() == second.numpy()).all()
    assert all(
        layer.training == (name in ("classifier", "classifier_distillation", "head"))
        for name, layer in network.named_children()
    )


def test_constant_drop_path():
    network = tiny(drop_path=0.3)
    set_constant_drop_path(network)
    assert [layer.probability for layer in network.sublayers() if isinstance(layer, DropPath)] == [0.3, 0.3]
