"""The table of what the articles claim: its trainings, its arithmetic, and going on after an interruption."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from paddlevit import ablation
from paddlevit.ablation import COMPARISONS, Result, Variant, format_table, judge, read_results, variant_config
from paddlevit.config import ConfigError
from paddlevit.models import create_model
from tests.tools import ROOT, call, one_line

CONFIG = ROOT / "configs" / "vit_digits.yaml"
TINY = ("model.options.depth=1", "model.options.embed_dim=16", "model.options.num_heads=2", "data.batch_size=256")
VARIANTS = {variant.overrides: variant for comparison in COMPARISONS for variant in comparison.variants}


def result(overrides=(), seed=0, accuracy=(0.5, 0.95), failure=None):
    return Result(f"{overrides}{seed}", overrides, seed, accuracy, 0.1, failure)


def all_results(seeds, accuracy):
    """One result for each variant and seed; `accuracy` maps (overrides, seed) to the last epoch's."""
    return [result(key, seed, (0.5, accuracy(key, seed))) for seed in range(seeds) for key in VARIANTS]


def test_every_choice_of_the_articles_is_there():
    options = {text.partition("=")[0]: text for overrides in VARIANTS for text in overrides}
    names = ("norm_order", "norm", "pool", "position", "position_merge")
    assert {f"model.options.{name}" for name in names} <= set(options)
    assert () in VARIANTS


def test_variants_build_different_networks():
    networks = set()
    for variant in VARIANTS.values():
        config = variant_config(CONFIG, variant, seed=0, overrides=TINY)
        model = config.model
        network = create_model(model.name, 10, 8, 1, **model.options)
        shapes = tuple(sorted((name, *value.shape) for name, value in network.state_dict().items()))
        order = tuple(type(layer).__name__ for layer in network.sublayers())
        positions = len(network.patch_embedding.buffers())  # those of sinusoidal positions are no parameters
        networks.add((shapes, order, positions, network.encoder.layers[0].norm_first, config.optimizer.lr))
    assert len(networks) == len(VARIANTS)


def test_epochs_stretch_the_warm_up():
    config = variant_config(CONFIG, Variant("as it is"), seed=3, epochs=8)
    assert (config.schedule.epochs, config.schedule.warmup_epochs, config.run.seed) == (8, 0.5, 3)
    unchanged = variant_config(CONFIG, Variant("as it is"), seed=3)
    assert (unchanged.schedule.epochs, unchanged.schedule.warmup_epochs) == (80, 5)


def test_the_key_tells_trainings_apart_and_nothing_else():
    key = ablation.config_key(variant_config(CONFIG, Variant(""), 0))
    for same in ("run.output=elsewhere", "run.threads=2", "run.log_every=1"):
        assert ablation.config_key(variant_config(CONFIG, Variant(""), 0, overrides=[same])) == key
    others = [
        variant_config(CONFIG, Variant(""), 1),
        variant_config(CONFIG, Variant(""), 0, epochs=79),
        variant_config(CONFIG, Variant("", ("model.options.norm=batch",)), 0),
        variant_config(CONFIG, Variant(""), 0, overrides=["optimizer.lr=1e-4"]),
    ]
    assert len({key, *map(ablation.config_key, others)}) == 5


def test_regression_has_no_accuracy():
    overrides = ["data.dataset=list", "data.task=regression"]
    with pytest.raises(ConfigError, match=r"data\.task is 'regression'; the table compares accuracies"):
        variant_config(CONFIG, Variant(""), 0, overrides=overrides)


def test_mean_and_standard_error():
    values = [97.0, 98.5, 99.0, 98.0]
    mean, error = ablation.mean_and_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / 2)
    assert math.isnan(ablation.mean_and_error([97.0])[1])


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([1.0], "one seed cannot tell"),
        ([0.0, 0.0, 0.0], "no clear difference"),
        ([1.0, 1.0, 1.0], "better"),
        ([-1.0, -1.1, -0.9, -1.0, -1.0], "worse"),
        ([1.0, 1.2, 0.9, -1.0, 0.1], "no clear difference"),
        # Mean 1, error 0.4: 2.5 errors are enough for a normal distribution, and not with 4 degrees of freedom.
        (list(1 + 0.4 * math.sqrt(5) * np.array([-1, -1, 0, 1, 1]) / np.std([-1, -1, 0, 1, 1], ddof=1)),
         "no clear difference"),
        (list(1 + 0.35 * math.sqrt(5) * np.array([-1, -1, 0, 1, 1]) / np.std([-1, -1, 0, 1, 1], ddof=1)), "better"),
    ],
)  # fmt: skip
def test_a_verdict_needs_more_than_noise(differences, said):
    assert judge(differences) == said


def test_the_first_epoch_with_the_target():
    assert result(accuracy=(0.2, 0.91, 0.89, 0.95)).epochs_to_target == 2
    assert result(accuracy=(0.2, 0.3)).epochs_to_target == math.inf


def test_the_table_by_hand():
    batch, post = ("model.options.norm=batch",), ("model.options.norm_order=post",)

    def accuracy(key, seed):
        return {batch: 0.95 + 0.01 * seed, post: 0.99}.get(key, 0.97 + 0.01 * seed)

    results = all_results(2, accuracy)
    hard = COMPARISONS[1].variants[1].overrides
    position = results.index(result(hard, 1, (0.5, 0.98)))
    results[position] = result(hard, 1, (0.5,), "The loss is nan.")
    table = format_table(results)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    assert len(rows) == 2 + sum(len(comparison.variants) for comparison in COMPARISONS)
    assert {len(row) for row in rows} == {6}
    assert rows[2][1:] == ["pre-norm", "97.50 ± 0.50", "", "2.0", ""]
    assert rows[3][1:] == ["post-norm", "99.00 ± 0.00", "+1.50 ± 0.50", "2.0", "no clear difference"]
    assert rows[5][2:] == ["53.50 ± 43.50", "-44.00 ± 44.00", "2.0 (1 of 2)", "no clear difference, 1 of 2 blew up"]
    assert rows[7][1:] == ["batch norm", "95.50 ± 0.50", "-2.00 ± 0.00", "2.0", "worse"]
    assert [row[0] for row in rows[2:] if row[0]] == [comparison.claim for comparison in COMPARISONS]
    assert "mean ± standard error of 2 seeds" in table


def test_one_seed_has_no_error():
    table = format_table(all_results(1, lambda key, seed: 0.5))
    assert "| 50.00 | +0.00 | never | one seed cannot tell |" in table


@pytest.fixture
def counted(monkeypatch):
    """Configurations that were trained, in place of training."""
    trained = []

    def train(config):
        trained.append(config)
        return [0.5, 0.9 + 0.01 * config.run.seed], 0.1, None

    monkeypatch.setattr(ablation, "train", train)
    return trained


def test_an_interrupted_measurement_goes_on(counted, tmp_path):
    file = tmp_path / "new" / "results.jsonl"
    steps = ablation.ablate(CONFIG, 2, file, 2)
    first = [next(steps) for _ in range(4)]
    assert [step[:2] for step in first] == [(number, 2 * len(VARIANTS)) for number in (1, 2, 3, 4)]
    file.write_text(file.read_text() + '{"key": "half a li')
    everything = list(ablation.ablate(CONFIG, 2, file, 2))
    assert len(counted) == len(everything) == 2 * len(VARIANTS)
    assert everything[:4] == first
    assert [step[2].seed for step in everything] == [0] * len(VARIANTS) + [1] * len(VARIANTS)
    assert len(file.read_text().splitlines()) == 2 * len(VARIANTS)
    assert list(ablation.ablate(CONFIG, 1, file, 2)) == [
        (number, len(VARIANTS), step[2]) for number, step in enumerate(everything[: len(VARIANTS)], 1)
    ]
    assert len(counted) == 2 * len(VARIANTS)
    list(ablation.ablate(CONFIG, 1, file, 3))  # another length is another measurement
    assert len(counted) == 3 * len(VARIANTS)


@pytest.mark.parametrize("content", ["[1]\n", '{"key": "a"}\n', "results\n", '{"key": "a", "extra": 1}\n'])
def test_a_file_of_something_else(tmp_path, content):
    file = tmp_path / "results.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1, is no result of an ablation"):
        read_results(file)


def test_results_are_read_as_written(tmp_path):
    file = tmp_path / "results.jsonl"
    results = {"a": dataclasses.replace(result(("x=1", "y=2"), 3, (0.1, 0.2), "nan"), key="a")}
    ablation.write_results(file, results)
    assert read_results(file) == results
    assert json.loads(file.read_text())["failure"] == "nan"


def test_training_is_real_and_repeatable():
    config = variant_config(CONFIG, Variant(""), 0, 2, TINY)
    accuracy, chance, failure = ablation.train(config)
    assert len(accuracy) == 2
    assert chance == 0.1
    assert failure is None
    assert ablation.train(config) == (accuracy, chance, failure)
    blown, _, failure = ablation.train(variant_config(CONFIG, Variant("", ("optimizer.lr=1e30",)), 0, 2, TINY))
    assert len(blown) < 2
    assert failure.startswith("The loss is ")
    assert result(accuracy=tuple(blown), failure=failure).final == 0.1


def test_the_tool_writes_the_table(tmp_path, counted):
    arguments = ("-c", CONFIG, "--seeds", 2, "--epochs", 2, "--output", tmp_path)
    done = call("ablate", *arguments)
    assert done.code == 0, done
    table = (tmp_path / "table.md").read_text()
    assert done.out.endswith(table)
    assert "| pre-norm | 90.50 ± 0.50 |  | 2.0 |" in table
    assert f"1/{2 * len(VARIANTS)}  seed 0  unchanged: 90.00 %" in done.out
    assert call("ablate", *arguments).out == done.out
    assert len(counted) == 2 * len(VARIANTS)


def test_the_tool_stops_and_goes_on(tmp_path, monkeypatch):
    def train(config):
        raise ablation.training.Interrupted("SIGTERM")

    monkeypatch.setattr(ablation, "train", train)
    done = call("ablate", "-c", CONFIG, "--seeds", 1, "--output", tmp_path)
    assert done.code == 130
    assert "the same command goes on" in done.out


def test_the_tool_refuses_what_makes_no_sense(tmp_path):
    assert call("ablate", "--seeds", 0).code == 2
    assert call("ablate", "--epochs", 0).code == 2
    error = one_line(call("ablate", "-c", CONFIG, "-o", "model.optionz=1", "--output", tmp_path))
    assert "no key 'model.optionz'" in error
