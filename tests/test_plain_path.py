"""The fast path against the plain one: losses, gradients and match scores."""

import pytest
import torch
from conftest import groups

from cada_plugin.benchmark.speed.plain_path import PlainPath
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.retrieval import match_shortlists


@pytest.mark.parametrize(("grouping", "num_groups"), [("position", 2), ("position", 3), ("tokens", 2), ("tokens", 4)])
@pytest.mark.parametrize("causal", [True, False])
def test_losses_and_gradients_are_those_of_the_plain_path(tiny_model, tiny_batch, grouping, num_groups, causal):
    model, batch = tiny_model(grouping=groups(grouping, num_groups)), tiny_batch((1, 2, 3, 4))
    model.text_decoder.causal = causal
    results = []
    for path in (model, PlainPath(model).train()):
        model.zero_grad(set_to_none=True)
        losses = path.loss(**batch)
        sum(losses.values()).backward()
        results.append((losses, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (fast, fast_gradients), (plain, plain_gradients) = results
    assert fast.keys() == plain.keys()
    for key in fast:
        torch.testing.assert_close(fast[key], plain[key], rtol=1e-4, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}")
    for name, expected in plain_gradients.items():
        if name.endswith("self.key.bias"):  # adds the same to all of a row's scores: without effect, hence gradient
            assert max(expected.norm(), fast_gradients[name].norm()) < 1e-5, name
            continue
        error = (fast_gradients[name] - expected).norm()
        assert error <= 1e-3 * expected.norm() + 1e-6, f"{name}: {error} of {expected.norm()}"


@pytest.mark.parametrize("max_pairs", [256, 3])
@torch.no_grad()
def test_rerank_scores_are_those_of_one_query_at_a_time(tiny_model, tiny_batch, max_pairs):
    model = tiny_model().eval()
    inputs = tiny_batch()["inputs"]
    tokens = model.encode_image(torch.randn(7, 3, 32, 16)).tokens
    shortlist = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(q))[:4] for q in range(4)])
    texts = TextFeatures(torch.zeros(4, 8), inputs["input_ids"], inputs["attention_mask"])
    fast = match_shortlists(model, texts, tokens, torch.arange(7), shortlist, max_pairs, progress=False)
    plain = PlainPath(model).eval().rerank(inputs["input_ids"], inputs["attention_mask"], tokens, shortlist)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    assert plain.std() > 1e-3
