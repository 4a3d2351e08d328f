"""Every configuration that is shipped loads, builds, trains, evaluates, saves and exports."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddlevit.config import Config, config_from_dict, config_to_dict, dump_config, load_config
from paddlevit.data.policies import build_policy
from paddlevit.dev_run import fast_dev_run
from paddlevit.models import create_model, get_spec
from paddlevit.training import resolve_preprocessing
from paddlevit.training.run_folder import LOGGER

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))

# What makes a family small without leaving any of its parts out.
PLAIN = {"embed_dim": 24, "depth": 2, "num_heads": 2}
WINDOWS = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
SMALL: dict[str, tuple[Any, dict[str, Any]]] = {
    "VisualTransformer": (32, {**PLAIN, "patch_size": 16}),
    "DataEfficientTransformer": (32, {**PLAIN, "patch_size": 16}),
    "DistilledVisualTransformer": (32, {**PLAIN, "patch_size": 16}),
    "FoundationTransformer": (32, {**PLAIN, "patch_size": 16}),
    "SwinTransformer": (64, {**WINDOWS, "window_size": 2}),
    "SwinTransformerV2": (64, {**WINDOWS, "window_size": 2}),
    "T2TViT": (32, {**PLAIN, "token_dim": 8}),
    "ViT_Model": ((60, 100), PLAIN),
}


def small(config: Config) -> Config:
    """The configuration at a size that trains in a second; what its recipe does stays the same."""
    side, sizes = SMALL[get_spec(config.model.name).build.__name__]
    options = {**config.model.options, **sizes}
    if config.data.dataset == "digits":
        side, options = config.model.image_size, config.model.options
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, num_classes=7, image_size=side, weights=None, options=options),
        data=dataclasses.replace(config.data, batch_size=4, num_workers=0, task="classes"),
    )


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_it_loads_and_its_resolved_form_gives_the_same_run(path, tmp_path):
    config = load_config(path)
    assert config_from_dict(config_to_dict(config)) == config
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_its_header_says_what_it_is(path):
    lines = path.read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert f"python tools/train.py -c configs/{path.name}" in header
    if "digits" not in path.stem:
        assert "arXiv" in header
        assert re.search(r"# Expected: .+", header)
        assert "eproduced by us" in header
    assert 15 <= len(lines) <= 35


def test_its_model_builds(path):
    config = load_config(path)
    preprocessing = resolve_preprocessing(
        dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))
    )
    with paddle.LazyGuard():
        network = create_model(
            config.model.name,
            num_classes=config.model.num_classes or 10,
            image_size=preprocessing.image_size,
            in_channels=preprocessing.channels,
            **config.model.options,
        )
    assert sum(int(np.prod(parameter.shape)) for parameter in network.parameters()) > 10_000


def test_its_total_batch_is_what_it_says(path):
    config = load_config(path)
    stated = re.search(r"batch (\d+)", path.read_text())
    if stated:
        assert config.data.batch_size * config.train.accumulate == int(stated.group(1))


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS if re.search("augreg|simple", path.stem)])
def test_big_visions_randaugment_always_acts_and_at_the_whole_level(name):
    text = load_config(f"{CONFIGS[0].parent}/{name}.yaml").augment.auto_augment
    policy, level = build_policy(text), float(re.match(r"rand-m(\d+)-n2-", text)[1])
    assert policy._level(level, np.random.default_rng(0)) == level
    assert {step[1:] for group in policy.groups for step in group} == {(1.0, level)}


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if re.match("deit3.*(finetune|384)", path.stem)], ids=lambda path: path.stem
)
def test_deit3_is_fine_tuned_at_a_constant_rate(path):
    config = load_config(path)
    assert config.schedule.min_lr == config.optimizer.lr == 1e-5


def test_it_trains_evaluates_saves_and_exports_as_it_was_trained(path, caplog):
    LOGGER.propagate = True
    with caplog.at_level("INFO", "paddlevit"):
        fast_dev_run(small(load_config(path)))
    assert "2 steps of 4 pictures trained, evaluated and saved." in caplog.text
    assert float(re.search(r"largest difference to the network (\S+e\S+)\.", caplog.text).group(1)) <= 1e-5
