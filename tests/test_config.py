"""Configurations: what people write is understood or refused with a useful message."""

from __future__ import annotations

import pytest

from paddlevit.config import ConfigError, config_from_dict, config_to_dict, dump_config, load_config


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
    ],
)
def test_mistakes_get_one_clear_message(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


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
