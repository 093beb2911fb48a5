"""Phrases that are judged one by one: how they are read and labelled, the loss, the head, and what matching adds."""

import pytest
import torch
from conftest import CAPTIONS, TOKENIZER, build_batch, build_tiny
from gallery_factory import BUILD
from naive_judge import is_true

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.collate import judged_phrases, person_collate
from cada_plugin.datasets.transforms import ContradictPhrases, EncodeCaptions, PackPersonInputs, ReadPhrases
from cada_plugin.datasets.transforms.text import SaidPhrase
from cada_plugin.errors import ConfigError
from cada_plugin.losses import PhraseMatchingLoss
from cada_plugin.portable.meanings import phrase_meaning
from cada_plugin.text import CaptionTokenizer
from cada_plugin.text.known_people import KnownPerson

JUDGES = {"loss_phrases": {"type": "PhraseMatchingLoss"}}
NO_ATP = {"loss_atp": None, "loss_ara": None, "text_decoder": None}


# Reading and labelling


def read(*captions: str) -> list[dict]:
    """The items of captions, of which the first two and then each two are of one person."""
    reader = ReadPhrases({"type": "LexiconTagger"}, TOKENIZER)
    people = [number // 2 for number in range(len(captions))]
    reader.prepare_people({person: captions[2 * person : 2 * person + 2] for person in people})
    items = [{"caption": caption, "person_id": person} for person, caption in zip(people, captions, strict=True)]
    return [reader(EncodeCaptions(TOKENIZER)(item)) for item in items]


def test_phrases_are_read_with_what_they_say():
    item, other = read("A man with a red coat, a belt and navy trousers.", "He has black trousers and a red coat.")
    found = item["said_phrases"]
    tokenizer = CaptionTokenizer(**{key: value for key, value in TOKENIZER.items() if key != "type"})
    expected = ["man", "red coat", "navy trousers"]  # nothing excludes a belt
    assert [phrase.meaning for phrase in found] == [phrase_meaning(words.split()) for words in expected]
    assert [list(phrase.pieces) for phrase in found] == [tokenizer.encode(words).input_ids[1:-1] for words in expected]
    known = [phrase_meaning(one.split()) for one in (*expected, "black trousers")]
    assert other["known"] == item["known"] == KnownPerson(known, frozenset())
    (nothing,) = read("somebody walks there")
    assert (nothing["said_phrases"], nothing["known"]) == ([], KnownPerson([], frozenset()))


def test_what_all_captions_of_a_person_are_silent_about_is_absent():
    """Of four people two carry bags, and both captions of each say so."""
    captions = 2 * ["A man with a red bag.", "He carries a bag."] + 4 * ["A man in a coat."]
    known = [item["known"] for item in read(*captions)]
    assert ["bag" in one.absent for one in known] == [False] * 4 + [True] * 4


def test_a_data_set_shows_all_captions_of_a_person(people):
    tokenizer, tagger = TOKENIZER | {"max_length": 64}, {"type": "LexiconTagger"}
    steps = [
        {"type": "EncodeCaptions"},
        *({"type": kind, "tagger": tagger} for kind in ("TagAttributes", "ReadPhrases")),
    ]
    pipeline = [step | {"tokenizer": tokenizer} for step in steps]
    said, known = {}, {}
    for item in ProceduralPEDES(people.data_root, BUILD, split="test", pipeline=pipeline):
        said.setdefault(item["person_id"], []).extend(phrase.meaning for phrase in item["said_phrases"])
        known[item["person_id"]] = item["known"]
    assert len(said) == 20
    for person, meanings in said.items():
        unique = [one for place, one in enumerate(meanings) if one not in meanings[:place]]
        assert known[person].meanings == unique


def test_steps_that_are_not_prepared_or_come_too_early_are_told():
    item = EncodeCaptions(TOKENIZER)({"caption": "a red coat", "person_id": 0})
    with pytest.raises(ConfigError, match="ReadPhrases must be a direct step"):
        ReadPhrases({"type": "LexiconTagger"}, TOKENIZER)(item)
    with pytest.raises(ConfigError, match=r"put dict\(type='ReadPhrases', tagger=...\) before it"):
        ContradictPhrases(TOKENIZER)(item)
    with pytest.raises(ConfigError, match="ContradictPhrases must be a direct step"):
        ContradictPhrases(TOKENIZER)({"said_phrases": said("red coat")})


def test_a_whole_phrase_is_one_and_the_end_of_a_long_caption_is_left_out():
    short = TOKENIZER | {"max_length": 10}
    reader = ReadPhrases({"type": "LexiconTagger"}, short)
    caption = "a red bag in her left hand and a blue coat"
    reader.prepare_people({0: [caption]})
    item = EncodeCaptions(short)({"caption": caption, "person_id": 0})
    assert len(item["encoded"][0].read_words) < len(item["encoded"][0].words)
    assert [" ".join(phrase.words) for phrase in reader(item)["said_phrases"]] == ["red bag in her left hand"]


def test_phrases_are_contradicted_in_one_word():
    captions = ["A man with a red coat and a bag in his left hand.", "She has blue jeans and a bag in her right hand."]
    (item, _) = read(*captions[:1], "")
    contradict = ContradictPhrases(TOKENIZER)
    contradict.prepare(captions)
    tokenizer = CaptionTokenizer(**{key: value for key, value in TOKENIZER.items() if key != "type"})
    truths = set()
    for seed in range(20):
        torch.manual_seed(seed)
        own, copies = contradict(item)["said_phrases"][:3], contradict(item)["said_phrases"][3:]
        assert own == item["said_phrases"]
        changed = [
            [(a, b) for a, b in zip(one.words, other.words, strict=True) if a != b]
            for one, other in zip(own[1:], copies, strict=True)  # no caption has a word that excludes "man"
        ]
        assert changed == [[("red", "blue")], [("left", "right")]]
        assert all(list(one.pieces) == tokenizer.encode(" ".join(one.words)).input_ids[1:-1] for one in copies)
        truths |= {is_true(copy.meaning, item["known"]) for copy in copies}
    assert truths == {False}


def said(*phrases: str) -> list[SaidPhrase]:
    number = {word: place for place, word in enumerate(["red", "blue", "coat", "man", "woman", "boots", "black"], 1)}
    return [SaidPhrase(tuple(one.split()), tuple(number[word] for word in one.split())) for one in phrases]


def test_what_captions_say_decides_which_phrases_are_true():
    """Written by hand: one row for each image, one column for each phrase in the order of their first mention."""
    captions = said("red coat", "man"), said("blue coat", "boots"), said(), said("man", "coat", "black boots")
    own = [KnownPerson([phrase.meaning for phrase in caption], frozenset()) for caption in captions]
    made = judged_phrases(captions, own)
    assert made["said_ids"].tolist() == [[1, 3], [4, 0], [2, 3], [6, 0], [3, 0], [7, 6]]
    #     red coat, man, blue coat, boots, coat, black boots
    assert made["said_truths"].tolist() == [
        [1, 1, 0, -1, 1, -1],
        [0, -1, 1, 1, 1, -1],  # of boots it is not said which colour they have
        [-1, -1, -1, -1, -1, -1],
        [-1, 1, -1, 1, 1, 1],
    ]
    blue = phrase_meaning(["blue", "coat"])  # as another caption of the same person says
    own[0] = KnownPerson([*own[0].meanings, blue], frozenset())
    own[2] = KnownPerson([phrase_meaning(["woman"])], frozenset({"shoes"}))
    assert judged_phrases(captions, own)["said_truths"][[0, 2]].tolist() == [
        [1, 1, 1, -1, 1, -1],
        [-1, 0, -1, 0, -1, 0],
    ]
    nothing = judged_phrases([[], []], 2 * [KnownPerson([], frozenset())])
    assert (nothing["said_ids"].tolist(), nothing["said_truths"].tolist()) == ([[0]], [[-1], [-1]])


def test_a_batch_holds_the_phrases_of_its_captions():
    items = read(*CAPTIONS)
    packed = [PackPersonInputs()(item | {"image": torch.zeros(3, 2, 2), "img_path": ""}) for item in items]
    inputs = person_collate(packed)["inputs"]
    meanings = {phrase.pieces: phrase.meaning for item in items for phrase in item["said_phrases"]}
    assert [tuple(p for p in row if p) for row in inputs["said_ids"].tolist()] == list(meanings)
    for row, item in enumerate(items):
        known = item["known"]
        expected = [is_true(meaning, known) for meaning in meanings.values()]
        assert inputs["said_truths"][row].tolist() == [-1 if one is None else int(one) for one in expected]


def test_the_loss_counts_what_is_known_once_for_each_true_phrase():
    log_odds, truths = torch.randn(3, 4), torch.tensor([[1, 0, 0, -1], [-1, -1, -1, -1], [1, -1, 0, 0]])
    p = log_odds.sigmoid()
    known = [(i, j) for i in range(3) for j in range(4) if truths[i, j] >= 0]
    wrong = [-(p[place] if truths[place] == 1 else 1 - p[place]).log() for place in known]
    torch.testing.assert_close(PhraseMatchingLoss(3.0)(log_odds, truths), 3 * sum(wrong) / 2)
    assert PhraseMatchingLoss()(log_odds.requires_grad_(), torch.full((3, 4), -1)) == 0  # nothing is known
    halves = [  # two processes, which divide by their mean number of true phrases
        PhraseMatchingLoss()(log_odds[rows], truths[rows], 1.0) for rows in (slice(2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(halves) / 2, PhraseMatchingLoss()(log_odds, truths))


# The head


def alone(model, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The log-odds of one phrase, given as its word pieces, for one image (S, C), written out."""
    head, words = model.phrase_head, model.text_encoder.embeddings.word_embeddings
    read = head.reader(head.norm_words(words(ids).mean(0)))
    query, key, value = head.query(read), head.key(tokens), head.value(tokens)
    E = len(query) // head.heads
    found = []
    for h in range(head.heads):
        part = slice(h * E, h * E + E)
        weights = (key[:, part] @ query[part] / E**0.5).softmax(0)
        found.append(weights @ value[:, part])
    found = head.norm_found(torch.cat(found))
    return found @ head.expected(read) / len(query) ** 0.5 + head.prior(read)[0]


def phrases_of(ids: torch.Tensor, index: torch.Tensor) -> list[torch.Tensor]:
    return [ids[index == phrase] for phrase in range(int(index.max()) + 1)]


@pytest.mark.parametrize("others", [{}, NO_ATP])
def test_all_phrases_of_a_batch_are_judged_with_all_images(others):
    model, batch = build_tiny(**JUDGES, **others), build_batch()
    ids = torch.tensor([[5, 6, 0], [7, 0, 0], [8, 5, 9]])
    truths = torch.tensor([[1, 0, -1], [0, 1, 1], [-1, -1, 0], [1, 1, 0]], dtype=torch.int8)
    batch["inputs"] |= {"said_ids": ids, "said_truths": truths}
    with torch.no_grad():
        tokens = model.visual_encoder(batch["inputs"]["images"])
        log_odds = torch.stack([torch.stack([alone(model, one[one > 0], image) for one in ids]) for image in tokens])
    losses = model.loss(**batch)
    torch.testing.assert_close(losses["loss_phrases"], PhraseMatchingLoss()(log_odds, truths), rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_judgement_of_a_phrase_ignores_the_other_words(padded):
    """Each text has an image of its own, all have one, or texts share two images; or no shape depends on the data."""
    model, inputs = build_tiny(**JUDGES).eval(), build_batch()["inputs"]
    images, texts = model(inputs, mode="predict")
    phrases = inputs["phrase_index"].clone()
    phrases[2] = -1
    model.text_encoder.padded = padded
    for asked in (None, torch.zeros(4, dtype=torch.long), torch.tensor([1, 0, 0, 1])):
        rows = range(4) if asked is None else asked.tolist()
        memory = model.image_memory(images.tokens if asked is None else images.tokens[: int(asked.max()) + 1])
        log_odds, exists = model.phrase_logits(texts, phrases, memory, asked)
        assert exists.sum(1).tolist() == [0 if row == 2 else int(phrases[row].max()) + 1 for row in range(4)]
        for row, image in enumerate(rows):
            own = phrases_of(texts.input_ids[row], phrases[row])
            expected = [float(alone(model, one, images.tokens[image])) for one in own]
            assert log_odds[row, : len(own)].tolist() == pytest.approx(expected, abs=1e-5)
        assert not log_odds[~exists].any()
    model.text_encoder.padded = False
    memory = model.image_memory(images.tokens[:1])
    one, given = (model.phrase_logits(texts, phrases, memory, which)[0] for which in (None, asked * 0))
    torch.testing.assert_close(one, given)
    nothing, exists = model.phrase_logits(texts, torch.full_like(phrases, -1), memory)
    assert not nothing.any()
    assert not exists.any()


def test_phrases_are_judged_by_models_that_learnt_to():
    with pytest.raises(ConfigError, match=r"add dict\(type='ReadPhrases'\) to the pipeline"):
        build_tiny(**JUDGES).loss(**build_batch())
    with pytest.raises(ConfigError, match="this model judges no phrases"):
        build_tiny().phrase_logits(None, None, None)


# Their part in matching


@torch.no_grad()
def test_matching_adds_the_mean_evidence_of_the_phrases():
    """Two of the texts ask one image, and one text has no phrase."""
    inputs = build_batch()["inputs"]
    plain, asking = (build_tiny(**JUDGES, phrase_weight=weight).eval() for weight in (0.0, 0.7))
    images, texts = plain(inputs, mode="predict")
    memory, of_text = plain.image_memory(images.tokens), torch.tensor([0, 3, 3, 1])
    phrases = inputs["phrase_index"].clone()
    phrases[2] = -1
    expected = plain.match(texts, memory, of_text)
    for row in (0, 1, 3):
        own = phrases_of(texts.input_ids[row], phrases[row])
        judged = [alone(plain, one, images.tokens[of_text[row]]) for one in own]
        expected[row] += 0.7 * sum(judged) / len(judged)
    torch.testing.assert_close(asking.match(texts, memory, of_text, phrases), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_phrases_to_match_are_found_in_the_ids():
    images = build_batch()["inputs"]["images"][:1]
    tokenizer = {"type": "CaptionTokenizer", "vocab": "procedural"}
    model = build_tiny(**JUDGES, phrase_weight=1.0, tokenizer=tokenizer).eval()
    memory = model.image_memory(model.encode_image(images).tokens)
    for caption, index in (("he wears a red coat", [-1, -1, -1, -1, 0, 0, -1]), ("he is there", None)):
        ids = torch.tensor([model.tokenizer.encode(caption).input_ids])
        text = model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
        given = torch.full_like(ids, -1) if index is None else torch.tensor([index])
        found, expected = (model.match(text, memory, torch.tensor([0]), *more) for more in ((), (given,)))
        assert torch.equal(found, expected)
        plain = super(type(model), model).match(text, memory, torch.tensor([0]))
        assert torch.equal(found, plain) == (index is None)


@pytest.mark.parametrize("weight", [-1.0, True, "1", float("nan"), float("inf")])
def test_an_impossible_weight_of_phrases_is_refused(weight):
    with pytest.raises(ConfigError, match=r"phrase_weight=.*: use a number from 0"):
        build_tiny(**JUDGES, phrase_weight=weight)


def test_phrases_are_asked_of_a_model_that_learnt_them():
    with pytest.raises(ConfigError, match=r"phrase_weight=0\.5 asks .*: set loss_phrases, or phrase_weight=0"):
        build_tiny(phrase_weight=0.5)
