"""The main job end to end, and what happens when its input is bad."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from paddlevit.weights.checkpoint import read_checkpoint
from tests.tools import ROOT, call, one_line

CONFIG = ROOT / "configs" / "vit_digits.yaml"
PICTURES = sorted((ROOT / "docs" / "digits").glob("*.png"))
SHORT = ("-o", "schedule.epochs=2", "-o", "schedule.warmup_epochs=1", "-o", "model.options.depth=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = call("train", "-c", CONFIG, *SHORT, "-o", f"run.output={folder}")
    assert result.code == 0, result
    return folder


@pytest.fixture(scope="module")
def export(run):
    """The run's export."""
    folder = run.parent / "export"
    result = call("export", run, "-o", folder)
    assert result.code == 0, result
    return folder


def test_a_run_leaves_config_log_history_curves_and_checkpoints(run):
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    expected = {"config.yaml", "log.txt", "history.jsonl", "best.safetensors", "last.safetensors", "curves.png"}
    assert expected <= names
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all({"train_loss", "val_loss", "val_top1", "val_top5", "lr"} <= row.keys() for row in rows)
    assert rows[1]["val_loss"] < rows[0]["val_loss"] < 2.5
    meta = read_checkpoint(run / "last.safetensors").meta
    assert meta["model_name"] == "vit_tiny_patch16_224"
    assert meta["class_names"] == [str(digit) for digit in range(10)]
    assert meta["preprocessing"]["image_size"] == [8, 8]


def test_the_same_seed_gives_the_same_run(run, tmp_path):
    assert call("train", "-c", run / "config.yaml", "-o", f"run.output={tmp_path / 'again'}").code == 0
    assert (tmp_path / "again" / "history.jsonl").read_bytes() == (run / "history.jsonl").read_bytes()
    first, second = (read_checkpoint(folder / "last.safetensors").model for folder in (run, tmp_path / "again"))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


def test_eval_says_what_training_said(run, export):
    best = read_checkpoint(run / "best.safetensors").meta["progress"]["best_score"]
    of_run = call("eval", run)
    assert "364 pictures" in of_run.out
    assert f"top1 {100 * best:.2f} %" in of_run.out
    assert call("eval", export, "-c", run / "config.yaml").out == of_run.out


def test_run_and_export_predict_alike(run, export):
    answers = []
    for source in (run, export):
        result = call("predict", source, *PICTURES, "--format", "json", "--topk", "3")
        assert result.code == 0, result
        answers.append([json.loads(line) for line in result.out.splitlines()])
    assert [row["path"] for row in answers[0]] == [str(path) for path in PICTURES]
    for of_run, of_export in zip(*answers):
        assert len(of_run["top"]) == 3
        for one, other in zip(of_run["top"], of_export["top"]):
            assert one["class"] == other["class"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_predictions_as_csv_to_a_file_and_resumed(run, tmp_path):
    file = tmp_path / "answers.csv"
    arguments = ("predict", run, PICTURES[0].parent, "--format", "csv", "--topk", "1", "--output", file)
    assert call(*arguments).code == 0
    whole = file.read_text()
    rows = list(csv.DictReader(whole.splitlines()))
    assert [row["path"] for row in rows] == [str(path) for path in PICTURES]
    assert set(rows[0]) == {"path", "rank", "class", "probability", "error"}
    file.write_text(whole[: whole.rindex("\n", 0, -1) + 5])  # cut off in the last row
    assert call(*arguments, "--resume").code == 0
    assert file.read_text() == whole


def test_summary_counts_all_parameters(run, tmp_path):
    """Of a configuration, the network that it trains; where its weights are a run's, the run's network."""
    result = call("summary", run / "config.yaml")
    network = sum(array.size for array in read_checkpoint(run / "last.safetensors").model.values())
    assert f"Parameters: {network:,}" in result.out
    assert "EncoderLayer" in result.out
    own = tmp_path / "own.yaml"
    own.write_text(f"model: {{name: vit_tiny_patch16_224, weights: {json.dumps(str(run))}}}\n")
    assert f"Parameters: {network:,}" in call("summary", own).out


def test_summary_over_image_sizes(tmp_path):
    plot = tmp_path / "sizes.png"
    result = call("summary", CONFIG, "--complexity", "--image-sizes", 64, 96, "--plot", plot)
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines() if line.split()[:1] in (["64"], ["96"])]
    assert len(rows) == 2
    assert "2*7^2*hwC" in result.out
    assert all(float(row[1]) > 0 for row in rows)
    assert plot.stat().st_size > 5_000
    for wrong, said in ((("--plot", plot), "give --image-sizes"), (("--image-sizes", 64), "belongs to --complexity")):
        assert said in call("summary", CONFIG, *wrong).err


def test_summary_does_not_fetch_weights():
    assert "Parameters: 22,013,800" in call("summary", ROOT / "configs" / "dinov2_small_linear.yaml").out


def test_fast_dev_run_needs_no_data(tmp_path):
    result = call("train", "-c", ROOT / "configs" / "vit_tiny.yaml", "--fast-dev-run", "-o", "model.image_size=32",
                  "-o", "data.batch_size=4", "-o", "data.num_workers=0")  # fmt: skip
    assert result.code == 0, result
    assert "2 steps of 4 pictures trained, evaluated and saved." in result.out
    assert "Peak memory" in result.out
    assert "300 epochs on 1,281,167 pictures of ImageNet-1k" in result.out


def test_training_goes_on_from_a_run(run, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    four = ("-o", "schedule.epochs=4", "-o", "schedule.warmup_epochs=1", "-o", "model.options.depth=1")
    assert call("train", "-c", CONFIG, *four, "-o", f"run.output={whole}").code == 0
    assert call("train", "--resume", whole).out.count("All 4 epochs are done.") == 1
    with pytest.MonkeyPatch.context() as patch:
        _interrupt_after(patch, updates=30)
        interrupted = call("train", "-c", CONFIG, *four, "-o", f"run.output={half}")
    assert interrupted.code == 130
    assert f"Go on with: python tools/train.py --resume {half}" in interrupted.out
    assert call("train", "--resume", half).code == 0
    assert (half / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    states = [read_checkpoint(folder / "last.safetensors") for folder in (whole, half)]
    for part in ("model", "optimizer"):
        for name, array in getattr(states[0], part).items():
            np.testing.assert_array_equal(array, getattr(states[1], part)[name])


def _interrupt_after(patch, updates):
    """Send this process a SIGTERM in the middle of training."""
    import os
    import signal

    from paddlevit.training.trainer import Trainer

    real = Trainer._update

    def update(self):
        real(self)
        if self.progress.update == updates:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Trainer, "_update", update)


def test_a_missing_config():
    assert 'Did you mean "configs/vit_base.yaml"' in one_line(call("train", "-c", "configs/vit_bas.yaml"))


def test_a_misspelt_key():
    error = one_line(call("train", "-c", CONFIG, "-o", "optimizer.learningrate=1"))
    assert "There is no key 'optimizer.learningrate'." in error
    assert "Valid in optimizer: name, lr" in error


def test_a_wrong_type():
    assert "data.batch_size is 'many' (str); it must be a whole number." in one_line(
        call("train", "-c", CONFIG, "-o", "data.batch_size=many")
    )


def test_missing_data(tmp_path):
    result = call("train", "-c", ROOT / "configs" / "vit_base.yaml", "-o", f"data.root={tmp_path / 'nowhere'}")
    error = one_line(result)
    assert str(tmp_path / "nowhere") in error
    assert "train/" in error
    assert "--fast-dev-run" in error


def test_an_empty_folder(run, tmp_path):
    assert f"No pictures in {tmp_path}" in one_line(call("predict", run, tmp_path))
    assert "--fast-dev-run" in one_line(
        call("train", "-c", ROOT / "configs" / "vit_base.yaml", "-o", f"data.root={tmp_path}")
    )


def test_bad_pictures_do_not_stop_the_others(run, tmp_path):
    text, broken, missing = tmp_path / "text.jpg", tmp_path / "broken.png", tmp_path / "missing.png"
    text.write_text("this is no picture")
    broken.write_bytes(PICTURES[0].read_bytes()[:60])
    result = call("predict", run, text, PICTURES[0], broken, missing, PICTURES[1], "--format", "json")
    assert result.code == 1
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert ["error" in row for row in rows] == [True, False, True, True, False]
    assert "text.jpg" in rows[0]["error"]
    assert "3 of 5 pictures could not be classified." in result.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("depth=6.0", "depth of vit_tiny_patch16_224 is 6.0 (float); it must be a whole number, at least 1."),
        ("num_heads=0", "num_heads of vit_tiny_patch16_224 is 0 (int)"),
        ("num_classes=7", "model.options holds num_classes; write model.num_classes."),
    ],
)
def test_a_wrong_option_of_the_model(override, said):
    assert said in one_line(call("train", "-c", CONFIG, "-o", f"model.options.{override}"))


def test_a_wrong_image_size():
    error = one_line(call("train", "-c", CONFIG, "-o", "model.image_size=10", "-o", "model.options.patch_size=4"))
    assert "image_size (10, 10) is not a multiple of patch_size (4, 4)" in error


def test_weights_of_another_model(run, tmp_path):
    from paddlevit.weights.checkpoint import write_checkpoint

    checkpoint = read_checkpoint(run / "best.safetensors", ("model",))
    checkpoint.meta["model_options"]["embed_dim"] = 32
    write_checkpoint(tmp_path / "other.safetensors", checkpoint)
    error = one_line(call("predict", tmp_path / "other.safetensors", PICTURES[0]))
    assert "The checkpoint belongs to another network:" in error


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(run, tmp_path, share):
    whole = (run / "best.safetensors").read_bytes()
    file = tmp_path / "cut.safetensors"
    file.write_bytes(whole[: int(len(whole) * share)])
    assert "cut.safetensors is not a whole checkpoint" in one_line(call("predict", file, PICTURES[0]))


def test_an_altered_checkpoint(run, tmp_path):
    content = bytearray((run / "last.safetensors").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "last.safetensors").write_bytes(content)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert "is damaged: its contents do not match its checksum" in one_line(call("train", "--resume", tmp_path))


def test_a_run_is_not_overwritten(run):
    before = (run / "last.safetensors").read_bytes()
    error = one_line(call("train", "-c", CONFIG, *SHORT, "-o", f"run.output={run}"))
    assert "holds a run already" in error
    assert f"--resume {run}" in error
    assert (run / "last.safetensors").read_bytes() == before


def test_a_file_where_the_run_should_go(tmp_path):
    (tmp_path / "file").touch()
    error = one_line(call("train", "-c", CONFIG, "-o", f"run.output={tmp_path / 'file'}"))
    assert error.endswith("File exists. There is no checkpoint yet: choose another folder (-o run.output=FOLDER).\n")


def test_neither_run_nor_export(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert "holds no checkpoint (best, last)" in one_line(call("predict", tmp_path, tmp_path / "a.png"))
    assert "is neither a file nor a folder" in one_line(call("eval", tmp_path / "no", "-c", CONFIG))


def test_a_config_with_weights_of_others_predicts(tmp_path):
    from paddlevit import create_model
    from paddlevit.weights import save_weights

    weights, config = tmp_path / "w.safetensors", tmp_path / "tiny.yaml"
    network = create_model("vit_tiny_patch16_224", image_size=32, depth=1, num_classes=3)
    save_weights(network, weights, to="timm")
    model = {"name": "vit_tiny_patch16_224", "image_size": 32, "options": {"depth": 1}, "weights": str(weights)}
    config.write_text(json.dumps({"model": model}))
    result = call("predict", config, PICTURES[0], "--format", "json")
    assert result.code == 0, result
    assert {row["class"] for row in json.loads(result.out)["top"]} == {"0", "1", "2"}


def test_a_config_without_weights_cannot_predict():
    assert "names no weights" in one_line(call("predict", CONFIG, PICTURES[0]))


def test_a_run_as_the_weights_of_a_config(run, tmp_path):
    config = tmp_path / "again.yaml"
    config.write_text(f"model: {{weights: {run}}}\n")
    answers = [call("predict", source, PICTURES[0], "--format", "json").out for source in (run, config)]
    assert answers[0] == answers[1] != ""
