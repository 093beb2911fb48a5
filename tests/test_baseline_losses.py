"""Losses of the baselines against naive loops over their formulae."""

import math

import pytest
import torch
import torch.nn.functional as F

from cada_plugin.errors import ConfigError
from cada_plugin.losses import (
    CMPCLoss,
    IdentityLoss,
    InfoNCELoss,
    SDMLoss,
    TripletAlignmentLoss,
    info_nce_loss,
    projection_classification_loss,
    projection_matching_loss,
    similarity_distribution_loss,
    triplet_alignment_losses,
)

IDS = [4, 7, 4, 9, 7, 7]
PEOPLE = torch.tensor(IDS)


def features(count=6, width=5, seed=0, normalised=True):
    generator = torch.Generator().manual_seed(seed)
    pair = [torch.randn(count, width, generator=generator) for _ in range(2)]
    return [F.normalize(x, dim=-1) for x in pair] if normalised else pair


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def log_softmax(row):
    total = math.log(sum(math.exp(x) for x in row))
    return [x - total for x in row]


def unit(a):
    return [x / math.sqrt(dot(a, a)) for x in a]


def both_ways(image, text):
    image, text = image.double().tolist(), text.double().tolist()
    return (image, text), (text, image)


def naive_divergence(image, text, score):
    """mean_i sum_j p_ij log(p_ij / (q_ij + eps)), both directions summed: the common part of CMPM and SDM."""
    total = 0.0
    for own, other in both_ways(image, text):
        for i, a in enumerate(own):
            log_p = log_softmax([score(a, b) for b in other])
            for j in range(len(other)):
                q = (IDS[i] == IDS[j]) / IDS.count(IDS[i])
                total += math.exp(log_p[j]) * (log_p[j] - math.log(q + 1e-8)) / len(own)
    return total


def test_cmpm_projects_raw_features_on_normalised_ones():
    image, text = features(normalised=False)
    expected = naive_divergence(image, text, lambda a, b: dot(a, unit(b)))
    assert projection_matching_loss(image, text, PEOPLE).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_sdm_compares_scaled_cosines(scale):
    image, text = features()
    expected = naive_divergence(image, text, lambda a, b: scale * dot(a, b))
    loss = similarity_distribution_loss(image, text, PEOPLE, scale)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert SDMLoss(scale, 0.5)(image, text, PEOPLE).item() == pytest.approx(expected / 2, rel=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_info_nce_has_the_diagonal_or_the_person_as_target(soft):
    image, text = features()
    total = 0.0
    for own, other in both_ways(image, text):
        for i, a in enumerate(own):
            log_p = log_softmax([20 * dot(a, b) for b in other])
            target = [float(IDS[i] == IDS[j]) if soft else float(i == j) for j in range(len(own))]
            total -= sum(t * p for t, p in zip(target, log_p, strict=True)) / sum(target) / len(own) / 2
    loss = info_nce_loss(image, text, 20.0, PEOPLE if soft else None)
    assert loss.item() == pytest.approx(total, rel=1e-4)
    module = InfoNCELoss(scale=20.0, soft_targets=soft, weight=0.5)
    assert module(image, text, PEOPLE).item() == pytest.approx(0.5 * total, rel=1e-4)


def test_info_nce_learns_its_scale_up_to_clips_limit():
    image, text = features()
    learnt, fixed = InfoNCELoss(scale=10.0), InfoNCELoss(scale=10.0, learnable=False)
    assert learnt.scale.item() == pytest.approx(10.0)
    learnt(image, text, PEOPLE).backward()
    assert learnt.logit_scale.grad.abs() > 0
    assert not fixed.logit_scale.requires_grad
    with torch.no_grad():
        learnt.logit_scale.fill_(9.0)
    assert learnt.scale.item() == 100.0
    with pytest.raises(ConfigError, match="InfoNCELoss scale=0: use a number above 0"):
        InfoNCELoss(scale=0)


def test_cmpc_classifies_each_feature_projected_on_its_partner():
    image, text = features(normalised=False)
    labels, weight = [0, 1, 0, 2, 1, 1], torch.randn(3, 5, generator=torch.Generator().manual_seed(3))
    expected = 0.0
    for own, other in both_ways(image, text):
        for a, b, label in zip(own, other, labels, strict=True):
            projected = [dot(a, unit(b)) * x for x in unit(b)]
            expected -= log_softmax([dot(projected, unit(w)) for w in weight.double().tolist()])[label] / len(labels)
    loss = projection_classification_loss(image, text, torch.tensor(labels), weight)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    module = CMPCLoss(num_classes=3, embed_dim=5, weight=2.0)
    with torch.no_grad():
        module.classes.copy_(weight)
    assert module(image, text, torch.tensor(labels)).item() == pytest.approx(2 * expected, rel=1e-4)


def test_identity_loss_shares_one_classifier():
    image, text = features(normalised=False)
    labels = [0, 1, 0, 2, 1, 1]
    module = IdentityLoss(num_classes=3, embed_dim=5)
    rows, bias = module.classifier.weight.double().tolist(), module.classifier.bias.tolist()
    expected = 0.0
    for side in (image, text):
        for x, label in zip(side.double().tolist(), labels, strict=True):
            expected -= log_softmax([dot(x, row) + b for row, b in zip(rows, bias, strict=True)])[label] / 12
    assert module(image, text, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-4)


def test_tal_follows_its_formula_pair_by_pair():
    image, text = features()
    margin, tau = 0.1, 0.05
    expected = [0.0] * 6
    for own, other in both_ways(image, text):
        for i, a in enumerate(own):
            s = [dot(a, b) for b in other]
            positives = [j for j in range(6) if IDS[j] == IDS[i]]
            total = sum(math.exp(s[j] / tau) for j in positives)
            positive = sum(math.exp(s[j] / tau) / total * s[j] for j in positives)
            negative = tau * math.log(sum(math.exp(s[j] / tau) for j in range(6) if IDS[j] != IDS[i]))
            expected[i] += max(0.0, margin - positive + negative)
    losses = triplet_alignment_losses(image, text, PEOPLE, margin, tau)
    assert losses.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert sum(expected) > 0
    whole = TripletAlignmentLoss(margin, tau, 2.0, mean=True)(image, text, PEOPLE)
    assert whole.item() == pytest.approx(2 * sum(expected) / 6, rel=1e-3)


def test_tal_weights_of_positives_have_no_gradient():
    """The derivative of a row's loss by its own positive similarities is minus the softmax weight."""
    image, text = (x.requires_grad_() for x in features(count=3))
    people = torch.tensor([1, 1, 2])
    similarity = (text @ image.T).detach()
    loss = triplet_alignment_losses(image, text, people, margin=10.0, temperature=0.5)[0]
    (gradient,) = torch.autograd.grad(loss, text)
    s, tau = similarity, 0.5
    row = -(s[0, :2] / tau).softmax(0)
    rows = torch.cat([row, torch.ones(1)])  # one negative: its log-sum-exp is itself
    column = -(s[:2, 0] / tau).softmax(0)
    expected = torch.zeros_like(gradient)
    expected[0] += rows @ image.detach()
    expected[:2] += column[:, None] * image.detach()[0]
    expected[2] += image.detach()[0]
    torch.testing.assert_close(gradient, expected)


def test_tal_of_a_batch_without_negatives_is_zero_and_finite():
    image, text = (x.requires_grad_() for x in features())
    losses = triplet_alignment_losses(image, text, torch.ones(6, dtype=torch.long))
    losses.sum().backward()
    assert losses.tolist() == [0.0] * 6
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [projection_matching_loss, similarity_distribution_loss, triplet_alignment_losses])
def test_losses_are_computed_in_fp32_under_autocast(loss, dtype):
    image, text = features()
    image, text = image.to(dtype), text.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(image, text, PEOPLE)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(image.float(), text.float(), PEOPLE))
