"""Loading weights from anywhere into our models, with nothing silent.

First everything is planned from names and shapes; what cannot be explained ends here, before the model is touched.
Then tensor after tensor is read, adapted and put in place, so that no second copy of the weights is ever held.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np
import paddle
from paddle import nn

from paddlevit.errors import did_you_mean
from paddlevit.weights.adapt import Adaptation, Step, head_mismatch
from paddlevit.weights.arrays import contiguous
from paddlevit.weights.dialects import (
    FAMILIES,
    Dialect,
    Entry,
    Family,
    Match,
    class_rows,
    detect,
    find_family,
    linear_layout,
    reason_to_ignore,
    strip_wrappers,
    to_ours,
    whole_shape,
)
from paddlevit.weights.report import LoadReport, shorten
from paddlevit.weights.source import Source, open_source

Weights = Union[str, Path, Mapping[str, Any]]

_PRE_LOGITS = "*pre_logits*"
_DISTILLATION = "distillation_token"


def load_weights(
    model: nn.Layer,
    source: Weights,
    *,
    ema: bool | None = None,
    allow_missing: Iterable[str] = (),
    allow_unused: Iterable[str] = (),
    source_grid: tuple[int, int] | None = None,
) -> LoadReport:
    """Put weights of any known origin into a model.

    Understood are the names of timm, official DeiT, MAE, DINO, DINOv2, Swin and T2T-ViT files, Hugging Face
    transformers, Google's JAX files, PaddleViT, PaddleClas and ours. Positions, window biases, patch projections and
    input channels are adapted to the model's sizes; a classifier of another size is left as it is. The report names
    everything that was not simply loaded.

    Args:
        model: One of our models; its parameters change only when everything can be explained.
        source: A file or folder, see `open_weights`, or a dictionary from names to arrays or tensors.
        ema: Take averaged weights (True) or raw ones (False) when the file holds both; None takes the averaged ones of
            other people's files and the raw ones of our checkpoints.
        allow_missing: Patterns, such as `classifier.*`, of the model's parameters that may stay as they are.
        allow_unused: Patterns of names in the file that may be left out.
        source_grid: Rows and columns of patches that the file's positions are for; None takes the model's when they
            are as many, otherwise a square.

    Returns:
        What was loaded, adapted, missing and left out; `print` shows it.

    Raises:
        ValueError: The file cannot be read, belongs to another network, or holds or lacks what nothing explains.
    """
    opened = open_source(source, ema)
    plan = _Plan(model, opened, tuple(allow_missing), tuple(allow_unused), source_grid or opened.grid)
    plan.check()
    return plan.execute()


class _Plan:
    """What will be loaded from where, and every question that this raises."""

    def __init__(
        self,
        model: nn.Layer,
        source: Source,
        allow_missing: tuple[str, ...],
        allow_unused: tuple[str, ...],
        source_grid: tuple[int, int] | None,
    ) -> None:
        self.model, self.source = model, source
        self.allow_missing, self.allow_unused = allow_missing, allow_unused
        self.state: dict[str, paddle.Tensor] = model.state_dict()
        self.name = getattr(model, "model_name", type(model).__name__)
        self.match = self._understand()
        self.jax = self.match.dialect.jax
        self.out_in = linear_layout(self.match, source.arrays, source.paddle)
        self.report = LoadReport(source.title, self.name, self.match.dialect.title, notes=list(source.notes))
        if self.match.prefix:
            self.report.notes.append(f"names without their prefix {self.match.prefix!r}")
        self.shapes = {target: self._found_shape(target) for target in self.match.sources}
        state_shapes = {target: tuple(tensor.shape) for target, tensor in self.state.items()}
        rows = class_rows(self.match)
        self.adaptation = Adaptation(model, self.shapes, state_shapes, self._read, source_grid, rows)
        self.problems: list[str] = []
        self.steps: dict[str, Step] = {}

    def _found_shape(self, target: str) -> tuple[int, ...]:
        parts = [self.source.arrays[name].shape for name in self.match.sources[target]]
        return whole_shape(self.match.rows[target], parts, self.out_in, self.jax)

    # Understanding the names

    def _understand(self) -> Match:
        family = find_family(self.state)
        names = self.source.arrays
        match = None
        if family is not None:
            ordered = (family, *(other for other in FAMILIES if other is not family))
            match = detect(names, ordered)
        if match is not None and match.family is not family:
            raise ValueError(
                f"{self.source.title} holds weights of a {match.family.title} ({match.dialect.title} names), and"
                f" {self.name} is a {family.title if family else 'network of its own'}."
            )
        if match is None:
            match = self._identical(family)
        self._adopt_identical(match)
        return match

    def _identical(self, family: Family | None) -> Match:
        """For networks without a table: the file has to use the model's own names."""
        own = Dialect("the model's own", {}, {}, paddle=True)
        match = Match(family or Family(self.name, (own,)), own, "", {}, {}, list(self.source.arrays))
        short = strip_wrappers(self.source.arrays)
        if not set(short) & set(self.state):
            raise ValueError(
                f"{self.source.title} names its tensors in no known way ({shorten(sorted(self.source.arrays))});"
                f" {self.name} has {shorten(sorted(self.state))}."
            )
        return match

    def _adopt_identical(self, match: Match) -> None:
        """Names that no table has but that are the model's own, such as the statistics of batch norm."""
        for short, name in strip_wrappers(match.unknown).items():
            if short in self.state and short not in match.sources:
                match.sources[short], match.rows[short] = [name], Entry(short, "tensor", short)
                match.unknown.remove(name)

    # Planning

    def check(self) -> None:
        """Plan every tensor.

        Raises:
            ValueError: Something has no explanation; all of it is named.
        """
        self._check_distillation()
        for target, tensor in self.state.items():
            if target in self.match.sources:
                self._plan_tensor(target, tuple(tensor.shape))
        self._check_missing()
        self._check_unused()
        self.report.notes += self.adaptation.notes + self.adaptation.window_notes(self.source.arrays)
        if self.match.dialect.title == "timm":
            self.report.notes += self.adaptation.shift_notes()
        if self.problems:
            raise ValueError(f"{self.source.title} does not fit {self.name}: {' '.join(self.problems)}")

    def _plan_tensor(self, target: str, shape: tuple[int, ...]) -> None:
        kind, parts = self.match.rows[target].kind, self.match.sources[target]
        stored = self.source.arrays[parts[0]].stored
        if not stored.startswith(("float", "bfloat")):
            self.problems.append(f"{parts[0]} holds {stored} numbers, not weights.")
            return
        reason = head_mismatch(kind, self.shapes[target], shape)
        if reason is not None:
            self.report.missing[target] = reason
            self.report.left_out.update(dict.fromkeys(parts, "replaced by the new classifier"))
            return
        try:
            step = self.adaptation.step(kind, target)
        except ValueError as error:
            if self._allowed(target, self.allow_missing):
                self.report.missing[target] = "does not fit; allowed"
            else:
                self.problems.append(str(error))
            return
        if step is not None:
            self.steps[target] = step
            self.report.adapted[target] = step.what
        self.report.loaded.append(target)

    def _check_distillation(self) -> None:
        in_file = any(_DISTILLATION in name for name in self.match.sources)
        in_model = any(_DISTILLATION in name for name in self.state)
        allowed = self.allow_unused if in_file else self.allow_missing
        if in_file and in_model and "classifier_distillation.weight" in self.state and not self.allow_missing:
            heads = {target for target, row in self.match.rows.items() if row.kind == "head"}
            if heads and not any("distillation" in target for target in heads):
                self.problems.append(
                    "The file has a distillation token but one classifier (transformers' DeiTForImageClassification):"
                    " start the other anew by allow_missing=['classifier_distillation.*'], or build the model with"
                    " num_classes=0."
                )
        if in_file == in_model or allowed:
            return
        if in_file:
            self.problems.append(
                "The file is a distilled DeiT (it has a distillation token) and the model is not: build a"
                " deit_*_distilled model, or drop that part by allow_unused=['*dist*']."
            )
        else:
            self.problems.append(
                "The model is a distilled DeiT and the file has no distillation token: build the plain model, or start"
                " that part anew by allow_missing=['*distillation*']."
            )

    def _check_missing(self) -> None:
        planned = {*self.report.loaded, *self.report.missing}
        problems = []
        heads = [name for name, row in self.match.rows.items() if row.kind == "head"]
        for target in self.state:
            if target in planned or target in self.match.sources:
                continue
            if target in self._head_names() and not heads:
                self.report.missing[target] = "the file has no classifier; a new one is in place"
            elif target in self.match.family.computed:
                self.report.missing[target] = "fixed values, computed here"
            elif self._allowed(target, self.allow_missing):
                self.report.missing[target] = "not in the file; allowed"
            else:
                problems.append(target)
        if problems:
            self.problems.append(f"The file lacks {shorten(problems)}.")

    def _head_names(self) -> set[str]:
        own = self.match.family.own
        found = {name: own.match(name) for name in self.state}
        return {name for name, row in found.items() if row is not None and row[1].kind == "head"}

    def _check_unused(self) -> None:
        unknown = []
        for name in self.match.unknown:
            reason = self._reason_to_ignore(name)
            if reason is None:
                unknown.append(name)
            else:
                self.report.left_out[name] = reason
        if unknown:
            hint = did_you_mean(unknown[0], self.state) if len(unknown) == 1 else ""
            self.problems.append(f"Nothing in the model is called {shorten(unknown)}.{hint}")
        surplus = []
        for target in sorted(set(self.match.sources) - set(self.state)):
            for name in self.match.sources[target]:
                if self.match.rows[target].kind == "head" and not self._head_names():
                    self.report.left_out[name] = "the model has no classifier"
                elif self._allowed(name, self.allow_unused) or self._allowed(target, self.allow_unused):
                    self.report.left_out[name] = "the model has no such part; allowed"
                elif not (self.problems and "distillation" in target):  # has been said
                    surplus.append(name)
        if surplus:
            self.problems.append(f"The model has nothing for {shorten(surplus)}.")

    def _reason_to_ignore(self, name: str) -> str | None:
        reason = reason_to_ignore(name)
        if reason is not None:
            return reason
        if self._allowed(name, self.allow_unused):
            return "allowed"
        short = next(iter(strip_wrappers([name])))
        if fnmatch.fnmatch(short, _PRE_LOGITS) and not self._head_names() & set(self.report.loaded):
            return "the layer before the classifier of pre-training"
        if self.match.prefix and not short.startswith(self.match.prefix):
            return f"outside of {self.match.prefix!r}"
        return None

    @staticmethod
    def _allowed(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    # Doing it

    def execute(self) -> LoadReport:
        """Read, adapt and set each planned tensor."""
        for target in self.report.loaded:
            array = self._read(target)
            if target in self.steps:
                array = self.steps[target].change(array)
            set_tensor(self.state[target], array)
        return self.report

    def _read(self, target: str) -> np.ndarray:
        arrays = [self.source.arrays[name].read() for name in self.match.sources[target]]
        return to_ours(self.match.rows[target], arrays, self.out_in, self.jax)


def set_tensor(tensor: paddle.Tensor, array: np.ndarray) -> None:
    """Give a parameter its values, in its own type and on its own device."""
    values = contiguous(np.asarray(array, np.float32))
    if tensor.dtype == paddle.float32:
        tensor.set_value(values)
    else:
        tensor.set_value(paddle.to_tensor(values).astype(tensor.dtype))
