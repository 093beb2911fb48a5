"""QC-Align: quotas and transport against loops over their formulas, and the loss within CADA."""

import math

import pytest
import torch
import torch.nn.functional as F

from cada_plugin.losses import quota_alignment_loss
from cada_plugin.losses.quota_alignment import ATTENTION_SCALE, quotas, transport_cost

ALIGNS = {"loss_alignment": {"type": "QuotaAlignmentLoss", "weight": 2.0}}


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def naive_scores(own, others):
    """For each of ``own`` its attention to the others, and the cosine with what it attends to, if that is positive."""
    attention, scores = [], []
    for one in own:
        weights = [math.exp(ATTENTION_SCALE * dot(one, other)) for other in others]
        weights = [w / sum(weights) for w in weights]
        context = [dot(weights, [other[d] for other in others]) for d in range(len(one))]
        attention.append(weights)
        scores.append(max(dot(one, context) / math.sqrt(dot(context, context)), 1e-3))
    return attention, scores


def naive_quotas(patches, words):
    """Quotas of the patches, which words give by their attention."""
    attention, scores = naive_scores(words, patches)
    given = [sum(s * row[n] for s, row in zip(scores, attention, strict=True)) for n in range(len(patches))]
    return [x / sum(given) for x in given]


def naive_transport(x, y, a, b, epsilon=0.5):
    """<plan, cost> + epsilon KL(plan | a x b), by the classical algorithm on kernels."""
    cost = [[1 - dot(one, other) for other in y] for one in x]
    kernel = [[math.exp(-c / epsilon) for c in row] for row in cost]
    v = [1.0] * len(y)
    for _ in range(500):
        u = [1 / dot([bj * vj for bj, vj in zip(b, v, strict=True)], row) for row in kernel]
        v = [1 / sum(ai * ui * row[j] for ai, ui, row in zip(a, u, kernel, strict=True)) for j in range(len(y))]
    total = 0.0
    for i, j in ((i, j) for i in range(len(x)) for j in range(len(y)) if a[i] and b[j]):
        share = u[i] * kernel[i][j] * v[j]  # of a_i b_j
        total += a[i] * b[j] * share * (cost[i][j] + epsilon * math.log(share))
    return total


def naive_loss(patches, words):
    a, b = naive_quotas(patches, words), naive_quotas(words, patches)
    within = (naive_transport(patches, patches, a, a) + naive_transport(words, words, b, b)) / 2
    return naive_transport(patches, words, a, b) - within


def test_the_loss_is_the_sinkhorn_divergence_of_each_pair():
    patches, words = unit(3, 5, 4), unit(3, 6, 4, seed=1)
    lengths = (6, 2, 1)
    is_word = torch.arange(6) < torch.tensor(lengths)[:, None]
    each = [naive_loss(p.tolist(), w[:n].tolist()) for p, w, n in zip(patches, words, lengths, strict=True)]
    assert min(each) > 0
    found = quota_alignment_loss(patches, words, is_word, iterations=50)
    assert found.item() == pytest.approx(sum(each) / 3, rel=1e-4)


def test_quotas_are_of_words_alone():
    patches, words = unit(2, 5, 4), unit(2, 6, 4, seed=1)
    is_word = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    of_patches, of_words = quotas(patches, words, is_word)
    torch.testing.assert_close(of_patches[1].tolist(), naive_quotas(patches[1].tolist(), words[1, :2].tolist()))
    torch.testing.assert_close(of_words[1, :2].tolist(), naive_quotas(words[1, :2].tolist(), patches[1].tolist()))
    assert not of_words[1, 2:].any()
    torch.testing.assert_close(torch.stack([of_patches.sum(1), of_words.sum(1)]), torch.ones(2, 2))


def test_a_patch_that_no_word_is_about_gets_a_small_quota():
    eye = torch.eye(4)[None]
    of_patches, _ = quotas(eye, eye[:, :2], torch.ones(1, 2, dtype=torch.bool))
    assert of_patches[0, :2].min() > 100 * of_patches[0, 2:].max()


def test_twenty_iterations_are_enough():
    cost = 1 - unit(64, 33, 8) @ unit(64, 30, 8, seed=1).transpose(1, 2)
    a, b = torch.rand(64, 33).softmax(1), torch.rand(64, 30).softmax(1)
    few, many = (transport_cost(cost, a, b, 0.5, count) for count in (20, 500))
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-5)


def test_padding_and_captions_without_words_change_nothing():
    patches, words = unit(3, 5, 4).requires_grad_(), unit(3, 6, 4, seed=1).requires_grad_()
    is_word = torch.arange(6) < torch.tensor([6, 2, 0])[:, None]
    loss = quota_alignment_loss(patches, words, is_word)
    torch.testing.assert_close(loss, quota_alignment_loss(patches[:2], words[:2], is_word[:2]))
    loss.backward()
    assert not words.grad[~is_word].any()
    assert not patches.grad[2].any()
    assert words.grad[is_word].abs().sum(1).min() > 0
    assert torch.isfinite(patches.grad).all()
    nothing = quota_alignment_loss(patches, words, torch.zeros_like(is_word))
    assert nothing.item() == 0


def test_words_move_to_their_patches():
    """By gradient descent, until the two sets are nearly the same."""
    patches, words = unit(1, 4, 6), unit(1, 4, 6, seed=1).requires_grad_()
    optimizer, is_word = torch.optim.Adam([words], lr=0.05), torch.ones(1, 4, dtype=torch.bool)
    first = quota_alignment_loss(patches, F.normalize(words, dim=-1), is_word).item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = quota_alignment_loss(patches, F.normalize(words, dim=-1), is_word)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first


def test_cada_aligns_the_projections_of_patches_and_words(tiny_model, tiny_batch):
    model, batch = tiny_model(**ALIGNS), tiny_batch()
    losses, plain = model.loss(**batch), tiny_model().loss(**batch)
    inputs, expected = batch["inputs"], []
    with torch.no_grad():
        for row, mask in enumerate(inputs["attention_mask"]):
            tokens = model.visual_encoder(inputs["images"][row : row + 1])
            ids = inputs["input_ids"][row : row + 1, mask]
            states = model.text_encoder(ids, torch.ones_like(ids, dtype=torch.bool))[:, 1:-1]
            patches, words = model.vision_proj(tokens[:, 1:]), model.text_proj(states)
            expected.append(naive_loss(*(F.normalize(x, dim=-1)[0].tolist() for x in (patches, words))))
    assert losses["loss_alignment"].item() == pytest.approx(2.0 * sum(expected) / len(expected), rel=1e-3)
    for name in plain:
        torch.testing.assert_close(losses[name], plain[name], rtol=1e-4, atol=1e-5)


def test_the_projections_learn_from_it_alone(tiny_model, tiny_batch):
    off = {"loss_global": None, "loss_atp": None}
    model = tiny_model(**ALIGNS, **off)
    sum(model.loss(**tiny_batch()).values()).backward()
    for part in (model.vision_proj, model.text_proj):
        assert part.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
