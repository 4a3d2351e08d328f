"""What happens around the steps of `paddle.Model.fit`: evaluation, history, checkpoints, interruption."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle

from paddlevit import runtime
from paddlevit.config import Config
from paddlevit.training.console import Console, describe_row
from paddlevit.training.optimizer import optimizer_state, restore_optimizer
from paddlevit.training.run_folder import LOGGER, NotWritten, RunFolder
from paddlevit.training.schedule import evaluations_since_best, plateau_factor
from paddlevit.training.trainer import NonFiniteLoss, Progress, Trainer
from paddlevit.weights.checkpoint import Checkpoint
from paddlevit.weights.restore import describe_model, set_weights

FILES_NAMED = 4


class Interrupted(Exception):
    """A signal asked the run to end; its state is saved."""


class NonFiniteState(NonFiniteLoss):
    """Weights, or what evaluation makes of them, are infinite or not a number; they were not saved."""


def evaluate(
    trainer: Trainer, loader: paddle.io.DataLoader, callbacks: Sequence[paddle.callbacks.Callback] = ()
) -> dict[str, float]:
    """The scores over every picture of the loader, once, over all processes.

    Args:
        trainer: Prepared with Scores.
        loader: Batches of (images, labels).
        callbacks: Told of every batch.

    Returns:
        The figures of the trainer's scores by name: loss, top1 and top5 for classes.

    Raises:
        ValueError: The loader is empty.
    """
    if len(loader) == 0:
        raise ValueError("There is nothing to evaluate: the validation data is empty.")
    trainer.eval_left = pictures_of_process(loader.batch_sampler)
    trainer.evaluate(loader, verbose=0, callbacks=list(callbacks))
    totals = sum_over_processes(trainer.scores.finished)
    return dict(zip(trainer.scores.names, trainer.scores.figures(totals)))


def pictures_of_process(sampler: Any) -> int | None:
    """How many pictures this process evaluates before those that only fill up the last step; None is all.

    Args:
        sampler: An EpochSampler in the data's own order.
    """
    if not getattr(sampler, "padding", 0):
        return None
    whole, rest = divmod(sampler.dataset_length, sampler.batch_size * sampler.world_size)
    share = (rest + sampler.padding) // sampler.world_size
    return whole * sampler.batch_size + min(max(rest - sampler.rank * share, 0), share)


def sum_over_processes(values: np.ndarray) -> np.ndarray:
    """The sum of every process's values."""
    if paddle.distributed.ParallelEnv().nranks == 1:
        return values
    summed = paddle.to_tensor(np.asarray(values, np.float64))
    paddle.distributed.all_reduce(summed)
    return summed.numpy()


class Recorder(paddle.callbacks.Callback):
    """Evaluates, writes the history and keeps the checkpoints `last`, `previous` and `best`.

    Args:
        folder: Where.
        config: Its schedule, run and train.early_stop say when to do what.
        sampler: Of the training data; told which epoch begins and how many batches to skip.
        val_loader: What is evaluated on.
        class_names: Go into the checkpoints.
        on_row: Called with every new row of the history, by the first process.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        sampler: Any,
        val_loader: paddle.io.DataLoader,
        class_names: list[str],
        on_row: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.config, self.sampler, self.val_loader = folder, config, sampler, val_loader
        self.epochs, self.class_names, self.on_row = config.schedule.total_epochs, class_names, on_row
        self.history: list[dict[str, Any]] = []
        self.data: tuple[Any, ...] = ()
        """The datasets that `fit` reads."""
        self.skipped: list[str] = []
        """Pictures that could not be read up to the last end of an epoch, earlier processes of the run included."""
        self.signal: int | None = None

    def resume(self, trainer: Trainer) -> None:
        """Take weights, optimizer state, progress and history from the folder's last whole checkpoint."""
        checkpoint = self.folder.load_last()
        set_weights(trainer.network, checkpoint)
        restore_optimizer(trainer.network, trainer._optimizer, checkpoint.optimizer)
        if trainer.ema is not None:
            trainer.ema.load(checkpoint.ema)
        first_scale = trainer.progress.loss_scale
        trainer.progress = progress = Progress(**checkpoint.meta["progress"])
        if first_scale is None or progress.loss_scale is None:  # one of the two runs is without fp16
            progress.loss_scale = first_scale
        shares, own_layout = checkpoint.meta["shares"], self._epoch_layout()
        layout = checkpoint.meta.get("epoch_layout", own_layout)
        if len(shares) == trainer.num_processes:
            progress.loss_sum, progress.hits, progress.pictures = shares[trainer.rank]
        elif progress.batch:
            raise ValueError(
                f"{self.folder.path} stopped in mid-epoch with {len(shares)} processes, which shared its batches; go on"
                f" with as many, not {trainer.num_processes}."
            )
        if progress.batch and layout != own_layout:
            was, now = (", ".join(f"{key} {one[key]}" for key in one) for one in (layout, own_layout))
            raise ValueError(
                f"{self.folder.path} stopped in mid-epoch with {was}; go on with the same, not with {now}, which can"
                " change only between epochs."
            )
        trainer.learning_rate = checkpoint.meta["learning_rate"]
        self.skipped = checkpoint.meta.get("skipped", [])
        self.history = checkpoint.meta["history"]
        trainer.rate_factor = plateau_factor(self.config.schedule, self.scores_so_far(trainer.scores.main))
        if trainer.rank == 0:
            self.folder.write_history(self.history)

    def _epoch_layout(self) -> dict[str, int]:
        """What decides where an epoch's batches begin and its updates fall."""
        config = self.config
        return {
            "pictures": self.sampler.dataset_length,
            "data.batch_size": config.data.batch_size,
            "train.accumulate": config.train.accumulate,
        }

    def skipped_so_far(self) -> list[str]:
        """The pictures that could not be read, over all processes that the run took one after the other."""
        return sorted({*self.skipped, *(name for data in self.data for name in getattr(data, "skipped", ()))})

    def scores_so_far(self, main: str) -> list[float]:
        """The better of raw and averaged weights at each evaluation."""
        parts = (f"val_{main}", f"ema_{main}")
        return [max(row[part] for part in parts if part in row) for row in self.history if parts[0] in row]

    def should_stop(self, main: str) -> bool:
        """Whether train.early_stop says that enough evaluations brought nothing."""
        limit = self.config.train.early_stop
        return limit is not None and evaluations_since_best(self.scores_so_far(main)) >= limit

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.sampler.set_epoch(self.model.progress.epoch)
        self.sampler.skip = self.model.progress.batch

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        if not self.model.at_update:
            return
        self._stop_if_asked()
        every = self.config.run.save_every
        if every and self.model.progress.update % every == 0:
            self.save()

    def on_eval_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        model, progress = self.model, self.model.progress
        done, main = progress.epoch + 1, model.scores.main
        loss_sum, hits, pictures = map(sum, zip(*self._shares()))
        row = {
            "epoch": done,
            "update": progress.update,
            "lr": model.learning_rate,
            "train_loss": loss_sum / pictures,
        }
        if model.scores.counts_hits:
            row["train_top1"] = hits / pictures
        if progress.loss_scale is not None:
            row["skipped_updates"] = progress.skipped_updates
        improved = False
        if done % self.config.run.eval_every == 0 or done == self.epochs:
            improved = self._evaluate(row)
        self.history.append(row)
        progress.next_epoch()
        model.rate_factor = plateau_factor(self.config.schedule, self.scores_so_far(main))
        model.stop_training = self.should_stop(main)
        if model.rank == 0:
            self.folder.write_history(self.history)
        # Before the checkpoint: a run killed between the two says it twice, not never.
        LOGGER.info("%s%s", describe_row(row, self.epochs, main), "  best" if improved else "")
        self._name_skipped()
        self.save(best=improved)
        if model.rank == 0:
            self.folder.keep_epoch(done, self.config.run.keep)
            if self.on_row is not None:
                self.on_row(row)
        if model.stop_training:
            LOGGER.info("Stopped: %d evaluations without a better %s.", self.config.train.early_stop, main)

    def _name_skipped(self) -> None:
        new = [name for name in self.skipped_so_far() if name not in self.skipped]
        if new:
            more = f" and {len(new) - FILES_NAMED} more" if len(new) > FILES_NAMED else ""
            LOGGER.info("Could not be read, others were taken: %s%s.", ", ".join(new[:FILES_NAMED]), more)
        self.skipped += new

    def _shares(self) -> list[list[float]]:
        """Of every process: the epoch's sum of losses, its pictures classified right, and its pictures."""
        model, progress = self.model, self.model.progress
        shares = np.zeros((model.num_processes, 3))
        shares[model.rank] = progress.loss_sum, progress.hits, progress.pictures
        return [[loss, int(hits), int(pictures)] for loss, hits, pictures in sum_over_processes(shares).tolist()]

    def _evaluate(self, row: dict[str, Any]) -> bool:
        """Add the evaluation to the row; return whether it is the best so far."""
        model = self.model
        scores = {"val": evaluate(model, self.val_loader, [_Watch(self._stop_if_asked)])}
        if model.ema is not None:
            with model.ema.applied(model.network):
                scores["ema"] = evaluate(model, self.val_loader, [_Watch(self._stop_if_asked)])
        for part, values in scores.items():
            row.update({f"{part}_{name}": value for name, value in values.items()})
            if not np.isfinite(values["loss"]):
                raise NonFiniteState(
                    f"The {part} loss is {values['loss']} after epoch {row['epoch']}. {way_back(self.folder)}"
                )
        best = max(values[model.scores.main] for values in scores.values())
        improved = best > model.progress.best_score
        if improved:
            model.progress.best_score = best
        return improved

    def save(self, best: bool = False) -> None:
        """Write `last`, and `best` before it if asked: then a run killed between them finds its best again.

        All processes call it, the first one writes.

        Raises:
            NonFiniteState: Nothing was written.
        """
        model = self.model
        shares = self._shares()
        if model.rank:
            return
        meta = {
            **describe_model(model.network, self.class_names),
            "progress": dataclasses.asdict(model.progress),
            "shares": shares,
            "epoch_layout": self._epoch_layout(),
            "skipped": self.skipped_so_far(),
            "learning_rate": model.learning_rate,
            "history": self.history,
        }
        state = _arrays(model.network.state_dict())
        average = _arrays(model.ema.average) if model.ema is not None else {}
        optimizer = _arrays(optimizer_state(model.network, model._optimizer))
        for name, array in itertools.chain(state.items(), average.items(), optimizer.items()):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise NonFiniteState(
                    f"{name} holds numbers that are not finite after update {model.progress.update}."
                    f" {way_back(self.folder)}"
                )
        if best:
            self.folder.save_best(Checkpoint(state, meta, average))
        self.folder.save_last(Checkpoint(state, meta, average, optimizer))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, Ctrl-C and SIGTERM end the run after the update under way; a second one at once."""

        def note(number: int, frame: Any) -> None:
            if self.signal is not None:
                signal.default_int_handler(number, frame)
            self.signal = number

        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        """Raise Interrupted in every process when one of them got a signal."""
        number = self.signal or 0
        if self.model.num_processes > 1:
            asked = paddle.to_tensor([number])
            paddle.distributed.all_reduce(asked, op=paddle.distributed.ReduceOp.MAX)
            number = int(asked)
        if number:
            raise Interrupted(signal.Signals(number).name)


class _Watch(paddle.callbacks.Callback):
    """Calls a function after every batch of an evaluation."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__()
        self.function = function

    def on_eval_batch_end(self, step: int, logs: dict | None = None) -> None:
        self.function()


def fit(trainer: Trainer, loader: paddle.io.DataLoader, recorder: Recorder, console: Console) -> None:
    """`paddle.Model.fit` from where the trainer's progress stands to the run's last epoch.

    Args:
        trainer: After `setup`, and after `recorder.resume` when going on with a run.
        loader: The training data.
        recorder: Evaluates and saves.
        console: Shows progress.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved and the message says how to go on.
        NonFiniteLoss: With the pictures of the batch and the last good checkpoint.
        NotWritten: The disk is full.
        ValueError: The run is past its last epoch and has never been evaluated.
    """
    recorder.data = loader.dataset, recorder.val_loader.dataset
    done, main = trainer.progress.epoch, trainer.scores.main
    left = recorder.epochs - done
    if left <= 0:
        if not recorder.scores_so_far(main):
            raise ValueError(
                f"{recorder.folder.path} has trained {done} epochs and evaluated none of them; go on beyond them with a"
                " larger schedule.epochs."
            )
        LOGGER.info("All %d epochs are done.", done)
        return
    if recorder.should_stop(main):
        limit = recorder.config.train.early_stop
        LOGGER.info("Stopped early, after epoch %d: %d evaluations without a better %s.", done, limit, main)
        return
    trainer.stop_training = False  # Paddle never takes it back
    with _cause_shown(), contextlib.closing(console):
        try:
            with recorder.listening():
                trainer.fit(loader, epochs=left, verbose=0, callbacks=[console, recorder])
        except Interrupted as interruption:
            recorder.save()
            progress = trainer.progress
            raise Interrupted(
                f"{interruption}: saved at epoch {progress.epoch + 1}, batch {progress.batch}. Go on with:"
                f" python tools/train.py --resume {recorder.folder.path}"
            ) from None
        except NonFiniteState:
            raise
        except NonFiniteLoss as error:
            pictures = _pictures_under_way(trainer, loader, recorder.folder)
            raise NonFiniteLoss(f"{error} {pictures} {way_back(recorder.folder)}") from None


@contextmanager
def _cause_shown() -> Iterator[None]:
    """Within the block, an error of one process is what all of them are seen to end by."""
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        runtime.outlive_this_process()
        raise


def _pictures_under_way(trainer: Trainer, loader: paddle.io.DataLoader, folder: RunFolder) -> str:
    """The pictures of the batch under way, in a sentence."""
    sampler = copy.copy(loader.batch_sampler)
    sampler.set_epoch(trainer.progress.epoch)
    sampler.skip = trainer.progress.batch
    keys = next(itertools.islice(iter(sampler), 1))
    describe = getattr(loader.dataset, "describe", "picture {}".format)
    names = [describe(key.index) for key in keys]
    more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
    with contextlib.suppress(NotWritten):
        listing = folder.write("non_finite_batch.txt", "".join(f"{name}\n" for name in names).encode())
        more += f", all in {listing}" if more else ""
    return f"Its pictures: {', '.join(names[:FILES_NAMED])}{more}."


def way_back(folder: RunFolder) -> str:
    """The checkpoint to go back to from numbers that are not finite, and what may help."""
    last = folder.checkpoint("last")
    good = f"The last good checkpoint is {last}" if last.exists() else "There is no checkpoint yet"
    return f"{good}; a lower optimizer.lr or clip_norm may help."


def _arrays(state: dict[str, paddle.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in state.items()}
