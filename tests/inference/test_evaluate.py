"""tools/eval.py beyond plain scores: views, subsets, other labels, tables, features, neighbours and linear probes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import load_config
from paddlevit.data import build_datasets, eval_transform
from paddlevit.inference import evaluate, export_model, feature_scores, tables
from paddlevit.inference.feature_scores import extract_features, knn_scores, linear_scores
from paddlevit.inference.predictor import softmax
from paddlevit.inference.source import open_classifier, open_network
from paddlevit.training import build_eval_loader
from tests.data.pictures import class_folder
from tests.tools import call, one_line

CLASSES = ("ant", "bee", "cat")
YAML = """
model:
  name: vit_tiny_patch16_224
  image_size: 8
  options: {{patch_size: 4, embed_dim: 24, num_heads: 2, depth: 1}}
data: {{dataset: folder, root: '{root}', batch_size: 4, num_workers: 0}}
preprocessing: {{crop_pct: 0.8}}
schedule: {{epochs: 1, warmup_epochs: 0}}
run: {{output: '{output}', report: false}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on three classes of random pictures, of which it has learned hardly anything."""
    root = tmp_path_factory.mktemp("evaluate")
    class_folder(root / "data" / "train", dict.fromkeys(CLASSES, 8))
    class_folder(root / "data" / "val", {"ant": 5, "bee": 4, "cat": 3}, size=(20, 14))
    (root / "my.yaml").write_text(YAML.format(root=root / "data", output=root / "run"))
    result = call("train", "-c", root / "my.yaml")
    assert result.code == 0, result
    return root / "run"


@pytest.fixture(scope="module")
def parts(run):
    """The run's configuration, classifier, and both parts of its data."""
    config = load_config(run / "config.yaml")
    classifier = open_classifier(run)
    return (config, classifier, *build_datasets(config, classifier.preprocessing))


def _logits(classifier, dataset):
    """[n, K], picture by picture."""
    transform = eval_transform(classifier.preprocessing)
    images = [transform(dataset.source.image(index)) for index in range(len(dataset))]
    return np.concatenate([classifier.logits(image[None]) for image in images])


def _first_line(pictures, logits, labels):
    log_probabilities = np.log(softmax(logits.astype(np.float64)))
    loss = -log_probabilities[np.arange(len(labels)), labels].mean()
    top1, k = 100 * (logits.argmax(1) == labels).mean(), 100.0
    return f"{pictures} pictures  loss {loss:.4f}  top1 {top1:.2f} %  top5 {k:.2f} %"


def test_the_plain_scores_are_those_of_numpy(run, parts):
    _, classifier, _, val_set = parts
    line = _first_line(12, _logits(classifier, val_set), val_set.labels)
    assert call("eval", run).out == f"{line}\n"
    assert call("eval", run, "--per-class").out.startswith(f"{line}\nclass")


@pytest.mark.parametrize("tta", ["flip", "ten_crop"])
def test_the_probabilities_of_views_are_averaged(run, parts, tta):
    _, classifier, _, val_set = parts
    recipe = classifier.preprocessing
    mean = []
    for index in range(len(val_set)):
        image = val_set.source.image(index)
        whole = np.asarray(image.resize((10, 14), Image.Resampling.BICUBIC), np.float32)  # 8 / 0.8, as 20 x 14
        tops = [(3, 1)] if tta == "flip" else [(3, 1), (0, 0), (0, 2), (6, 0), (6, 2)]
        crops = [whole[top : top + 8, left : left + 8] for top, left in tops]
        views = np.stack([view[:, ::step] for step in (1, -1) for view in crops]) / 255
        views = ((views - recipe.mean) / recipe.std).transpose(0, 3, 1, 2).astype(np.float32)  # [V, C, H, W]
        mean.append(softmax(classifier.logits(views)).mean(axis=0))
    expected = _first_line(12, np.log(np.stack(mean)), val_set.labels)
    said = call("eval", run, "--tta", tta).out
    assert said == f"{expected}\n"
    assert said != call("eval", run).out


def test_views_of_an_export_are_averaged_too(run, tmp_path):
    export_model(open_network(run), tmp_path / "export")
    expected = call("eval", run, "--tta", "flip").out
    assert call("eval", tmp_path / "export", "-c", run / "config.yaml", "--tta", "flip").out == expected


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """Exports with every option that changes what goes in or comes out."""
    root = tmp_path_factory.mktemp("exports")
    for name in ("softmax", "with_preprocess", "both"):
        options = dict.fromkeys(("softmax", "with_preprocess") if name == "both" else (name,), True)
        export_model(open_network(run), root / name, features=True, **options)
    return root


@pytest.mark.parametrize("name", ["softmax", "with_preprocess", "both"])
def test_probabilities_and_whole_pictures_are_evaluated_alike(run, exports, name, tmp_path):
    class_folder(tmp_path / "val", {"ant": 2}, size=(20, 14))
    class_folder(tmp_path / "val", {"ant": 1, "bee": 3}, size=(9, 30))  # two sizes, so that batches are cut
    few = ("-o", f"data.root={tmp_path}", "-o", "data.train=val", "--subset")
    for options in ((), ("--per-class",), few, ("--knn", "3"), ("--features", tmp_path / "f.npz")):
        expected = call("eval", run, *options)
        assert expected.code == 0, expected
        said = call("eval", exports / name, "-c", run / "config.yaml", *options)
        assert said == expected
    tta = call("eval", exports / name, "-c", run / "config.yaml", "--tta", "flip")
    if name == "softmax":
        assert tta == call("eval", run, "--tta", "flip")
    else:
        assert f"--tta flip prepares views, but {exports / name} prepares whole pictures itself" in one_line(tta)


def test_where_the_configuration_is_found(run, exports, tmp_path):
    assert call("eval", run / "best.safetensors") == call("eval", run)
    for source in (exports / "softmax", run / "nothing", tmp_path / "nothing.safetensors"):
        error = one_line(call("eval", source))
        assert f"{source} has no config.yaml that says which data to evaluate on; give one with -c" in error


def test_a_subset_may_only_be_answered_with_its_classes(run, parts, tmp_path):
    _, classifier, _, _ = parts
    class_folder(tmp_path, {"cat": 6, "ant": 6}, size=(20, 14))
    whole = ("-o", f"data.root={tmp_path}", "-o", "data.train=.", "-o", "data.val=.")
    assert "takes data that has only some of them" in one_line(call("eval", run, *whole))
    said = call("eval", run, *whole, "--subset").out
    config = load_config(run / "config.yaml", [f"data.root={tmp_path}", "data.train=.", "data.val=."])
    _, val_set = build_datasets(config, classifier.preprocessing)
    logits = _logits(classifier, val_set)[:, [0, 2]]
    assert said == _first_line(12, logits, val_set.labels) + "\n"


def test_reassessed_labels(run, tmp_path):
    (tmp_path / "real.json").write_text("[[0], [1], [2], [0], [1]]")
    # Files are called 0.png to 4.png in every class, and the list counts from 1: 0.png is not in it.
    assert "has no number from 1 to 5" in one_line(call("eval", run, "--real", tmp_path / "real.json"))
    other = tmp_path / "data"
    for label, name in enumerate(CLASSES):
        (other / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 14, 3), 80 * label, np.uint8)).save(other / name / f"val_{label + 1:05d}.png")
    whole = ("-o", f"data.root={other}", "-o", "data.train=.", "-o", "data.val=.")
    answers = _answers_to(run, other)
    for right, share in (([[int(k)] for k in answers], "100.00"), ([[], [], [int(answers[2] + 1) % 3]], "0.00")):
        (tmp_path / "real.json").write_text(json.dumps(right))
        said = call("eval", run, *whole, "--real", tmp_path / "real.json").out
        assert f"ReaL: {sum(map(bool, right))} pictures  top1 {share} %" in said.splitlines()
    (tmp_path / "real.json").write_text("[[0], [7], [1]]")
    assert "has labels beyond the 3 classes" in one_line(call("eval", run, *whole, "--real", tmp_path / "real.json"))


def _answers_to(run, root):
    config = load_config(run / "config.yaml", [f"data.root={root}", "data.train=.", "data.val=."])
    classifier = open_classifier(run)
    return _logits(classifier, build_datasets(config, classifier.preprocessing)[1]).argmax(1)


def test_every_class_and_every_mistake(run, parts, tmp_path):
    _, classifier, _, val_set = parts
    answers = _logits(classifier, val_set).argmax(1)
    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (val_set.labels, answers), 1)
    said = call("eval", run, "--per-class", "--confusion", tmp_path / "new" / "matrix.csv").out.splitlines()
    assert said[1].split() == ["class", "pictures", "precision", "recall", "F1"]
    for label, line in enumerate(said[2:5]):
        right, true, given = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
        shares = (right / max(given, 1), right / true, 2 * right / max(given + true, 1))
        assert line.split() == [CLASSES[label], str(true), *(f"{100 * share:.2f}" for share in shares)]
    with open(tmp_path / "new" / "matrix.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["true class", *CLASSES]
    assert [row[0] for row in rows[1:]] == list(CLASSES)
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], int), matrix)


def test_the_confusion_matrix_as_a_picture(tmp_path):
    """The right class is bright, what never happens dark; many classes fit, and names may hold anything."""
    for count in (3, 120):
        matrix = np.diag(np.arange(1, count + 1))
        tables.write_confusion(tmp_path / "m.png", matrix, [f"$class {k}$ é" for k in range(count)])
        with Image.open(tmp_path / "m.png") as image:
            drawn = np.asarray(image.convert("RGB")).astype(int)
        for colour in ((253, 231, 55), (0, 34, 77)):  # the ends of cividis
            assert (np.abs(drawn - colour).max(axis=2) < 12).sum() > 50
    with pytest.raises(ValueError, match=r"goes to m\.txt; its name must end in \.csv or \.png"):
        tables.check_confusion_path(tmp_path.relative_to(tmp_path) / "m.txt")


def test_a_picture_of_it_needs_matplotlib(tmp_path, monkeypatch, run):
    monkeypatch.setattr(tables, "can_draw", lambda: False)
    error = one_line(call("eval", run, "--confusion", tmp_path / "m.png"))
    assert 'm.png needs matplotlib: pip install "paddlevit[plot]", or give a .csv instead' in error
    assert call("eval", run, "--confusion", tmp_path / "m.csv").code == 0


def test_features_go_into_a_file(run, parts, tmp_path):
    _, classifier, _, val_set = parts
    assert "12 pictures  24 features in" in call("eval", run, "--features", tmp_path / "new" / "f.npz").out
    with np.load(tmp_path / "new" / "f.npz", allow_pickle=False) as file:
        stored = dict(file)
    assert stored["paths"].tolist() == list(val_set.paths)
    assert stored["class_names"].tolist() == list(CLASSES)
    assert np.array_equal(stored["labels"], val_set.labels)
    head = classifier.network.classifier
    logits = stored["features"] @ head.weight.numpy() + head.bias.numpy()
    np.testing.assert_allclose(logits, _logits(classifier, val_set), atol=1e-5)


def test_features_of_exports_and_of_two_tokens(run, parts, tmp_path):
    config, classifier, _, val_set = parts
    loader = build_eval_loader(config, val_set)
    expected, labels = extract_features(classifier, loader)
    assert np.array_equal(labels, val_set.labels)
    export_model(open_network(run), tmp_path / "with", features=True)
    np.testing.assert_allclose(extract_features(open_classifier(tmp_path / "with"), loader)[0], expected, atol=1e-4)
    export_model(open_network(run), tmp_path / "without")
    error = one_line(call("eval", tmp_path / "without", "-c", run / "config.yaml", "--knn"))
    assert "gives no features; give the run instead" in error


def test_neighbours_vote_as_in_dino(monkeypatch):
    monkeypatch.setattr(feature_scores, "CELLS", 700 * 512)
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(700, 6)).astype(np.float32), rng.normal(size=(600, 6)).astype(np.float32)
    labels = rng.integers(0, 4, 700)
    for neighbours in (1, 7, 5000):
        votes = knn_scores(known, labels, asked, 4, neighbours)
        assert votes.shape == (600, 4)
        for row in (0, 511, 512, 599):
            similarity = known @ asked[row] / np.linalg.norm(known, axis=1) / np.linalg.norm(asked[row])
            expected = np.zeros(4)
            for place in np.argsort(-similarity)[:neighbours]:
                expected[labels[place]] += np.exp(similarity[place] / 0.07)
            np.testing.assert_allclose(votes[row], expected, rtol=1e-3)


def test_a_linear_probe_finds_the_best_classifier():
    """Its loss comes close to that of Newton's method, and its answers do not depend on the scale of features."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    known = (rng.normal(size=(300, 3)) + labels[:, None] * [1.5, -1, 0]).astype(np.float32)
    scores = linear_scores(known, labels, known, 2)
    values = np.concatenate([known, np.ones((300, 1))], axis=1).astype(np.float64)
    weights = np.zeros(4)
    for _ in range(20):
        p = 1 / (1 + np.exp(-values @ weights))
        weights += np.linalg.solve((values * (p * (1 - p))[:, None]).T @ values, values.T @ (labels - p))
    best = np.log1p(np.exp(-(2 * labels - 1) * (values @ weights))).mean()
    loss = -np.log(softmax(scores.astype(np.float64)))[np.arange(300), labels].mean()
    assert best <= loss < best + 0.005
    scaled = np.array([1e-3, 1, 1e3], np.float32)
    again = linear_scores(known * scaled + 5, labels, known * scaled + 5, 2, seed=1)
    assert (again.argmax(1) == scores.argmax(1)).mean() > 0.98
    assert not np.allclose(again, scores, atol=1e-6)  # another order


def test_neighbours_and_probe_learn_from_the_training_pictures(run, parts, tmp_path):
    _, classifier, train_set, val_set = parts
    transform = eval_transform(classifier.preprocessing)
    head = classifier.network.classifier
    seen = []
    handle = head.register_forward_post_hook(lambda layer, inputs, output: seen.append(inputs[0].numpy()))
    for dataset in (train_set, val_set):
        for index in range(len(dataset)):
            classifier.logits(transform(dataset.source.image(index))[None])
    handle.remove()
    known, asked = np.concatenate(seen[:24]), np.concatenate(seen[24:])
    lines = call("eval", run, "--knn", "3").out.splitlines()
    votes = knn_scores(known, train_set.labels, asked, 3, 3)
    assert lines[1] == f"3-NN: top1 {100 * (votes.argmax(1) == val_set.labels).mean():.2f} %  top5 100.00 %"
    assert len(lines) == 2
    same = ("-o", "data.val=train")
    lines = call("eval", run, *same, "--knn", "1", "--linear-probe").out.splitlines()
    assert lines[1].startswith("1-NN: top1 100.00 %")  # each picture is its own neighbour
    assert lines[2].startswith("linear probe: top1 100.00 %")
    assert "20-NN" in call("eval", run, "--knn").out


def test_a_distilled_network_gives_the_mean_of_its_tokens(tmp_path):
    from paddlevit import create_model
    from paddlevit.inference.source import NetworkClassifier

    small = {"image_size": 32, "num_classes": 3, "depth": 1, "embed_dim": 12, "num_heads": 2}
    network = create_model("deit_tiny_distilled_patch16_224", **small)
    network.class_names = list(CLASSES)
    network.eval()
    image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    import paddle

    batch = [(paddle.to_tensor(image), paddle.to_tensor([0, 1]))]
    features, _ = extract_features(NetworkClassifier(network), batch)
    tokens = network.forward_features(paddle.to_tensor(image)).numpy()
    np.testing.assert_allclose(features, tokens[:, :2].mean(axis=1), atol=1e-5)


def test_options_that_do_not_go_together(run, tmp_path):
    for arguments, message in (
        (("--tta", "flip", "--knn"), "--tta is about answers and --knn about features; run them one after another"),
        (("--subset", "--real", "x.json"), "--real has labels for all classes and goes without --subset"),
        (("--knn", "0"), "--knn is 0; at least 1 neighbour must vote"),
        (("--per-class", "-o", "data.dataset=list", "-o", "data.task=regression"), "data.task is regression"),
        (("--confusion", "m.gif"), r"goes to m.gif; its name must end in .csv or .png"),
    ):
        assert message in one_line(call("eval", run, *arguments))


def test_reassessed_labels_need_files(tmp_path):
    from tests.test_main_job import CONFIG

    (tmp_path / "real.json").write_text("[[0]]")
    network = open_network(CONFIG, fresh=True)
    network.class_names = [str(digit) for digit in range(10)]
    from paddlevit.inference.source import NetworkClassifier

    config = load_config(CONFIG)
    _, val_set = build_datasets(config, network.preprocessing)
    options = evaluate.AnswerOptions(real=str(tmp_path / "real.json"))
    with pytest.raises(ValueError, match="finds labels by the names of files, and these data are not files"):
        evaluate.report(config, NetworkClassifier(network), val_set, options)


def test_numbers_are_evaluated_as_numbers(tmp_path):
    class_folder(tmp_path / "pictures", {"a": 8})
    lines = "".join(f"a/{k}.png {k / 8}\n" for k in range(8))
    (tmp_path / "pictures" / "all.txt").write_text(lines)
    data = f"dataset: list, task: regression, train: all.txt, val: all.txt, root: '{tmp_path / 'pictures'}'"
    text = YAML.format(root="", output=tmp_path / "run").replace("dataset: folder, root: ''", data)
    (tmp_path / "my.yaml").write_text(text + "train: {loss: mse}\n")
    trained = call("train", "-c", tmp_path / "my.yaml")
    assert trained.code == 0, trained
    said = call("eval", tmp_path / "run").out
    assert said.startswith("8 pictures  loss ")
    assert "absolute_error" in said
