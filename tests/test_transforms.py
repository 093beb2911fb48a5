"""From a record to a batch: images, masked attributes, packing, and all steps together on the procedural data set."""

from collections import Counter

import pytest
import torch
from conftest import TOKENIZER
from dataset_factory import write_image
from PIL import Image
from torch.utils.data import DataLoader

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.collate import person_collate
from cada_plugin.datasets.transforms import (
    EncodeCaptions,
    KeepPhrases,
    LoadPersonImage,
    MaskAttributes,
    PackPersonInputs,
    TagAttributes,
)
from cada_plugin.errors import ConfigError, ImageError
from cada_plugin.registry import TRANSFORMS
from cada_plugin.text import CaptionTokenizer

CAPTION = "a man wearing a red and white long-sleeved jacket with sneakers"
LONG = {**TOKENIZER, "max_length": 40}


def tagged(caption=CAPTION, tokenizer=LONG):
    item = EncodeCaptions(tokenizer)({"caption": caption})
    return TagAttributes({"type": "LexiconTagger"}, tokenizer)(item)


def masked_words(item, tokenizer=LONG):
    """Pieces that are masked, and the words they belong to."""
    encoded = item["encoded"][0]
    where = [i for i, masked in enumerate(item["masked_positions"]) if masked]
    words = {encoded.words[encoded.word_index[i]] for i in where}
    mask_id = CaptionTokenizer(**{k: v for k, v in tokenizer.items() if k != "type"}).mask_id
    expected = [mask_id if i in where else piece for i, piece in enumerate(encoded.input_ids)]
    assert item["masked_ids"] == expected
    return where, words


# Masking


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("words", {"man", "red", "white", "long-sleeved", "jacket", "sneakers"}),
        ("phrases", {"man", "red", "and", "white", "long-sleeved", "jacket", "sneakers"}),  # a phrase has its "and"
    ],
)
def test_probability_one_masks_all_attributes_and_zero_none(unit, words):
    item = tagged()
    encoded = item["encoded"][0]
    where, masked = masked_words(MaskAttributes(LONG, unit, 1.0)(item))
    assert masked == words
    assert where == [i for i, w in enumerate(encoded.word_index) if w >= 0 and encoded.words[w] in words]
    assert masked_words(MaskAttributes(LONG, unit, 0.0)(item)) == ([], set())


@pytest.mark.parametrize("unit", MaskAttributes.UNITS)
def test_first_token_and_sep_are_never_masked_even_when_cut(unit):
    short = {**TOKENIZER, "max_length": 6}
    item = MaskAttributes(short, unit, 1.0)(tagged("red white black man", short))
    assert item["masked_positions"] == [False, True, True, True, True, False]
    item = MaskAttributes(short, unit, 1.0)(tagged("red white black blue green man", short))
    assert item["masked_positions"] == [False, True, True, True, True, False]


def draw_masks(unit, probability, times=400):
    torch.manual_seed(0)
    mask = MaskAttributes(LONG, unit, probability)
    item = tagged()
    return item, torch.tensor([mask(item)["masked_positions"] for _ in range(times)])


def test_words_are_masked_with_the_given_probability_piece_by_piece():
    item, masks = draw_masks("words", 0.4)
    attribute = torch.tensor([tag in ("JJ", "NN", "NNS") for tag in item["piece_tags"]])
    assert not masks[:, ~attribute].any()
    assert abs(masks[:, attribute].float().mean() - 0.4) < 0.03
    pieces = torch.tensor(item["encoded"][0].word_index) == CAPTION.split().index("long-sleeved")
    assert pieces.sum() > 1
    assert (masks[:, pieces].any(1) & ~masks[:, pieces].all(1)).any()


def test_phrases_are_masked_whole_with_the_given_probability():
    item, masks = draw_masks("phrases", 0.8)
    phrase = torch.tensor(item["phrase_index"])
    assert phrase.max() == 2  # man | red and white long-sleeved jacket | sneakers
    assert not masks[:, phrase < 0].any()
    for number in range(3):
        of_phrase = masks[:, phrase == number]
        assert torch.equal(of_phrase.any(1), of_phrase.all(1))
        assert abs(of_phrase[:, 0].float().mean() - 0.8) < 0.06
    assert not torch.equal(masks[:, phrase == 0][:, 0], masks[:, phrase == 1][:, 0])  # each drawn on its own


def test_masking_follows_the_generator_of_torch():
    assert torch.equal(draw_masks("words", 0.5, 5)[1], draw_masks("words", 0.5, 5)[1])


def test_caption_without_attributes_has_no_phrases_and_no_masks():
    item = tagged("with this and that")
    assert set(item["phrase_index"]) == {-1}
    for unit in MaskAttributes.UNITS:
        assert not any(MaskAttributes(LONG, unit, 1.0)(item)["masked_positions"])


# ---------------------------------------------------------------- captions cut to some phrases


def cut(probability, caption=CAPTION, times=1):
    """The captions of ``times`` items."""
    keep = KeepPhrases({"type": "LexiconTagger"}, LONG, probability)
    return [keep({"caption": caption})["caption"] for _ in range(times)]


def test_a_cut_caption_is_a_list_of_some_phrases_with_their_articles():
    """All subsets of the phrases come up, each number of phrases as often as any other."""
    torch.manual_seed(0)
    caption = "An old man in a red and white jacket, with the black shoes."
    phrases = ["an old man", "a red and white jacket", "black shoes"]
    lists = {(one,): one for one in phrases} | {
        (a, b): f"{a} and {b}" for k, a in enumerate(phrases) for b in phrases[k + 1 :]
    }
    lists[tuple(phrases)] = "an old man, a red and white jacket and black shoes"
    made = Counter(cut(1.0, caption, 600))
    assert set(made) == set(lists.values())
    sizes = Counter()
    for kept, text in lists.items():
        sizes[len(kept)] += made[text] / 600
    assert all(abs(share - 1 / 3) < 0.08 for share in sizes.values())


def test_captions_are_cut_with_the_given_probability_by_torchs_generator():
    torch.manual_seed(1)
    made = cut(0.3, times=400)
    assert abs(sum(text != CAPTION for text in made) / 400 - 0.3) < 0.08
    torch.manual_seed(1)
    assert cut(0.3, times=400) == made
    assert cut(0.0, times=5) == [CAPTION] * 5
    assert cut(1.0, "with this and that") == ["with this and that"]


def test_a_cut_caption_is_tokenised_tagged_and_falsified_like_any_other():
    steps = [EncodeCaptions(LONG), TagAttributes({"type": "LexiconTagger"}, LONG), MaskAttributes(LONG, "words", 1.0)]
    torch.manual_seed(2)
    item = {"caption": "A man in a red coat carries a black bag."}
    for step in [KeepPhrases({"type": "LexiconTagger"}, LONG, 1.0), *steps]:
        item = step(item)
    assert item["encoded"][0].words == item["caption"].replace(",", " ,").lower().split()
    assert max(item["phrase_index"]) + 1 == sum(w in ("man", "coat", "bag") for w in item["encoded"][0].words)
    assert any(item["masked_positions"])


def test_phrases_are_kept_in_training_only_and_before_tokens():
    for item in ({"captions": [CAPTION]}, {"caption": CAPTION, "encoded": []}):
        with pytest.raises(ConfigError, match="put it before EncodeCaptions"):
            KeepPhrases({"type": "LexiconTagger"}, LONG, 1.0)(item)
    with pytest.raises(ConfigError, match="use a number from 0 to 1"):
        cut(1.5)


def test_impossible_masking_is_refused():
    with pytest.raises(ConfigError, match="unit='letters': use one of words, phrases"):
        MaskAttributes(TOKENIZER, "letters")
    for probability in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=f"probability={probability}: use a number from 0 to 1"):
            MaskAttributes(TOKENIZER, probability=probability)
    with pytest.raises(ConfigError, match=r"needs tags: put dict\(type='TagAttributes'"):
        MaskAttributes(TOKENIZER)(EncodeCaptions(TOKENIZER)({"caption": CAPTION}))


# Images


def test_images_load_as_rgb_bytes(tmp_path):
    Image.new("RGB", (8, 16), (10, 20, 30)).save(tmp_path / "a.png")
    image = LoadPersonImage()({"img_path": str(tmp_path / "a.png"), "kept": 1})["image"]
    assert (image.dtype, tuple(image.shape), image[:, 0, 0].tolist()) == (torch.uint8, (3, 16, 8), [10, 20, 30])
    with pytest.raises(ImageError, match=r"b\.png"):
        LoadPersonImage()({"img_path": str(tmp_path / "b.png")})


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("Resize", {"size": (24, 12)}, (24, 12)),
        ("Resize", {"size": [20, 20]}, (20, 20)),
        ("CenterCrop", {"size": (10, 6)}, (10, 6)),
        ("Pad", {"padding": 2, "fill": (1, 2, 3)}, (20, 12)),
        ("RandomCrop", {"size": (8, 8)}, (8, 8)),
        ("RandomHorizontalFlip", {"p": 0.5}, (16, 8)),
        ("RandomErasing", {"p": 1.0, "value": (123, 117, 104)}, (16, 8)),
        ("ColorJitter", {"brightness": 0.5}, (16, 8)),
    ],
)
def test_torchvision_transforms_keep_bytes_and_draw_from_torch(name, arguments, shape):
    transform = TRANSFORMS.build({"type": f"torchvision/{name}", **arguments})
    item = {"image": torch.randint(256, (3, 16, 8), dtype=torch.uint8), "caption": "kept"}
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(transform(item))
    image = results[0]["image"]
    assert (image.dtype, tuple(image.shape), results[0]["caption"]) == (torch.uint8, (3, *shape), "kept")
    assert torch.equal(image, results[1]["image"])


def test_flip_and_erasing_do_what_they_say():
    image = torch.arange(3 * 16 * 8, dtype=torch.uint8).view(3, 16, 8) % 100
    flipped = TRANSFORMS.build({"type": "torchvision/RandomHorizontalFlip", "p": 1.0})({"image": image})["image"]
    assert torch.equal(flipped, image.flip(-1))
    torch.manual_seed(0)
    erase = {"type": "torchvision/RandomErasing", "p": 1.0, "scale": (0.3, 0.3), "value": (123, 117, 104)}
    erased = TRANSFORMS.build(erase)({"image": image})["image"]
    changed = (erased != image).any(0)
    assert 0.2 < changed.float().mean() < 0.4
    assert set(map(tuple, erased[:, changed].T.tolist())) == {(123, 117, 104)}


def test_unknown_torchvision_argument_is_named():
    with pytest.raises(TypeError, match="height"):
        TRANSFORMS.build({"type": "torchvision/Resize", "height": 3})


# Packing and collating

META = {"person_id": 7, "label": 2, "image_id": 3, "img_path": "a.png", "camera_id": None}


def pack(image=0, **texts):
    """A packed item; masks and phrases are marked 1, so that padding shows."""
    item = {**META, "sample_index": 5, "image": torch.full((3, 4, 2), image, dtype=torch.uint8), **texts}
    item = EncodeCaptions(TOKENIZER)(item)
    if "caption" in texts:
        length = len(item["encoded"][0].input_ids)
        item |= {"masked_ids": [9] * length, "masked_positions": [True] * length, "phrase_index": [1] * length}
    return PackPersonInputs()(item)


def test_training_batch_is_padded_to_its_longest_caption():
    batch = person_collate([pack(1, caption="red coat"), pack(2, caption="a tall man")])
    inputs = batch["inputs"]
    assert inputs["images"].dtype == torch.uint8
    assert inputs["images"].shape == (2, 3, 4, 2)
    lengths = [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert inputs["attention_mask"].dtype == inputs["masked_positions"].dtype == torch.bool
    assert inputs["attention_mask"].int().tolist() == inputs["masked_positions"].int().tolist() == lengths
    assert inputs["phrase_index"].tolist() == [[1, 1, 1, 1, -1], [1] * 5]
    assert inputs["masked_ids"].tolist() == [[9, 9, 9, 9, 0], [9] * 5]
    assert inputs["input_ids"].dtype == torch.long
    assert inputs["input_ids"][0, -1] == 0
    sample = batch["data_samples"][1]
    assert {key: getattr(sample, key) for key in META} == META
    assert (sample.captions, sample.sample_index) == (["a tall man"], 5)


def test_evaluation_batch_lists_captions_image_by_image():
    texts = [["red coat", "a tall man in blue"], ["woman"], ["green hat", "boy", "a"]]
    batch = person_collate([pack(n, captions=captions) for n, captions in enumerate(texts)])
    tokenizer = CaptionTokenizer("procedural")
    expected = [tokenizer.encode(caption).input_ids for captions in texts for caption in captions]
    ids, mask = batch["inputs"]["input_ids"], batch["inputs"]["attention_mask"]
    assert ids.shape == mask.shape == (6, 7)
    assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == expected
    assert [sample.captions for sample in batch["data_samples"]] == texts
    assert batch["inputs"].keys() == {"images", "input_ids", "attention_mask"}


# The whole way

BUILD = {"seed": 1, "identities": {"train": 4, "test": 2}, "images_per_identity": 2}
IMAGE = [{"type": "LoadPersonImage"}, {"type": "torchvision/Resize", "size": (32, 16)}]
TAGS = {"type": "TagAttributes", "tagger": {"type": "LexiconTagger"}, "tokenizer": LONG}
MASK = {"type": "MaskAttributes", "tokenizer": LONG, "unit": "phrases", "probability": 0.8}
ENCODE, PACK = {"type": "EncodeCaptions", "tokenizer": LONG}, {"type": "PackPersonInputs"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn") / "pedes"


def test_drawn_people_become_training_batches(drawn):
    dataset = ProceduralPEDES(str(drawn), BUILD, split="train", pipeline=[*IMAGE, ENCODE, TAGS, MASK, PACK])
    assert len(dataset) == 4 * 2 * 2
    batches = list(DataLoader(dataset, batch_size=6, collate_fn=person_collate))
    for batch in batches:
        inputs, samples = batch["inputs"], batch["data_samples"]
        assert inputs["images"].shape == (len(samples), 3, 32, 16)
        shape = inputs["input_ids"].shape
        assert all(inputs[key].shape == shape for key in ("masked_ids", "masked_positions", "phrase_index"))
        differ = inputs["masked_ids"] != inputs["input_ids"]
        assert torch.equal(differ, inputs["masked_positions"])
        assert inputs["masked_positions"].any()
        assert not (inputs["masked_positions"] & ~inputs["attention_mask"]).any()
        assert all(len(sample.captions) == 1 for sample in samples)
    samples = [sample for batch in batches for sample in batch["data_samples"]]
    assert [sample.sample_index for sample in samples] == list(range(16))
    assert {sample.label for sample in samples} == set(range(4))


def test_drawn_people_become_evaluation_batches(drawn):
    dataset = ProceduralPEDES(str(drawn), BUILD, split="test", test_mode=True, pipeline=[*IMAGE, ENCODE, PACK])
    (batch,) = DataLoader(dataset, batch_size=8, collate_fn=person_collate)
    assert batch["inputs"]["images"].shape == (4, 3, 32, 16)
    assert len(batch["inputs"]["input_ids"]) == 8
    assert [len(sample.captions) for sample in batch["data_samples"]] == [2] * 4


def test_small_photographs_pass_too(tmp_path):
    write_image(tmp_path / "a.png")
    item = TRANSFORMS.build(IMAGE[1])(LoadPersonImage()({"img_path": str(tmp_path / "a.png")}))
    assert item["image"].shape == (3, 32, 16)
