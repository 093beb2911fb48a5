"""Files that are made to run code, to crash the interpreter or to exhaust memory: refused at every door, and
nothing is called.

The probes are inert: they stop where an attack would begin, at the first call that it needs.
"""

import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runner_factory as factory
import torch
from checkpoint_factory import cada_cfg, tiny_cada
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner

from cada_plugin.apis import load_retriever
from cada_plugin.checkpoints import load_checkpoint, load_into_runner, read_weights
from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.checkpoints.pickled_values import ALLOWED
from cada_plugin.checkpoints.training_state import to_plain
from cada_plugin.errors import CheckpointError
from cada_plugin.models.encoders import TorchreidEncoder


class Op:
    """Writes pickles by hand: what a program that pickles honestly never writes."""

    @staticmethod
    def name(module: str, name: str) -> bytes:
        return b"c" + f"{module}\n{name}\n".encode()

    @staticmethod
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    @staticmethod
    def raw(value: bytes) -> bytes:
        return b"B" + struct.pack("<I", len(value)) + value

    @staticmethod
    def tuple(*items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    @staticmethod
    def call(function: bytes, *args: bytes) -> bytes:
        return function + Op.tuple(*args) + b"R"

    @staticmethod
    def build(target: bytes, state: bytes) -> bytes:
        return target + state + b"b"


NUMBER = b"K\x01"
OBJECT = Op.call(Op.name("numpy", "dtype"), Op.text("O"), b"\x89", b"\x88")
FLOAT = Op.call(Op.name("numpy", "dtype"), Op.text("f8"), b"\x89", b"\x88")
HISTORY = Op.name("mmengine.logging.history_buffer", "HistoryBuffer")
RECONSTRUCT = Op.call(
    Op.name("numpy.core.multiarray", "_reconstruct"), Op.name("numpy", "ndarray"), Op.tuple(b"K\x00"), Op.raw(b"b")
)


def array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    return Op.build(RECONSTRUCT, Op.tuple(NUMBER, shape, dtype, b"\x89", data))


FORGED = Op.build(
    FLOAT,
    Op.tuple(
        b"K\x03",
        Op.text("<"),
        Op.tuple(NUMBER, Op.tuple(NUMBER)),
        Op.tuple(Op.text("a")),
        b"}",
        b"K\x08",
        NUMBER,
        NUMBER,
    ),
)
PROBES = {
    "array of objects": Op.call(Op.name("numpy", "ndarray"), Op.tuple(NUMBER), OBJECT, Op.raw(bytes(8))),
    "array called": Op.call(Op.name("numpy", "ndarray"), Op.tuple(NUMBER), FLOAT, Op.raw(bytes(8))),
    "array of objects, filled later": array(Op.tuple(NUMBER), OBJECT, Op.raw(bytes(8))),
    "type of objects": OBJECT,
    "type with forged fields": array(Op.tuple(NUMBER), FORGED, Op.raw(bytes(8))),
    "number of objects": Op.call(Op.name("numpy.core.multiarray", "scalar"), OBJECT, Op.raw(bytes(8))),
    "attribute of a class": Op.call(Op.name("builtins", "getattr"), HISTORY, Op.text("__init__")),
    "attribute of a function": Op.call(
        Op.name("builtins", "getattr"),
        Op.call(Op.name("builtins", "getattr"), HISTORY, Op.text("mean")),
        Op.text("__globals__"),
    ),
    "attribute of Python 2's name": Op.call(Op.name("__builtin__", "getattr"), HISTORY, Op.text("update")),
    "call of what was called": Op.call(Op.call(Op.name("collections", "OrderedDict"))),
    "state of a name": Op.build(HISTORY, b"}"),
    "state of a dict": Op.build(b"}", b"}"),
    "eval": Op.call(Op.name("builtins", "eval"), Op.text("1")),
    "exec": Op.call(Op.name("builtins", "exec"), Op.text("1")),
    "system": Op.call(Op.name("posix", "system"), Op.text("true")),
    "torch.load": Op.call(Op.name("torch", "load"), Op.text("x")),
    "instance": b"(" + Op.name("builtins", "object")[1:].join([b"i", b""]),
    "items of a list": b"]" + Op.text("a") + NUMBER + b"s",
    "key that is a tuple": b"}" + Op.tuple(NUMBER) + NUMBER + b"s",
    "method by dots": Op.text("collections") + Op.text("OrderedDict.fromkeys") + b"\x93",
}


def write_probe(path: Path, probe: bytes, legacy: bool = False) -> Path:
    """A checkpoint with harmless weights and a probe beside them."""
    weights = Op.text("epoch") + NUMBER
    content = b"\x80\x02}(" + weights + Op.text("probe") + probe + b"u."
    if legacy:
        head = b"".join(
            pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        )
        path.write_bytes(head + content + pickle.dumps([], protocol=2))
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    return path


@pytest.fixture
def no_pickle(monkeypatch):
    """Whoever unpickles here is caught."""

    def caught(*args: object, **kwargs: object) -> None:
        pytest.fail("a pickle was loaded")

    for owner, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, caught)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", PROBES)
def test_no_probe_reaches_a_call(tmp_path, no_pickle, name, legacy):
    path = write_probe(tmp_path / "probe.pth", PROBES[name], legacy)
    with pytest.raises(CheckpointError, match=r"probe\.pth was refused: .*nothing of it was run"):
        read_checkpoint(path)


def _plain_runner(tmp_path: Path, **settings: object) -> Runner:
    return Runner.from_cfg(
        {"model": cada_cfg(), "work_dir": str(tmp_path / "work"), "experiment_name": str(tmp_path), **settings}
    )


def _folder(path: Path, sharded: bool) -> Path:
    folder = path.with_suffix("")
    folder.mkdir()
    path.rename(folder / ("part.bin" if sharded else "pytorch_model.bin"))
    if sharded:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "part.bin"}}))
    return folder


def _initialise(path: Path, tmp_path: Path) -> None:
    tiny_cada(init_cfg={"type": "Pretrained", "checkpoint": str(path)}).init_weights()


DOORS: dict[str, Callable[[Path, Path], object]] = {
    "read_weights": lambda path, tmp: read_weights(path),
    "read_checkpoint": lambda path, tmp: read_checkpoint(path),
    "load_checkpoint": lambda path, tmp: load_checkpoint(tiny_cada(), path),
    "load_retriever": lambda path, tmp: load_retriever(factory.REPO / "configs/cada_procedural.py", path),
    "folder": lambda path, tmp: read_weights(_folder(path, sharded=False)),
    "folder of shards": lambda path, tmp: read_weights(_folder(path, sharded=True)),
    "init_cfg": _initialise,
    "load_into_runner": lambda path, tmp: load_into_runner(_plain_runner(tmp), path),
    "plain Runner, load_from": lambda path, tmp: _plain_runner(tmp, load_from=str(path)).load_or_resume(),
    "plain Runner, resume": lambda path, tmp: _plain_runner(tmp, load_from=str(path), resume=True).load_or_resume(),
    "torchreid": lambda path, tmp: TorchreidEncoder("osnet_x0_25", weights=path),
}


@pytest.mark.parametrize("name", ["array of objects", "type with forged fields", "attribute of a function", "exec"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses(tmp_path, no_pickle, door, name):
    path = write_probe(tmp_path / "probe.pth", PROBES[name])
    with pytest.raises(CheckpointError, match="was refused"):
        DOORS[door](path, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["train", "test", "convert_checkpoint"])
def test_the_tools_refuse(tmp_path, tool):
    path = write_probe(tmp_path / "probe.pth", PROBES["array of objects"])
    config = factory.REPO / "configs/cada_procedural.py"
    args = {
        "train": [config, "--resume", path],
        "test": [config, path],
        "convert_checkpoint": [path, tmp_path / "x.pth"],
    }
    outcome = factory.tool(tool, *args[tool], cwd=tmp_path)
    assert outcome.status == 2
    assert "was refused" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_nothing_is_allowed_for_the_whole_process():
    tiny_cada()
    allowed = [
        entry[1] if isinstance(entry, tuple) else entry.__module__ for entry in torch.serialization.get_safe_globals()
    ]
    assert not [name for name in allowed if name.startswith(("numpy", "mmengine", "cada_plugin", "builtins.getattr"))]
    assert not [name for name in ALLOWED if name.startswith(("os.", "posix.", "sys.", "subprocess."))]


# ---------------------------------------------------------------- what honest files hold


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_of_every_kind_come_back(tmp_path, legacy):
    base = torch.arange(24.0).view(2, 3, 4)
    kinds = [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    tensors = {str(kind): base.to(kind) for kind in kinds}
    tensors |= {"view": base[1, ::2].T, "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    tensors |= {"parameter": torch.nn.Parameter(base), "tied": base, "complex": torch.complex(base, base)}
    if not legacy:
        tensors |= {"uint16": torch.ones(3, dtype=torch.uint16), "float8": torch.ones(3).to(torch.float8_e4m3fn)}
    torch.save(tensors, tmp_path / "all.pth", _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "all.pth")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(
            found[name].double() if name == "float8" else found[name],
            tensor.data.double() if name == "float8" else tensor.data,
        ), name
    assert found["tied"].data_ptr() == found["parameter"].data_ptr()


def test_optimizer_scheduler_and_a_model_with_its_version_come_back(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(state, tmp_path / "state.pth")
    found, expected = read_checkpoint(tmp_path / "state.pth"), torch.load(tmp_path / "state.pth", weights_only=True)
    assert found["scheduler"] == expected["scheduler"]
    assert found["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]
    for index, own in expected["optimizer"]["state"].items():
        for key, value in own.items():
            assert torch.equal(found["optimizer"]["state"][index][key], value)
    assert all(torch.equal(found["model"][name], value) for name, value in state["model"].items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_and_the_history_of_mmengine_come_back_as_their_values(tmp_path, protocol):
    hub = MessageHub.get_instance(f"history {protocol}")
    for value in (0.5, 0.25):
        hub.update_scalar("train/loss", value)
    content = {
        "hub": hub.state_dict(),
        "numbers": [np.int64(3), np.float32(0.5), np.bool_(True)],
        "arrays": [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3, 2)), np.array(["ab", "c"])],
    }
    torch.save(content, tmp_path / "numpy.pth", pickle_protocol=protocol)
    found = read_checkpoint(tmp_path / "numpy.pth")
    history = found["hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer)
    assert [part.tolist() for part in history.data] == [[0.5, 0.25], [1, 1]]
    assert found["numbers"] == [3, 0.5, True]
    assert all(np.array_equal(a, b) for a, b in zip(found["arrays"], content["arrays"], strict=True))


def test_what_we_write_needs_no_numpy(tmp_path):
    hub = MessageHub.get_instance("plain")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("best", np.float64(3))
    torch.save(to_plain({"message_hub": hub.state_dict(), "ids": np.arange(3)}), tmp_path / "plain.pth")
    assert "numpy" not in zipfile.ZipFile(tmp_path / "plain.pth").read("plain/data.pkl").decode("latin1")
    found = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert found["message_hub"]["runtime_info"]["best"] == 3


# ---------------------------------------------------------------- sizes


def _limited(path: Path, megabytes: int = 400) -> CheckpointError:
    """The error of reading ``path`` while so much more memory than now is allowed."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            read_weights(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return caught.value


@pytest.mark.slow
def test_a_compressed_storage_is_refused_before_it_is_unpacked(tmp_path):
    size = 2**31
    torch.save({"w": torch.ones(4)}, tmp_path / "small.pth")
    with zipfile.ZipFile(tmp_path / "small.pth") as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as target:
        target.writestr("bomb/data.pkl", source.read("small/data.pkl"))
        with target.open(zipfile.ZipInfo("bomb/data/0"), "w", force_zip64=True) as entry:
            pass
        info = zipfile.ZipInfo("bomb/data/1")
        info.compress_type = zipfile.ZIP_DEFLATED
        with target.open(info, "w", force_zip64=True) as entry:
            for _ in range(size // 2**24):
                entry.write(bytes(2**24))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**22
    assert "compressed" in str(_limited(tmp_path / "bomb.pth"))


def test_parts_that_add_up_to_more_than_the_file_are_refused(tmp_path):
    torch.save({"w": torch.ones(1000)}, tmp_path / "w.pth")
    data = bytearray((tmp_path / "w.pth").read_bytes())
    start = data.index(b"PK\x01\x02", data.index(b"w/data/0"))
    position = data.index(b"w/data/0", start) - 46  # of the entry in the directory at the end
    for field in (20, 24):  # compressed and real size
        data[position + field : position + field + 4] = struct.pack("<I", 2**31 - 1)
    (tmp_path / "w.pth").write_bytes(data)
    _limited(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(1).expand(10**12), "repeats 1 stored numbers"),
        (torch.zeros(1, 1).expand(2**30, 2**30), "repeats"),
    ],
)
def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path, tensor, words):
    torch.save({"model": {"w": tensor}}, tmp_path / "stride.pth")
    assert words in str(_limited(tmp_path / "stride.pth"))
    assert "model.w" in str(_limited(tmp_path / "stride.pth"))


def _saved(path: Path, **tensor: object) -> Path:
    torch.save({"model": tensor}, path)
    return path


def test_a_shape_beyond_the_storage_is_refused(tmp_path):
    path = _saved(tmp_path / "w.pth", w=torch.arange(6.0))
    data = path.read_bytes()
    pickled = zipfile.ZipFile(path).read("w/data.pkl")
    forged = pickled.replace(b"K\x00K\x06\x85", b"K\x00K\x60\x85")  # its size, after the offset
    assert forged != pickled
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, forged if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(CheckpointError, match=r"model\.w of shape \(96,\) reaches beyond the 6 numbers"):
        read_weights(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.empty(3, device="meta"), "meta tensor"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
    ],
    ids=["meta", "sparse", "quantised"],
)
def test_tensors_without_ordinary_numbers_are_named(tmp_path, tensor, words):
    with pytest.raises(
        CheckpointError, match=rf"w\.pth: model\.bad is .*{words}|model\.bad {words}|model\.bad is {words}"
    ):
        read_weights(_saved(tmp_path / "w.pth", good=torch.ones(1), bad=tensor))


def test_nesting_and_circles_end(tmp_path):
    deep: dict = {}
    for _ in range(5000):
        deep = {"a": deep}
    content = b"\x80\x02" + b"}" * 1 + b"q\x00" + Op.text("x") + b"h\x00" + b"s."  # a dict that holds itself
    with zipfile.ZipFile(tmp_path / "circle.pth", "w") as archive:
        archive.writestr("a/data.pkl", content)
    with pytest.raises(CheckpointError, match="contains itself"):
        read_weights(tmp_path / "circle.pth")
    pickled = b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."
    with zipfile.ZipFile(tmp_path / "deep.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(CheckpointError, match="nested more than"):
        read_weights(tmp_path / "deep.pth")


def test_a_pickle_that_doubles_itself_costs_nothing(tmp_path):
    """Thirty lists that each hold the one before twice: a billion elements, if somebody copied them."""
    body = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(30))
    with zipfile.ZipFile(tmp_path / "double.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + body + b".")
    assert "again and again" in str(_limited(tmp_path / "double.pth"))


@pytest.mark.slow
def test_a_small_pickle_does_not_become_many_containers(tmp_path):
    for name, many in (("sets", b"\x8f"), ("dicts", b"}"), ("lists", b"]")):
        with zipfile.ZipFile(tmp_path / f"{name}.pth", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x04(" + many * 3_000_000 + b"l.")
        assert "lists and dicts" in str(_limited(tmp_path / f"{name}.pth"))


def test_weights_of_a_quantised_file_are_named(tmp_path):
    state = tiny_cada().state_dict()
    state["itm_head.weight"] = state["itm_head.weight"].to(torch.float8_e4m3fn)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"itm_head\.weight is of torch\.float8_e4m3fn"):
        load_checkpoint(tiny_cada(), tmp_path / "w.pth")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "index",
    [
        "[" * 100_000,
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": ["part.bin"]}}',
        '{"weight_map": ["part.bin"]}',
        json.dumps({"weight_map": {"a": "x" * 5000}}),
        json.dumps({"weight_map": {"a": "../part.bin"}}),
    ],
    ids=["nested", "number", "list", "no map", "overlong", "outside"],
)
def test_an_index_of_shards_that_is_none(tmp_path, index):
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(CheckpointError, match="index"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nosuchuser/w.pth"])
def test_a_path_that_is_none(name):
    with pytest.raises(CheckpointError, match=r"cannot be opened|does not exist"):
        read_weights(name)


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        read_weights(tmp_path / "pipe.pth")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.masked_fill(torch.ones_like(tensor, dtype=torch.bool), float("nan")), "NaN or infinite"),
        (lambda tensor: tensor.long(), "is of torch.int64, the model's of torch.float32"),
        (lambda tensor: tensor.to(torch.complex64), "is of torch.complex64"),
    ],
    ids=["nan", "integer", "complex"],
)
def test_weights_that_cannot_be_used_are_named_and_change_nothing(tmp_path, change, words):
    model = tiny_cada()
    state = tiny_cada().state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["itm_head.weight"] = change(state["itm_head.weight"])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"itm_head\.weight .*{words}"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("shape", [(17, 32), (2, 17, 32), (1, 0, 32), (1, 1, 32), (1, 17, 4, 32)])
def test_odd_position_embeddings_are_named(tmp_path, shape):
    model, state = tiny_cada(), tiny_cada().state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["visual_encoder.pos_embed"] = torch.ones(shape)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="pos_embed"):
        load_checkpoint(model, tmp_path / "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
