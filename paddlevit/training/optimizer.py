"""Which parameters are updated how, and the state that resuming needs."""

from __future__ import annotations

import paddle
from paddle import nn

from paddlevit.config import ConfigError, OptimizerConfig
from paddlevit.training.updates import Lars, Lion


def decayed_parameters(network: nn.Layer) -> set[str]:
    """Names of the parameters that weight decay applies to: matrices, but no class token and no positions."""
    exempt = network.no_weight_decay() if hasattr(network, "no_weight_decay") else set()
    return {name for name, parameter in network.named_parameters() if parameter.ndim > 1 and name not in exempt}


def layer_scales(network: nn.Layer, decay: float) -> dict[str, float]:
    """Factor on each parameter's learning rate: 1 at the classifier, times `decay` for every layer below it.

    Args:
        network: Has `layer_index`, the depth of a parameter.
        decay: In [0, 1].

    Raises:
        ConfigError: The network does not number its layers.
    """
    if not hasattr(network, "layer_index"):
        raise ConfigError(f"optimizer.layer_decay: {type(network).__name__} does not number its layers.")
    depths = {name: network.layer_index(name) for name, _ in network.named_parameters()}
    top = max(depths.values())
    return {name: decay ** (top - depth) for name, depth in depths.items()}


def build_optimizer(network: nn.Layer, config: OptimizerConfig) -> paddle.optimizer.Optimizer:
    """The optimizer of all trainable parameters as one group, so that the clip sees one global norm.

    Args:
        network: Its parameters are updated.
        config: Which optimizer with which settings.

    Returns:
        A Paddle optimizer whose rate the trainer sets at every update.

    Raises:
        ConfigError: Nothing is left to train, or layer decay of a network that does not number its layers.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if not parameter.stop_gradient}
    if not named:
        raise ConfigError("train.freeze leaves no parameter to train.")
    decayed = decayed_parameters(network)
    decayed_unique = {parameter.name for name, parameter in named.items() if name in decayed}
    if config.layer_decay is not None:
        scales = layer_scales(network, config.layer_decay)
        for name, parameter in named.items():
            parameter.optimize_attr["learning_rate"] = scales[name]
    clip = None if config.clip_norm is None else nn.ClipGradByGlobalNorm(config.clip_norm)
    parameters = list(named.values())
    if config.name == "adamw":
        return paddle.optimizer.AdamW(
            config.lr,
            *config.betas,
            epsilon=config.epsilon,
            parameters=parameters,
            weight_decay=config.weight_decay,
            apply_decay_param_fun=decayed_unique.__contains__,
            grad_clip=clip,
        )
    if config.name == "lamb":
        return paddle.optimizer.Lamb(
            config.lr,
            config.weight_decay,
            *config.betas,
            epsilon=config.epsilon,
            parameters=parameters,
            grad_clip=clip,
            exclude_from_weight_decay_fn=lambda parameter: parameter.name not in decayed_unique,
        )
    if config.name == "lion":
        return Lion(config.lr, config.betas, config.weight_decay, parameters, decayed_unique, clip)
    if config.name == "lars":
        return Lars(config.lr, config.momentum, config.weight_decay, parameters, decayed_unique, clip)
    for parameter in parameters:
        if parameter.name in decayed_unique:
            parameter.regularizer = paddle.regularizer.L2Decay(config.weight_decay)
    return paddle.optimizer.Momentum(config.lr, config.momentum, parameters, grad_clip=clip)


def optimizer_state(network: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, paddle.Tensor]:
    """Accumulators by `parameter name/accumulator`; Paddle's own names change with the order of construction."""
    names = {parameter.name: name for name, parameter in network.named_parameters()}
    return {
        f"{names[unique]}/{accumulator}": tensor
        for accumulator, tensors in optimizer._accumulators.items()
        for unique, tensor in tensors.items()
    }


def restore_optimizer(network: nn.Layer, optimizer: paddle.optimizer.Optimizer, state: dict) -> None:
    """Put accumulators that `optimizer_state` gave into an optimizer that has made no step yet.

    Raises:
        ValueError: The state is of another optimizer or network.
    """
    from paddle.base.layer_helper import LayerHelper

    parameters = dict(network.named_parameters())
    if getattr(optimizer, "helper", None) is None:  # Paddle 2.6 makes it at the first step
        optimizer.helper = LayerHelper(type(optimizer).__name__)
    trainable = [parameter for parameter in optimizer._parameter_list if not parameter.stop_gradient]
    with paddle.no_grad():
        optimizer._create_accumulators(paddle.static.default_main_program().global_block(), trainable)
        expected = set(optimizer_state(network, optimizer))
        if state and expected != set(state):
            name = min(expected ^ set(state))
            raise ValueError(f"The checkpoint's optimizer state does not fit this run: {name} is on one side only.")
        for key, value in state.items():
            name, _, accumulator = key.rpartition("/")
            optimizer._accumulators[accumulator][parameters[name].name].set_value(value)
