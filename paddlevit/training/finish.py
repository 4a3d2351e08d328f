"""What is written once, when all epochs are done: the curves and the report."""

from __future__ import annotations

import io

from paddlevit.complexity import count_parameters
from paddlevit.config import Config, dump_config
from paddlevit.data import EpochSampler, ImageDataset, build_loader
from paddlevit.training.answers import collect_answers
from paddlevit.training.callbacks import Recorder
from paddlevit.training.console import best_of
from paddlevit.training.curves import can_draw, draw_curves
from paddlevit.training.report import RunReport, render_report
from paddlevit.training.run_folder import LOGGER
from paddlevit.training.trainer import Trainer
from paddlevit.weights.checkpoint import read_checkpoint
from paddlevit.weights.restore import set_weights


def finish(trainer: Trainer, recorder: Recorder, config: Config, train_set: ImageDataset, val_set: ImageDataset) -> str:
    """Draw curves.png and write report.html; the trainer's network then has the run's best weights.

    Args:
        trainer: After `fit`.
        recorder: Has the history and the folder.
        config: Of the run.
        train_set: Its pictures are counted.
        val_set: Its pictures are classified once more.

    Returns:
        The run's result in one line.
    """
    folder, main = recorder.folder, trainer.scores.main
    if can_draw():
        picture = io.BytesIO()
        draw_curves(recorder.history, picture, main)
        folder.write("curves.png", picture.getvalue())
    else:
        LOGGER.info('No curves.png: pip install "paddlevit[plot]" brings matplotlib.')
    if config.run.report:
        folder.write("report.html", _report(trainer, recorder, config, train_set, val_set).encode())
    return f"{best_of(recorder.history, main)} The run is in {folder.path}."


def _report(
    trainer: Trainer, recorder: Recorder, config: Config, train_set: ImageDataset, val_set: ImageDataset
) -> str:
    network, main = trainer.network, trainer.scores.main
    answers = None
    if config.data.task == "classes":
        checkpoint = read_checkpoint(recorder.folder.checkpoint("best"), ("model", "ema"))
        scored = [row for row in checkpoint.meta["history"] if f"val_{main}" in row][-1]
        set_weights(network, checkpoint, use_ema=scored.get(f"ema_{main}", float("-inf")) > scored[f"val_{main}"])
        sampler = EpochSampler(
            len(val_set), config.data.eval_batch_size or config.data.batch_size, rank=0, world_size=1
        )
        loader = build_loader(val_set, sampler, config.data.num_workers, config.data.timeout)
        answers = collect_answers(network, loader)
    return render_report(
        RunReport(
            title=recorder.folder.path.name,
            config=dump_config(config),
            history=recorder.history,
            main=main,
            class_names=network.class_names,
            preprocessing=network.preprocessing,
            answers=answers,
            file_names=[val_set.describe(mistake.index) for mistake in answers.worst] if answers else (),
            skipped=recorder.skipped_so_far(),
            facts=[
                ("model", config.model.name),
                ("parameters", f"{count_parameters(network):,}"),
                ("data", config.data.dataset),
                ("pictures trained on", f"{len(train_set):,}"),
                ("epochs", trainer.progress.epoch),
                ("updates", f"{trainer.progress.update:,}"),
            ],
        )
    )
