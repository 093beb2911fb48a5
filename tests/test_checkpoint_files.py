"""Files that are no checkpoint, or not one for this model: refused safely, with words that help."""

import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_factory import RELEASED, blip_like, cada_cfg, plain_bert, tiny_cada
from safetensors.torch import save_file
from torch import nn

from cada_plugin.checkpoints import load_checkpoint, read_weights
from cada_plugin.cli import convert
from cada_plugin.errors import CheckpointError


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


class Foreign:
    """A class that only its author's code has."""


class Peek:
    def __reduce__(self) -> tuple:
        from mmengine.logging import HistoryBuffer

        return getattr, (HistoryBuffer, "__init__")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, writer):
    path, effect = tmp_path / "evil.pth", tmp_path / "it ran"
    content = {"model": tiny_cada().state_dict(), "config": Evil(effect)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"config": Evil(effect)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"refused.*open.*nothing of it was run"):
        load_checkpoint(tiny_cada(), path)
    assert not effect.exists()


def test_a_foreign_class_is_named(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "args": Foreign()}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"wants to build \S*test_checkpoint_files\.Foreign.*tensors only"):
        read_weights(tmp_path / "foreign.pth")


def test_the_history_of_mmengine_opens_no_other_door(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}, "x": Peek()}, tmp_path / "peek.pth")
    with pytest.raises(CheckpointError, match=r"refused.*builtins\.getattr"):
        read_weights(tmp_path / "peek.pth")


def _bad_file(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / ("bad.safetensors" if "safetensors" in kind else "bad.pth")
    if kind == "missing file":
        return path
    if kind == "folder without weights":
        path.mkdir()
        (path / "config.json").write_text("{}")
    elif kind == "zero bytes":
        path.touch()
    elif kind in ("text", "text named safetensors"):
        path.write_text("<html>not found</html>")
    elif kind == "truncated":
        path.write_bytes(RELEASED.read_bytes()[:5000])
    elif kind == "truncated safetensors":
        save_file({"a": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "a list":
        torch.save([torch.ones(1)], path)
    elif kind == "no tensors":
        torch.save({"epoch": 3, "best": "R1"}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing file", "does not exist"),
        ("folder without weights", "holds no weights: expected one of model.safetensors"),
        ("zero bytes", "empty"),
        ("text", "not a checkpoint"),
        ("text named safetensors", "not a safetensors file"),
        ("truncated", "cut off"),
        ("truncated safetensors", "cut off"),
        ("a list", "holds a list"),
        ("no tensors", "holds no tensors.*'epoch', 'best'"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, capsys, kind, words):
    path = _bad_file(tmp_path, kind)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tiny_cada(), path)
    assert convert.main([str(path), str(tmp_path / "out.pth")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert path.name in error
    assert [p.name for p in tmp_path.iterdir() if p != path] == []


def test_another_architecture_is_named_with_both_shapes_and_changes_nothing():
    model = tiny_cada(visual_encoder=cada_cfg()["visual_encoder"] | {"width": 64, "image_size": (32, 16)})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another architecture.*cls_token \(1, 1, 32\), the model \(1, 1, 64\)"):
        load_checkpoint(model, RELEASED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_another_vocabulary_points_at_the_tokenizer(tmp_path):
    torch.save(plain_bert(vocab_size=50), tmp_path / "bert.pth")
    with pytest.raises(CheckpointError, match=r"vocabulary differs: set tokenizer\.vocab"):
        load_checkpoint(tiny_cada(), tmp_path / "bert.pth")


def test_nothing_matching_shows_both_sides(tmp_path):
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), tmp_path / "conv.pth")
    with pytest.raises(CheckpointError, match=r"names like weight, bias, the model visual_encoder\.cls_token"):
        load_checkpoint(tiny_cada(), tmp_path / "conv.pth")


def test_strict_names_what_is_missing(tmp_path):
    torch.save(blip_like(tiny_cada()), tmp_path / "blip.pth")
    with pytest.raises(CheckpointError, match=r"strict=True.*itm_local_head"):
        load_checkpoint(tiny_cada(), tmp_path / "blip.pth", strict=True)


@pytest.mark.parametrize("target", ["no_such_folder/out.pth", "out.onnx"])
def test_a_target_that_cannot_be_written_is_said_in_one_line(tmp_path, capsys, target):
    assert convert.main([str(RELEASED), str(tmp_path / target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
