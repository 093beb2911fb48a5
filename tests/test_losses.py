"""Losses against naive loops over their formulae, and the choice of negatives against brute force."""

import math
from collections import Counter
from functools import partial
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F

from cada_plugin.errors import ConfigError
from cada_plugin.losses import (
    GlobalAssociationLoss,
    MaskedAttributeLoss,
    MatchingLoss,
    MatchRankingLoss,
    global_association_loss,
    masked_attribute_loss,
    matching_loss,
    ranking_loss,
)
from cada_plugin.models.negatives import further_negatives, hardest_negatives, sampled_negatives
from cada_plugin.registry import MODELS

IDS = [4, 7, 4, 9, 7, 7]


def embeddings(count=6, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (F.normalize(torch.randn(count, width, generator=generator), dim=-1) for _ in range(2))


def log_softmax(row):
    total = math.log(sum(math.exp(x) for x in row))
    return [x - total for x in row]


def cross_entropy(logits, label):
    return -log_softmax(logits)[label]


# Global association


def naive_global(image, text, ids, scale, eps=1e-8):
    B, halves = len(ids), []
    for own, others in ((image, text), (text, image)):
        divergence = entropy = 0.0
        for i in range(B):
            log_p = log_softmax([scale * sum(a * b for a, b in zip(own[i], other, strict=True)) for other in others])
            for j in range(B):
                q = (ids[i] == ids[j]) / ids.count(ids[i])
                divergence += math.exp(log_p[j]) * (log_p[j] - math.log(q + eps))
                divergence += q * (math.log(q + eps) - log_p[j])
                entropy -= q * log_p[j]
        halves.append(divergence / B**2 + entropy / B)
    return sum(halves) / 2


@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("ids", [IDS, [0, 1, 2, 3, 4, 5], [1] * 6])
def test_global_association_equals_its_formula(ids, scale):
    image, text = embeddings()
    expected = naive_global(image.double().tolist(), text.double().tolist(), ids, scale)
    loss = global_association_loss(image, text, torch.tensor(ids), scale)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert GlobalAssociationLoss(scale, weight=0.3)(image, text, torch.tensor(ids)).item() == pytest.approx(
        0.3 * expected, rel=1e-4
    )


def test_global_association_treats_images_and_captions_alike_in_any_order():
    image, text = embeddings()
    ids, order = torch.tensor(IDS), torch.tensor([3, 1, 5, 0, 2, 4])
    loss = global_association_loss(image, text, ids)
    torch.testing.assert_close(global_association_loss(text, image, ids), loss)
    torch.testing.assert_close(global_association_loss(image[order], text[order], ids[order]), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_global_association_is_computed_in_fp32_under_autocast(dtype):
    """log(0 + 1e-8) is -inf in half precision, and fp16 similarities of 50 lose three digits."""
    image, text = (x.to(dtype).requires_grad_() for x in embeddings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = global_association_loss(image, text, torch.tensor(IDS))
    loss.backward()
    expected = naive_global(image.double().tolist(), text.double().tolist(), IDS, 50.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert image.grad.isfinite().all()
    assert text.grad.any()


# Matching


def matching_case(pairs=6, groups=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pair_logits = torch.randn(pairs, 2, generator=generator)
    group_logits = torch.randn(pairs, groups, 2, generator=generator)
    mask = torch.rand(pairs, groups, generator=generator) < 0.6
    return pair_logits, torch.arange(pairs) < pairs // 3, group_logits, mask


def test_matching_equals_its_formula():
    pairs, matched, groups, mask = matching_case()
    assert 0 < mask.sum() < mask.numel()
    whole = [cross_entropy(pairs[p].tolist(), int(matched[p])) for p in range(6)]
    parts = [
        cross_entropy(groups[p, g].tolist(), int(matched[p])) for p, g in product(range(6), range(3)) if mask[p, g]
    ]
    expected = sum(whole) / 6 + sum(parts) / len(parts)
    assert matching_loss(pairs, matched, groups, mask).item() == pytest.approx(expected, rel=1e-5)
    assert matching_loss(pairs, matched).item() == pytest.approx(sum(whole) / 6, rel=1e-5)
    loss = MODELS.build({"type": "MatchingLoss", "weight": 2.5})(pairs, matched, groups, mask)
    assert loss.item() == pytest.approx(2.5 * expected, rel=1e-5)
    shared = matching_loss(pairs, matched, groups, mask, torch.tensor(4.0), group_weight=2.0)
    assert shared.item() == pytest.approx(sum(whole) / 6 + sum(parts) / 2, rel=1e-5)


def test_groups_that_do_not_exist_do_not_count():
    pairs, matched, groups, mask = matching_case()
    other = torch.where(mask[..., None], groups, groups + 100)
    assert torch.equal(matching_loss(pairs, matched, groups, mask), matching_loss(pairs, matched, other, mask))


def test_matching_without_any_group_keeps_a_gradient_path():
    pairs, matched, groups, mask = matching_case()
    groups.requires_grad_()
    loss = matching_loss(pairs, matched, groups, torch.zeros_like(mask))
    assert loss.item() == pytest.approx(matching_loss(pairs, matched).item())
    loss.backward()
    assert torch.equal(groups.grad, torch.zeros_like(groups))


def test_matching_in_half_precision_is_finite_and_precise():
    pairs, matched, groups, mask = matching_case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = MatchingLoss()((300 * pairs).bfloat16(), matched, (300 * groups).bfloat16(), mask)
    whole = matching_loss((300 * pairs).bfloat16().double(), matched, (300 * groups).bfloat16().double(), mask)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=1e-5)


# Masked attributes


def test_masked_attributes_equal_their_formula():
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([0, 3, 3, 10, 5, 6, 1])
    each = [cross_entropy(row.tolist(), int(word)) for row, word in zip(logits, words, strict=True)]
    assert masked_attribute_loss(logits, words).item() == pytest.approx(sum(each) / 7, rel=1e-5)
    assert MaskedAttributeLoss()(logits, words).item() == pytest.approx(0.1 * sum(each) / 7, rel=1e-5)
    assert MaskedAttributeLoss(2.0)(logits, words, 3.5).item() == pytest.approx(2 * sum(each) / 3.5, rel=1e-5)
    half = masked_attribute_loss(logits.half(), words)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(sum(each) / 7, rel=1e-2)


@pytest.mark.parametrize("total", [None, torch.tensor(0), torch.tensor(0.0), torch.tensor(4)])
def test_nothing_masked_gives_zero_with_a_gradient_path(total):
    weight = torch.randn(11, 4, requires_grad=True)
    loss = masked_attribute_loss(torch.zeros(0, 4) @ weight.T, torch.zeros(0, dtype=torch.long), total)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_losses_of_unequal_processes_average_to_that_of_one():
    """Two processes with 5 and 2 masked words (5 and 2 groups), each told the mean 3.5."""
    logits, words = torch.randn(7, 11), torch.randint(11, (7,))
    parts = [masked_attribute_loss(logits[s], words[s], 3.5) for s in (slice(5), slice(5, 7))]
    torch.testing.assert_close(sum(parts) / 2, masked_attribute_loss(logits, words))
    pairs, matched, groups, mask = matching_case()
    mean = mask.sum() / 2
    parts = [matching_loss(pairs[s], matched[s], groups[s], mask[s], mean) for s in (slice(3), slice(3, 6))]
    torch.testing.assert_close(sum(parts) / 2, matching_loss(pairs, matched, groups, mask))


# Negatives


def negatives_case(rows=8, columns=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(rows, columns, generator=generator)
    ids = torch.randint(3, (columns,), generator=generator)
    return similarity, ids[:rows, None] == ids[None]


@pytest.mark.parametrize("seed", range(5))
def test_hardest_negative_is_the_most_similar_other_person(seed):
    similarity, same = negatives_case(seed=seed)
    best = [max((s, j) for j, s in enumerate(row) if not same[i, j])[1] for i, row in enumerate(similarity.tolist())]
    assert hardest_negatives(similarity, same).tolist() == best


@pytest.mark.parametrize(
    "choose", [hardest_negatives, partial(sampled_negatives, scale=5.0)], ids=["hardest", "sampled"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_person_is_never_a_negative(choose, dtype):
    torch.manual_seed(0)
    similarity, same = negatives_case()
    similarity = (similarity + 100 * same).to(dtype)  # the same person is far more alike than all others
    for _ in range(50):
        chosen = choose(similarity, same)
        assert not same[torch.arange(8), chosen].any()


def test_sampling_at_scale_zero_is_uniform_over_the_others():
    torch.manual_seed(0)
    similarity, same = negatives_case(rows=1, columns=10)
    counts = torch.zeros(10)
    for _ in range(3000):
        counts[sampled_negatives(similarity, same, 0.0)] += 1
    allowed = ~same[0]
    assert 2 <= allowed.sum() < 10
    torch.testing.assert_close(
        counts[allowed] / 3000, torch.full_like(counts[allowed], 1 / allowed.sum()), atol=0.04, rtol=0
    )


def test_sampling_follows_the_softmax_and_hardens_with_its_scale():
    torch.manual_seed(0)
    similarity, same = torch.tensor([[0.0, 0.5, 9.0]]), torch.tensor([[False, False, True]])
    sampled = torch.cat([sampled_negatives(similarity, same, 2.0) for _ in range(3000)])
    assert sampled.float().mean() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.04)
    similarity, same = negatives_case()
    for _ in range(20):
        hard = sampled_negatives(similarity, same, 1e4)
        assert torch.equal(hard, hardest_negatives(similarity, same))


@pytest.mark.parametrize("seed", range(3))
def test_further_negatives_are_the_next_most_similar(seed):
    similarity, barred = negatives_case(seed=seed)
    for number in (1, 3, 100):
        columns, exist = further_negatives(similarity, barred, number, None)
        assert columns.shape == exist.shape == (8, min(number, similarity.shape[1]))
        for row, values in enumerate(similarity.tolist()):
            allowed = [column for column in range(len(values)) if not barred[row, column]]
            expected = sorted(allowed, key=lambda column, values=values: -values[column])[:number]
            assert columns[row][exist[row]].tolist() == expected


def test_further_negatives_are_sampled_one_after_the_other_without_repeats():
    torch.manual_seed(0)
    similarity, barred = torch.tensor([[0.0, 0.5, 1.0, 9.0]]), torch.tensor([[False, False, False, True]])
    weights = [math.exp(2.0 * value) for value in similarity[0].tolist()[:3]]
    counts = Counter()
    for _ in range(6000):
        columns, exist = further_negatives(similarity, barred, 2, 2.0)
        assert exist.all()
        counts[tuple(columns[0].tolist())] += 1
    for first, second in permutations(range(3), 2):
        chance = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        assert counts[first, second] / 6000 == pytest.approx(chance, abs=0.025)


def test_ranking_is_the_softmax_of_the_true_one_among_those_that_exist():
    true, wrong = torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 3.0], [-1.0, -math.inf]])
    true.requires_grad_()
    loss = ranking_loss(true, wrong)
    first = math.exp(1.0) / (math.exp(1.0) + math.exp(0.5) + math.exp(3.0))
    second = math.exp(-2.0) / (math.exp(-2.0) + math.exp(-1.0))
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2)
    loss.backward()
    torch.testing.assert_close(true.grad, torch.tensor([first - 1, second - 1]) / 2)
    with pytest.raises(ConfigError, match=r"MatchRankingLoss negatives=0: use a whole number from 1, such as 5"):
        MatchRankingLoss(negatives=0)
