"""Batches in which look-alikes meet, so that losses that compare people within a batch get hard negatives."""

from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch import Tensor
from torch.utils.data import Sampler

from cada_plugin.datasets.samplers import person_ids_of
from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATA_SAMPLERS

NEIGHBOURS = 48
"""How many look-alikes of an item are kept. Groups are filled from those that no other group has taken."""
_ROWS = 2048  # of the similarity matrix at once, as the whole one does not fit in memory


@DATA_SAMPLERS.register_module()
class LookAlikeSampler(Sampler):
    """Each batch consists of small groups of look-alikes: an item and the most similar items of other people.

    The hardest of 64 random people is about as hard as rank 50 of a gallery of 3,000: a match head that sees no harder
    ones learns nothing about the top of the list, which it is to re-order. Similarity is the cosine of the embeddings
    of the last epoch, which ``LookAlikeHook`` collects from the training steps at no cost. The first epoch has random
    batches. Every item is in exactly one batch of an epoch, but for the remainder.

    Several processes share one global batch, of which each takes its part; an epoch depends on (seed, epoch,
    embeddings) alone.

        train_dataloader = dict(
            batch_size=64, drop_last=True, sampler=dict(type='LookAlikeSampler', group_size=8, batch_size=64), ...)

    Args:
        dataset: a data set of the plugin, or any whose ``get_data_info`` (as in MMEngine) returns a ``person_id``.
        batch_size: items per batch and process; must equal that of the data loader.
        group_size: an item and ``group_size - 1`` look-alikes.
        seed: must be the same in all processes; None lets them agree on a random one, as MMEngine's samplers do.

    Raises:
        ConfigError: ``group_size`` does not fit in a batch, the data set is smaller than one batch, or it gives no
            person ids; after the first epoch, if no ``LookAlikeHook`` runs.
    """

    def __init__(self, dataset, batch_size: int, group_size: int = 8, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.batch_size, self.group_size = batch_size, group_size
        if not 2 <= group_size <= batch_size:
            raise ConfigError(
                f"group_size={group_size} does not fit batch_size={batch_size}: a group has at least two items, and at "
                "most a batch"
            )
        self.person_ids = torch.from_numpy(person_ids_of(dataset, "LookAlikeSampler"))  # (N,)
        if len(self.person_ids) < batch_size * self.world_size:
            raise ConfigError(
                f"the data set has {len(self.person_ids)} items, fewer than one batch of {batch_size} on "
                f"{self.world_size} process(es): lower batch_size"
            )
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.embeds: Tensor | None = None
        """(N, D), normalised, of the last epoch; set by ``LookAlikeHook``."""
        self.served = False
        """Whether a ``LookAlikeHook`` runs."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the batches. MMEngine's ``DistSamplerSeedHook`` calls this method."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Exact number of items per process and epoch, a multiple of ``batch_size``."""
        return len(self.person_ids) // (self.batch_size * self.world_size) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        if self.epoch and not self.served:
            raise ConfigError(
                "nothing tells LookAlikeSampler who looks alike: add "
                "custom_hooks=[dict(type='cada_plugin.LookAlikeHook')] to the config"
            )
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.person_ids))
        if self.embeds is not None:
            groups = group_look_alikes(order, look_alikes(self.embeds, self.person_ids), self.group_size)
            order = np.concatenate([groups[k] for k in rng.permutation(len(groups))])
        batches = order[: len(self) * self.world_size].reshape(-1, self.world_size, self.batch_size)
        yield from batches[:, self.rank].reshape(-1).tolist()


def look_alikes(embeds: Tensor, person_ids: Tensor, number: int = NEIGHBOURS) -> np.ndarray:
    """For each item the ``number`` most similar items (N, number) of other people, the most similar first. Where there
    are not so many, the item itself stands for the rest."""
    number = min(number, len(embeds))
    found = []
    for rows in torch.arange(len(embeds)).split(_ROWS):
        cosine = embeds[rows] @ embeds.T
        cosine.masked_fill_(person_ids[rows, None] == person_ids, -torch.inf)
        nearest = cosine.topk(number, dim=1)
        found.append(torch.where(nearest.values == -torch.inf, rows[:, None], nearest.indices))
    return torch.cat(found).numpy()


def group_look_alikes(order: np.ndarray, neighbours: np.ndarray, group_size: int) -> list[list[int]]:
    """Divide all items into groups: each item of ``order`` that is still free takes its nearest free neighbours."""
    free = np.ones(len(order), dtype=bool)
    groups = []
    for item in order.tolist():
        if free[item]:
            free[item] = False
            near = neighbours[item]
            group = [item, *near[free[near]][: group_size - 1].tolist()]
            free[group] = False
            groups.append(group)
    return groups
