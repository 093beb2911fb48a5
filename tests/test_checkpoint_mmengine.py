"""Loading weights by MMEngine (``load_from``, ``init_cfg``) and by us, in a host whose default scope is not ours."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_factory import RELEASED, cada_cfg, shake, tiny_cada, tiny_hf_blip
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from cada_plugin.checkpoints import load_checkpoint, load_into_runner, to_cada
from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.errors import CheckpointError


@pytest.fixture(autouse=True)
def fresh_mmengine() -> Iterator[None]:
    """A Runner leaves its default scope and its logger in the process."""
    yield
    for kind in (DefaultScope, MMLogger, MessageHub, Visualizer):
        kind._instance_dict.clear()


def mmengine_checkpoint(model: nn.Module, path: Path) -> Path:
    """What ``Runner.save_checkpoint`` writes: weights beside a log history of numpy arrays."""
    hub = MessageHub.get_instance(f"test {path}")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("iter", np.int64(3))
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    meta = {"epoch": 1, "cfg": "model = None", "dataset_meta": {"name": "tiny"}}
    state = {"meta": meta, "state_dict": model.state_dict(), "message_hub": hub.state_dict(), "optimizer": optimizer}
    torch.save(state, path)
    return path


def runner_with(tmp_path: Path, cfg: dict, **settings) -> Runner:
    return Runner.from_cfg(
        {"model": cfg, "work_dir": str(tmp_path / "work"), "experiment_name": str(tmp_path), **settings}
    )


def test_mmengine_checkpoint_loads_with_the_restricted_reader(tmp_path):
    source = shake(tiny_cada())
    path = mmengine_checkpoint(source, tmp_path / "epoch_1.pth")
    assert load_checkpoint(tiny_cada(), path, strict=True).loaded == len(source.state_dict())
    hub = read_checkpoint(path)["message_hub"]
    assert hub["log_scalars"]["train/loss"].mean() == 0.5
    assert hub["runtime_info"]["iter"] == 3
    assert type(hub["runtime_info"]["iter"]) is int


@pytest.mark.parametrize("form", ["folder", "safetensors", "pth", "mmengine"])
@pytest.mark.parametrize("door", ["load_from", "init_cfg", "load_into_runner"])
def test_every_door_of_mmengine_takes_every_format(tmp_path, form, door):
    size, hf_blip = (48, 16), tiny_hf_blip()
    expected = to_cada(hf_blip.state_dict()).state
    if form == "folder":
        hf_blip.save_pretrained(tmp_path / "blip")
        path = f"{tmp_path / 'blip'}/"
    elif form == "mmengine":
        path = mmengine_checkpoint(hf_blip, tmp_path / "epoch_1.pth")
    else:
        path = tmp_path / f"weights.{form}"
        (torch.save if form == "pth" else save_file)(hf_blip.state_dict(), path)
    init_cfg = {"type": "Pretrained", "checkpoint": str(path)} if door == "init_cfg" else None
    settings = {"load_from": str(path)} if door == "load_from" else {}
    runner = runner_with(tmp_path, cada_cfg(size, init_cfg=init_cfg), **settings)
    if door == "load_into_runner":
        load_into_runner(runner, path)
    runner._init_model_weights()  # as Runner.train does
    runner.load_or_resume()
    state = runner.model.state_dict()
    for name in ("visual_encoder.blocks.1.mlp.fc2.weight", "text_encoder.encoder.layer.1.output.dense.weight"):
        assert torch.equal(state[name], expected[name])
    positions = resample_abs_pos_embed(expected["visual_encoder.pos_embed"], [6, 2])
    assert torch.equal(state["visual_encoder.pos_embed"], positions)


def test_load_from_of_another_architecture_is_an_error_not_a_warning(tmp_path):
    torch.save(tiny_cada().state_dict(), tmp_path / "small.pth")
    cfg = cada_cfg(visual_encoder=cada_cfg()["visual_encoder"] | {"width": 64})
    runner = runner_with(tmp_path, cfg, load_from=str(tmp_path / "small.pth"))
    with pytest.raises(CheckpointError, match="another architecture"):
        runner.load_or_resume()


def test_loaded_weights_survive_the_initialisation_of_a_runner():
    model = tiny_cada((32, 16))
    load_checkpoint(model, RELEASED)
    before = model.visual_encoder.blocks[0].mlp.fc1.weight.clone()
    model.init_weights()
    assert torch.equal(model.visual_encoder.blocks[0].mlp.fc1.weight, before)
