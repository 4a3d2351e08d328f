"""Configurations: what people write is understood or refused with a useful message."""

from __future__ import annotations

import pytest

from paddlevit.config import ConfigError, OptimizerConfig, config_from_dict, config_to_dict, dump_config, load_config


def test_numbers_tuples_and_none_as_people_write_them():
    config = config_from_dict(
        {
            "optimizer": {"lr": "3e-4", "betas": [0.9, "9.5e-1"], "clip_norm": "None"},
            "model": {"image_size": [32, 48], "num_classes": None, "options": {"drop_path": "1e-1", "pool": "average"}},
            "data": {"eval_batch_size": 7},
        }
    )
    assert config.optimizer.lr == 3e-4
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.optimizer.clip_norm is None
    assert config.model.image_size == (32, 48)
    assert config.model.options == {"drop_path": 0.1, "pool": "average"}
    assert config.data.eval_batch_size == 7


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("optimizer.betas=(0.9, 9.9e-1)", (0.9, 0.99)),
        ("model.image_size=(32, 48)", (32, 48)),
        ("schedule.milestones=(30,)", (30.0,)),
        ("augment.color_jitter=(0.4, 4e-1, 0.4)", (0.4, 0.4, 0.4)),
        ("train.class_weights=(1, 2)", (1.0, 2.0)),
        ("train.freeze=(patch_embedding.*, encoder.*)", ("patch_embedding.*", "encoder.*")),
        ("model.options.patch_size=(4, 4)", [4, 4]),
        ("model.options.drop_path=[0, 1e-1]", [0, 0.1]),
        ("model.options.qk_scale=None", None),
        ("model.options.position=none", "none"),
        ("data.root=(a, b)", "(a, b)"),
    ],
)
def test_tuples_none_and_exponents_in_overrides(tmp_path, override, meant):
    (tmp_path / "a.yaml").write_text("")
    config = load_config(tmp_path / "a.yaml", [override])
    section, key, *option = override.partition("=")[0].split(".")
    value = getattr(getattr(config, section), key)
    assert (value[option[0]] if option else value) == meant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimzer": {}}, r"There is no section 'optimzer'. Did you mean \"optimizer\"\? Valid in the configuration:"),
        ({"optimizer": {"learning_rate": 1}}, r"There is no key 'optimizer.learning_rate'.* Valid in optimizer: name,"),
        ({"optimizer": {"epsilonn": 1}}, r"'optimizer.epsilonn'. Did you mean \"optimizer.epsilon\"\? Valid in opt"),
        ({"train": {"epochs": 3}}, r"There is no key 'train.epochs'. Did you mean \"schedule.epochs\"\? Valid in"),
        ({"optimizer": {"lr": "fast"}}, r"optimizer.lr is 'fast' \(str\); it must be a number."),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer.betas is \[0.9\] \(list\); it must be a list of 2"),
        ({"data": {"batch_size": 1.5}}, r"data.batch_size is 1.5 \(float\); it must be a whole number."),
        ({"data": {"batch_size": True}}, r"data.batch_size is True \(bool\)"),
        ({"data": {"batch_size": 0}}, r"data.batch_size is 0; it must be at least 1."),
        ({"data": {"dataset": "fodler"}}, r"data.dataset is 'fodler'; it must be one of .* Did you mean \"folder\"\?"),
        ({"schedule": {"epochs": 3, "warmup_epochs": 5}}, r"schedule.warmup_epochs is 5.0; it must be from 0 to 3"),
        ({"run": {"seed": -1}}, r"run.seed is -1; it must be at least 0."),
        ({"model": 3}, r"model is 3; it must hold keys"),
        ({"model": {"options": {"num_classes": 7}}}, r"write model.num_classes. The number of classes comes from the"),
        ({"model": {"options": {"image_size": 32}}}, r"model.options holds image_size; write model.image_size.$"),
        ({"model": {"in_channels": 0}}, r"model.in_channels is 0; it must be at least 1."),
        ({"model": {"image_size": "(32, 32, 32)"}}, r"model.image_size is \[32, 32, 32\]"),
        ({"data": {"eval_batch_size": 0}}, r"data.eval_batch_size is 0; it must be at least 1."),
        ({"preprocessing": {"mean": [], "std": []}}, r"preprocessing.mean is empty; it needs one number per channel"),
        ({"preprocessing": {"std": []}}, r"preprocessing.std is empty"),
        ({"optimizer": {"lr": float("nan")}}, r"optimizer.lr is nan; it must be a finite number."),
        ({"optimizer": {"lr": float("inf")}}, r"optimizer.lr is inf; it must be a finite number."),
        ({"optimizer": {"lr": -1}}, r"optimizer.lr is -1.0; it must be at least 0."),
        ({"optimizer": {"clip_norm": 0}}, r"optimizer.clip_norm is 0.0; it must be above 0; null turns it off."),
        ({"optimizer": {"betas": [0.9, 1]}}, r"optimizer.betas is 1.0; it must be at least 0 and below 1."),
        ({"optimizer": {"momentum": 1}}, r"optimizer.momentum is 1.0; it must be at least 0 and below 1."),
        ({"optimizer": {"epsilon": -1e-8}}, r"optimizer.epsilon is -1e-08; it must be at least 0."),
        ({"schedule": {"min_lr": -1}}, r"schedule.min_lr is -1.0; it must be at least 0."),
        ({"schedule": {"warmup_lr": -1}}, r"schedule.warmup_lr is -1.0"),
        ({"schedule": {"milestones": [3, -1]}}, r"schedule.milestones is -1.0"),
        ({"train": {"class_weights": [1, -1]}}, r"train.class_weights is -1.0"),
    ],
)
def test_mistakes_get_one_clear_message(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_sections_made_in_python_refuse_what_is_no_number():
    with pytest.raises(ConfigError, match="optimizer.lr is nan; it must be at least 0."):
        OptimizerConfig(lr=float("nan"))


def test_overrides_win_and_are_checked(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("optimizer: {lr: 1.0e-3}\n")
    config = load_config(file, ["optimizer.lr=2e-3", "model.options.drop_path=0.2", "data.root=null"])
    assert config.optimizer.lr == 2e-3
    assert config.model.options == {"drop_path": 0.2}
    with pytest.raises(ConfigError, match="'lr=3' is not of the form section.key=value"):
        load_config(file, ["lr=3"])
    with pytest.raises(ConfigError, match="goes into 'lr', which is a plain value"):
        load_config(file, ["optimizer.lr.x=3"])


def test_the_resolved_configuration_gives_the_same_run(tmp_path):
    config = config_from_dict({"model": {"image_size": [32, 48], "options": {"drop_path": 0.1}}, "run": {"seed": 3}})
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert config_from_dict(config_to_dict(config)) == config


def test_files_that_are_no_configuration(tmp_path):
    (tmp_path / "vit_base.yaml").write_text("model: {}\n")
    with pytest.raises(ConfigError, match=r"There is no configuration .*vit_bse.yaml'. Did you mean .*vit_base.yaml"):
        load_config(tmp_path / "vit_bse.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: [1\n")
    with pytest.raises(ConfigError, match="bad.yaml is not YAML"):
        load_config(bad)
    bad.write_text("data: {batch_size: 1, batch_size: 2}\n")
    with pytest.raises(ConfigError, match="the key 'batch_size' stands twice"):
        load_config(bad)
    bad.write_text("- model\n")
    with pytest.raises(ConfigError, match="holds a list; it must hold sections"):
        load_config(bad)
