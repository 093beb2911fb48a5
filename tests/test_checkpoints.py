"""Weights from elsewhere give the numbers that they give where they come from, at any image size."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_factory import RELEASED, TEXT, blip_like, plain_bert, shake, tiny_cada, tiny_hf_blip
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn
from transformers import BlipForImageTextRetrieval

from cada_plugin.checkpoints import fit_state, load_checkpoint, read_weights, to_cada, to_hf_blip
from cada_plugin.checkpoints.fit import find_grid
from cada_plugin.cli import convert
from cada_plugin.errors import CheckpointError
from cada_plugin.models import CADA, CrossModalBert, ViTEncoder

CAPTIONS = ["a man wearing a black jacket and blue jeans", "the woman has long brown hair"]
_TEXT_PARTS = {"text_encoder": "cada_plugin.CrossModalBert", "text_decoder": "cada_plugin.AttributeDecoder"}


@pytest.fixture(scope="module")
def hf_blip() -> BlipForImageTextRetrieval:
    return tiny_hf_blip()


@pytest.fixture
def hf_folder(hf_blip, tmp_path) -> Path:
    hf_blip.save_pretrained(tmp_path / "blip")
    return tmp_path / "blip"


def caption_batch(tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    ids = [torch.tensor(tokenizer.encode(caption).input_ids) for caption in CAPTIONS]
    ids = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_id)
    return ids, ids != tokenizer.pad_id


def assert_agrees(cada: CADA, hf: BlipForImageTextRetrieval) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    ids, mask = caption_batch(cada.tokenizer)
    asking = ids.clone()
    asking[:, 0] = cada.tokenizer.enc_id  # transformers leaves this to its caller
    with torch.no_grad():
        cosine = hf(ids, images, use_itm_head=False, attention_mask=mask).itm_score  # (images, texts)
        logits = hf(asking, images, use_itm_head=True, attention_mask=mask).itm_score  # (pairs, 2)
        image, text = cada.encode_image(images), cada.encode_text(ids, mask)
        match = cada.match(text, cada.image_memory(image.tokens), torch.arange(2))
    torch.testing.assert_close(image.embed @ text.embed.T, cosine, atol=1e-4, rtol=0)
    torch.testing.assert_close(match, logits[:, 1], atol=1e-4, rtol=0)


def test_converted_hf_blip_gives_the_scores_of_transformers(hf_blip, hf_folder, tmp_path):
    assert convert.main([str(hf_folder), str(tmp_path / "cada.pth")]) == 0
    model = shake(tiny_cada(), seed=3)
    report = load_checkpoint(model, tmp_path / "cada.pth")
    assert_agrees(model, hf_blip)
    assert {name.split(".")[0] for name in report.missing} == {"itm_local_head", "text_decoder"}
    assert all(name.startswith("text_decoder.cls.predictions.") for name in report.missing if "decoder" in name)
    assert not report.unexpected


def test_hf_blip_loads_without_conversion(hf_blip, hf_folder):
    model = shake(tiny_cada(), seed=3)
    assert load_checkpoint(model, hf_folder).format == "hf-blip"
    assert_agrees(model, hf_blip)


def test_export_to_hf_blip_gives_transformers_the_scores_of_cada(tmp_path, capsys):
    cada = shake(tiny_cada(), seed=5)
    torch.save({"model": cada.state_dict()}, tmp_path / "cada.pth")
    target = tmp_path / "hf.safetensors"
    assert convert.main([str(tmp_path / "cada.pth"), str(target), "--to", "hf-blip"]) == 0
    assert "itm_local_head.* (2)" in capsys.readouterr().out
    hf = tiny_hf_blip()
    hf.load_state_dict(load_file(target), strict=True)
    assert_agrees(cada, hf)


def test_names_survive_the_round_trip(hf_blip):
    state = hf_blip.state_dict()
    back = to_hf_blip(to_cada(state).state).state
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_export_of_a_rectangular_image_encoder_is_refused():
    state = tiny_cada((48, 16)).state_dict()
    with pytest.raises(CheckpointError, match="12 patches, not a square number"):
        to_hf_blip(state)


def test_released_checkpoint_fits_exactly():
    model = tiny_cada((32, 16))
    report = load_checkpoint(model, RELEASED, strict=True)
    assert (report.format, report.missing, report.unexpected, report.resized) == ("cada", [], [], [])
    state = torch.load(RELEASED, weights_only=True)["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_blip_leaves_momentum_and_queues_behind(tmp_path):
    source = shake(tiny_cada(), seed=7)
    torch.save({"model": blip_like(source)}, tmp_path / "model_base.pth")
    model = tiny_cada()
    fresh = model.itm_local_head.weight.clone()
    report = load_checkpoint(model, tmp_path / "model_base.pth")
    assert report.format == "blip"
    assert report.missing == ["itm_local_head.weight", "itm_local_head.bias"]
    assert not report.unexpected
    assert {"temp", "image_queue", "vision_proj_m.weight"} <= set(report.dropped)
    assert torch.equal(model.itm_local_head.weight, fresh)
    assert torch.equal(model.visual_encoder.pos_embed, source.visual_encoder.pos_embed)
    assert torch.equal(model.text_decoder.cls.predictions.bias, source.text_decoder.cls.predictions.bias)
    text = str(report)
    assert "itm_local_head.* (2)" in text
    assert "visual_encoder_m.*" in text


def test_blip_without_decoder_starts_it_from_the_text_encoder(tmp_path):
    source = shake(tiny_cada(), seed=7)
    torch.save(blip_like(source, decoder=False), tmp_path / "blip.pth")
    model = tiny_cada()
    report = load_checkpoint(model, tmp_path / "blip.pth")
    for name, tensor in model.text_decoder.bert.state_dict().items():
        assert torch.equal(tensor, source.text_encoder.state_dict()[name]), name
    assert "starts from the text encoder" in str(report)
    # the vocabulary matrix is tied to the word embeddings, so it is not missing
    assert "text_decoder.cls.predictions.decoder.weight" not in report.missing


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_bert_fills_both_decoders_and_grows_the_vocabulary(tmp_path, prefix):
    state = plain_bert(prefix=prefix)
    torch.save(state, tmp_path / "bert.bin")
    model = tiny_cada()
    report = load_checkpoint(model, tmp_path / "bert.bin")
    words = state[f"{prefix}embeddings.word_embeddings.weight"]
    for bert in (model.text_encoder, model.text_decoder.bert):
        torch.testing.assert_close(bert.embeddings.word_embeddings.weight[:84], words)
        torch.testing.assert_close(bert.embeddings.word_embeddings.weight[84:], words.mean(0).expand(2, -1))
    positions = state[f"{prefix}embeddings.position_embeddings.weight"]
    types = state[f"{prefix}embeddings.token_type_embeddings.weight"]
    torch.testing.assert_close(model.text_encoder.embeddings.position_embeddings.weight.data, positions + types[0])
    assert report.format == "bert"
    assert report.dropped == [f"{prefix}pooler.dense.weight"]
    assert "vision_proj.weight" in report.missing
    assert "[ENC]" in str(report)


def test_an_encoder_alone_takes_its_part(hf_folder):
    image = ViTEncoder(image_size=(32, 32), patch_size=8, width=32, depth=2, heads=4)
    text = CrossModalBert(vocab_size=86, image_width=32, **TEXT)
    state = read_weights(hf_folder)
    assert load_checkpoint(image, hf_folder).missing == []
    assert load_checkpoint(text, hf_folder).missing == []
    assert torch.equal(image.norm.weight, state["vision_model.post_layernorm.weight"])
    assert torch.equal(text.embeddings.LayerNorm.bias, state["text_encoder.embeddings.LayerNorm.bias"])


def test_any_other_module_takes_its_own_names(tmp_path):
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}}, tmp_path / "linear.pt")
    assert load_checkpoint(model, tmp_path / "linear.pt", strict=True).loaded == 2
    assert torch.equal(model.weight, source.weight)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_folder(tmp_path, hf_blip, kind):
    state = {name: tensor.contiguous() for name, tensor in hf_blip.state_dict().items()}
    stem, names = {"safetensors": "model", "bin": "pytorch_model"}[kind], sorted(state)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"{stem}-{i + 1:05d}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)({n: state[n] for n in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read = read_weights(tmp_path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)
    (tmp_path / file).unlink()
    with pytest.raises(CheckpointError, match=f"incomplete: {file}"):
        read_weights(tmp_path)


def test_image_positions_are_resized_to_a_rectangle(hf_folder):
    model = tiny_cada((48, 16))  # 6x2 patches from 4x4
    report = load_checkpoint(model, hf_folder)
    expected = resample_abs_pos_embed(read_weights(hf_folder)["vision_model.embeddings.position_embedding"], [6, 2])
    assert torch.equal(model.visual_encoder.pos_embed, expected)
    assert report.resized == ["visual_encoder.pos_embed 4x4 -> 6x2 patches"]


def test_square_positions_are_resized_to_a_rectangle_with_as_many_patches(hf_folder):
    model = tiny_cada((64, 16))  # 8x2 patches: 16, as 4x4
    load_checkpoint(model, hf_folder)
    expected = resample_abs_pos_embed(
        read_weights(hf_folder)["vision_model.embeddings.position_embedding"], [8, 2], [4, 4]
    )
    assert torch.equal(model.visual_encoder.pos_embed, expected)


def test_own_rectangle_keeps_its_shape(tmp_path):
    source = shake(tiny_cada((48, 16)))  # 6x2
    torch.save(source.state_dict(), tmp_path / "own.pth")
    same, larger = tiny_cada((48, 16)), tiny_cada((96, 32))  # 6x2, 12x4
    assert load_checkpoint(same, tmp_path / "own.pth").resized == []
    assert torch.equal(same.visual_encoder.pos_embed, source.visual_encoder.pos_embed)
    assert load_checkpoint(larger, tmp_path / "own.pth").resized == ["visual_encoder.pos_embed 6x2 -> 12x4 patches"]


@pytest.mark.parametrize(
    ("patches", "grid", "square", "expected"),
    [
        (196, (24, 8), True, (14, 14)),
        (196, (24, 8), False, (14, 14)),
        (192, (16, 4), True, None),
        (192, (12, 4), False, (24, 8)),
        (192, (24, 8), True, (24, 8)),
        (64, (24, 6), False, None),  # 16x4 or 8x8
        (64, (24, 6), True, (8, 8)),
        (7, (24, 8), False, None),
    ],
)
def test_layout_of_patches_is_found_or_asked_for(patches, grid, square, expected):
    if expected is None:
        with pytest.raises(CheckpointError, match="old_grid"):
            find_grid(patches, grid, square)
    else:
        assert find_grid(patches, grid, square) == expected


def test_layout_of_patches_can_be_said(tmp_path):
    source = shake(tiny_cada((64, 16)))  # 8x2 = 16 patches, or 4x4
    torch.save(source.state_dict(), tmp_path / "own.pth")
    model = tiny_cada((128, 32))
    with pytest.raises(CheckpointError, match="old_grid"):
        load_checkpoint(model, tmp_path / "own.pth")
    report = load_checkpoint(model, tmp_path / "own.pth", old_grid=(8, 2))
    assert report.resized == ["visual_encoder.pos_embed 8x2 -> 16x4 patches"]


def test_text_positions_are_cut_but_never_invented():
    source = tiny_cada().state_dict()
    shorter = tiny_cada(**{part: {"type": kind, **TEXT, "max_positions": 80} for part, kind in _TEXT_PARTS.items()})
    result, resized = fit_state(source, shorter.state_dict())
    name = "text_encoder.embeddings.position_embeddings.weight"
    assert torch.equal(result.state[name], source[name][:80])
    assert f"{name} 96 -> 80 positions" in resized
    with pytest.raises(CheckpointError, match="80 text positions, the model 96: set max_positions"):
        fit_state(shorter.state_dict(), source)
