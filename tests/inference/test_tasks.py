"""Networks of several labels a picture, and of numbers: a run, its export, the Predictor and the server agree."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from paddlevit.data import eval_transform, load_image
from paddlevit.inference import Predictor, export_model, folder, read_info
from paddlevit.inference.parity import describe
from paddlevit.inference.predictor import sigmoid
from paddlevit.inference.source import open_network
from paddlevit.weights.restore import restore_model
from tests.data.pictures import class_folder
from tests.golden.fill import image
from tests.inference.conftest import build
from tests.inference.conftest import run as answer
from tests.serve.client import serving
from tests.tools import call, one_line

YAML = """
model:
  name: vit_tiny_patch16_224
  image_size: 8
  options: {{patch_size: 4, embed_dim: 24, num_heads: 2, depth: 1}}
data: {{dataset: list, root: '{root}', task: {task}, train: all.csv, val: all.csv, batch_size: 4, num_workers: 0}}
optimizer: {{lr: 0.05}}
train: {{loss: {loss}}}
schedule: {{epochs: 2, warmup_epochs: 0}}
run: {{output: '{output}', report: false}}
"""
LOSSES = {"multi_label": "bce", "regression": "mse"}
NAMES = {"multi_label": ["cat", "dog", "pet"], "regression": ["value 0", "value 1"]}
LABELS = {"multi_label": ["cat|pet", "dog|pet", "cat", ""], "regression": ["-250,1", "-300,2", "-280,0", "-310,3"]}


@pytest.fixture(scope="module", params=LOSSES)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    """Two epochs on eight pictures."""
    root = tmp_path_factory.mktemp(task)
    class_folder(root, {"a": 8})
    (root / "all.csv").write_text("".join(f"a/{k}.png,{LABELS[task][k % 4]}\n" for k in range(8)))
    text = YAML.format(root=root, task=task, loss=LOSSES[task], output=root / "run")
    (root / "my.yaml").write_text(text)
    trained = call("train", "-c", root / "my.yaml")
    assert trained.code == 0, trained
    return root / "run"


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "export"
    done = call("export", run, "-o", path)
    assert done.code == 0, done
    assert f"Next: python tools/predict.py {path} PICTURES" in done.out
    return path


@pytest.fixture(scope="module")
def pictures(run):
    return sorted((run.parent / "a").glob("*.png"))


@pytest.fixture(scope="module")
def expected(task, run, pictures):
    """Of every picture, names and numbers in the order of the answer."""
    network = restore_model(run)
    transform = eval_transform(network.preprocessing)
    scores = answer(network, np.stack([transform(load_image(path)) for path in pictures])).astype(np.float64)
    if task == "multi_label":
        scores = 1 / (1 + np.exp(-scores))
    orders = [range(2) if task == "regression" else np.argsort(-row) for row in scores]
    return [[(NAMES[task][k], row[k]) for k in order] for order, row in zip(orders, scores)]


def check(answers, expected):
    """Names are the same, and numbers nearly."""
    assert len(answers) == len(expected)
    for pairs, right in zip(answers, expected):
        assert [name for name, _ in pairs] == [name for name, _ in right]
        numbers = [float(number) for _, number in pairs]
        np.testing.assert_allclose(numbers, [number for _, number in right], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["run", "export"])
def test_predict(source, task, run, export, pictures, expected, tmp_path):
    source = {"run": run, "export": export}[source]
    key, name, number = ("values", "name", "value") if task == "regression" else ("top", "class", "probability")
    rows = [json.loads(line) for line in call("predict", source, *pictures, "--format", "json").out.splitlines()]
    assert all(list(row) == ["path", key] for row in rows)
    check([[(item[name], item[number]) for item in row[key]] for row in rows], expected)
    file = tmp_path / "answers.csv"
    arguments = ("predict", source, *pictures, "--format", "csv", "--output", file)
    assert call(*arguments).code == 0
    whole = file.read_text()
    rows = list(csv.DictReader(io.StringIO(whole)))
    assert list(rows[0]) == ["path", *["rank"] * (task != "regression"), name, number, "error"]
    found = {str(path): [] for path in pictures}
    for row in rows:
        found[row["path"]].append((row[name], row[number]))
    check(list(found.values()), expected)
    file.write_text(whole[: len(whole) // 2])
    assert call(*arguments, "--resume").code == 0
    assert [row["path"] for row in csv.DictReader(io.StringIO(file.read_text()))] == [row["path"] for row in rows]
    shown = call("predict", source, pictures[0]).out.splitlines()
    first, best = expected[0][0]
    value = f"{best:.4g}" if task == "regression" else f"{100 * best:.2f}"
    assert shown[1].split()[0].startswith(value[:5]), shown
    assert shown[1].endswith(first)


def test_predictor(task, export, pictures, expected):
    predictor = Predictor(export, engine="paddle")
    assert (predictor.task, predictor.class_names) == (task, NAMES[task])
    answers = predictor.predict(pictures)
    check([list(zip(a.names, a.values if task == "regression" else a.probabilities)) for a in answers], expected)
    assert all(not (a.probabilities if task == "regression" else a.values) for a in answers)
    assert len(predictor.predict(pictures[0], topk=1)[0].names) == (2 if task == "regression" else 1)


def test_server(task, export, pictures, expected):
    with serving(Predictor(export, engine="paddle")) as client:
        files = [(path.name, path.read_bytes()) for path in pictures]
        answers = client.post_files(files, "?topk=3").json["predictions"]
        assert client.get("/health").json["task"] == task
    key, number = ("values", "value") if task == "regression" else ("classes", "probability")
    assert all(list(item) == ["name", key] for item in answers)
    check([[(item["name"], item[number]) for item in given[key]] for given in answers], expected)


def test_eval_says_the_same_of_run_and_export(run, export):
    first = call("eval", run)
    assert first.code == 0, first
    second = call("eval", export, "-c", run / "config.yaml")
    assert second.code == 0, second
    numbers = [[float(word) for word in said.out.split() if word[0].isdigit()] for said in (first, second)]
    np.testing.assert_allclose(*numbers, rtol=1e-3)


def test_explain(task, run, pictures, tmp_path):
    done = call("explain", run, pictures[0], "-o", tmp_path, "--methods", "attention", "grad-cam")
    assert done.code == 0, done
    assert (tmp_path / "0.png").is_file()


def test_softmax_is_refused(task, run, tmp_path):
    error = one_line(call("export", run, "-o", tmp_path / "out", "--softmax"))
    assert f"softmax is for one class per picture, and this network's task is {task}; leave it out" in error


def test_a_single_number_and_an_export_that_names_no_task(pictures, tmp_path):
    network = build("vit", num_classes=1)
    network.task = "regression"
    noise = image((2, 3, 32, 32))
    report = export_model(network, tmp_path / "number", precision="bf16", calibration=noise)
    assert report.agreement is None
    assert "class" not in describe(report, read_info(tmp_path / "number"))
    (given,) = Predictor(tmp_path / "number", precision="fp32", engine="paddle").predict(pictures[0])
    assert (given.names, given.probabilities, len(given.values)) == (("0",), (), 1)
    text = (tmp_path / "number" / folder.INFO_FILE).read_text()
    assert "task: regression\n" in text
    (tmp_path / "number" / folder.INFO_FILE).write_text(text.replace("task: regression\n", ""))
    assert read_info(tmp_path / "number").task == "classes"
    error = one_line(call("predict", tmp_path / "number", pictures[0]))
    assert "gives features or one number, not classes" in error


def test_a_configuration_with_weights_has_its_task(run, task, tmp_path):
    from paddlevit.weights.save import save_weights

    save_weights(restore_model(run), tmp_path / "w.safetensors")
    text = (run.parent / "my.yaml").read_text()
    text = text.replace(
        "model:\n", f"model:\n  weights: '{tmp_path / 'w.safetensors'}'\n  num_classes: {len(NAMES[task])}\n"
    )
    (tmp_path / "my.yaml").write_text(text)
    assert open_network(tmp_path / "my.yaml").task == task


def test_sigmoid_of_large_logits():
    values = sigmoid(np.array([[-1e4, -20.0, 0.0, 20.0, 1e4]], np.float32))[0]
    np.testing.assert_allclose(values, [0.0, 2.0611537e-9, 0.5, 1.0, 1.0], rtol=1e-6)
