"""What the articles claim about a Vision Transformer's parts, measured: one training a choice and seed, one table.

Finished trainings are kept as JSON lines, so that an interrupted measurement goes on where it stood.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from paddlevit import training
from paddlevit.config import Config, ConfigError, dump_config, load_config
from paddlevit.config.steps import RunConfig
from paddlevit.data import build_datasets

TARGET = 0.9
"""Validation accuracy whose first epoch tells how fast a choice learns."""

# Two-sided 95 % points of Student's t with 1, 2, ... degrees of freedom.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
_NORMAL = 2.1


@dataclass(frozen=True)
class Variant:
    """One choice."""

    name: str
    """As the table calls it."""
    overrides: tuple[str, ...] = ()
    """What it changes in the configuration, as `section.key=value`."""


@dataclass(frozen=True)
class Comparison:
    """A claim, and the choices that it is about."""

    claim: str
    """What the articles say."""
    variants: tuple[Variant, ...]
    """The first one is what the others are compared with."""


def _hard(name: str, *overrides: str) -> Variant:
    steep = ("optimizer.lr=1e-2", "optimizer.clip_norm=null", "schedule.warmup_epochs=0")
    return Variant(f"{name}; rate 0.01, no warm-up, no clip", (*overrides, *steep))


COMPARISONS = (
    Comparison(
        "Pre-norm converges more easily; a post-norm that does not blow up ends better.",
        (Variant("pre-norm"), Variant("post-norm", ("model.options.norm_order=post",))),
    ),
    Comparison(
        "Post-norm blows up more easily.",
        (_hard("pre-norm"), _hard("post-norm", "model.options.norm_order=post")),
    ),
    Comparison(
        "Batch norm works too, perhaps not as well as layer norm.",
        (Variant("layer norm"), Variant("batch norm", ("model.options.norm=batch",))),
    ),
    Comparison(
        "A class token sees all tokens and gathers what the class needs; Swin takes the average instead.",
        (Variant("class token"), Variant("average", ("model.options.pool=average",))),
    ),
    Comparison(
        "Positions matter; learned ones are the better choice; adding and concatenating both work.",
        (
            Variant("learned, added"),
            Variant("sinusoidal, added", ("model.options.position=sinusoidal",)),
            Variant("learned, concatenated", ("model.options.position_merge=concat",)),
            Variant("none", ("model.options.position=none",)),
        ),
    ),
)


@dataclass(frozen=True)
class Result:
    """One training."""

    key: str
    """Of its configuration, see `config_key`."""
    overrides: tuple[str, ...]
    """Of its variant."""
    seed: int
    """Of its initial weights, order and augmentation."""
    accuracy: tuple[float, ...]
    """On the validation data, after each epoch; ends early when the loss became infinite."""
    chance: float
    """Accuracy of guessing."""
    failure: Optional[str] = None
    """Why it ended early."""

    @property
    def final(self) -> float:
        """Accuracy after the last epoch, not the best one, which would be chosen with the validation data."""
        return self.chance if self.failure else self.accuracy[-1]

    @property
    def epochs_to_target(self) -> float:
        """First epoch with `TARGET`; infinite if none had it."""
        return next((i for i, value in enumerate(self.accuracy, 1) if value >= TARGET), math.inf)


def config_key(config: Config) -> str:
    """Equal for configurations that give equal trainings, whatever machine and folder they run in."""
    config = dataclasses.replace(config, run=RunConfig(seed=config.run.seed))
    return hashlib.sha256(dump_config(config).encode()).hexdigest()[:16]


def variant_config(
    path: str | Path, variant: Variant, seed: int, epochs: int | None = None, overrides: Sequence[str] = ()
) -> Config:
    """The configuration of one training.

    Args:
        path: YAML file that the variant changes.
        variant: What is changed.
        seed: Of the run.
        epochs: Length of the training, the warm-up shortened or stretched with it; None keeps the file's.
        overrides: Further changes, common to all variants.

    Raises:
        ConfigError: The file or a change is not understood, or the data have no classes.
    """
    base = load_config(path, overrides)
    if base.data.task != "classes":
        raise ConfigError(f"data.task is {base.data.task!r}; the table compares accuracies and needs classes.")
    changes = [*overrides, f"run.seed={seed}"]
    if epochs is not None:
        warmup = base.schedule.warmup_epochs * epochs / base.schedule.epochs
        changes += [f"schedule.epochs={epochs}", f"schedule.warmup_epochs={warmup}"]
    return load_config(path, [*changes, *variant.overrides])


def train(config: Config) -> tuple[list[float], float, str | None]:
    """Train once; nothing is left behind.

    Args:
        config: The experiment.

    Returns:
        Validation accuracy after each epoch, accuracy of guessing, and why the training ended early, if it did.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    training.seed_everything(config.run.seed)
    preprocessing = training.resolve_preprocessing(config)
    train_set, val_set = build_datasets(config, preprocessing, config.run.seed)
    network = training.build_network(config, train_set.class_names, preprocessing)
    sampler, loader = training.build_train_loader(config, train_set)
    val_loader = training.build_eval_loader(config, val_set)
    trainer = training.build_trainer(config, network, len(sampler), train_set.labels)
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        recorder = training.Recorder(training.RunFolder(folder), config, sampler, val_loader, train_set.class_names)
        console = training.Console(config.run.log_every, config.schedule.total_epochs)
        try:
            training.fit(trainer, loader, recorder, console)
        except training.NonFiniteLoss as error:
            failure = re.split(r" (?:Its pictures:|The last good|There is no checkpoint)", str(error))[0]
    accuracy = [row["val_top1"] for row in recorder.history if "val_top1" in row]
    return accuracy, 1 / len(train_set.class_names), failure


def read_results(path: str | Path) -> dict[str, Result]:
    """Finished trainings by key; a last line that an interruption cut off is left out.

    Raises:
        ValueError: The file holds something else.
    """
    path = Path(path)
    results = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            results[values["key"]] = Result(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}, is no result of an ablation; give another folder.") from error
    return results


def write_results(path: str | Path, results: dict[str, Result]) -> None:
    """Write finished trainings so that the file is whole at every moment."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    lines = (json.dumps(dataclasses.asdict(result)) for result in results.values())
    new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    new.replace(path)


def ablate(
    path: str | Path,
    seeds: int,
    results_file: str | Path,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
) -> Iterator[tuple[int, int, Result]]:
    """Train every variant with every seed that the file does not hold yet, seed by seed.

    Args:
        path: YAML file that the variants change.
        seeds: How many, from 0.
        results_file: JSON lines; rewritten after each training.
        epochs: See `variant_config`.
        overrides: See `variant_config`.

    Yields:
        Number of the training, number of all, and its result, also of those that were there already.
    """
    variants = {variant.overrides: variant for comparison in COMPARISONS for variant in comparison.variants}
    jobs = [(seed, variant) for seed in range(seeds) for variant in variants.values()]
    results = read_results(results_file)
    for number, (seed, variant) in enumerate(jobs, 1):
        config = variant_config(path, variant, seed, epochs, overrides)
        key = config_key(config)
        if key not in results:
            accuracy, chance, failure = train(config)
            results[key] = Result(key, variant.overrides, seed, tuple(accuracy), chance, failure)
            write_results(results_file, results)
        yield number, len(jobs), results[key]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the mean; the error of one value is not known (nan)."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def judge(differences: Sequence[float]) -> str:
    """What paired differences of accuracy say, by Student's t at 95 %."""
    if len(differences) < 2:
        return "one seed cannot tell"
    mean, error = mean_and_error(differences)
    freedom = len(differences) - 1
    limit = error * (_STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL)
    if abs(mean) <= limit or mean == 0.0:
        return "no clear difference"
    return "better" if mean > 0 else "worse"


def format_table(results: Sequence[Result]) -> str:
    """All comparisons as one Markdown table.

    Args:
        results: Of `ablate`; each variant with the same seeds.

    Returns:
        A row for each variant, and a line that explains the columns.
    """
    by_variant: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        by_variant.setdefault(result.overrides, []).append(result)
    lines = [
        f"| the articles say | variant | accuracy, % | difference | epochs to {TARGET:.0%} | found |",
        "|---|---|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        base = by_variant[comparison.variants[0].overrides]
        for variant in comparison.variants:
            claim = comparison.claim if variant is comparison.variants[0] else ""
            cells = _cells(by_variant[variant.overrides], base)
            lines.append(f"| {claim} | {variant.name} | {' | '.join(cells)} |")
    seeds = len(by_variant[()])
    explained = (
        f"Accuracy on the validation data after the last epoch, mean ± standard error of {seeds} seeds. Difference: to"
        f" the first variant of the group, seed by seed. Epochs to {TARGET:.0%}: mean of the seeds that reached it."
        " Found: Student's t test of the differences at 95 %."
    )
    return "\n".join([*lines, "", explained])


def _cells(runs: Sequence[Result], base: Sequence[Result]) -> list[str]:
    accuracy, epochs = [100 * run.final for run in runs], [run.epochs_to_target for run in runs]
    reached = [epoch for epoch in epochs if math.isfinite(epoch)]
    speed = f"{statistics.fmean(reached):.1f}" if reached else "never"
    if 0 < len(reached) < len(epochs):
        speed += f" ({len(reached)} of {len(epochs)})"
    difference, found = "", ""
    if runs is not base:
        differences = [run - other for run, other in zip(accuracy, (100 * run.final for run in base))]
        difference, found = _plus_minus(differences, "+"), judge(differences)
    failed = sum(run.failure is not None for run in runs)
    if failed:
        found = f"{found}{', ' if found else ''}{failed} of {len(runs)} blew up"
    return [_plus_minus(accuracy), difference, speed, found]


def _plus_minus(values: Sequence[float], sign: str = "") -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.2f}" if math.isnan(error) else f"{mean:{sign}.2f} ± {error:.2f}"
