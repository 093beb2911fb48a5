"""The shared stack of cross-modal layers: which inputs may change its states and which must not; groups of tokens."""

import pytest
import torch
from checkpoint_factory import shake

from cada_plugin.errors import ConfigError
from cada_plugin.models import AttributeDecoder, CrossModalBert
from cada_plugin.models.cross_modal import places_of
from cada_plugin.models.groupings import group_means, position_groups, token_groups

SIZES = {"vocab_size": 40, "width": 16, "depth": 2, "heads": 4, "image_width": 12, "max_positions": 20}
LENGTHS = (5, 9, 3)


@pytest.fixture(scope="module")
def bert() -> CrossModalBert:
    return shake(CrossModalBert(**SIZES))


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(1, 40, mask.shape, generator=generator) * mask, mask


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))


def same(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def differs(a, b):
    return (a - b).abs().max() > 1e-2


@pytest.fixture(params=["text", "fusion", "shared", "causal"])
def run(request, bert, images):
    """The stack as text encoder, as fusion of one image per text, of one image for all, and as causal decoder."""
    memory = bert.image_memory(images[:1] if request.param == "shared" else images)
    memory = None if request.param == "text" else memory
    return lambda ids, mask, **options: bert(ids, mask, memory, causal=request.param == "causal", **options)


# Padding


@torch.no_grad()
def test_computing_padding_changes_no_real_token(run, texts):
    ids, mask = texts
    packed, everything = run(ids, mask), run(ids, mask, compute_padding=True)
    same(packed[mask], everything[mask])
    assert not packed[~mask].any()
    assert everything[~mask].abs().sum(-1).all()


@pytest.mark.parametrize("compute_padding", [False, True])
@torch.no_grad()
def test_content_and_length_of_padding_change_no_real_token(run, texts, compute_padding):
    ids, mask = texts
    expected = run(ids, mask)[mask]
    same(run(ids.masked_fill(~mask, 17), mask, compute_padding=compute_padding)[mask], expected)
    longer = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(mask, (0, 6))
    same(run(*longer, compute_padding=compute_padding)[:, : ids.shape[1]][mask], expected)


@torch.no_grad()
def test_texts_of_a_batch_do_not_see_each_other(bert, texts, images):
    ids, mask = texts
    together = bert(ids, mask, bert.image_memory(images))
    for p, length in enumerate(LENGTHS):
        alone = bert(ids[p : p + 1, :length], mask[p : p + 1, :length], bert.image_memory(images[p : p + 1]))
        same(together[p, :length], alone[0])


@pytest.mark.parametrize("compute_padding", [False, True])
@torch.no_grad()
def test_first_only_is_the_first_state(run, texts, compute_padding):
    ids, mask = texts
    first = run(ids, mask, first_only=True, compute_padding=compute_padding)
    assert first.shape == (3, 1, 16)
    same(first, run(ids, mask)[:, :1])


# Images


@torch.no_grad()
def test_one_shared_image_equals_a_copy_for_each_text(bert, texts, images):
    ids, mask = texts
    memory = bert.image_memory(images[1:2])
    copies = bert.image_memory(images).select(torch.tensor([1, 1, 1]))
    for options in ({}, {"first_only": True}, {"compute_padding": True}, {"causal": True}):
        same(bert(ids, mask, memory, **options), bert(ids, mask, copies, **options))


@torch.no_grad()
def test_select_gives_each_text_its_image(bert, texts, images):
    ids, mask = texts
    order = torch.tensor([2, 0, 1])
    memory = bert.image_memory(images)
    assert memory.num_images == 3
    same(bert(ids, mask, memory.select(order)), bert(ids, mask, bert.image_memory(images[order])))
    assert differs(bert(ids, mask, memory.select(order)), bert(ids, mask, memory))


@pytest.mark.parametrize("options", [{}, {"first_only": True}, {"compute_padding": True}, {"causal": True}], ids=str)
@pytest.mark.parametrize("asked", [[2, 0, 1], [1, 1, 1], [2, 0, 2], [0, 0, 1]], ids=str)
@torch.no_grad()
def test_images_asked_in_any_order_and_number_equal_a_copy_for_each_text(bert, texts, images, asked, options):
    memory, asked = bert.image_memory(images), torch.tensor(asked)
    same(bert(*texts, memory, asked, **options), bert(*texts, memory.select(asked), **options))


@torch.no_grad()
def test_order_of_image_tokens_does_not_matter(bert, texts, images):
    same(bert(*texts, bert.image_memory(images.flip(1))), bert(*texts, bert.image_memory(images)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("first_only", [False, True])
@torch.no_grad()
def test_attention_maps_sum_to_one_and_change_nothing(bert, texts, images, shared, first_only):
    ids, mask = texts
    memory, maps = bert.image_memory(images[:1] if shared else images), []
    states = bert(ids, mask, memory, first_only=first_only, maps=maps)
    same(states, bert(ids, mask, memory, first_only=first_only))
    per_token = (1, 4, int(mask.sum()), 7) if shared else (3, 4, 9, 7)
    last = ((1, 4, 3, 7) if shared else (3, 4, 1, 7)) if first_only else per_token
    assert [tuple(one.shape) for one in maps] == [per_token, last]
    for one in maps:
        same(one.sum(-1), torch.ones(one.shape[:-1]))


# Inference without padding in self-attention


@pytest.mark.parametrize("lengths", [(5, 9, 3), (4, 9, 4, 1, 9, 4)], ids=str)
@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("asked", ["none", "own", "one", "some"])
def test_inference_gives_the_states_of_training(bert, images, lengths, first_only, asked):
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(10) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, 40, mask.shape, generator=generator)
    some = torch.randint(3, (len(lengths),), generator=generator)
    memory = bert.image_memory(images)
    memory, chosen = {
        "none": (None, None),
        "own": (memory.select(some), None),
        "one": (memory.select(some[:1]), None),
        "some": (memory, some),
    }[asked]
    expected = bert(ids, mask, memory, chosen, first_only=first_only)
    with torch.no_grad():
        same(bert(ids, mask, memory, chosen, first_only=first_only), expected)


def test_inference_keeps_to_a_mask_with_holes(bert, texts, images):
    ids, mask = texts[0].masked_fill(~texts[1], 5), torch.rand(3, 9, generator=torch.Generator().manual_seed(3)) < 0.6
    assert not mask[:, 0].all()  # so that not every text has a first state
    memory = bert.image_memory(images)
    for options in ({}, {"first_only": True}):
        expected = bert(ids, mask, memory, **options)
        with torch.no_grad():
            same(bert(ids, mask, memory, **options), expected)


@pytest.mark.parametrize("first_only", [False, True])
@torch.no_grad()
def test_no_texts_have_no_states(bert, images, first_only):
    ids, memory = torch.zeros(0, 9, dtype=torch.long), bert.image_memory(images)
    nobody = torch.zeros(0, dtype=torch.long)
    states = bert(ids, ids > 0, memory, nobody, first_only=first_only)
    assert states.shape == (0, 1 if first_only else 9, 16)


@torch.no_grad()
def test_inference_computes_no_attention_to_padding(bert, texts, monkeypatch):
    attended = torch.nn.functional.scaled_dot_product_attention
    shapes = []

    def counted(q, k, v, **options):
        assert options == {}
        shapes.append((q.shape[0], q.shape[2], k.shape[2]))
        return attended(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    ids, mask = texts
    bert(ids.repeat(2, 1), mask.repeat(2, 1), first_only=True)
    assert shapes == [(2, 3, 3), (2, 5, 5), (2, 9, 9), (2, 1, 3), (2, 1, 5), (2, 1, 9)]


# Direction


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("with_image", [True, False])
@torch.no_grad()
def test_causal_tokens_see_only_what_stands_before(bert, texts, images, causal, with_image):
    ids, mask = texts
    memory = bert.image_memory(images) if with_image else None
    changed = ids.clone()
    changed[1, 6] = ids[1, 6] % 39 + 1
    before, after = bert(ids, mask, memory, causal=causal), bert(changed, mask, memory, causal=causal)
    if causal:
        same(after[1, :6], before[1, :6])
    else:
        assert differs(after[1, :6], before[1, :6])
    assert differs(after[1, 6:], before[1, 6:])
    same(after[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_attribute_decoder_scores_masked_positions_as_it_scores_all(texts, images, causal):
    decoder = shake(AttributeDecoder(causal=causal, **SIZES))
    ids, mask = texts
    memory = decoder.bert.image_memory(images)
    where = (torch.arange(9) % 2 == 1) & mask
    everywhere = decoder(ids, mask, memory)
    assert everywhere.shape == (3, 9, 40)
    assert differs(everywhere[0, 5], everywhere[0, 6])  # padding has logits too
    same(decoder(ids, mask, memory, places_of(where)), everywhere[where])
    assert decoder(ids, mask, memory, places_of(torch.zeros_like(mask))).shape == (0, 40)
    changed = ids.clone()
    changed[1, 8] = ids[1, 8] % 39 + 1  # the last word informs earlier ones only where the decoder is not causal
    assert differs(decoder(changed, mask, memory)[1, :8], everywhere[1, :8]) != causal
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight


# Options and errors


def test_dropout_acts_in_training_only(texts, images):
    noisy = shake(CrossModalBert(**SIZES, dropout=0.5))
    still = shake(CrossModalBert(**SIZES, dropout=0.0))
    memory = noisy.image_memory(images)
    same(noisy(*texts, memory), still(*texts, memory))
    noisy.train()
    assert differs(noisy(*texts, memory), noisy(*texts, memory))
    for module in noisy.modules():  # but for that of the attention weights
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        assert differs(noisy(*texts), noisy(*texts))
    still.train()
    same(still(*texts, memory), still(*texts, memory))


def test_initial_weights_are_those_of_bert():
    torch.manual_seed(0)
    bert = CrossModalBert(**SIZES)
    assert bert.encoder.layer[0].attention.self.query.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not bert.embeddings.word_embeddings.weight[0].any()
    assert not bert.encoder.layer[1].crossattention.self.key.bias.any()


def test_impossible_inputs_are_named(bert, texts, images):
    ids, mask = torch.ones(1, 21, dtype=torch.long), torch.ones(1, 21, dtype=torch.bool)
    with pytest.raises(ConfigError, match="text has 21 tokens, the text encoder only 20 positions"):
        bert(ids, mask)
    with pytest.raises(ValueError, match="3 texts and 2 images: say with images="):
        bert(*texts, bert.image_memory(images[:2]))
    two = bert.image_memory(images[:2])
    with pytest.raises(ValueError, match=r"images has shape \(2,\): expected \(3,\)"):
        bert(*texts, two, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="leave images out"):
        bert(*texts, two, torch.tensor([0, 1, 1]), maps=[])
    with pytest.raises(ConfigError, match="width=16 is not a multiple of heads=3"):
        CrossModalBert(**{**SIZES, "heads": 3})


# Groups of tokens


def test_position_groups_are_the_released_halves():
    (groups,) = position_groups(torch.zeros(1, 73, dtype=torch.long), 2).tolist()
    assert groups == [-1, *[0] * 36, *[1] * 36]


@pytest.mark.parametrize(
    ("length", "number", "expected"),
    [(8, 3, [-1, 0, 0, 1, 1, 2, 2, -1]), (6, 2, [-1, 0, 0, 1, 1, -1]), (3, 4, [-1, 0, 1])],
)
def test_position_groups_by_hand(length, number, expected):
    assert position_groups(torch.zeros(2, length, dtype=torch.long), number).tolist() == [expected] * 2


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_token_groups_share_the_real_tokens_evenly(number):
    lengths = torch.arange(2, 24)
    groups = token_groups(torch.arange(26) < lengths[:, None], number)
    for row, length in zip(groups.tolist(), lengths.tolist(), strict=True):
        inner = row[1 : length - 1]
        assert row[0] == -1
        assert set(row[max(length - 1, 1) :]) == {-1}  # [SEP] and padding
        assert inner == sorted(inner)
        sizes = [inner.count(group) for group in range(number)]
        assert sum(sizes) == length - 2
        assert max(sizes) - min(sizes) <= 1


def test_group_means_equal_loops():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 10, 3, generator=generator)
    groups = torch.randint(-1, 5, (4, 10), generator=generator)
    groups[2] = -1
    means, exists = group_means(states, groups, 7)
    assert means.shape == (4, 7, 3)
    for p in range(4):
        for g in range(7):
            members = [states[p, t] for t in range(10) if groups[p, t] == g]
            assert exists[p, g] == bool(members)
            same(means[p, g], sum(members) / len(members) if members else torch.zeros(3))


@pytest.mark.parametrize("copied", [True, False])
def test_gradients_are_the_same_bits_every_time(copied):
    # large enough for several threads: summing the gradient of an indexed tensor races where it is not index_select's
    torch.manual_seed(0)
    model = CrossModalBert(vocab_size=100, width=128, depth=1, heads=4, image_width=128, max_positions=40, dropout=0.0)
    ids, mask = torch.randint(5, 100, (192, 40)), torch.arange(40) < torch.randint(10, 41, (192, 1))
    tokens, choice = torch.randn(64, 19, 128), torch.randint(0, 64, (192,))

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        memory = model.image_memory(tokens)
        states = model(ids, mask, memory.select(choice)) if copied else model(ids, mask, memory, choice)
        states.square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    first = gradients()
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
