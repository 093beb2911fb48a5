"""Batches in which look-alikes meet: the sampler, and the hook that feeds it."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import build_batch, build_tiny
from test_baselines import BASELINES, build

from cada_plugin.datasets.look_alikes import LookAlikeSampler, group_look_alikes, look_alikes
from cada_plugin.engine import LookAlikeHook
from cada_plugin.engine.config import override, read_config
from cada_plugin.engine.start import prepare
from cada_plugin.errors import ConfigError

PEOPLE = [number // 3 for number in range(120)]  # three items a person


class People:
    def __len__(self):
        return len(PEOPLE)

    def get_data_info(self, index):
        return {"person_id": PEOPLE[index]}


def clustered_embeds():
    """Ten clusters of four people, far from each other."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(10, 32, generator=generator), dim=-1)
    return F.normalize(centres[torch.tensor(PEOPLE) % 10] + 0.05 * torch.randn(120, 32, generator=generator), dim=-1)


def batches_of(sampler):
    return torch.tensor(list(sampler)).view(-1, sampler.batch_size)


def sampler_of(monkeypatch, rank=0, world_size=1, **arguments):
    monkeypatch.setattr("cada_plugin.datasets.look_alikes.get_dist_info", lambda: (rank, world_size))
    return LookAlikeSampler(People(), **{"batch_size": 16, "group_size": 4, "seed": 3, **arguments})


def test_look_alikes_are_those_of_a_naive_search(monkeypatch):
    monkeypatch.setattr("cada_plugin.datasets.look_alikes._ROWS", 50)  # a last chunk that is not full
    embeds = clustered_embeds()
    found = look_alikes(embeds, torch.tensor(PEOPLE), number=5)
    for item in range(120):
        others = [other for other in range(120) if PEOPLE[other] != PEOPLE[item]]
        others.sort(key=lambda other, item=item: -float(embeds[item] @ embeds[other]))
        assert found[item].tolist() == others[:5]


def test_groups_are_filled_with_the_nearest_that_are_free():
    order, near = torch.tensor([2, 0, 1, 3, 4]).numpy(), torch.tensor([[2, 4], [0, 3], [0, 1], [1, 2], [0, 2]]).numpy()
    assert group_look_alikes(order, near, 2) == [[2, 0], [1, 3], [4]]
    assert group_look_alikes(order, near, 3) == [[2, 0, 1], [3], [4]]


def test_look_alikes_meet_after_the_first_epoch(monkeypatch):
    sampler = sampler_of(monkeypatch)
    clusters = torch.tensor(PEOPLE) % 10

    def share() -> float:
        """Share of pairs in a batch that are of one cluster but not of one person."""
        of_batch = batches_of(sampler)
        same = clusters[of_batch][:, :, None] == clusters[of_batch][:, None, :]
        person = torch.tensor(PEOPLE)[of_batch]
        return float((same & (person[:, :, None] != person[:, None, :])).float().mean())

    at_random = share()
    sampler.embeds, sampler.served = clustered_embeds(), True
    sampler.set_epoch(1)
    assert share() > 1.5 * at_random


@pytest.mark.parametrize("embeds", [None, clustered_embeds()], ids=["first_epoch", "later"])
def test_processes_share_the_batches_of_one_process(monkeypatch, embeds):
    alone = sampler_of(monkeypatch, batch_size=32)
    ranks = [sampler_of(monkeypatch, rank, 2) for rank in range(2)]
    for sampler in (alone, *ranks):
        sampler.embeds = embeds
        sampler.served = True
        sampler.set_epoch(5)
    together = torch.cat([batches_of(sampler) for sampler in ranks], dim=1)
    assert torch.equal(batches_of(alone), together)
    assert len(set(together.flatten().tolist())) == together.numel() == 96 == 2 * len(ranks[0])


def test_an_epoch_depends_on_seed_and_epoch(monkeypatch):
    epochs = []
    for seed, epoch in ((3, 0), (3, 1), (4, 0), (3, 0)):
        sampler = sampler_of(monkeypatch, seed=seed)
        sampler.served = True
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[3]
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group_size": 1}, "group_size=1 does not fit batch_size=16"),
        ({"group_size": 17}, "group_size=17 does not fit batch_size=16"),
        ({"batch_size": 121}, "the data set has 120 items, fewer than one batch of 121 on 1 process"),
    ],
)
def test_impossible_batches_are_refused(monkeypatch, arguments, message):
    with pytest.raises(ConfigError, match=message):
        sampler_of(monkeypatch, **arguments)


def test_few_items_are_in_one_group_each_and_never_with_their_own_person():
    people = torch.arange(12) // 4  # no item has more than eight of other people
    embeds = F.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    near = look_alikes(embeds, people)
    for seed in range(20):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).numpy()
        groups = group_look_alikes(order, near, 3)
        assert sorted(item for group in groups for item in group) == list(range(12))
        for item, *others in groups:
            assert all(people[other] != people[item] for other in others)


def test_the_hook_hands_on_the_embeddings_of_the_training_steps(monkeypatch):
    model, batch = build_tiny(), build_batch()
    sampler, hook = sampler_of(monkeypatch), LookAlikeHook()
    loader = SimpleNamespace(sampler=sampler, batch_size=16)
    runner = SimpleNamespace(model=model, train_dataloader=loader, _resume=False)
    hook.before_train(runner)
    model.set_progress(0.5)
    indices = [7, 3, 60, 11][: len(batch["data_samples"])]
    for sample, index in zip(batch["data_samples"], indices, strict=True):
        sample.set_metainfo({"sample_index": index})
    data = model.data_preprocessor(batch, True)
    model(**data, mode="loss")
    hook.after_train_iter(runner, 0, batch)
    hook.after_train_epoch(runner)
    with torch.no_grad():
        pairs = model.encode_pairs(data["inputs"], data["data_samples"])
    expected = F.normalize(F.normalize(pairs.image_proj, dim=-1) + F.normalize(pairs.text_proj, dim=-1), dim=-1)
    torch.testing.assert_close(sampler.embeds[indices], expected, atol=2e-3, rtol=0)
    assert int(sampler.embeds.abs().sum(1).gt(0).sum()) == len(indices)


@pytest.mark.parametrize("name", BASELINES)
def test_the_hook_sees_the_global_embeddings_of_every_model(monkeypatch, name):
    model, batch = build(name), build_batch()
    model.clean = torch.ones(4, dtype=torch.bool)  # as RDE's hook says
    hook = LookAlikeHook()
    loader = SimpleNamespace(sampler=sampler_of(monkeypatch), batch_size=16)
    hook.before_train(SimpleNamespace(model=model, train_dataloader=loader))
    model(**batch, mode="loss")
    with torch.no_grad():
        images, texts = model.eval()(batch["inputs"], mode="predict")
    width = model.vision_proj.out_features  # RDE's embedding goes on with that of the chosen tokens
    for seen, expected in ((hook._seen["vision_proj"], images.embed), (hook._seen["text_proj"], texts.embed)):
        expected = F.normalize(expected[:, :width], dim=-1)
        torch.testing.assert_close(F.normalize(seen.float(), dim=-1), expected, rtol=1e-4, atol=1e-5)


def test_loader_and_sampler_have_one_batch_size(monkeypatch):
    loader = SimpleNamespace(sampler=sampler_of(monkeypatch), batch_size=8)
    with pytest.raises(ConfigError, match="batch_size=8 and its LookAlikeSampler 16"):
        LookAlikeHook().before_train(SimpleNamespace(model=build_tiny(), train_dataloader=loader))
    config = read_config("cada_procedural")
    override(config, {"train_dataloader.batch_size": 24})
    assert prepare(config, "train", "cada_procedural").train_dataloader.sampler.batch_size == 24


def test_a_sampler_without_the_hook_stops_after_the_first_epoch(monkeypatch):
    sampler = sampler_of(monkeypatch)
    assert len(list(sampler)) == 112
    sampler.set_epoch(1)
    with pytest.raises(ConfigError, match="add custom_hooks"):
        list(sampler)


def test_the_hook_needs_a_model_with_projections(monkeypatch):
    loader = SimpleNamespace(sampler=sampler_of(monkeypatch), batch_size=16)
    with pytest.raises(ConfigError, match="vision_proj: Linear has none"):
        LookAlikeHook().before_train(SimpleNamespace(model=torch.nn.Linear(1, 1), train_dataloader=loader))


@pytest.mark.parametrize("resumes", [True, False], ids=["resumed", "weights_only"])
def test_only_a_resumed_run_goes_on_with_the_look_alikes_of_the_first(monkeypatch, resumes):
    first, second = sampler_of(monkeypatch), sampler_of(monkeypatch)
    checkpoint, hooks = {}, (LookAlikeHook(), LookAlikeHook())
    runners = [
        SimpleNamespace(
            model=build_tiny(), train_dataloader=SimpleNamespace(sampler=sampler, batch_size=16), _resume=resumes
        )
        for sampler in (first, second)
    ]
    hooks[0].before_train(runners[0])
    hooks[0]._collected = [(torch.arange(120), clustered_embeds())]
    hooks[0].after_train_epoch(runners[0])
    hooks[0].before_save_checkpoint(runners[0], checkpoint)
    hooks[1].after_load_checkpoint(runners[1], checkpoint)
    hooks[1].before_train(runners[1])
    for sampler in (first, second):
        sampler.set_epoch(1)
    assert (list(first) == list(second)) == resumes
    assert (second.embeds is not None) == resumes
