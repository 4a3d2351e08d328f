"""Everything about some pictures in one folder: arrays, maps over the pictures, and sheets that show them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddlevit.data import eval_transform, load_image
from paddlevit.errors import check_choice, did_you_mean
from paddlevit.explain import attribution, plots, properties
from paddlevit.hooks import watch

ATTRIBUTIONS: dict[str, Callable[[nn.Layer, paddle.Tensor, list[int]], np.ndarray]] = {
    "attention": lambda model, images, target: attribution.class_attention(model, images).mean(axis=1),
    "rollout": lambda model, images, target: attribution.attention_rollout(model, images),
    "gradient-rollout": attribution.gradient_rollout,
    "grad-cam": attribution.grad_cam,
    "occlusion": attribution.occlusion,
}
"""Maps that answer which part of a picture did it."""

FEATURES: dict[str, Callable[[nn.Layer, paddle.Tensor], np.ndarray]] = {
    "norms": properties.token_norms,
    "components": properties.feature_components,
}
"""Maps of the dense features."""

MODEL_PLOTS = ("positions", "filters", "distance")
"""Plots of the model itself."""

METHODS = (*ATTRIBUTIONS, "heads", *FEATURES, "similarity", *MODEL_PLOTS)

CHUNK = 4  # pictures whose gradients are held at a time


@dataclass
class Batch:
    """Pictures as they are shown and as the network takes them."""

    names: list[str]
    """One name each, fit for a file."""
    pictures: list[np.ndarray]
    """[H, W, C] in 0..1: resized and cropped, not normalised."""
    images: paddle.Tensor
    """[B, C, H, W], preprocessed."""


def load_pictures(paths: Iterable[str | Path], model: nn.Layer) -> Batch:
    """Read pictures as a model's evaluation does.

    Args:
        paths: Files of pictures.
        model: Has `preprocessing`.

    Returns:
        The batch; files of the same name in several folders are numbered.

    Raises:
        ValueError: A file is missing or no picture.
    """
    transform = eval_transform(model.preprocessing)
    stems, names, pictures, images = [], [], [], []
    for path in map(Path, paths):
        image = load_image(path, model.preprocessing.channels)
        pixels = np.asarray(transform.pixels(image))
        pixels = pixels / 255.0 if pixels.dtype == np.uint8 else pixels
        pictures.append(pixels[:, :, None] if pixels.ndim == 2 else pixels)
        images.append(transform(image))
        stems.append(path.stem)
        names.append(path.stem if stems.count(path.stem) == 1 else f"{path.stem}-{stems.count(path.stem)}")
    return Batch(names, pictures, paddle.to_tensor(np.stack(images)))


def class_index(model: nn.Layer, name: str) -> int:
    """The output that a class's name or number means.

    Raises:
        ValueError: No such class.
    """
    names = list(getattr(model, "class_names", []))
    if name in names:
        return names.index(name)
    if name.isdecimal():
        return int(name)
    raise ValueError(f"target is {name!r}; it must be a class of the model or its number.{did_you_mean(name, names)}")


def class_title(model: nn.Layer, index: int) -> str:
    """What a picture is titled with: the class's name, or its number where the model knows no names."""
    names = list(getattr(model, "class_names", []))
    return names[index] if index < len(names) else f"class {index}"


def default_methods(model: nn.Layer, point: tuple[int, int] | None) -> list[str]:
    """Every method that says something about this model: positions where it has some, similarity with a point."""
    left_out = set() if properties.position_table(model) is not None else {"positions"}
    if point is None:
        left_out.add("similarity")
    return [name for name in METHODS if name not in left_out]


def predict(model: nn.Layer, images: paddle.Tensor, target: int | None = None) -> list[int]:
    """The class to explain of each picture: `target`, or the predicted one for None."""
    with watch(model, {}), paddle.no_grad():
        outputs = [model(images[first : first + CHUNK]) for first in range(0, len(images), CHUNK)]
    return attribution.choose_target(paddle.concat(outputs), target)


def compute(
    model: nn.Layer,
    images: paddle.Tensor,
    methods: Sequence[str],
    target: Sequence[int],
    layers: Sequence[int] = (-1,),
    point: tuple[int, int] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of some methods.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        methods: Of `METHODS`.
        target: Class to explain of each picture.
        layers: Attention layers that `heads` shows.
        point: x and y of the pixel for `similarity`.

    Returns:
        By method; `heads` gives one array per layer, named `heads-1` and so on, `filters` also `shares`.

    Raises:
        ValueError: An unknown method, one that the model has nothing for, or `similarity` without a point.
    """
    for method in methods:
        check_choice("method", method, METHODS)
    parts = [slice(first, first + CHUNK) for first in range(0, len(images), CHUNK)]
    arrays: dict[str, np.ndarray] = {}
    for name, attribute in ATTRIBUTIONS.items():
        if name in methods:
            arrays[name] = np.concatenate([attribute(model, images[part], list(target[part])) for part in parts])
    for layer in layers if "heads" in methods else ():
        heads = [attribution.class_attention(model, images[part], layer) for part in parts]
        arrays[f"heads{layer}"] = np.concatenate(heads)  # [B, h, rows, columns]
    arrays.update({name: function(model, images) for name, function in FEATURES.items() if name in methods})
    if "similarity" in methods:
        if point is None:
            raise ValueError("similarity compares one patch with all others; give its point, x,y in pixels.")
        arrays["similarity"] = properties.patch_similarity(model, images, point)
    if "positions" in methods:
        arrays["positions"] = properties.position_similarity(model)
    if "filters" in methods:
        arrays["filters"], arrays["shares"] = properties.patch_filters(model)
    if "distance" in methods:
        arrays["distance"] = properties.attention_distance(model, images)
    return arrays


def write(
    batch: Batch,
    arrays: dict[str, np.ndarray],
    titles: Sequence[str],
    folder: str | Path,
    point: tuple[int, int] | None = None,
) -> list[Path]:
    """Write what `compute` gave.

    For each picture: NAME.png, the sheet of all its maps, NAME_METHOD.png for each of them, and NAME.npz, the arrays.
    For the model: positions.png, filters.png, distance.png and model.npz.

    Args:
        batch: The pictures.
        arrays: Of `compute`.
        titles: A line for each picture's sheet.
        folder: Made when it is not there.
        point: That of `compute`; it is marked in the first picture.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    of_model = {name: array for name, array in arrays.items() if name in (*MODEL_PLOTS, "shares")}
    of_pictures = {name: array for name, array in arrays.items() if name not in of_model}
    paths = _write_model(of_model, folder) if of_model else []
    for i, (name, picture, title) in enumerate(zip(batch.names, batch.pictures, titles)):
        if of_pictures:
            own = {method: array[i] for method, array in of_pictures.items()}
            paths += _write_picture(folder / name, picture, own, title, None if i else point)
    return paths


def _write_model(arrays: dict[str, np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"{name}.png" for name in arrays if name != "shares"]
    if "positions" in arrays:
        plots.draw_positions(arrays["positions"], folder / "positions.png")
    if "filters" in arrays:
        plots.draw_filters(arrays["filters"], arrays["shares"], folder / "filters.png")
    if "distance" in arrays:
        plots.draw_distances(arrays["distance"], folder / "distance.png")
    np.savez_compressed(folder / "model.npz", **arrays)  # type: ignore[arg-type]
    return [*paths, folder / "model.npz"]


def _write_picture(
    base: Path, picture: np.ndarray, arrays: dict[str, np.ndarray], title: str, point: tuple[int, int] | None
) -> list[Path]:
    tiles, paths = {"picture": plots.enlarged(picture)}, []
    for name, array in arrays.items():
        path = base.with_name(f"{base.name}_{name}.png")
        paths.append(path)
        if name in ATTRIBUTIONS:
            tiles[name] = plots.overlay(picture, array)
            plots.save(tiles[name], path)
        elif name == "components":
            tiles[name] = plots.component_colours(array)
            plots.save(plots.enlarged(tiles[name]), path)
        elif name.startswith("heads"):
            heads = {f"head {head}": plots.overlay(picture, heat) for head, heat in enumerate(array)}
            plots.draw_tiles(heads, path, f"{title}: heads of attention layer {name[len('heads') :]}")
        else:
            tiles[name] = plots.heat_map(array)
            mark = point if name == "similarity" else None
            plots.draw_map(picture, array, path, f"{title}: {name}", mark)
    sheet = base.with_name(f"{base.name}.png")
    plots.draw_tiles(tiles, sheet, title)
    np.savez_compressed(base.with_name(f"{base.name}.npz"), **arrays)  # type: ignore[arg-type]
    return [sheet, *paths, base.with_name(f"{base.name}.npz")]
