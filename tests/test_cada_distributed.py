"""Two processes with half of the batch each give CADA the gradients of one process with all of it."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from conftest import build_batch, build_tiny, groups

from cada_plugin.datasets.collate import judged_phrases
from cada_plugin.datasets.transforms.text import SaidPhrase
from cada_plugin.errors import ConfigError
from cada_plugin.models.distributed import gather, max_over_processes, mean_over_processes
from cada_plugin.text.known_people import KnownPerson

pytestmark = pytest.mark.slow

GROUPINGS = {"position": 2, "tokens": 3, "phrases": None}
PHRASES = [
    SaidPhrase(tuple(words.split()), pieces)
    for pieces, words in (((7, 8), "red coat"), ((9, 8), "blue coat"), ((5,), "woman"))
]
PEOPLE = (1, 1, 1, 2)  # the first process has no negative of its own: its must come from the second


OPTIONS = {
    "loss_phrases": {"type": "PhraseMatchingLoss"},
    "loss_ranking": {"type": "MatchRankingLoss", "cosine_weight": 5.0},
}
SEVERAL = {"loss_ranking": {"type": "MatchRankingLoss", "cosine_weight": 5.0, "negatives": 3}}


def whole() -> dict:
    """Four pairs, whose captions say different numbers of phrases."""
    batch = build_batch(PEOPLE)
    said = [PHRASES[:1], PHRASES[1:2], [], PHRASES[1:]]
    known = [KnownPerson([phrase.meaning for phrase in of_image], frozenset()) for of_image in said]
    batch["inputs"] |= judged_phrases(said, known)
    return batch


def half(rank: int) -> dict:
    """Two pairs, padded to their own longest caption only, with the phrases of both halves: a process judges its own
    phrases alone, and then two processes do not judge what one would."""
    batch, part = whole(), slice(2 * rank, 2 * rank + 2)
    said = batch["inputs"].pop("said_ids")
    inputs = {key: value[part] for key, value in batch["inputs"].items()}
    length = int(inputs["attention_mask"].sum(1).max())
    same = ("images", "said_truths")
    inputs = {key: value if key in same else value[:, :length] for key, value in inputs.items()}
    return {"inputs": inputs | {"said_ids": said}, "data_samples": batch["data_samples"][part]}


def gradients(model, batch: dict) -> dict[str, torch.Tensor]:
    losses = model.loss(**batch)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters()} | {k: v.detach() for k, v in losses.items()}


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result = {g: gradients(build_tiny(grouping=groups(g, n)), half(rank)) for g, n in GROUPINGS.items()}
    result["options"] = gradients(build_tiny(**OPTIONS), half(rank))
    result["several"] = build_tiny(**SEVERAL).loss(**half(rank))["loss_ranking"].detach()
    mine = torch.arange(3.0).add(10 * rank).requires_grad_()
    everyone = gather(mine)
    (everyone.square().sum() * (rank + 1)).backward()
    result["gather"] = (everyone.detach(), mine.grad)
    result["numbers"] = (mean_over_processes(torch.tensor(3 + rank)), max_over_processes(3 + rank, torch.device("cpu")))
    alone = half(rank)
    for sample in alone["data_samples"]:
        sample.set_field(9, "person_id", field_type="metainfo")
    try:
        build_tiny().loss(**alone)
    except ConfigError as error:
        result["one person"] = str(error)
    torch.save(result, folder / f"{rank}.pt")
    torch_dist.barrier()
    torch_dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradients_and_losses_of_two_processes_average_to_those_of_one(results, grouping):
    assert half(0)["inputs"]["input_ids"].shape[1] != half(1)["inputs"]["input_ids"].shape[1]
    expected = gradients(build_tiny(grouping=groups(grouping, GROUPINGS[grouping])), build_batch(PEOPLE))
    for name, value in expected.items():
        average = sum(result[grouping][name] for result in results) / 2
        torch.testing.assert_close(average, value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_gather_joins_by_rank_and_sums_gradients_of_all(results):
    for rank, result in enumerate(results):
        everyone, gradient = result["gather"]
        assert everyone.tolist() == [0, 1, 2, 10, 11, 12]
        assert gradient.tolist() == [2 * (x + 10 * rank) * (1 + 2) for x in range(3)]
        assert result["numbers"] == (3.5, 4)


def test_all_processes_refuse_one_person(results):
    assert all("all 4 pairs of the batch show person 9" in result["one person"] for result in results)


def test_one_process_is_left_alone():
    x = torch.randn(3, requires_grad=True)
    assert gather(x) is x
    assert mean_over_processes(x) is x
    assert max_over_processes(7, x.device) == 7


def test_other_losses_of_two_processes_average_to_those_of_one(results):
    expected = gradients(build_tiny(**OPTIONS), whole())
    assert {"loss_phrases", "loss_ranking", "phrase_head.prior.weight"} <= expected.keys()
    for name, value in expected.items():
        average = sum(result["options"][name] for result in results) / 2
        torch.testing.assert_close(average, value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_further_wrong_images_are_those_of_the_own_process(results):
    model, inputs = build_tiny(**SEVERAL), whole()["inputs"]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        tokens = model.visual_encoder(inputs["images"])
        image, text = model.vision_proj(tokens[:, 0]), model.text_proj(model.text_encoder(ids, mask)[:, 0])
        memory = model.image_memory(tokens)
        states = [model.fuse(ids, mask, memory.select(torch.full((4,), v)), first_only=True)[:, 0] for v in range(4)]
        match = torch.stack([model.itm_head(state)[:, 1] for state in states], 1)  # (texts, images)
        final = match + 5 * F.cosine_similarity(text[:, None], image[None], dim=-1)
    likeness = (text @ image.T).masked_fill(torch.tensor(PEOPLE)[:, None] == torch.tensor(PEOPLE), -torch.inf)
    for rank, result in enumerate(results):
        terms = []
        for i in (2 * rank, 2 * rank + 1):
            first = int(likeness[i].argmax())
            own = [j for j in (2 * rank, 2 * rank + 1) if PEOPLE[j] != PEOPLE[i] and j != first]
            terms.append(-final[i, [i, first, *own]].log_softmax(0)[0])
            terms.append(-match[[i, int(likeness[:, i].argmax())], i].log_softmax(0)[0])
        torch.testing.assert_close(result["several"], sum(terms) / 2, rtol=1e-4, atol=1e-5)
