"""The contract of a model: a breach in a user's own model is named at the first batch, not met as a strange result."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TOKENIZER, build_batch, build_tiny
from torch import nn

from cada_plugin.errors import ConfigError
from cada_plugin.models import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.text import CaptionTokenizer


class Own(TextImageRetriever):
    """As small as a user's own model can be."""

    def __init__(self, can_match: bool = False) -> None:
        super().__init__()
        self.tokenizer = CaptionTokenizer(**{k: v for k, v in TOKENIZER.items() if k != "type"})
        self.image, self.text = nn.Linear(3, 4), nn.EmbeddingBag(len(self.tokenizer), 4)
        self.can_match = can_match

    def encode_image(self, images):
        return ImageFeatures(F.normalize(self.image(images.mean((2, 3))), dim=-1), images.flatten(2).transpose(1, 2))

    def encode_text(self, input_ids, attention_mask):
        return TextFeatures(F.normalize(self.text(input_ids), dim=-1), input_ids, attention_mask)

    def loss(self, inputs, data_samples):
        image, text = self.encode_image(inputs["images"]).embed, self.encode_text(inputs["input_ids"], None).embed
        return {"loss_itc": -(image * text).sum()}


def breach(**methods: object) -> TextImageRetriever:
    return type("Own", (Own,), methods)()


def call(model: TextImageRetriever, mode: str) -> object:
    return model(**build_batch(), mode=mode)


def test_a_model_that_keeps_to_it_is_left_alone():
    images, texts = call(Own(), "predict")
    assert (len(images.embed), len(texts.embed)) == (4, 4)
    assert call(Own(), "loss").keys() == {"loss_itc"}
    assert call(Own(), "tensor")
    model = build_tiny()
    model.set_progress(0.0)
    assert call(model, "loss").keys() == {"loss_global", "loss_atp", "loss_ara"}
    assert call(model.eval(), "predict")[0].tokens is not None


LOSSES = {
    "no loss in the name": (lambda s, i, d: {"itc": s.image.weight.sum()}, "'itc': MMEngine adds up"),
    "one of two": (
        lambda s, i, d: {"loss": s.image.weight.sum(), "itm": s.text.weight.sum()},
        "'itm': MMEngine adds up the values whose key contains 'loss'",
    ),
    "one of two, a list": (
        lambda s, i, d: {"loss": s.image.weight.sum(), "itm": [s.text.weight.sum()]},
        "returned 'itm'",
    ),
    "only what is logged": (lambda s, i, d: {"accuracy": torch.tensor(0.5)}, "returned 'accuracy'"),
    "nothing": (lambda s, i, d: {}, "returned nothing"),
    "a tensor": (lambda s, i, d: s.image.weight.sum(), "Own.loss returned a Tensor: return a dict"),
    "a number": (lambda s, i, d: {"loss": 0.5}, "returned 'loss' as a float"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_mmengine_would_not_train_on(name):
    function, words = LOSSES[name]
    with pytest.raises(ConfigError, match=words):
        call(breach(loss=function), "loss")


def test_what_is_only_logged_may_have_any_name():
    losses = call(
        breach(loss=lambda s, i, d: {"loss": s.image.weight.sum(), "accuracy": s.image.weight.sum().detach()}), "loss"
    )
    assert losses.keys() == {"loss", "accuracy"}


def of_length(length: float):
    return lambda s, images: ImageFeatures(length * F.normalize(s.image(images.mean((2, 3))), dim=-1), None)


FEATURES = {
    "image tensor": (
        {"encode_image": lambda s, images: s.image(images.mean((2, 3)))},
        r"Own.encode_image returned a Tensor: return ImageFeatures\(embed, tokens\)",
    ),
    "text tensor": (
        {"encode_text": lambda s, ids, mask: s.text(ids)},
        r"Own.encode_text returned a Tensor: return TextFeatures\(embed, input_ids, attention_mask\)",
    ),
    "tuple": ({"encode_image": lambda s, images: (images, None)}, "Own.encode_image returned a tuple"),
    "one row for all": (
        {"encode_image": lambda s, images: ImageFeatures(torch.ones(1, 4) / 2, None)},
        r"Own.encode_image: embed is \(1, 4\), expected one row for each of the 4 inputs",
    ),
    "tokens for an embedding": (
        {"encode_text": lambda s, ids, mask: TextFeatures(torch.ones(4, 7, 4), ids, mask)},
        r"Own.encode_text: embed is \(4, 7, 4\)",
    ),
    "no tensor": (
        {"encode_image": lambda s, images: ImageFeatures([1.0], None)},
        "embed is no tensor but a list",
    ),
    "two spaces": (
        {"encode_text": lambda s, ids, mask: TextFeatures(torch.eye(4, 5), ids, mask)},
        "embeds images in 4 dimensions and texts in 5",
    ),
    "length 3": ({"encode_image": of_length(3.0)}, "embeddings have lengths from 3 to 3, expected 1"),
    "no normalisation": (
        {"encode_text": lambda s, ids, mask: TextFeatures(1 + s.text(ids).abs(), ids, mask)},
        "Own.encode_text: embeddings have lengths from .* their products are taken for cosines",
    ),
}


@pytest.mark.parametrize("mode", ["tensor", "predict"])
@pytest.mark.parametrize("name", FEATURES)
def test_features_that_would_be_ranked_all_the_same(name, mode):
    methods, words = FEATURES[name]
    with pytest.raises(ConfigError, match=words):
        call(breach(**methods), mode)


@pytest.mark.parametrize("length", [0.0, float("nan"), 1.005])
def test_lengths_that_are_not_this_mistake(length):
    """Lengths with other causes: 0 (a caption without a known word), NaN (a diverged run), 1.005 (bf16 rounding)."""
    assert call(breach(encode_image=of_length(length)), "predict")


def test_lengths_are_looked_at_once():
    model = Own()
    call(model, "predict")
    model.encode_image = of_length(3.0).__get__(model)
    assert call(model, "predict")


@pytest.mark.parametrize("mode", ["loss", "predict"])
@pytest.mark.parametrize(
    ("methods", "missing"),
    [
        ({}, "image_memory and match"),
        ({"match": lambda s, texts, memory, pairs: pairs[:, 0].float()}, "does not write image_memory:"),
        ({"image_memory": lambda s, tokens: tokens}, "does not write match:"),
    ],
)
def test_a_model_that_says_it_can_match(methods, missing, mode):
    with pytest.raises(ConfigError, match=rf"Own.can_match is True, but .*{missing}"):
        call(type("Own", (Own,), methods)(can_match=True), mode)


def test_matching_needs_tokens():
    methods = {"match": lambda s, *_: None, "image_memory": lambda s, tokens: tokens}
    whole = type("Own", (Own,), methods)(can_match=True)
    assert call(whole, "predict")
    methods["encode_image"] = of_length(1.0)
    with pytest.raises(ConfigError, match=r"encode_image must return tokens \(4, 1\+N, C\) for matching, got None"):
        call(type("Own", (Own,), methods)(can_match=True), "predict")
