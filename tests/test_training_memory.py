"""Counted memory of a training step, and what makes it smaller: recomputed activations, low-rank updates."""

import json

import pytest
import torch
from conftest import build_batch, build_tiny, groups
from mmengine.config import Config
from test_baselines import BASELINES
from torch import nn

from cada_plugin.benchmark.memory import LiveBytes, count_training_memory
from cada_plugin.checkpoints import load_checkpoint, to_hf_blip, write_weights
from cada_plugin.cli import main
from cada_plugin.engine.config import read_config
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.registry import MODELS

LORA = {"rank": 2}
TINY_PARTS = ("visual_encoder", "text_encoder", "text_decoder")


def config(**model: object) -> Config:
    """cada_procedural with a smaller batch and some arguments of its model changed."""
    config = read_config("cada_procedural")
    config.train_dataloader.batch_size = 12
    for key, value in model.items():
        for part in TINY_PARTS if key == "checkpointing" else ():
            config.model[part].checkpointing = value
        if key != "checkpointing":
            config.model[key] = value
    return config


# ---------------------------------------------------------------- counting


def test_bytes_of_what_lives_at_a_time_are_counted():
    there = torch.zeros(100)  # 400 bytes
    with LiveBytes([there, there.view(10, 10)]) as live:
        assert (live.now, live.peak) == (400, 400)
        first = there + 1
        second = first.view(50, 2)  # the same storage
        assert live.now == 800
        third = second * 2
        del first, second
        assert (live.now, live.peak) == (800, 1200)
        third.add_(1)
        del third
    assert (live.now, live.peak) == (400, 1200)


def test_a_chain_of_layers_needs_what_arithmetic_says():
    """Four layers of width 64 on 32 rows: each keeps its output for the backward pass, which adds two gradients."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU()) for _ in range(4)))
    with LiveBytes(model.parameters()) as live:
        x = torch.randn(32, 64)
        loss = model(x).sum()
        kept = live.now
        loss.backward()
    weights, activation = 4 * 64 * 64 * 4, 32 * 64 * 4
    assert kept == weights + activation * (1 + 4) + 4  # the input, one output a layer, the loss
    assert live.now == 2 * weights + activation + 4
    assert weights + activation * 6 < live.peak <= 2 * weights + activation * 8


@pytest.mark.slow
def test_fake_tensors_need_what_real_ones_do():
    """A step of the same model on real tensors, counted in the same way."""
    counted = count_training_memory(config(), caption_tokens=20)
    model = MODELS.build(config().model | {"init_cfg": None}).train()
    model.train_without_hooks()
    from cada_plugin.benchmark import memory as module

    batch, samples = module._made_up(model, 12, 20)
    optimizer = torch.optim.AdamW(model.parameters())
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        before = live.now
        for _ in range(2):
            module._step(model, optimizer, {key: x.clone() for key, x in batch.items()}, samples, False)
    assert counted.weights == before
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.peak == pytest.approx(live.peak, rel=0.02)
    assert counted.resting == pytest.approx(live.now, rel=0.02)


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_shrinks_by_both_means():
    plain, larger = count_training_memory(config()), config()
    larger.train_dataloader.batch_size = 24
    assert count_training_memory(larger).peak > 1.3 * plain.peak
    assert count_training_memory(config(checkpointing=True)).peak < 0.8 * plain.peak
    low = count_training_memory(config(lora=LORA))
    assert low.trained < 0.1 * low.parameters
    assert low.resting < 0.5 * plain.resting
    longer = count_training_memory(config(), caption_tokens=60)
    assert (longer.resting, longer.peak > plain.peak) == (plain.resting, True)


@pytest.mark.slow
def test_what_judges_phrases_is_counted_too():
    assert count_training_memory(read_config("cada_plus_procedural")).peak > count_training_memory(config()).peak


def test_the_command_needs_no_data_and_no_other_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--cfg-options", "train_dataloader.batch_size=8"]
    assert main(["cost", "cada_procedural", "--memory", "--amp", "--out", "memory.json", *options]) == 0
    printed = capsys.readouterr().out
    assert "peak memory of a training step, 8 pairs: 0." in printed
    written = json.loads((tmp_path / "memory.json").read_text())
    assert (written["pairs"], written["trained"]) == (8, written["parameters"])
    assert list(tmp_path.iterdir()) == [tmp_path / "memory.json"]
    with pytest.raises(SystemExit):
        main(["cost", "cada_procedural"])
    assert "required: --out" in capsys.readouterr().err


def test_what_cannot_be_counted_is_said():
    other = config()
    other.model = BASELINES["clip"]
    with pytest.raises(ConfigError, match="the memory of CADA and BLIP can be counted, not that of CLIPRetriever"):
        count_training_memory(other)
    without = config()
    without.train_dataloader = None
    with pytest.raises(ConfigError, match=r"has no train_dataloader\.batch_size"):
        count_training_memory(without)
    with pytest.raises(ConfigError, match="captions of 2 tokens: use an integer from 3"):
        count_training_memory(config(), caption_tokens=2)


# ---------------------------------------------------------------- what makes it smaller


def gradients(model: nn.Module) -> tuple[dict, dict]:
    torch.manual_seed(0)
    losses = model.loss(**build_batch())
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_change_no_gradient(dropout):
    """With dropout as well: the second pass uses the random numbers of the first one."""

    def build(checkpointing: bool) -> nn.Module:
        model = build_tiny(grouping=groups("tokens", 2))
        for part in (model.text_encoder, model.text_decoder.bert):
            part.checkpointing = checkpointing
            for module in part.modules():
                if hasattr(module, "dropout"):
                    module.dropout = dropout if isinstance(module.dropout, float) else nn.Dropout(dropout)
        return model

    torch.testing.assert_close(gradients(build(True)), gradients(build(False)))


def test_low_rank_updates_start_as_nothing_and_train_alone(tmp_path):
    """Also after the initialisation of a Runner, which initialises what the checkpoint does not have."""
    plain = build_tiny()
    write_weights(plain.state_dict(), tmp_path / "plain.pth")
    start = {"type": "Pretrained", "checkpoint": str(tmp_path / "plain.pth")}
    adapted = build_tiny(lora=LORA, init_cfg=start)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            nn.init.zeros_(parameter)  # as peft does; build_tiny has shaken them
    adapted.init_weights()
    report = load_checkpoint(adapted, tmp_path / "plain.pth")
    assert {name.split(".")[-3] for name in report.missing} == {"lora_A", "lora_B"}
    assert not report.unexpected
    torch.testing.assert_close(adapted.loss(**build_batch()), plain.loss(**build_batch()))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    others = {name for name in trained if ".lora_" not in name}
    heads = {"vision_proj", "text_proj", "itm_head", "itm_local_head", "text_decoder"}
    assert {name.split(".")[0] for name in others} == heads
    in_decoder = {name.split(".")[-2] for name in others if name.startswith("text_decoder.")}
    assert in_decoder == {"dense", "LayerNorm", "predictions"}  # of the vocabulary head
    assert all(name.startswith("text_decoder.cls.") for name in others if "text_decoder" in name)
    _, found = gradients(adapted)
    assert found.keys() == trained


def test_low_rank_updates_are_w_plus_b_a(tmp_path):
    """The model gives what a plain one gives whose weights have the products added to them."""
    adapted, plain = build_tiny(lora={"rank": 2, "alpha": 6.0}), build_tiny()
    state = adapted.state_dict()
    merged = {}
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if name.endswith("base_layer.weight"):
            stem = name.removesuffix("base_layer.weight")
            value = value + 3.0 * state[f"{stem}lora_B.default.weight"] @ state[f"{stem}lora_A.default.weight"]
        merged[name.replace(".base_layer.", ".")] = value
    plain.load_state_dict(merged)
    torch.testing.assert_close(adapted.loss(**build_batch()), plain.loss(**build_batch()), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_with_updates_comes_back(tmp_path):
    first, second = build_tiny(0, lora=LORA), build_tiny(1, lora=LORA)
    write_weights(first.state_dict(), tmp_path / "first.pth")
    assert load_checkpoint(second, tmp_path / "first.pth", strict=True).loaded == len(first.state_dict())
    torch.testing.assert_close(second.loss(**build_batch()), first.loss(**build_batch()))
    with pytest.raises(CheckpointError, match=r"low-rank updates \(LoRA\), which this model has not: use the config"):
        load_checkpoint(build_tiny(), tmp_path / "first.pth")
    with pytest.raises(CheckpointError, match="which Hugging Face's BLIP does not know"):
        to_hf_blip(first.state_dict())


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "lora rank=0: use an integer"),
        ({"rank": 2, "alpha": -1.0}, "alpha=-1.0: use a number above 0"),
        ({"rank": 2, "alpha": "x"}, "alpha='x': use a number above 0"),
        ({"r": 16}, r"use dict\(rank=16\)"),
        ({"alpha": 2}, r"use dict\(rank=16\)"),
        (16, r"lora=16: use dict\(rank=16\)"),
    ],
)
def test_impossible_updates_are_refused(lora, message):
    with pytest.raises(ConfigError, match=message):
        build_tiny(lora=lora)


def test_the_config_for_12_gb_has_the_batch_of_the_released_run():
    small, released = read_config("cada_cuhk_12gb"), read_config("cada_cuhk")
    assert small.train_dataloader.batch_size == released.auto_scale_lr.base_batch_size == 120
    assert all(small.model[part].checkpointing for part in TINY_PARTS)
