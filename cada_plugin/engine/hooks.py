"""Hooks: random state by epoch, progress of the run (told to the model, shown as a bar), the ranked-gallery picture."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from PIL import Image
from tqdm import tqdm

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.datasets.base import TextPersonDataset, mix_seed
from cada_plugin.evaluation import RankedImage, RetrievalResult, TextToImageRetrieval
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.progress import progress_bar
from cada_plugin.registry import HOOKS
from cada_plugin.visualization import RankedQuery, draw_ranked_galleries


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Sets the random state of every epoch from (seed, epoch, process), so that a resumed run continues as if it had
    never been interrupted."""

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        self._seed(runner)
        for dataset in _all_datasets(runner.train_dataloader.dataset):
            if isinstance(dataset, TextPersonDataset):
                dataset.set_epoch(runner.epoch, runner.seed or 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        # Seed again: a loader that starts its workers consumes a random number, one with persistent workers does not.
        if batch_idx == 0:
            self._seed(runner)

    def _seed(self, runner: Runner) -> None:
        mixed = mix_seed(runner.seed or 0, runner.epoch, get_rank())
        torch.manual_seed(mixed)
        np.random.seed(mixed % 2**32)  # noqa: NPY002 - samplers of other codebases use the global state
        random.seed(mixed)


def _all_datasets(dataset: object) -> Iterator[object]:
    """A data set, and those inside it if it is a wrapper of MMEngine (RepeatDataset, ConcatDataset, ...)."""
    yield dataset
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    for one in inner:
        if one is not None:
            yield from _all_datasets(one)


@HOOKS.register_module()
class PendingValidationHook(Hook):
    """Validates at the start of a resumed run if the first run was stopped between a checkpoint and its validation.

    MMEngine saves the checkpoint of an epoch before it validates the epoch, and a resumed run goes on with the next
    one. Without this hook, the epoch in between would never be validated and could not become the best one. A
    validation that ended but is recorded in no checkpoint is repeated, which changes nothing.
    """

    priority = "LOWEST"  # after CheckpointHook has found the best checkpoint of the first run

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if (
            runner.val_loop is None
            or runner.epoch < max(loop.val_begin, 1)
            or not isinstance(loop, EpochBasedTrainLoop)
        ):
            return
        due = runner.epoch % loop.val_interval == 0 or runner.epoch == runner.max_epochs
        if due and runner.message_hub.runtime_info.get("validated_epoch") != runner.epoch:
            runner.val_loop.run()

    def before_val_epoch(self, runner: Runner) -> None:
        runner.message_hub.update_info("validated_epoch", runner.epoch)


@HOOKS.register_module()
class TrainingProgressHook(Hook):
    """Tells the model before every training iteration which share of the run is done, for schedules inside the model.

    Some settings need it, such as ``negatives='sampled'`` of CADA with a ``negative_scale`` that rises. Without this
    hook such a model refuses to train.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = bare_model(runner)
        if hasattr(model, "set_progress"):
            model.set_progress(runner.iter / max(runner.max_iters, 1))


@HOOKS.register_module()
class ProgressHook(TrainingProgressHook):
    """Shows a progress bar with the time left. It also does what :class:`TrainingProgressHook` does, so that schedules
    work in a config that has this hook alone."""

    priority = "LOW"

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def before_train(self, runner: Runner) -> None:
        if is_main_process():
            self.bar = progress_bar(
                total=runner.max_iters, initial=runner.iter, desc="training", unit="it", mininterval=2
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self.bar is not None:
            self.bar.update()

    def after_train(self, runner: Runner) -> None:
        if self.bar is not None:
            self.bar.close()


@HOOKS.register_module()
class RankedGalleryHook(Hook):
    """After a test, saves ``ranked_gallery.png`` in the work dir: captions with their best images, in a green frame if
    the person is right and a red one if not.

    The picture also goes to the runner's visualizer, so that TensorBoard and the like show it. The score beneath an
    image is match logit + weight * cosine. An image beyond the shortlist has no match logit; its score is the cosine
    alone, written as ``cos 0.123``.

    Args:
        num_queries: number of captions, spread evenly over the split so that they are not hand-picked.
        topk: images per caption.
    """

    def __init__(self, num_queries: int = 8, topk: int = 8) -> None:
        self.num_queries, self.topk = num_queries, topk

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        found = [m.result for m in runner.test_evaluator.metrics if isinstance(m, TextToImageRetrieval)]
        if not is_main_process() or not found:
            return
        rows = ranked_rows(found[0], self.num_queries, self.topk)
        prefix, stage = (STAGE_ONE, "Stage 1") if found[0].shortlist is None else (FINAL, "Re-ranked")
        title = f"{stage}: mAP {metrics[f'{prefix}/mAP']:.1f}"
        if f"{prefix}/R1" in metrics:
            title = f"{title}, R@1 {metrics[f'{prefix}/R1']:.1f}"
        path = draw_ranked_galleries(rows, Path(runner.work_dir) / "ranked_gallery.png", topk=self.topk, title=title)
        runner.logger.info(f"ranked gallery drawn: {path}")
        with Image.open(path) as picture:
            # in a Runner that only tests, runner.iter would read the training data
            trained = isinstance(getattr(runner, "_train_loop", None), BaseLoop)
            step = runner.iter if trained else 0
            runner.visualizer.add_image("ranked_gallery", np.asarray(picture.convert("RGB")), step=step)


def ranked_rows(result: RetrievalResult, num_queries: int, topk: int) -> list[RankedQuery]:
    """Rows of the ranked-gallery sheet for ``num_queries`` captions spread evenly over all."""
    rows = []
    for query in np.linspace(0, len(result.captions) - 1, min(num_queries, len(result.captions))).astype(int).tolist():
        hits = [
            (result.img_paths[found.index], int(result.gallery_ids[found.index]), _label(found, result))
            for found in result.ranked(topk, query, query + 1)[0]
        ]
        truth = result.img_paths[int(result.query_images[query])]
        rows.append(RankedQuery(result.captions[query], int(result.query_ids[query]), hits, truth))
    return rows


def _label(found: RankedImage, result: RetrievalResult) -> float | str:
    """The final score. Beyond the shortlist there is none: the cosine is used, marked ``cos`` for its other scale."""
    if result.shortlist is None:
        return found.cosine
    if found.match is None:
        return f"cos {found.cosine:.3f}"
    return found.match + result.cosine_weight * found.cosine
