"""Explanations of a match: maps against the formula written out, phrases against captions written by hand, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_factory import BERT, DUAL, FUSION, ITC, ITM, pictures, retriever
from PIL import Image

from cada_plugin.apis import Retriever
from cada_plugin.errors import ConfigError, ImageError
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.calibration import Calibration, sigmoid
from cada_plugin.portable.explanation import Phrase, patch_grid
from cada_plugin.portable.features import ImageFeatures
from cada_plugin.portable.phrases import without_words
from cada_plugin.portable.stages import FINAL
from cada_plugin.retrieval.word_maps import default_layer, word_means
from cada_plugin.visualization import draw_explanation
from cada_plugin.visualization.explanation import spotlight
from cada_plugin.visualization.gallery import MAT, RIGHT, WRONG

THREE = {**FUSION, "text_encoder": {"type": "CrossModalBert", **BERT, "depth": 3}}
ATP = {"loss_atp": {"type": "MatchingLoss"}}
MODELS = {
    "CADA": {"type": "CADA", **THREE, **ATP},
    "BLIP": {"type": "BLIP", **THREE, **ITC, **ITM},
}
CAPTION = "A man in a red coat, with blue jeans and a black bag."
PHRASES = {"man": (1, 2), "red coat": (4, 6), "blue jeans": (8, 10), "black bag": (12, 14)}
SHORTER = {
    "man": "in a red coat, with blue jeans and a black bag",
    "red coat": "a man in, with blue jeans and a black bag",
    "blue jeans": "a man in a red coat, with and a black bag",
    "black bag": "a man in a red coat, with blue jeans and",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Retriever]:
    return {name: retriever(tmp_path_factory.mktemp(name), model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def cada(made) -> Retriever:
    return made["CADA"]


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return pictures(1)[0]


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory) -> Retriever:
    return retriever(tmp_path_factory.mktemp("one"), {"type": "CADA", **FUSION, **ATP})


def logit_of(model, ids, tokens, layer, weights):
    """The match logit if the cross-attention of one layer had these weights (H, T, S): the stack written out."""
    ids = torch.cat([torch.full_like(ids[:, :1], model.tokenizer.enc_id), ids[:, 1:]], 1)
    bert = model.text_encoder

    def heads(x, count):
        return x.view(x.shape[0], count, -1).transpose(0, 1)  # (H, T, E)

    def attended(block, x, source, given=None):
        q, k, v = (heads(project(s), block.heads) for project, s in
                   ((block.self.query, x), (block.self.key, source), (block.self.value, source)))  # fmt: skip
        used = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) if given is None else given
        out = (used @ v).transpose(0, 1).flatten(1)
        return block.output.LayerNorm(block.output.dense(out) + x), used

    x = bert.embeddings(ids)[0]
    seen = []
    for number, one in enumerate(bert.encoder.layer):
        x, _ = attended(one.attention, x, x)
        x, used = attended(one.crossattention, x, tokens[0], weights if number == layer else None)
        seen.append(used)
        x = one.output.LayerNorm(one.output.dense(torch.nn.functional.gelu(one.intermediate.dense(x))) + x)
    return model.itm_head(x[0])[1], seen


@pytest.mark.parametrize(("name", "layer"), [("CADA", 1), ("BLIP", 0)])
def test_maps_are_attention_times_positive_gradient_by_finite_differences(made, picture, name, layer):
    ours = made[name]
    model, tokens = ours.model.double(), ours.encode_image(picture).tokens.double()
    try:
        encoded = ours.tokenizer.encode("a man in a t-shirt zzq")  # zzq is several pieces or unknown
        ids = torch.tensor([encoded.input_ids])
        with torch.no_grad():
            match, seen = logit_of(model, ids, tokens, None, None)
            attention = seen[layer]  # (H, T, S)
            gradient, step = torch.zeros_like(attention), 1e-5
            for place in np.ndindex(*attention.shape):
                up, down = attention.clone(), attention.clone()
                up[place] += step
                down[place] -= step
                high, low = (logit_of(model, ids, tokens, layer, w)[0] for w in (up, down))
                gradient[place] = (high - low) / (2 * step)
        maps = (attention * gradient.clamp(min=0)).mean(0)[:, 1:]  # (T, N), without the class token
        expected = np.stack(
            [maps[[t for t, w in enumerate(encoded.word_index) if w == word]].mean(0) for word in range(6)]
        )
    finally:
        model.float()
    found = ours.explain("a man in a t-shirt zzq", picture, layer=layer)
    assert found.words == ("a", "man", "in", "a", "t-shirt", "zzq")
    assert found.match == pytest.approx(float(match), abs=1e-4)
    assert found.word_maps.shape == (6, 4, 2)
    np.testing.assert_allclose(found.word_maps.reshape(6, -1), expected, atol=1e-6, rtol=1e-3)
    assert found.word_maps.max() > 0


def test_phrases_are_left_out_with_their_article_and_change_the_match(cada, picture):
    found = cada.explain(CAPTION, picture)
    assert {phrase.text: (phrase.start, phrase.stop) for phrase in found.phrases} == PHRASES
    logits = cada.match(cada.encode_text([CAPTION, *SHORTER.values()]), cada.encode_image(picture))[:, 0].numpy()
    assert found.match == pytest.approx(logits[0])
    for phrase, logit in zip(found.phrases, logits[1:], strict=True):
        assert phrase.change == pytest.approx(logit - logits[0], abs=1e-5)
        np.testing.assert_allclose(phrase.map, found.word_maps[phrase.start : phrase.stop].mean(0))
    for start, stop in PHRASES.values():
        kept = [word for place, word in enumerate(found.words) if not start <= place < stop]
        assert cada.tokenizer.split(without_words(found.words, start, stop)) in (kept, kept[: start - 1] + kept[start:])
    assert [cada.tokenizer.encode(without_words(found.words, *PHRASES[name])).words for name in PHRASES] == [
        cada.tokenizer.split(text) for text in SHORTER.values()
    ]


def test_every_form_of_a_picture_gives_the_same_and_no_gradient_is_left(cada, picture, tmp_path):
    picture.save(tmp_path / "p.png")
    gallery = cada.encode_image([picture, *pictures(2, seed=7)])
    expected = cada.explain(CAPTION, picture)
    for parameter in cada.model.parameters():
        parameter.requires_grad_(False)  # maps do not need it
    try:
        with torch.no_grad():
            forms = (
                tmp_path / "p.png",
                np.asarray(picture),
                gallery[0],
                ImageFeatures(None, gallery.tokens[:1]),
            )
            found = [cada.explain(CAPTION, form) for form in forms]
    finally:
        for parameter in cada.model.parameters():
            parameter.requires_grad_(True)
    for one in found:
        np.testing.assert_allclose(one.word_maps, expected.word_maps, atol=1e-6)
        assert [p.change for p in one.phrases] == pytest.approx([p.change for p in expected.phrases], abs=1e-5)
    assert all(parameter.grad is None for parameter in cada.model.parameters())


def test_the_probability_is_that_of_the_final_score(cada, picture):
    assert cada.explain(CAPTION, picture).probability is None
    cada.calibration = Calibration("x", 100, cada.cosine_weight, {FINAL: (0.7, -1.5)})
    try:
        (hit,) = cada.search(CAPTION, cada.encode_image(picture))[0]
        final = hit.match + cada.cosine_weight * hit.cosine
        assert cada.explain(CAPTION, picture).probability == pytest.approx(sigmoid(0.7 * final - 1.5), abs=1e-5)
        ten_times = cada.explain(CAPTION, picture, gallery_images=1000).probability
        assert ten_times == pytest.approx(sigmoid(0.7 * final - 1.5 - np.log(10)), abs=1e-5)
    finally:
        cada.calibration = None


def test_phrases_are_judged_one_by_one_by_a_model_that_learnt_it(made, picture, tmp_path):
    ours = retriever(tmp_path, {"type": "CADA", **THREE, **ATP, "loss_phrases": {"type": "PhraseMatchingLoss"}})
    found = ours.explain(CAPTION, picture)
    tokens, odds = ours.encode_image(picture).tokens, []
    with torch.no_grad():
        for phrase in PHRASES:  # each as a text of its own, between the first and the last token
            ids = torch.tensor([ours.tokenizer.encode(phrase).input_ids])
            text = TextFeatures(torch.zeros(1, 0), ids, torch.ones_like(ids, dtype=torch.bool))
            inside = torch.tensor([[-1, *[0] * (ids.shape[1] - 2), -1]])
            odds.append(float(ours.model.phrase_logits(text, inside, ours.model.image_memory(tokens))[0]))
    assert [p.probability for p in found.phrases] == pytest.approx(sigmoid(np.array(odds)), abs=1e-5)
    encoded, groups = ours.tokenizer.encode(CAPTION), []
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        states = ours.model.fuse(ids, torch.ones_like(ids, dtype=torch.bool), ours.model.image_memory(tokens))[0]
        for start, stop in PHRASES.values():
            places = [place for place, word in enumerate(encoded.word_index) if start <= word < stop]
            no, yes = ours.model.itm_local_head(states[places].mean(0)).tolist()
            groups.append(yes - no)
    ours.calibration = Calibration("x", 100, 1.0, {}, "", 0.0, (3.0, 0.5, 0.25, -0.5))
    expected = sigmoid(3.0 * np.array(odds) + 0.5 * np.mean(groups) + 0.25 - 0.5)  # no phrase tells a side
    assert [p.probability for p in ours.explain(CAPTION, picture).phrases] == pytest.approx(expected, abs=1e-5)
    sided = ours.tokenizer.encode("a red coat and a black bag in her left hand")
    assert ours.judge_phrases(sided, [(1, 3), (5, 10)], tokens)[:, -1].tolist() == [1.0, 0.0]
    ours.calibration = Calibration("x", 100, 1.0, {})  # of a version that did not calibrate phrases
    assert [p.probability for p in ours.explain(CAPTION, picture).phrases] == pytest.approx(sigmoid(np.array(odds)))
    assert ours.explain("he is there", picture).phrases == ()
    for other in made.values():
        assert {(p.probability, p.verdict) for p in other.explain(CAPTION, picture).phrases} == {(None, None)}
        with pytest.raises(ConfigError, match="judges no phrases: use PyTorch weights of a model"):
            other.judge_phrases(sided, [(1, 3)], tokens)


def test_a_verdict_leaves_doubt():
    verdicts = [Phrase("", 0, 1, None, None, p).verdict for p in (0.0, 1 / 3, 0.34, 0.66, 2 / 3, 1.0)]
    assert verdicts == ["no", "no", "unsure", "unsure", "yes", "yes"]


def test_captions_without_phrases_of_one_phrase_and_too_long(cada, picture):
    assert cada.explain("he is there", picture).phrases == ()
    (only,) = cada.explain("a coat", picture).phrases
    assert (only.text, only.change) == ("coat", None)
    long = cada.explain("red " * 50 + "and so on " * 10 + "a black bag", picture)
    assert len(long.words) <= 71
    assert all(phrase.text != "black bag" for phrase in long.phrases)


def test_impossible_explanations_say_what_to_do(cada, one_layer, picture, tmp_path):
    clip = retriever(tmp_path / "clip", {"type": "CLIPRetriever", **DUAL, **ITC})
    with pytest.raises(ConfigError, match=r"no trained match head.*Use a model that matches \(CADA, BLIP\)"):
        clip.explain(CAPTION, picture)
    for layer in (2, -1, 9):
        with pytest.raises(ConfigError, match=rf"layer={layer}: use one from 0 to 1. In the last of the 3 layers"):
            cada.explain(CAPTION, picture, layer=layer)
    with pytest.raises(ConfigError, match=r"one layer of cross-attention.*two at least"):
        one_layer.explain(CAPTION, picture)
    with pytest.raises(ConfigError, match="one caption, not a list"):
        cada.explain([CAPTION], picture)
    with pytest.raises(ConfigError, match="one image with its tokens, these are 2"):
        cada.explain(CAPTION, cada.encode_image(pictures(2)))
    with pytest.raises(ConfigError, match="half a character"):
        cada.explain("a \ud800 coat", picture)
    with pytest.raises(ConfigError, match="has no word that the model reads"):
        cada.explain("!", picture)
    with pytest.raises(ImageError):
        cada.explain(CAPTION, tmp_path / "none.png")
    match = type(cada.model).match_with_maps
    try:
        del type(cada.model).__mro__[1].match_with_maps
        with pytest.raises(ConfigError, match="tells nothing of its attention"):
            cada.explain(CAPTION, picture)
    finally:
        type(cada.model).__mro__[1].match_with_maps = match


def test_small_parts_are_what_they_say():
    assert [default_layer(layers) for layers in (2, 3, 6, 12)] == [0, 0, 2, 5]  # 2 of ALBEF's 6: the third
    assert [patch_grid(32, (128, 64)), patch_grid(196, (224, 224)), patch_grid(210, (384, 128))][:2] == [
        (8, 4),
        (14, 14),
    ]
    assert patch_grid(21, (96, 48)) == (7, 3)
    with pytest.raises(ConfigError, match="are no grid over an image of 224 x 224"):
        patch_grid(197, (224, 224))
    values = torch.arange(8.0).view(4, 2)
    assert word_means(values, [-1, 1, 1, -1], 2).tolist() == [[0, 0], [3, 4]]


# ---------------------------------------------------------------- drawing


def test_the_sheet_shows_a_cell_for_each_phrase_with_its_change(cada, picture, tmp_path):
    found = cada.explain(CAPTION, picture)
    path = draw_explanation([found], picture, tmp_path / "new" / "why.png")
    colours = {colour for _, colour in Image.open(path).convert("RGB").getcolors(10**6)}
    falls = [phrase.change < 0 for phrase in found.phrases]
    assert (RIGHT in colours, WRONG in colours) == (any(falls), not all(falls))
    two = draw_explanation([found, found], picture, tmp_path / "two.png")
    assert Image.open(two).height == 2 * Image.open(path).height
    judged = replace(found, phrases=tuple(replace(one, probability=0.9) for one in found.phrases))
    taller = Image.open(draw_explanation([judged], picture, tmp_path / "judged.png"))
    assert taller.height > Image.open(path).height
    assert RIGHT in {colour for _, colour in taller.convert("RGB").getcolors(10**6)}
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["why.png"]
    with pytest.raises(ConfigError, match="no explanation to draw"):
        draw_explanation([], picture, tmp_path / "x.png")


def test_the_picture_is_lit_where_the_map_is_hot():
    red = Image.new("RGB", (40, 80), (200, 0, 0))
    map = np.zeros((8, 4))
    map[6, 1] = 3.0
    lit = spotlight(red, map)
    assert lit.getpixel((14, 64))[1] < 40  # within the patch
    assert lit.getpixel((35, 5))[1] > 200  # far from it: nearly grey
    faded = spotlight(red, np.zeros((8, 4))).getpixel((14, 64))
    assert np.abs(np.subtract(faded, MAT)).max() < 40
