"""The baselines: each model's own parts against naive computations, and all of them behind the retriever contract."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as torch_dist
import torch.nn.functional as F
from checkpoint_factory import shake
from conftest import CAPTIONS, TOKENIZER, VISION, build_batch
from runner_factory import REPO, tool, write_run
from torch import nn
from transformers import BertConfig, BertModel

from cada_plugin.compat import import_torchreid
from cada_plugin.datasets.transforms import MaskTokens
from cada_plugin.engine.config import read_config
from cada_plugin.engine.consensus import divide, plausible
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.models import BertTextEncoder, BiLSTMEncoder, TorchreidEncoder, ViTEncoder
from cada_plugin.models.cross_modal import places_of
from cada_plugin.models.irra import RelationReasoning
from cada_plugin.models.rde import TokenSelection
from cada_plugin.registry import MODELS
from cada_plugin.text import CaptionTokenizer

BERT = {"width": 16, "depth": 2, "heads": 2, "max_positions": 32, "dropout": 0.0}
ENCODERS = {
    "visual_encoder": VISION,
    "text_encoder": {"type": "BertTextEncoder", **BERT},
    "tokenizer": TOKENIZER,
    "embed_dim": 8,
}
VOCABULARY = len(CaptionTokenizer("procedural"))
BASELINES = {
    "clip": {"type": "CLIPRetriever", "loss_itc": {"type": "InfoNCELoss"}, **ENCODERS},
    "cmpm": {
        "type": "CMPMRetriever",
        "num_classes": 9,
        "loss_cmpm": {"type": "CMPMLoss"},
        "loss_cmpc": {"type": "CMPCLoss"},
        **ENCODERS,
        "text_encoder": {"type": "BiLSTMEncoder", "word_width": 8, "hidden": 8},
    },
    "irra": {
        "type": "IRRA",
        "num_classes": 9,
        "loss_sdm": {"type": "SDMLoss"},
        "loss_id": {"type": "IdentityLoss"},
        "loss_irr": {"type": "MaskedAttributeLoss", "weight": 1.0},
        "reasoning_heads": 2,
        "reasoning_depth": 2,
        **ENCODERS,
    },
    "rde": {"type": "RDE", "loss_tal": {"type": "TripletAlignmentLoss"}, "selection_dim": 12, **ENCODERS},
    "blip": {
        "type": "BLIP",
        "loss_itc": {"type": "InfoNCELoss"},
        "loss_itm": {"type": "MatchingLoss"},
        **ENCODERS,
        "text_encoder": {"type": "CrossModalBert", **BERT},
    },
}


def build(name: str, **changes: object) -> nn.Module:
    torch.manual_seed(0)
    return shake(MODELS.build(BASELINES[name] | changes)).train()


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = build_batch()["inputs"]
    return inputs["input_ids"], inputs["attention_mask"]


# The contract


@pytest.mark.parametrize("name", BASELINES)
def test_every_parameter_that_learns_gets_a_gradient(name):
    model = build(name)
    model.clean = torch.ones(4, dtype=torch.bool)  # as RDE's hook says
    losses = model(**build_batch(), mode="loss")
    assert all("loss" in key and value.isfinite() and value.ndim == 0 for key, value in losses.items())
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


@torch.no_grad()
@pytest.mark.parametrize("name", BASELINES)
def test_embeddings_are_unit_vectors_that_ignore_padding_and_neighbours(name):
    model, inputs = build(name).eval(), build_batch()["inputs"]
    images, captions = model(inputs, mode="predict")
    for embed in (images.embed, captions.embed):
        torch.testing.assert_close(embed.norm(dim=-1), torch.ones(4))
    for i, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = model.encode_text(inputs["input_ids"][i : i + 1, :length], inputs["attention_mask"][i : i + 1, :length])
        torch.testing.assert_close(alone.embed[0], captions.embed[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.encode_image(inputs["images"][i : i + 1]).embed[0], images.embed[i], rtol=1e-4, atol=1e-5
        )
    assert model.can_match == (name == "blip")
    assert (images.tokens is not None) == model.can_match


def half(rank: int) -> dict:
    batch, part = build_batch((1, 2, 3, 4)), slice(2 * rank, 2 * rank + 2)
    return {
        "inputs": {key: value[part] for key, value in batch["inputs"].items()},
        "data_samples": batch["data_samples"][part],
    }


def gradients(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    losses = model.loss(**batch)
    sum(losses.values()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {
        key: value.detach() for key, value in losses.items()
    }


DISTRIBUTED = ("clip", "cmpm", "irra")  # RDE has batch norm, BLIP's gathering is CADA's and its negatives are drawn


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({name: gradients(build(name), half(rank)) for name in DISTRIBUTED}, folder / f"{rank}.pt")
    torch_dist.barrier()
    torch_dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_two_processes_average_to_those_of_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for model in DISTRIBUTED:
        for name, value in gradients(build(model), build_batch((1, 2, 3, 4))).items():
            average = sum(result[model][name] for result in results) / 2
            torch.testing.assert_close(average, value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", ["cmpm", "irra"])
def test_too_few_classes_are_an_error_and_not_a_crash(name):
    with pytest.raises(ConfigError, match="label 3 of a training person, but num_classes=3: set num_classes"):
        build(name, num_classes=3).loss(**build_batch())


@pytest.mark.parametrize("name", BASELINES)
def test_an_unknown_option_is_named(name):
    with pytest.raises(TypeError, match="temperature"):
        build(name, temperature=0.02)


# Encoders


def test_lstm_reads_each_caption_to_its_own_end_in_both_directions():
    torch.manual_seed(0)
    encoder = BiLSTMEncoder(vocab_size=VOCABULARY, word_width=6, hidden=5).eval()
    ids, mask = texts()
    pooled, states = encoder(ids, mask)
    for i, length in enumerate(mask.sum(1).tolist()):
        alone, _ = encoder.lstm(encoder.word_embeddings(ids[i : i + 1, :length]))
        torch.testing.assert_close(states[i, :length], alone[0])
        torch.testing.assert_close(pooled[i], alone[0].amax(0))


@torch.no_grad()
def test_bert_and_its_attention_are_those_of_transformers():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        attn_implementation="eager",
    )
    theirs = shake(BertModel(config, add_pooling_layer=False)).eval()
    theirs.embeddings.token_type_embeddings.weight.zero_()
    ours = BertTextEncoder(vocab_size=VOCABULARY, **BERT).eval()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    ids, mask = texts()
    expected = theirs(input_ids=ids, attention_mask=mask.long(), output_attentions=True)
    pooled, states, row = ours.with_attention(ids, mask)
    torch.testing.assert_close(states[mask], expected.last_hidden_state[mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(row, expected.attentions[-1].mean(1)[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(ids, mask)[0], pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_of_the_image_encoder_is_that_of_the_slow_path():
    torch.manual_seed(0)
    vit = ViTEncoder(image_size=(32, 16), patch_size=8, width=16, depth=2, heads=2).eval()
    images, seen = torch.randn(2, 3, 32, 16), []
    _, row = vit.with_attention(images)
    attention = vit.blocks[-1].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    vit(images)
    torch.testing.assert_close(row, seen[0].mean(1)[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("osnet_x0_25", 128), ("resnet50", 2048)])
def test_torchreid_tokens_start_with_their_mean(name, width):
    encoder = TorchreidEncoder(name).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 32)
        tokens = encoder(images)
        maps = encoder.model.featuremaps(images)
    assert encoder.width == tokens.shape[2] == maps.shape[1] == width
    torch.testing.assert_close(tokens[:, 0], maps.mean((2, 3)))
    torch.testing.assert_close(tokens[:, 1:], maps.flatten(2).transpose(1, 2))
    assert not any("classifier" in n or n.startswith("model.fc") for n, _ in encoder.named_parameters())


def test_torchreid_weights_load_completely_or_not_at_all(tmp_path):
    torch.manual_seed(0)
    source = import_torchreid().models.build_model("osnet_x0_25", num_classes=7, pretrained=False)
    torch.save({"state_dict": source.state_dict(), "epoch": 3, "rank1": np.float64(0.5)}, tmp_path / "model.pth.tar-3")
    encoder = TorchreidEncoder("osnet_x0_25", weights=tmp_path / "model.pth.tar-3").eval()
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.model.featuremaps(images), source.eval().featuremaps(images))
    with pytest.raises(CheckpointError, match=r"does not belong to this torchreid model: \d+ of its \d+ tensors"):
        TorchreidEncoder("osnet_x0_5", weights=tmp_path / "model.pth.tar-3")
    with pytest.raises(ConfigError, match="torchreid has no model 'osnet_x9'"):
        TorchreidEncoder("osnet_x9")
    with pytest.raises(ConfigError, match="torchreid's hacnn gives no feature map"):
        TorchreidEncoder("hacnn")


# IRRA


def test_bert_masking_has_its_shares_and_spares_the_ends():
    torch.manual_seed(0)
    transform, tokenizer = MaskTokens(TOKENIZER, probability=0.5), CaptionTokenizer("procedural", max_length=24)
    encoded = tokenizer.encode(CAPTIONS[3])
    ids, counts = torch.tensor(encoded.input_ids), torch.zeros(4)
    for _ in range(2000):
        item = transform({"encoded": [encoded]})
        out, where = torch.tensor(item["masked_ids"]), torch.tensor(item["masked_positions"])
        assert not where[[0, -1]].any()
        assert torch.equal(out[~where], ids[~where])
        hidden, kept = out == tokenizer.mask_id, out == ids
        counts += torch.stack([where[1:-1].sum(), *((x & where).sum() for x in (hidden, kept, ~hidden & ~kept))])
    chosen = counts[0] / (2000 * (len(ids) - 2))
    assert chosen == pytest.approx(0.5, abs=0.02)
    shares = counts[1:] / counts[0]
    assert shares.tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    with pytest.raises(ConfigError, match="MaskTokens probability=2: use a number from 0 to 1"):
        MaskTokens(TOKENIZER, probability=2)


@torch.no_grad()
def test_reasoning_scores_masked_positions_as_it_scores_all_and_does_not_see_padding():
    torch.manual_seed(0)
    reasoning = shake(RelationReasoning(width=8, heads=2, depth=2, vocab_size=30)).eval()
    text, image = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    everywhere = reasoning(text, image, mask, places_of(torch.ones_like(mask))).view(2, 5, 30)
    where = torch.tensor([[False, True, False, True, False], [False, False, True, False, False]])
    torch.testing.assert_close(reasoning(text, image, mask, places_of(where)), everywhere[where], rtol=1e-4, atol=1e-5)
    masked = places_of(where)
    changed = text.clone()
    changed[1, 3:] += 5
    torch.testing.assert_close(reasoning(changed, image, mask, masked), everywhere[where], rtol=1e-4, atol=1e-5)
    other = reasoning(text, image.flip(0), mask, masked)
    assert (other - everywhere[where]).abs().max() > 1e-3  # it does see the image
    assert reasoning(text, image, mask, places_of(torch.zeros_like(mask))).shape == (0, 30)


def test_irra_without_masked_captions_names_the_transform():
    with pytest.raises(ConfigError, match=r"IRRA needs masked captions: add dict\(type='MaskTokens'\)"):
        build("irra").loss(**build_batch(mask=False))


# RDE


@torch.no_grad()
def test_token_selection_equals_a_loop():
    torch.manual_seed(0)
    module = shake(TokenSelection(6, 10)).eval()
    tokens, attention = torch.randn(3, 7, 6), torch.rand(3, 7)
    allowed = torch.tensor([[False] + [True] * 6, [False, True, True] + [False] * 4, [False, True] + [False] * 5])
    result = module(tokens, attention, allowed, keep=3)
    for i in range(3):
        candidates = sorted((t for t in range(7) if allowed[i, t]), key=lambda t: -attention[i, t])[:3]
        rows = [F.normalize(tokens[i, t], dim=0) for t in candidates]
        embedded = torch.stack([module.linear(row) + module.mlp(row[None])[0] for row in rows])
        torch.testing.assert_close(result[i], embedded.amax(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_cosine_of_rde_is_the_mean_of_both():
    model, inputs = build("rde").eval(), build_batch()["inputs"]
    images = model._embed_images(inputs["images"])
    captions = model._embed_texts(inputs["input_ids"], inputs["attention_mask"])
    expected = sum(t @ i.T for t, i in zip(captions, images, strict=True)) / 2
    whole = model(inputs, mode="predict")
    torch.testing.assert_close(whole[1].embed @ whole[0].embed.T, expected)
    ids = torch.tensor([[2, 3, 0]])  # a caption without a word
    assert model.encode_text(ids, torch.tensor([[True, True, False]])).embed.isfinite().all()


def test_rde_leaves_out_the_pairs_that_are_not_clean():
    model, batch = build("rde", division=False), build_batch((1, 2, 3, 4))
    model.eval()  # the same batch statistics twice
    by_global, by_selection = (x.detach() for x in model.pair_losses(**batch))
    assert model.loss(**batch)["loss_global"] == by_global.sum()
    model.division = True
    with pytest.raises(ConfigError, match=r"add custom_hooks=\[dict\(type='cada_plugin.ConsensusDivisionHook'\)\]"):
        model.loss(**batch)
    model.clean = torch.tensor([True, False, False, True])
    losses = model.loss(**batch)
    torch.testing.assert_close(losses["loss_global"], by_global[0] + by_global[3])
    torch.testing.assert_close(losses["loss_selection"], by_selection[0] + by_selection[3])


def test_division_finds_the_pairs_of_large_loss_and_draws_where_both_disagree():
    rng = np.random.default_rng(0)
    losses = np.concatenate([rng.normal(0.1, 0.03, 900), rng.normal(0.8, 0.1, 100)])
    clean = np.arange(1000) < 900
    assert np.array_equal(plausible(losses), clean)
    assert plausible(np.ones(5)).all()
    other = losses[::-1]  # finds the first 100 implausible
    kept = divide(losses, other, np.random.default_rng(1))
    assert kept[100:900].all()
    assert 60 < kept[:100].sum() + kept[900:].sum() < 140
    assert np.array_equal(kept, divide(losses, other, np.random.default_rng(1)))


def test_rde_needs_encoders_with_attention():
    with pytest.raises(ConfigError, match="which BiLSTMEncoder does not have: use a transformer"):
        build("rde", text_encoder={"type": "BiLSTMEncoder"})
    with pytest.raises(ConfigError, match="selection_ratio=0: use a number above 0"):
        build("rde", selection_ratio=0)


# BLIP


def test_blip_is_itc_and_itm_of_pairs_fused_one_by_one(monkeypatch):
    model, batch = build("blip"), build_batch()
    seen = {}

    def always_next(cosine, same, scale):
        seen.update(scale=float(scale))
        return torch.tensor([1, 2, 0, 0])

    monkeypatch.setattr("cada_plugin.models.blip.sampled_negatives", always_next)
    losses = model.loss(**batch)
    assert seen == {"scale": pytest.approx(model.loss_itc.scale.item())}
    inputs = batch["inputs"]
    images, captions = model(inputs, mode="predict")
    expected = model.loss_itc(images.embed, captions.embed, None)
    torch.testing.assert_close(losses["loss_itc"], expected)
    parts = []
    for t, i, label in [
        *((b, b, 1) for b in range(4)),
        *((b, w, 0) for b, w in enumerate([1, 2, 0, 0])),
        *((w, b, 0) for b, w in enumerate([1, 2, 0, 0])),
    ]:
        memory = model.image_memory(images.tokens[i : i + 1])
        state = model.fuse(inputs["input_ids"][t : t + 1], inputs["attention_mask"][t : t + 1], memory)[:, 0]
        parts.append(F.cross_entropy(model.itm_head(state), torch.tensor([label])))
    torch.testing.assert_close(losses["loss_itm"], torch.stack(parts).mean(), rtol=1e-4, atol=1e-5)
    assert model.itm_local_head is None


# The shipped configs, through the tools


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_run(folder)
    return folder


# every baseline that ships a config for procedural people
NAMES = sorted(path.stem.removesuffix("_procedural") for path in (REPO / "configs/baselines").glob("*_procedural.py"))
SMALL = """
_base_ = ['{config}']
__data = dict(data_root='{data}', build=dict(
    _delete_=True, seed=3, identities=dict(train=8, val=3, test=3), images_per_identity=3, twin_fraction=0.7))
train_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=__data)
val_dataloader = dict(num_workers=0, dataset=__data)
test_dataloader = dict(num_workers=0, dataset=__data)
train_cfg = dict(max_epochs=1, val_interval=1)
val_cfg = dict(rerank_topk=4)
test_cfg = dict(rerank_topk=4)
"""


def small(people: Path, name: str, extra: str = "") -> Path:
    config = people / f"small_{name}.py"
    shipped = REPO / f"configs/baselines/{name}_procedural.py"
    config.write_text(SMALL.format(config=shipped, data=people / "people") + extra)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_shipped_configs_train_and_test_with_the_tools(people, name):
    light = "model = dict(visual_encoder=dict(name='osnet_x0_25'))" if name.startswith("cmpm") else ""
    config, work_dir = small(people, name, light), people / name
    done = tool("train", config, "--work-dir", work_dir, cwd=people)
    assert done.status == 0, done.stderr
    done = tool("test", config, work_dir / "epoch_1.pth", "--out", work_dir / "metrics.json", cwd=people)
    assert done.status == 0, done.stderr
    metrics = json.loads((work_dir / "metrics.json").read_text())
    shipped = read_config(config)
    assert ("t2i/R1" in metrics) == MODELS.get(shipped.model.type).can_match
    assert 0 < metrics["t2i_global/mAP"] <= 100
    log = next(work_dir.glob("*/*.log")).read_text()
    assert ("consensus division keeps" in log) == ("consensus" in shipped.default_hooks)


def test_an_unknown_option_ends_the_tool_with_one_message(people):
    config = small(people, "irra", "model = dict(temperature=0.02)")
    done = tool("train", config, "--work-dir", people / "unknown", cwd=people)
    assert done.status == 2
    assert "unexpected keyword argument 'temperature'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_consensus_hook_refuses_other_models(people):
    config = small(people, "clip", "custom_hooks = [dict(type='ConsensusDivisionHook')]")
    done = tool("train", config, "--work-dir", people / "wrong", cwd=people)
    assert done.status == 2
    assert "ConsensusDivisionHook divides pairs for RDE, not for CLIPRetriever" in done.stderr
