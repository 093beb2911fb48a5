"""CADA's losses, options and matching on tiny models."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conftest import BERT, TOKENIZER, groups

from cada_plugin.errors import ConfigError
from cada_plugin.models import PhraseGroups
from cada_plugin.models import cada as cada_module
from cada_plugin.models.retriever import TextFeatures

LOSSES = {
    "loss_global": {"loss_global": {"type": "GlobalAssociationLoss"}},
    "loss_atp": {"loss_atp": {"type": "MatchingLoss"}},
    "loss_ara": {
        "loss_ara": {"type": "MaskedAttributeLoss"},
        "text_decoder": {"type": "AttributeDecoder", **BERT},
    },
}
OFF = {"loss_global": None, "loss_atp": None, "loss_ara": None, "text_decoder": None}
GROUPINGS = [("position", 2), ("position", 5), ("tokens", 1), ("tokens", 4), ("phrases", None), ("phrases", 2)]


def only(*names):
    """Arguments that leave only these losses on."""
    return OFF | {key: value for name in names for key, value in LOSSES[name].items()}


# Losses


@pytest.mark.parametrize("on", [c for c in product([True, False], repeat=3) if any(c)])
def test_losses_are_those_configured_and_every_trained_weight_gets_a_gradient(tiny_model, tiny_batch, on):
    """A trainable weight without a gradient would make distributed training fail in its first step."""
    names = [name for name, wanted in zip(LOSSES, on, strict=True) if wanted]
    model = tiny_model(**only(*names))
    losses = model.loss(**tiny_batch())
    assert list(losses) == names
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert next(model.visual_encoder.parameters()).requires_grad


def test_training_without_any_loss_is_refused(tiny_model, tiny_batch):
    with pytest.raises(ConfigError, match="no loss is configured: set loss_global"):
        tiny_model(**OFF).loss(**tiny_batch())


@pytest.mark.parametrize("negatives", ["hardest", "sampled"])
@pytest.mark.parametrize(("grouping", "num_groups"), GROUPINGS)
def test_every_grouping_runs_with_both_negatives(tiny_model, tiny_batch, grouping, num_groups, negatives):
    model = tiny_model(grouping=groups(grouping, num_groups), negatives=negatives)
    model.set_progress(0.5)
    losses = model.loss(**tiny_batch())
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("grouping", "num_groups"), GROUPINGS)
def test_losses_depend_neither_on_the_order_of_pairs_nor_on_padding(tiny_model, tiny_batch, grouping, num_groups):
    model, batch = tiny_model(grouping=groups(grouping, num_groups)), tiny_batch()
    expected = model.loss(**batch)
    order = torch.tensor([2, 0, 3, 1])
    inputs = {key: value[order] for key, value in batch["inputs"].items()}
    padding = {"phrase_index": -1}
    longer = {
        key: F.pad(value, (0, 3), value=padding.get(key, 0)) if key != "images" else value
        for key, value in inputs.items()
    }
    losses = model.loss(longer, [batch["data_samples"][i] for i in order])
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared_head", [False, True])
@pytest.mark.parametrize(("grouping", "num_groups"), GROUPINGS)
def test_atp_loss_equals_pairs_fused_one_by_one(tiny_model, tiny_batch, grouping, num_groups, shared_head):
    """Compare the shared batch with three passes over copied images, as the paper describes the method."""
    loss = {"type": "MatchingLoss", "group_weight": 2.0 if shared_head else 1.0}  # 2: as MARS
    ranking = {"loss_ranking": {"type": "MatchRankingLoss", "weight": 0.5, "cosine_weight": 20.0}}
    model = tiny_model(grouping=groups(grouping, num_groups), shared_head=shared_head, loss_atp=loss, **ranking)
    assert (model.itm_local_head is None) == shared_head
    group_head, batch = model.itm_head if shared_head else model.itm_local_head, tiny_batch()
    inputs, people = batch["inputs"], [sample.person_id for sample in batch["data_samples"]]
    with torch.no_grad():
        padding = model.grouping.needs_padding
        ids, mask, phrases = model._padded_texts(inputs, padding)
        tokens = model.visual_encoder(inputs["images"])
        image, text = model.vision_proj(tokens[:, 0]), model.text_proj(model.text_encoder(ids, mask)[:, 0])
        scores = text @ image.T  # (texts, images)
        pairs = [(i, i) for i in range(4)]
        for i, column in product(range(4), (False, True)):
            others = [j for j in range(4) if people[j] != people[i]]
            hardest = max(others, key=lambda j, i=i, c=column: scores[j, i] if c else scores[i, j])
            pairs.append((hardest, i) if column else (i, hardest))
        whole, parts, final = [], [], {}
        for n, (t, v) in enumerate(pairs):
            label = torch.tensor([int(n < 4)])
            memory = model.image_memory(tokens[v : v + 1])
            states = model.fuse(ids[t : t + 1], mask[t : t + 1], memory, compute_padding=padding)
            means, exists = model.grouping.means(states, mask[t : t + 1], phrases[t : t + 1])
            logits = model.itm_head(states[:, 0])
            whole.append(F.cross_entropy(logits, label))
            final[n] = logits[0, 1], F.cosine_similarity(text[t], image[v], dim=0)
            parts += [F.cross_entropy(group_head(means[:, g]), label) for g in exists[0].nonzero()[:, 0]]
        expected = sum(whole) / len(whole) + loss["group_weight"] * sum(parts) / len(parts)
        ranked = 0.0  # log(1 + e^-lead) of each true pair over its wrong image, with the cosine, and its wrong caption
        for n, (match, cosine) in list(final.items())[:4]:
            by_image = match + 20 * cosine - final[n + 4 + n][0] - 20 * final[n + 4 + n][1]
            by_text = match - final[n + 5 + n][0]
            ranked = ranked + 0.5 * sum(torch.log1p(torch.exp(-lead)) for lead in (by_image, by_text)) / 4
    losses = model.loss(**batch)
    torch.testing.assert_close(losses["loss_atp"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_ranking"], ranked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("people", [(1, 2, 3, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize("negatives", [2, 4])
def test_captions_are_ranked_among_several_wrong_images(tiny_model, tiny_batch, people, negatives):
    ranking = {"loss_ranking": {"type": "MatchRankingLoss", "cosine_weight": 7.0, "negatives": negatives}}
    model, batch = tiny_model(**ranking), tiny_batch(people)
    inputs = batch["inputs"]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        tokens = model.visual_encoder(inputs["images"])
        image, text = model.vision_proj(tokens[:, 0]), model.text_proj(model.text_encoder(ids, mask)[:, 0])
        memories = [model.image_memory(tokens[v : v + 1]) for v in range(4)]
        match = torch.tensor(
            [[model.itm_head(model.fuse(ids[[t]], mask[[t]], m)[:, 0])[0, 1] for m in memories] for t in range(4)]
        )
        final = match + 7 * F.cosine_similarity(text[:, None], image[None], dim=-1)  # (texts, images)
        by_image, by_text = [], []
        for i in range(4):
            others = [j for j in range(4) if people[j] != people[i]]
            nearest = sorted(others, key=lambda j, i=i: -(text[i] @ image[j]))[:negatives]
            by_image.append(-final[i, [i, *nearest]].log_softmax(0)[0])
            hardest = max(others, key=lambda j, i=i: text[j] @ image[i])
            by_text.append(-match[[i, hardest], i].log_softmax(0)[0])
    expected = torch.stack(by_image).mean() + torch.stack(by_text).mean()
    losses = model.loss(**batch)
    torch.testing.assert_close(losses["loss_ranking"], expected, rtol=1e-4, atol=1e-5)
    losses["loss_ranking"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_each_phrase_is_a_group_even_where_every_word_is_one(tiny_model, tiny_batch):
    model = tiny_model(grouping=groups("phrases", None))
    captions = ["man woman boy girl " * 5, "a man", "a woman", "a boy"]  # NN NN ...: 20 phrases of one word
    batch = tiny_batch(captions=captions)
    ids, mask, phrases = model._padded_texts(batch["inputs"], padded=False)
    assert phrases.max() == 19
    _, exists = model.grouping.means(torch.randn(*ids.shape, 16), mask, phrases)
    assert exists.sum(1).tolist() == [20, 1, 1, 1]


def test_captions_without_phrases_leave_the_whole_caption(tiny_model, tiny_batch):
    model = tiny_model(**only("loss_atp"), grouping=groups("phrases", None))
    loss = model.loss(**tiny_batch(captions=["with this", "and that", "is", "the"]))["loss_atp"]
    loss.backward()
    assert loss.isfinite()
    assert not model.itm_local_head.weight.grad.any()


def test_position_groups_average_the_padded_length_and_others_only_the_batch(tiny_model, tiny_batch, monkeypatch):
    seen = {}
    for grouping in ("position", "tokens"):
        model = tiny_model(grouping=groups(grouping, 2))
        means = model.grouping.means
        monkeypatch.setattr(model.grouping, "means", lambda *a, g=grouping, f=means: seen.update({g: a[:2]}) or f(*a))
        model.loss(**tiny_batch(captions=["a man", "coat", "a boy", "the woman"]))
    assert {grouping: states.shape for grouping, (states, _) in seen.items()} == {
        "position": (12, 24, 16),
        "tokens": (12, 4, 16),
    }
    assert {grouping: bool(states[~mask].any()) for grouping, (states, mask) in seen.items()} == {
        "position": True,  # padding has states, as in the released code
        "tokens": False,
    }


def test_texts_longer_than_the_models_tokenizer_allows_are_refused(tiny_model, tiny_batch):
    for grouping, number in (("position", 2), ("phrases", None)):
        model = tiny_model(grouping=groups(grouping, number), tokenizer={**TOKENIZER, "max_length": 8})
        with pytest.raises(ConfigError, match=r"texts have \d+ tokens.*max_length=8.*same tokenizer"):
            model.loss(**tiny_batch())


def test_the_sampling_scale_rises_with_the_progress_of_the_run(tiny_model, tiny_batch, monkeypatch):
    calls, choose = [], cada_module.sampled_negatives
    monkeypatch.setattr(cada_module, "sampled_negatives", lambda *a: calls.append(a) or choose(*a))
    model = tiny_model(negatives="sampled", negative_scale=(2.0, 10.0))
    for progress in (0.0, 0.25, 1.0):
        model.set_progress(progress)
        model.loss(**tiny_batch())
    assert [call[2] for call in calls] == [2.0, 2.0, 4.0, 4.0, 10.0, 10.0]
    assert all(call[0].abs().max() <= 1 + 1e-6 for call in calls)  # cosines


@pytest.mark.parametrize("negatives", ["hardest", "sampled"])
def test_bf16_training_keeps_similarities_and_losses_in_fp32(tiny_model, tiny_batch, monkeypatch, negatives):
    name = f"{negatives}_negatives"
    calls, choose = [], getattr(cada_module, name)
    monkeypatch.setattr(cada_module, name, lambda *a: calls.append(a[0]) or choose(*a))
    model = tiny_model(negatives=negatives)
    model.set_progress(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(**tiny_batch())
    sum(losses.values()).backward()
    assert {call.dtype for call in calls} == {torch.float32}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_ara_learns_from_masked_positions_only(tiny_model, tiny_batch):
    model, batch = tiny_model(**only("loss_ara")), tiny_batch()
    loss = model.loss(**batch)["loss_ara"]
    inputs = batch["inputs"]
    logits = model.text_decoder(
        inputs["masked_ids"],
        inputs["attention_mask"],
        model.text_decoder.bert.image_memory(model.visual_encoder(inputs["images"])),
    )
    where = inputs["masked_positions"]
    expected = 0.1 * F.cross_entropy(logits[where], inputs["input_ids"][where])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    inputs["masked_ids"], inputs["masked_positions"] = inputs["input_ids"], torch.zeros_like(where)
    assert model.loss(**batch)["loss_ara"] == 0  # a batch of captions without attributes


# What cannot be used


def test_pairs_are_ranked_by_a_match_head(tiny_model):
    with pytest.raises(ConfigError, match="loss_ranking needs the fusion decoder of ATP"):
        tiny_model(**only("loss_global"), loss_ranking={"type": "MatchRankingLoss"})


def test_batch_of_one_person_has_no_negatives(tiny_model, tiny_batch):
    batch = tiny_batch(person_ids=(5, 5, 5, 5))
    with pytest.raises(
        ConfigError, match="all 4 pairs of the batch show person 5, so matching has no negatives: use a larger"
    ):
        tiny_model().loss(**batch)
    assert tiny_model(**only("loss_global")).loss(**batch)["loss_global"].isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grouping": "words"}, "grouping='words': use dict.type=.... of one of PositionGroups, TokenGroups, PhraseG"),
        ({"grouping": None, "num_groups": 2}, "num_groups=2 without a grouping"),
        ({"grouping": groups("tokens", None)}, "TokenGroups num_groups=None: use an integer from 1"),
        ({"grouping": groups("position", 0)}, "PositionGroups num_groups=0: use an integer from 1"),
        ({"grouping": groups("phrases", 0)}, "PhraseGroups num_groups=0: use an integer from 1"),
        ({"negatives": "random"}, "negatives='random': use one of hardest, sampled"),
        ({"text_decoder": None}, "text_decoder and loss_ara belong together"),
        ({"loss_ara": None}, "text_decoder and loss_ara belong together"),
    ],
)
def test_impossible_options_are_refused_when_the_model_is_built(tiny_model, changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny_model(**changes)


def test_a_shared_head_needs_groups(tiny_model):
    with pytest.raises(ConfigError, match="shared_head=True is about groups of tokens, and grouping is None"):
        tiny_model(grouping=None, shared_head=True)


def test_old_names_of_options_build_the_same_model_and_say_the_new_ones(tiny_model):
    with pytest.warns(FutureWarning) as told:
        model = tiny_model(grouping="phrases", num_groups=4, negatives="drawn", negative_temperature=(1.0, 3.0))
    assert (type(model.grouping), model.grouping.num_groups) == (PhraseGroups, 4)
    assert (model.negatives, model.negative_scale) == ("sampled", (1.0, 3.0))
    news = ["grouping={'type': 'PhraseGroups', 'num_groups': 4}", "negatives='sampled'", "negative_scale=(1.0, 3.0)"]
    for warning, new in zip(told, news, strict=True):
        assert str(warning.message).endswith(f"write {new}")
    with pytest.warns(FutureWarning):
        assert tiny_model(num_groups=3).grouping.num_groups == 3
    with pytest.warns(FutureWarning):
        assert tiny_model(grouping="tokens").grouping.num_groups == 2
    with pytest.warns(FutureWarning):
        assert tiny_model(grouping=None, num_groups=None).grouping is None
    with pytest.raises(TypeError, match="unexpected argument 'num_group'"):
        tiny_model(num_group=3)


def test_missing_inputs_name_the_transform_to_add(tiny_model, tiny_batch):
    batch = tiny_batch(mask=False)
    with pytest.raises(ConfigError, match=r"loss_ara needs masked captions: add dict\(type='MaskAttributes'\)"):
        tiny_model().loss(**batch)
    del batch["inputs"]["phrase_index"]
    with pytest.raises(ConfigError, match=r"needs phrase_index: add dict\(type='TagAttributes'\)"):
        tiny_model(grouping=groups("phrases", None)).loss(**batch)


# Retrieval


@torch.no_grad()
def test_embeddings_are_unit_vectors_that_ignore_the_rest_of_the_batch(tiny_model, tiny_batch):
    model, inputs = tiny_model().eval(), tiny_batch()["inputs"]
    image, text = model(inputs, mode="predict")
    assert image.tokens.shape == (4, 9, 16)
    for embed in (image.embed, text.embed):
        torch.testing.assert_close(embed.norm(dim=-1), torch.ones(4))
    mask = inputs["attention_mask"]
    alone = [
        model.encode_text(ids[m][None], m[m][None]).embed for ids, m in zip(inputs["input_ids"], mask, strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), text.embed, atol=1e-5, rtol=0)
    alone = [model.encode_image(one[None]).embed for one in inputs["images"]]
    torch.testing.assert_close(torch.cat(alone), image.embed, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="mode='train': use 'loss', 'tensor' or 'predict'"):
        model(inputs, mode="train")


@pytest.mark.parametrize("grouping", ["position", "tokens"])
@torch.no_grad()
def test_match_logits_depend_on_the_pair_alone(tiny_model, tiny_batch, grouping):
    model, inputs = tiny_model(grouping=groups(grouping, 2)).eval(), tiny_batch()["inputs"]
    image, text = model(inputs)
    memory = model.image_memory(image.tokens)
    pairs = torch.tensor([*product(range(4), range(4))])
    ids = inputs["input_ids"].clone()
    ids[:, 0] = model.tokenizer.enc_id
    expected = torch.empty(16)
    for p, (t, v) in enumerate(pairs.tolist()):
        states = model.text_encoder(
            ids[t : t + 1], inputs["attention_mask"][t : t + 1], model.image_memory(image.tokens[v : v + 1])
        )
        expected[p] = model.itm_head(states[:, 0])[0, 1]

    def match(texts, memory, pairs):
        rows, images = pairs.unbind(1)
        return model.match(TextFeatures(*(field[rows] for field in texts)), memory, images)

    torch.testing.assert_close(match(text, memory, pairs), expected, atol=1e-4, rtol=1e-4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(match(text, memory, pairs[order]), expected[order], atol=1e-4, rtol=1e-4)
    longer = TextFeatures(text.embed, F.pad(text.input_ids, (0, 4)), F.pad(text.attention_mask, (0, 4)))
    one = model.image_memory(image.tokens[2:3])  # one image asked by all captions, as re-ranking does
    asked = torch.tensor([[3, 0], [0, 0], [1, 0], [0, 0]])
    torch.testing.assert_close(match(longer, one, asked), expected[asked[:, 0] * 4 + 2], atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


def test_model_without_atp_does_not_re_rank(tiny_model):
    assert tiny_model().can_match
    assert not tiny_model(loss_atp=None).can_match
