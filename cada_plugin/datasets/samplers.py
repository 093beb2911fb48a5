"""Batches of P identities with K items each, for losses that compare people within a batch (triplet, for example)."""

from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class IdentitySampler(Sampler):
    """PK sampling: each batch has P = batch_size / num_instances identities with K = num_instances items each, and the
    items of an identity are adjacent.

    The batches follow torchreid's ``RandomIdentitySampler``. Every epoch splits the items of an identity at random into
    groups of K and skips the remainder; an identity of fewer than K items gets one group sampled with replacement. Each
    batch takes one group from each of P random identities. An item is an item of the data set: in training a pair of
    image and caption, so that a group can hold two captions of one image.

    It is no wrapper of torchreid's class, because that class uses the global generators of ``random`` and numpy (any
    other use of them would change the batches, and processes would disagree), ignores ranks, and counts items that it
    never yields. Here an epoch depends on (seed, epoch) alone. Every epoch has the same number of batches, the largest
    possible: identities that must be in every remaining batch to use up their groups are chosen first.

    Several processes share one global batch: rank r of W takes the r-th P of P * W different identities, so one process
    with ``batch_size * W`` would see the union of their batches.

        train_dataloader = dict(
            batch_size=64, drop_last=True, sampler=dict(type='IdentitySampler', num_instances=4, batch_size=64), ...)

    Args:
        dataset: a data set of the plugin, or any whose ``get_data_info`` (as in MMEngine) returns a ``person_id``.
        batch_size: items per batch and process; must equal that of the data loader.
        num_instances: the number K of items per identity.
        seed: must be the same in all processes; None lets them agree on a random one, as MMEngine's samplers do.
        shuffle: False repeats the batches of epoch 0 in every epoch, for debugging.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of ``num_instances``, the global batch needs more identities than
            the data set has, or the data set gives no person ids.
    """

    def __init__(
        self,
        dataset,
        batch_size: int,
        num_instances: int = 2,
        seed: int | None = None,
        shuffle: bool = True,
    ) -> None:
        if num_instances < 1 or batch_size < 1 or batch_size % num_instances:
            raise ConfigError(
                f"batch_size={batch_size} is not a multiple of num_instances={num_instances}: every identity of a "
                "batch has exactly num_instances items, so choose for example "
                f"batch_size={max(1, batch_size // max(1, num_instances)) * max(1, num_instances)}"
            )
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.shuffle = shuffle
        self.epoch = 0
        self.num_instances = num_instances
        self.ids_per_rank = batch_size // num_instances
        self.ids_per_batch = self.ids_per_rank * self.world_size

        person_ids = person_ids_of(dataset, "IdentitySampler")
        _, label, counts = np.unique(person_ids, return_inverse=True, return_counts=True)
        if len(counts) < self.ids_per_batch:
            raise ConfigError(
                f"batch_size={batch_size} with num_instances={num_instances} on {self.world_size} process(es) needs "
                f"{self.ids_per_batch} different identities per step, but the data set has {len(counts)}: lower "
                "batch_size or raise num_instances"
            )
        self._members = np.split(np.argsort(label, kind="stable"), np.cumsum(counts)[:-1])  # indices per identity
        self._groups = np.maximum(counts // num_instances, 1)  # (identities,) groups of K per epoch
        self.num_batches = _most_batches(self._groups, self.ids_per_batch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the batches. MMEngine's ``DistSamplerSeedHook`` calls this method."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Exact number of items per process and epoch, a multiple of ``batch_size``."""
        return self.num_batches * self.ids_per_rank * self.num_instances

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch if self.shuffle else 0))
        dealt = [self._deal(members, rng) for members in self._members]
        left = self._groups.copy()
        mine = slice(self.rank * self.ids_per_rank, (self.rank + 1) * self.ids_per_rank)
        for batches_left in range(self.num_batches, 0, -1):
            chosen = _choose(left, batches_left, self.ids_per_batch, rng)
            left[chosen] -= 1
            for identity in chosen[mine]:
                yield from dealt[identity][left[identity]].tolist()

    def _deal(self, members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random groups (n, K) of the items of one identity."""
        k = self.num_instances
        if len(members) < k:
            return rng.choice(members, (1, k))
        return rng.permutation(members)[: len(members) // k * k].reshape(-1, k)


def _choose(left: np.ndarray, batches_left: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Random identities for the next batch, given the number of groups that each has left.

    An identity with at least as many groups as there are batches left is urgent: if it is not in every remaining batch,
    it loses a group. Urgent identities are chosen first, because otherwise a few identities with many items would be
    left over at the end and the epoch would be shorter than ``num_batches``.
    """
    urgent = np.flatnonzero(left >= batches_left)
    if len(urgent) >= number:
        chosen = rng.choice(urgent, number, replace=False)
    else:
        others = np.flatnonzero((left > 0) & (left < batches_left))
        chosen = np.concatenate([urgent, rng.choice(others, number - len(urgent), replace=False)])
    return rng.permutation(chosen)  # mixed, so that no rank gets all the urgent identities


def _most_batches(groups: np.ndarray, number: int) -> int:
    """Largest M such that M batches of ``number`` different identities exist: sum_i min(groups_i, M) >= M * number."""
    low, high = 0, int(groups.sum()) // number
    while low < high:  # if M batches exist, so do M - 1
        middle = (low + high + 1) // 2
        if np.minimum(groups, middle).sum() >= middle * number:
            low = middle
        else:
            high = middle - 1
    return low


def person_ids_of(dataset, sampler: str) -> np.ndarray:
    """Person of each item (N,), without decoding an image."""
    if not hasattr(dataset, "get_data_info"):
        raise ConfigError(
            f"{sampler} cannot ask {type(dataset).__name__} for person ids: use a data set of the plugin, or one "
            "whose get_data_info(index) returns a dict with 'person_id'"
        )
    try:
        return np.array([dataset.get_data_info(index)["person_id"] for index in range(len(dataset))])
    except KeyError:
        raise ConfigError(
            f"get_data_info of {type(dataset).__name__} gives no 'person_id': add it to the items"
        ) from None
