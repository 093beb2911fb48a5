"""CLIP from a Hugging Face folder against transformers' own model and tokenizer."""

import math

import pytest
import torch
import torch.nn.functional as F
from clip_factory import DIM, IMAGE, PATCH, retriever_cfg, tokenizer_cfg, write_clip
from transformers import AutoTokenizer, CLIPModel

from cada_plugin.checkpoints import load_checkpoint
from cada_plugin.datasets.transforms import MaskTokens
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.models import CLIPRetriever
from cada_plugin.registry import MODELS
from cada_plugin.text import CLIPCaptionTokenizer

CAPTIONS = (
    "A man in a RED coat, with a black back-pack; it's his.",
    "red",
    "the woman's blue jeans (torn) & white t-shirt... 2 bags",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "clip-tiny"
    write_clip(path)
    return path


@pytest.fixture
def theirs(folder) -> CLIPModel:
    return CLIPModel.from_pretrained(folder).eval()


def build(folder, image_size=(IMAGE, IMAGE)) -> CLIPRetriever:
    model = MODELS.build(retriever_cfg(folder, image_size)).eval()
    load_checkpoint(model, folder)
    return model


def batch(folder):
    tokenizer = CLIPCaptionTokenizer(str(folder), max_length=40)
    ids = [torch.tensor(tokenizer.encode(caption).input_ids) for caption in CAPTIONS]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return padded, torch.arange(padded.shape[1]) < torch.tensor([len(i) for i in ids])[:, None]


def test_tokens_are_those_of_transformers(folder):
    ours, theirs = CLIPCaptionTokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    for caption in CAPTIONS:
        assert ours.encode(caption).input_ids == theirs(caption)["input_ids"]
    assert len(ours) == len(theirs)
    assert (ours.end_id, ours.mask_id) == (theirs.eos_token_id, theirs.bos_token_id - 1)


def test_a_long_caption_keeps_its_end(folder):
    tokenizer = CLIPCaptionTokenizer(str(folder), max_length=6)
    ids = tokenizer.encode(CAPTIONS[0]).input_ids
    assert len(ids) == 6
    assert ids[-1] == tokenizer.end_id
    assert tokenizer.count_truncated(list(CAPTIONS)) == 2
    few_words = CLIPCaptionTokenizer(str(folder), max_length=60, max_words=3)
    assert few_words.count_truncated(["! ! red coat", "! red coat"]) == 1  # a mark between spaces is a word here
    encoded = tokenizer.encode("red coat")
    assert encoded.word_index[0] == encoded.word_index[-1] == -1


@torch.no_grad()
def test_embeddings_are_those_of_transformers(folder, theirs):
    model, images = build(folder), torch.randn(3, 3, IMAGE, IMAGE)
    ids, mask = batch(folder)
    expected = theirs.vision_model(pixel_values=images).pooler_output @ theirs.visual_projection.weight.T
    torch.testing.assert_close(model.encode_image(images).embed, F.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)
    padded = ids.masked_fill(~mask, model.tokenizer.end_id)  # as their tokenizer pads
    expected = theirs.text_model(input_ids=padded, attention_mask=mask.long()).pooler_output
    expected = F.normalize(expected @ theirs.text_projection.weight.T, dim=-1)
    torch.testing.assert_close(model.encode_text(ids, mask).embed, expected, rtol=1e-4, atol=1e-5)
    assert model.encode_image(images).embed.shape == (3, DIM)
    torch.testing.assert_close(model.loss_itc.logit_scale, theirs.logit_scale)


@torch.no_grad()
def test_positions_are_resized_for_tall_images(folder, theirs):
    """Bicubic with antialiasing, row by row; the class token keeps its own."""
    model = build(folder, (2 * IMAGE, IMAGE))
    rows, columns = 2 * IMAGE // PATCH, IMAGE // PATCH
    old = theirs.vision_model.embeddings.position_embedding.weight
    grid = old[1:].T.reshape(1, -1, columns, columns)
    expected = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(model.visual_encoder.pos_embed[0, 1:], expected.flatten(2)[0].T)
    torch.testing.assert_close(model.visual_encoder.pos_embed[0, 0], old[0])
    assert model.encode_image(torch.randn(2, 3, 2 * IMAGE, IMAGE)).embed.shape == (2, DIM)


@torch.no_grad()
def test_attention_rows_are_those_of_the_eager_kernel(folder):
    theirs = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    model, images = build(folder), torch.randn(2, 3, IMAGE, IMAGE)
    _, row = model.visual_encoder.with_attention(images)
    expected = theirs.vision_model(pixel_values=images, output_attentions=True).attentions[-1]
    torch.testing.assert_close(row, expected.mean(1)[:, 0], rtol=1e-4, atol=1e-6)
    ids, mask = batch(folder)
    pooled, states, row = model.text_encoder.with_attention(ids, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        alone = theirs.text_model(input_ids=ids[i : i + 1, :length], output_attentions=True).attentions[-1]
        torch.testing.assert_close(row[i, :length], alone.mean(1)[0, -1], rtol=1e-4, atol=1e-6)
        assert not row[i, length:].any()
        assert torch.equal(pooled[i], states[i, length - 1])


def test_a_runner_initialises_from_the_folder(folder):
    model = MODELS.build(retriever_cfg(folder, init_cfg={"type": "Pretrained", "checkpoint": str(folder)}))
    model.init_weights()
    assert model.loss_itc.scale.item() == pytest.approx(math.exp(CLIPModel.from_pretrained(folder).logit_scale.item()))


def test_old_files_carry_position_ids(folder, tmp_path):
    state = CLIPModel.from_pretrained(folder).state_dict()
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    state["text_model.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = MODELS.build(retriever_cfg(folder))
    report = load_checkpoint(model, tmp_path, strict=True)
    assert (report.format, len(report.dropped)) == ("hf-clip", 2)


def test_a_folder_without_weights_or_tokenizer_says_so(folder, tmp_path):
    model = MODELS.build(retriever_cfg(folder))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no weights: expected one of model\.safetensors"):
        load_checkpoint(model, tmp_path)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"CLIP tokenizer vocab='.+' cannot be read: set tokenizer.vocab"):
            MODELS.build(retriever_cfg(path))


def test_weights_of_another_size_are_refused(folder):
    cfg = retriever_cfg(folder)
    cfg["visual_encoder"] = {**cfg["visual_encoder"], "width": 64}
    with pytest.raises(CheckpointError, match="belongs to another architecture"):
        load_checkpoint(MODELS.build(cfg), folder)


def test_impossible_sizes_are_refused(folder):
    with pytest.raises(ConfigError, match="must be a multiple of patch_size=8"):
        MODELS.build(retriever_cfg(folder, (30, 16)))
    model = build(folder)
    with pytest.raises(ConfigError, match="images are"):
        model.encode_image(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="a text has 41 tokens, the text encoder only 40"):
        model.encode_text(torch.zeros(1, 41, dtype=torch.long), torch.ones(1, 41, dtype=torch.bool))


def test_masking_for_clip_takes_an_id_of_its_own(folder):
    torch.manual_seed(0)
    transform = MaskTokens(tokenizer_cfg(folder), probability=0.9)
    tokenizer = CLIPCaptionTokenizer(str(folder))
    item = transform({"encoded": [tokenizer.encode(CAPTIONS[0])]})
    ids = tokenizer.encode(CAPTIONS[0]).input_ids
    assert tokenizer.mask_id in item["masked_ids"]
    assert item["masked_ids"][0] == ids[0]
    assert item["masked_ids"][-1] == ids[-1]


@pytest.mark.parametrize("size", [32, (30, 16), (32,), "32"])
def test_an_image_size_that_cannot_be(folder, size):
    with pytest.raises(ConfigError, match=r"image_size=.*(expected \(height, width\)|multiple of patch_size)"):
        MODELS.build(retriever_cfg(folder, size))
