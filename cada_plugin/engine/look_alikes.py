"""Collects the embeddings of an epoch for the sampler that lets look-alikes meet."""

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.datasets.look_alikes import LookAlikeSampler
from cada_plugin.errors import ConfigError
from cada_plugin.registry import HOOKS

_IMAGES = "vision_proj"
_PROJECTIONS = (_IMAGES, "text_proj")
_KEY = "look_alikes"  # in checkpoints, so that a resumed run samples the batches of an uninterrupted one


@HOOKS.register_module()
class LookAlikeHook(Hook):
    """Gives ``LookAlikeSampler`` the embeddings of the items of the last epoch, at which training looked anyway.

    The embedding of an item is the normalised sum of the embeddings of its image and its caption. With any other
    sampler the hook does nothing. ConfigError if the model has no ``vision_proj`` and ``text_proj``, or if sampler and
    data loader differ in their batch sizes.
    """

    priority = "HIGH"  # before the checkpoint of the epoch is written

    def __init__(self) -> None:
        self._sampler: LookAlikeSampler | None = None
        self._seen: dict[str, Tensor] = {}
        self._embeds: Tensor | None = None
        self._collected: list[tuple[Tensor, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        model = bare_model(runner)
        sampler = runner.train_dataloader.sampler
        if not isinstance(sampler, LookAlikeSampler):
            return
        if sampler.batch_size != (size := runner.train_dataloader.batch_size):
            raise ConfigError(
                f"train_dataloader has batch_size={size} and its LookAlikeSampler {sampler.batch_size}: use one number"
            )
        self._sampler, sampler.served = sampler, True
        for name in _PROJECTIONS:
            projection = getattr(model, name, None)
            if projection is None:
                raise ConfigError(f"LookAlikeHook needs a model with {name}: {type(model).__name__} has none")
            projection.register_forward_hook(self._remember(name))
        if self._embeds is not None and len(self._embeds) == len(sampler.person_ids):
            sampler.embeds = self._embeds.float()

    def _remember(self, name: str):
        def remember(module: nn.Module, args: tuple, output: Tensor) -> None:
            if output.dim() == 2:
                self._seen[name] = output.detach()
            elif name == _IMAGES:  # IRRA and RDE project all tokens, and a ViT's first token stands for the image
                self._seen[name] = output[:, 0].detach()

        return remember

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self._sampler is None:
            return
        indices = torch.tensor([sample.sample_index for sample in data_batch["data_samples"]])
        both = sum(F.normalize(self._seen[name].float(), dim=-1) for name in _PROJECTIONS)
        self._collected.append((indices, both))

    def after_train_epoch(self, runner: Runner) -> None:
        if not self._collected:
            return
        indices = torch.cat([indices for indices, _ in self._collected])
        embeds = F.normalize(torch.cat([embeds for _, embeds in self._collected]), dim=-1).half().cpu()
        self._collected = []
        if self._embeds is None:
            self._embeds = torch.zeros(len(self._sampler.person_ids), embeds.shape[1], dtype=torch.half)
        for of_process, found in all_gather_object((indices, embeds)):
            self._embeds[of_process] = found
        self._sampler.embeds = self._embeds.float()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._embeds is not None:
            checkpoint[_KEY] = self._embeds

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:  # weights of another run know nothing of this data
            self._embeds = checkpoint.get(_KEY)
