"""Hooks: random state by epoch, progress of the run, a progress bar, the ranked-gallery sheet."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from tqdm import tqdm

from cada_plugin.datasets.base import mix_seed
from cada_plugin.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Random state follows (seed, epoch, process): a run resumed at an epoch continues as if never interrupted."""

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        seed = runner.seed or 0
        mixed = mix_seed(seed, runner.epoch, get_rank())
        torch.manual_seed(mixed)
        np.random.seed(mixed % 2**32)  # noqa: NPY002 - samplers of other codebases draw from the global state
        random.seed(mixed)
        dataset = runner.train_dataloader.dataset
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(runner.epoch, seed)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Tells the model how much of the run is done, and shows a bar with the time left."""

    priority = "LOW"

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def before_train(self, runner: Runner) -> None:
        if is_main_process():
            self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc="training", unit="it", mininterval=2)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if hasattr(model, "set_progress"):
            model.set_progress(runner.iter / max(runner.max_iters, 1))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self.bar is not None:
            self.bar.update()

    def after_train(self, runner: Runner) -> None:
        if self.bar is not None:
            self.bar.close()
