"""Agreement with the authors' released code: every number in ``expected.pt`` (see tests/data/official_tiny/README.md).

``CADA_PARITY_DIR`` points the same tests at another case of the same form.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from cada_plugin.models import CADA
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.structures import PersonDataSample
from cada_plugin.text import CaptionTokenizer

CASE_DIR = Path(os.environ.get("CADA_PARITY_DIR", Path(__file__).parent / "data" / "official_tiny"))


@pytest.fixture(scope="module")
def case() -> dict:
    return json.loads((CASE_DIR / "case.json").read_text())


@pytest.fixture(scope="module")
def expected() -> dict:
    return torch.load(CASE_DIR / "expected.pt", weights_only=True)


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer(vocab=str(CASE_DIR / "vocab.txt"))


@pytest.fixture(scope="module")
def model(case: dict) -> CADA:
    med = case["med_config"]
    bert = {
        "width": case["txt_dim"],
        "depth": case["txt_layers"],
        "heads": case["txt_heads"],
        "max_positions": med["max_position_embeddings"],
    }
    model = CADA(
        visual_encoder={
            "type": "ViTEncoder",
            "image_size": case["image_size"],
            "patch_size": case["patch"],
            "width": case["vit_dim"],
            "depth": case["vit_depth"],
            "heads": case["vit_heads"],
        },
        text_encoder={"type": "CrossModalBert", **bert},
        text_decoder={"type": "AttributeDecoder", **bert},
        tokenizer={"type": "CaptionTokenizer", "vocab": str(CASE_DIR / "vocab.txt")},
        loss_global={"type": "GlobalAssociationLoss"},
        loss_atp={"type": "MatchingLoss"},
        loss_ara={"type": "MaskedAttributeLoss", "weight": 1.0},
    )
    state = torch.load(CASE_DIR / "checkpoint.pth", weights_only=True)["model"]
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def batch(expected: dict) -> tuple[dict, list]:
    """The reference batch as our loader would give it: no padding beyond the longest caption."""
    mask = expected["attention_mask"].bool()
    longest = int(mask.sum(1).max())
    where = expected["ara_labels"] != -100
    inputs = {
        "images": expected["image"],
        "input_ids": expected["input_ids"][:, :longest],
        "attention_mask": mask[:, :longest],
        "masked_ids": expected["ara_input_ids"][:, :longest],
        "masked_positions": where[:, :longest],
    }
    return inputs, [PersonDataSample(metainfo={"person_id": int(pid)}) for pid in expected["pid"]]


def test_tokenizer_gives_reference_ids(case, expected, tokenizer):
    for caption, ids, mask in zip(case["captions"], expected["input_ids"], expected["attention_mask"], strict=True):
        assert tokenizer.encode(caption).input_ids == ids[mask.bool()].tolist()


@torch.no_grad()
def test_features(model, expected):
    mask = expected["attention_mask"].bool()
    image_hidden = model.visual_encoder(expected["image"])
    text_hidden = model.text_encoder(expected["input_ids"], mask, compute_padding=True)
    torch.testing.assert_close(image_hidden, expected["image_hidden"], atol=1e-4, rtol=0)
    torch.testing.assert_close(text_hidden, expected["text_hidden"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.vision_proj(image_hidden[:, 0]), expected["image_feat"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.text_proj(text_hidden[:, 0]), expected["text_feat"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_embeddings_are_the_normalised_projections(model, expected, batch):
    inputs, _ = batch
    images = model.encode_image(expected["image"])
    texts = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    for embed, projection in ((images.embed, expected["image_feat"]), (texts.embed, expected["text_feat"])):
        torch.testing.assert_close(embed, torch.nn.functional.normalize(projection, dim=-1), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("one_by_one", [False, True], ids=["gathered memory", "image by image"])
def test_match_scores(model, expected, batch, one_by_one):
    inputs, _ = batch
    B = len(expected["pid"])
    texts = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    tokens = model.encode_image(expected["image"]).tokens
    if one_by_one:
        first = torch.zeros(B, dtype=torch.long)
        scores = torch.stack([model.match(texts, model.image_memory(tokens[j : j + 1]), first) for j in range(B)], 1)
    else:
        text, image = torch.cartesian_prod(torch.arange(B), torch.arange(B)).unbind(1)
        pairs = TextFeatures(*(field[text] for field in texts))
        scores = model.match(pairs, model.image_memory(tokens), image).view(B, B)
    torch.testing.assert_close(scores, expected["match_score"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_group_match_logits(model, expected):
    B, T = expected["input_ids"].shape
    text, image = torch.cartesian_prod(torch.arange(B), torch.arange(B)).unbind(1)
    mask = expected["attention_mask"].bool()[text]
    memory = model.image_memory(expected["image_hidden"]).select(image)
    states = model.fuse(expected["input_ids"][text], mask, memory, compute_padding=True)
    means, exists = model.grouping.means(states, mask, torch.full((B * B, T), -1))
    assert exists.all()
    logits = model.itm_local_head(means).view(B, B, -1, 2)
    torch.testing.assert_close(logits, expected["local_match_logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_attribute_logits(model, expected):
    memory = model.text_decoder.bert.image_memory(expected["image_hidden"])
    mask = expected["attention_mask"].bool()
    logits = model.text_decoder(expected["ara_input_ids"], mask, memory)
    torch.testing.assert_close(logits, expected["ara_logits"], atol=1e-4, rtol=0)


def test_losses_and_gradient_norms(model, expected, batch):
    losses = model.loss(*batch)
    for name in ("loss_global", "loss_atp", "loss_ara"):
        torch.testing.assert_close(losses[name].detach(), expected[name], atol=1e-4, rtol=0)
    model.zero_grad()
    (losses["loss_global"] + losses["loss_atp"] + 0.1 * losses["loss_ara"]).backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == expected["grad_norms"].keys()
    for name, norm in expected["grad_norms"].items():
        # a key's bias moves no softmax: its gradient is rounding noise in both programs
        assert norms[name] == pytest.approx(norm, rel=1e-3, abs=1e-7), name
