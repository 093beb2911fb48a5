"""Batches of P identities with K items, over epochs and processes."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from dataset_factory import write_cuhk
from mmengine.runner import Runner

from cada_plugin.datasets import CUHKPEDES
from cada_plugin.datasets.samplers import IdentitySampler
from cada_plugin.errors import ConfigError


class People:
    """A data set of nothing but person ids."""

    def __init__(self, person_ids):
        self.person_ids = list(person_ids)

    def __len__(self):
        return len(self.person_ids)

    def get_data_info(self, index):
        return {"person_id": self.person_ids[index]}


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    return People(rng.permutation(np.repeat(np.arange(40) * 3, rng.integers(1, 14, 40))).tolist())


def batches(sampler, batch_size):
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]


def of_rank(monkeypatch, rank, world_size, *args, **kwargs):
    monkeypatch.setattr("cada_plugin.datasets.samplers.get_dist_info", lambda: (rank, world_size))
    return IdentitySampler(*args, **kwargs)


@pytest.mark.parametrize("num_instances", [1, 2, 4])
def test_every_batch_has_p_identities_with_k_items(people, num_instances):
    sampler = IdentitySampler(people, 16, num_instances, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        for batch in batches(sampler, 16):
            counts = Counter(people.person_ids[i] for i in batch)
            assert len(counts) == 16 // num_instances
            assert set(counts.values()) == {num_instances}


def test_only_identities_with_too_few_items_repeat_some(people):
    sampler = IdentitySampler(people, 16, 4, seed=0)
    have = Counter(people.person_ids)
    repeated = {people.person_ids[i] for i, times in Counter(sampler).items() if times > 1}
    assert repeated == {p for p in repeated if have[p] < 4}
    assert repeated


@pytest.mark.parametrize("counts", [[2] * 9, [20, 2, 2, 2], [9, 9, 9, 1, 1], [1] * 4, [40, 30, 8, 8, 8, 8, 2, 2, 2, 2]])
def test_length_is_exact_the_same_in_every_epoch_and_the_largest_possible(counts):
    people = People(np.repeat(np.arange(len(counts)), counts).tolist())
    groups = [max(1, n // 2) for n in counts]
    largest = max(m for m in range(sum(groups)) if sum(min(n, m) for n in groups) >= 4 * m)
    for epoch in range(20):
        sampler = IdentitySampler(people, 8, 2, seed=1)
        sampler.set_epoch(epoch)
        assert len(batches(sampler, 8)) == largest


def test_epochs_differ_and_repeat_by_seed(people):
    def draw(seed, epoch, **options):
        sampler = IdentitySampler(people, 16, 2, seed=seed, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(0, 3) == draw(0, 3)
    assert draw(0, 3) != draw(0, 4)
    assert draw(0, 3) != draw(1, 3)
    assert draw(0, 3, shuffle=False) == draw(0, 4, shuffle=False)


def test_iterating_twice_gives_the_same_epoch(people):
    sampler = IdentitySampler(people, 16, 2, seed=0)
    assert list(sampler) == list(sampler)


def test_global_random_state_is_neither_read_nor_changed(people):
    def draw(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        indices = list(IdentitySampler(people, 16, 2, seed=0))
        after = random.getstate()[1], np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
        return indices

    assert draw(1) == draw(2)


def test_two_ranks_share_the_batches_of_one_process(people, monkeypatch):
    single = IdentitySampler(people, 16, 2, seed=5)
    ranks = [of_rank(monkeypatch, rank, 2, people, 8, 2, seed=5) for rank in range(2)]
    for sampler in (single, *ranks):
        sampler.set_epoch(2)
    first, second = (batches(sampler, 8) for sampler in ranks)
    assert [a + b for a, b in zip(first, second, strict=True)] == batches(single, 16)


def test_long_run_treats_identities_alike():
    people = People([i // 4 for i in range(4 * 30)])
    sampler = IdentitySampler(people, 16, 4, seed=0)  # 30 identities, 7 batches of 4: two sit out in each epoch
    seen = Counter()
    for epoch in range(300):
        sampler.set_epoch(epoch)
        seen.update({people.person_ids[i] for i in sampler})
    assert min(seen.values()) > 255  # 280 expected, standard deviation 4.3
    assert len(seen) == 30


def test_works_in_a_runner_data_loader(tmp_path):
    write_cuhk(tmp_path, train=5)
    dataset = CUHKPEDES(tmp_path, verify_images=False, pipeline=[lambda item: item])
    loader = Runner.build_dataloader(
        {
            "dataset": dataset,
            "batch_size": 4,
            "num_workers": 0,
            "drop_last": True,
            "sampler": {"type": "cada_plugin.IdentitySampler", "num_instances": 2, "batch_size": 4},
        },
        seed=3,
    )
    assert loader.sampler.seed == 3
    assert len(list(loader)) == len(loader) == 5  # 5 people, 4 captions each: 10 pairs of captions, 2 in a batch
    for batch in loader:
        first, second = batch["label"][::2], batch["label"][1::2]
        assert list(first) == list(second)
        assert first[0] != first[1]


def test_impossible_batches_are_refused(people, monkeypatch):
    with pytest.raises(ConfigError, match=r"batch_size=18 is not a multiple of num_instances=4.*batch_size=16"):
        IdentitySampler(people, 18, 4, seed=0)
    with pytest.raises(ConfigError, match=r"needs 41 different identities per step, but the data set has 40"):
        IdentitySampler(people, 82, 2, seed=0)
    with pytest.raises(ConfigError, match=r"on 2 process\(es\) needs 48"):
        of_rank(monkeypatch, 0, 2, people, 48, 2, seed=0)


def test_data_set_without_person_ids_is_refused():
    with pytest.raises(ConfigError, match="list for person ids"):
        IdentitySampler([1, 2, 3], 2, 1, seed=0)
