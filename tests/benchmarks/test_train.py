"""The benchmark of training measures every side that is installed, and says what was reached of what is aimed at."""

from __future__ import annotations

import pytest

from paddlevit import models, runtime
from paddlevit.benchmarks import train
from paddlevit.benchmarks.train import Case, Figures, pick_case
from tests.training.toy import load_tool

TOY = Case("vit_tiny_patch16_224", 16, 3, {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})


def test_sides_are_measured_and_without_torch_its_side_is_left_out(monkeypatch):
    monkeypatch.setattr(train, "has_timm", lambda python: False)
    figures = train.run(TOY, rounds=1, sides=[train.OURS, train.TORCH, train.PLAIN])
    assert list(figures) == [train.OURS, train.PLAIN]
    for row in figures.values():
        assert row.seconds > 0
        assert row.slowness > 0
        assert row.memory > 0
        assert 0 < row.share_of_limit < 1
    assert figures[train.OURS].slowness == 1.0


@pytest.mark.parametrize("side", [side for side in train.SIDES if side != train.TORCH])
def test_every_side_of_paddle_trains_the_same_network(side, monkeypatch):
    networks = []
    create = models.create_model
    monkeypatch.setattr(models, "create_model", lambda *a, **k: networks.append(create(*a, **k)) or networks[0])
    monkeypatch.setattr(runtime, "pick_device", lambda device: device)
    step = train._paddle_step(side, TOY)
    before = [parameter.numpy() for parameter in networks[0].parameters()]
    step()
    step()
    assert all((a != b.numpy()).any() for a, b in zip(before, networks[0].parameters()))
    assert networks[0].encoder.use_checkpoint == (side == train.RECOMPUTE)
    layer = 2 * 48 + (24 + 1) * 72 + (24 + 1) * 24 + (24 + 1) * 96 + (96 + 1) * 24
    size = (192 + 1) * 24 + 24 + 5 * 24 + layer + 48 + (24 + 1) * 1000
    assert sum(parameter.size for parameter in networks[0].parameters()) == size


def test_every_side_takes_the_same_number_of_operations():
    patches, layer, scores, classifier = 4 * 192 * 24, 5 * 24 * 24 * 12, 2 * 25 * 24, 24 * 1000  # multiply-adds
    assert train._operations(TOY) == 2 * 3 * 3 * (patches + layer + scores + classifier)


def test_a_side_that_ends_is_named():
    broken = Case("vit_tiny_patch16_224", 15, 3, {})
    with pytest.raises(RuntimeError, match="The side 'ours' of the benchmark ended"):
        train.run(broken, rounds=1, sides=[train.OURS])


def test_the_report_sets_what_was_reached_beside_the_aims():
    mebibyte = 2**20
    figures = {
        train.OURS: Figures(0.5, 1.0, 100 * mebibyte, 0.5),
        train.RECOMPUTE: Figures(0.6, 1.2, 40 * mebibyte, 0.4),
        train.LOOP: Figures(0.4, 0.8, 100 * mebibyte, 0.6),
        train.PLAIN: Figures(2.5, 5.0, 110 * mebibyte, 0.1),
    }
    text = train.report(TOY, figures)
    assert text.startswith("vit_tiny_patch16_224 at 16 pixels, batch 3")
    rows = {line[:30].strip(): line[30:].split() for line in text.splitlines()}
    assert rows["ours"] == ["6.0", "500", "1.00", "100", "1.00", "50", "%"]
    assert rows["PaddleViT-style, plain"] == ["1.2", "2500", "5.00", "110", "1.10", "10", "%"]
    aims = {line[:56].strip(): line[56:].strip() for line in text.splitlines() if "aim" in line}
    assert aims == {
        "speed of ours over PaddleViT-style code run plainly": "5.00  (aim: at least 4)",
        "memory with recompute over without": "0.40  (aim: at most 0.5)",
        "a step with paddle.Model over one without": "1.25  (aim: at most 1.03)",
    }


def test_a_case_can_be_changed():
    assert pick_case("vit_32") == train.CASES["vit_32"]
    assert pick_case("vit_32", batch=2).batch_size == 2
    assert pick_case("vit_32", "vit_base_patch16_384") == Case("vit_base_patch16_384", 384, 64, {})
    with pytest.raises(ValueError, match="case is 'vit_33'; it must be one of vit_small, vit_tiny, vit_32"):
        pick_case("vit_33")
    with pytest.raises(ValueError, match="batch is 0; it must be at least 1"):
        pick_case("vit_32", batch=0)


def test_the_tool_prints_the_table(monkeypatch, capsys):
    asked = []

    def run(case, rounds, **peers):
        asked.append((case, rounds, peers))
        return {train.OURS: Figures(0.5, 1.0, 2**20, 0.5)}

    monkeypatch.setattr(train, "run", run)
    arguments = ["train", "--model", "deit_tiny_patch16_224", "--batch", "4", "--rounds", "2", "--torch-python", "py"]
    assert load_tool("benchmark").main(arguments) == 0
    assert asked == [(Case("deit_tiny_patch16_224", 224, 4, {}), 2, {"torch_python": "py"})]
    assert "deit_tiny_patch16_224 at 224 pixels, batch 4" in capsys.readouterr().out
