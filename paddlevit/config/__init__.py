"""Experiments as checked configurations: frozen dataclasses, one per YAML section."""

from paddlevit.config.checks import ConfigError
from paddlevit.config.loading import config_from_dict, config_to_dict, dump_config, load_config
from paddlevit.config.sections import AugmentConfig, Config, DataConfig, ModelConfig, PreprocessingConfig
from paddlevit.config.steps import DistillConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DistillConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PreprocessingConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
    "config_from_dict",
    "config_to_dict",
    "dump_config",
    "load_config",
]
