"""RandAugment, AutoAugment, three-augment, colour jitter and erasing: timm's pixels, and the stated chances."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlevit.data.augment import OPERATIONS, Canvas, _turn_hue, erase, jitter
from paddlevit.data.policies import AUTO_POLICIES, RAND_SETS, Policy, build_policy
from tests.data.pictures import picture
from tests.golden.fill import image as generated

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "augment.npz")
META = json.loads(str(GOLDEN["meta"]))
PIXELS = np.clip(128 + 60 * generated((1, 3, 18, 22), "augment")[0], 0, 255).astype(np.uint8).transpose(1, 2, 0)
BICUBIC = Image.Resampling.BICUBIC


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", sorted({case["name"] for case in META["cases"]}))
def test_operations_give_the_pixels_of_timm(name):
    assert name in OPERATIONS
    for number, case in enumerate(META["cases"]):
        if case["name"] != name:
            continue
        resample = Image.Resampling[case["resample"].upper()]
        for kind, pixels, fill in (("colour", PIXELS, tuple(case["fill"])), ("grey", PIXELS[:, :, 1], 124)):
            if f"{kind}{number}" not in META["same"]:
                continue
            image = Image.fromarray(np.ascontiguousarray(pixels))
            result = OPERATIONS[name](image, case["level"], case["sign"], Canvas(fill, resample))
            assert np.array_equal(np.asarray(result), GOLDEN[META["same"][f"{kind}{number}"]]), case


def test_the_golden_file_knows_every_operation():
    assert {case["name"] for case in META["cases"]} == set(OPERATIONS)


def test_hue_turns_as_in_torchvision():
    for number, turn in enumerate(META["hues"]):
        result = _turn_hue(Image.fromarray(PIXELS), turn, Canvas(0, BICUBIC))
        assert np.array_equal(np.asarray(result), GOLDEN[META["same"][f"hue{number}"]])


def test_policies_are_those_of_timm():
    for name, policy in META["automatic"].items():
        assert [[list(step) for step in steps] for steps in AUTO_POLICIES[name]] == policy
    for text, weights in META["sets"].items():
        policy = build_policy(text)
        names = [steps[0][0] for steps in policy.groups]
        assert names == list(weights) or set(names) == set(weights)
        ours = policy.weights or (1 / len(names),) * len(names)
        assert dict(zip(names, ours)) == pytest.approx(weights)


def test_the_notation_of_timm():
    policy = build_policy("rand-m7-n3-p0.4-mstd0.5-mmax20-inc1")
    assert (policy.draws, policy.level_std, policy.top_level, policy.weights) == (3, 0.5, 20.0, None)
    assert {step[1:] for group in policy.groups for step in group} == {(0.4, 7.0)}
    assert len(policy.groups) == len(RAND_SETS["increasing"]) == 15
    assert build_policy("rand-m9-mstd101").level_std == float("inf")
    assert build_policy("original-mstd0.5").level_std == 0.5
    assert build_policy("rand").groups[0] == (("AutoContrast", 0.5, 10.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random-m9", r"auto_augment is 'random'; it must be one of rand, original.* Did you mean \"rand\"\?"),
        ("rand-m9-x3", r"auto_augment is 'rand-m9-x3', where 'x3' is not understood; the form is rand-m9-n2"),
        ("original-m9", "where 'm9' is not understood"),
        ("rand-m9-n20-tweights", r"'rand-m9-n20-tweights'; n is 20, but weights has \d+ operations"),
        ("rand-m9-tnothing", "the operations of auto_augment rand-m9-tnothing is 'nothing'; it must be one of fixed"),
    ],
)
def test_policies_that_are_not_understood(text, message):
    with pytest.raises(ValueError, match=message):
        build_policy(text)


def test_operations_are_drawn_evenly_and_applied_with_their_probability(monkeypatch):
    seen = []
    for name, operation in list(OPERATIONS.items()):
        spy = type(operation)(lambda image, value, canvas, name=name: seen.append((name, value)) or image)
        monkeypatch.setitem(OPERATIONS, name, spy)
    policy, rng = build_policy("rand-m9-n2-p0.5"), _rng()
    for _ in range(3000):
        policy(picture(), (0, 0, 0), BICUBIC, rng)
    counts = Counter(name for name, _ in seen)
    assert set(counts) == set(RAND_SETS["fixed"])
    assert abs(sum(counts.values()) - 3000) < 150  # 3000 pictures, 2 draws, each applied half of the time
    assert max(counts.values()) < 1.4 * min(counts.values())
    assert {value for _, value in seen} == {9.0}


def test_levels_vary_as_stated(monkeypatch):
    seen = []
    spy = type(OPERATIONS["Invert"])(lambda image, value, canvas: seen.append(value) or image)
    monkeypatch.setitem(OPERATIONS, "Invert", spy)
    group = ((("Invert", 1.0, 9.0),),)
    for policy, check in (
        (Policy(group, level_std=0.5), lambda v: abs(v.mean() - 8.98) < 0.05 and v.max() == 10.0 and v.min() > 6),
        (Policy(group, level_std=0.5, top_level=20.0), lambda v: abs(v.std() - 0.5) < 0.04 and v.max() > 10.0),
        (Policy(group, level_std=float("inf")), lambda v: abs(v.mean() - 4.5) < 0.3 and v.min() < 0.2),
    ):
        seen.clear()
        rng = _rng()
        for _ in range(1000):
            policy(picture(), (0,), BICUBIC, rng)
        assert check(np.array(seen))


def test_three_augment_takes_turns():
    policy, rng = build_policy("3a"), _rng()
    image = picture(16, 16)
    grey = np.asarray(image.convert("L").convert("RGB"))
    solar = np.asarray(OPERATIONS["Solarize"](image, 5, 1, Canvas(0, BICUBIC)))
    kinds = Counter()
    for _ in range(300):
        result = np.asarray(policy(image, (0, 0, 0), BICUBIC, rng))
        kinds["grey" if np.array_equal(result, grey) else "solar" if np.array_equal(result, solar) else "blur"] += 1
    assert all(70 < kinds[kind] < 130 for kind in ("grey", "solar", "blur"))


def test_a_random_resampling_uses_both_filters():
    group = ((("Rotate", 1.0, 9.0),),)
    image = picture(16, 16)
    either = {np.asarray(Policy(group)(image, (0, 0, 0), None, _rng(seed))).tobytes() for seed in range(20)}
    fixed = {np.asarray(Policy(group)(image, (0, 0, 0), BICUBIC, _rng(seed))).tobytes() for seed in range(20)}
    assert (len(fixed), len(either)) == (2, 4)  # two signs, two filters


def test_jitter_changes_what_it_is_told_to():
    image, rng = picture(16, 16), _rng()
    assert jitter(image, (0.0, 0.0, 0.0), rng) is image
    brighter = [np.asarray(jitter(image, (0.5, 0.0, 0.0), rng)).mean() / np.asarray(image).mean() for _ in range(200)]
    assert 0.5 < min(brighter) < 0.55
    assert 1.2 < max(brighter) < 1.51
    grey = np.asarray(image.convert("L"))
    coloured = np.asarray(jitter(image, (0.0, 0.0, 0.9), rng).convert("L"))
    assert np.median(np.abs(coloured.astype(int) - grey)) <= 1  # saturation keeps the brightness unless it is clipped
    assert not np.array_equal(np.asarray(jitter(image, (0.0, 0.0, 0.0, 0.3), rng)), np.asarray(image))
    assert np.array_equal(np.asarray(jitter(image.convert("L"), (0.0, 0.0, 0.0, 0.3), rng)), grey)


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_overwrites_one_rectangle(mode):
    shares, aspects = [], []
    for seed in range(300):
        values = np.full((3, 60, 60), 7.0, np.float32)
        erase(values, mode, 1, _rng(seed))
        changed = (values != 7.0).all(axis=0)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        box = values[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert changed.sum() == len(rows) * len(columns)
        shares.append(changed.mean())
        aspects.append(np.log(len(rows) / len(columns)))
        distinct = {"const": 1, "rand": 3, "pixel": box.size}[mode]
        assert 0.99 * distinct < len(np.unique(box)) <= distinct
    assert 0.015 < min(shares) < 0.03
    assert 0.3 < max(shares) < 0.345
    assert abs(np.mean(aspects)) < 0.15
    if mode == "const":
        assert (box == 0).all()


def test_several_rectangles_share_the_area():
    counts, shares = [], []
    for seed in range(100):
        values = np.ones((1, 64, 64), np.float32)
        erase(values, "const", 4, _rng(seed))
        shares.append((values == 0).mean())
        counts.append(len(np.unique(np.diff((values[0] == 0).any(axis=0).astype(int)))))
    assert max(shares) < 0.36
    assert np.mean(shares) < 0.2
