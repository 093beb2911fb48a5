"""Whatever a checkpoint file holds, reading it gives its content or one of our errors, and never anything else."""

import contextlib
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from safetensors.torch import save as save_safetensors

from cada_plugin.checkpoints import read_weights
from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.checkpoints.training_state import check_training_state, clean, file_name, not_finite, to_plain
from cada_plugin.engine.resume import Place, last_checkpoint, last_good_checkpoint
from cada_plugin.errors import CADAError, CheckpointError

FEW = settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
MANY = settings(
    max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(min_size=1, max_size=20)
)
tensors = st.builds(
    lambda shape, kind: torch.ones(shape, dtype=kind),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
arrays = st.builds(
    lambda n, kind: np.arange(n).astype(kind), st.integers(0, 5), st.sampled_from(["f4", "f8", "i8", "?"])
)
histories = st.builds(lambda values: HistoryBuffer(values, [1] * len(values)), st.lists(st.floats(-9, 9), max_size=4))
trees = st.recursive(
    scalars | tensors | arrays | histories,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)
counts = st.integers(-3, 10) | st.floats() | st.text(max_size=5) | st.none()
runtime_keys = st.sampled_from(["best_ckpt", "best_score", "keep_ckpt_ids", "last_ckpt", "x"])
states = st.fixed_dictionaries(
    {},
    optional={
        "meta": st.dictionaries(st.sampled_from(["epoch", "iter", "seed", "config", "cfg"]), counts) | trees,
        "state_dict": st.dictionaries(st.text(max_size=5), tensors | scalars, max_size=3) | trees,
        "optimizer": st.dictionaries(st.sampled_from(["state", "param_groups"]), trees) | trees,
        "message_hub": st.dictionaries(
            st.sampled_from(["log_scalars", "runtime_info", "resumed_keys"]),
            st.dictionaries(st.sampled_from(["best_ckpt", "best_score", "keep_ckpt_ids", "last_ckpt", "x"]), trees)
            | trees,
        )
        | trees,
    },
)


def saved(content: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


VALID = {
    "zip": saved({"model": {"w": torch.arange(6.0)}, "epoch": 3}),
    "legacy": saved({"model": {"w": torch.arange(6.0)}, "epoch": 3}, _use_new_zipfile_serialization=False),
    "safetensors": save_safetensors({"w": torch.arange(6.0), "b": torch.ones(2, 3)}),
}
headers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["F32", "I64", "F4"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["w", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4)
    ),
    max_leaves=12,
)
edits = st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=0, max_size=4)), min_size=1, max_size=4)


def mutated(content: bytes, changes: list, cut: int) -> bytes:
    data = bytearray(content)
    for position, new in changes:
        start = position % len(data)
        data[start : start + len(new)] = new
    return bytes(data[: len(data) - cut % len(data)])


def read(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_weights(path)


def _bytes(tmp_path_factory, kind, changes, cut):
    name = "w.safetensors" if kind == "safetensors" else "w.pth"
    read(tmp_path_factory.getbasetemp(), name, mutated(VALID[kind], changes, cut))


def _pickle_inside(tmp_path_factory, changes, cut):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(VALID["zip"])) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, mutated(content, changes, cut % 30) if name.endswith(".pkl") else content)
    read(tmp_path_factory.getbasetemp(), "p.pth", buffer.getvalue())


def _safetensors_header(tmp_path_factory, header):
    text = json.dumps(header).encode()
    read(tmp_path_factory.getbasetemp(), "h.safetensors", struct.pack("<Q", len(text)) + text + bytes(64))


def _round_trip(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.pth"
    for content in (tree, to_plain(tree)):
        torch.save({"content": content}, path)
        same(read_checkpoint(path)["content"], content)
    torch.load(path, weights_only=True)  # the plain form, by anybody's reader


def same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected)
    elif isinstance(expected, HistoryBuffer):
        assert all(np.array_equal(a, b) for a, b in zip(found.data, expected.data, strict=True))
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    else:
        assert found == expected or (found != found and expected != expected)


def _training_state(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.pth"
    torch.save(state, path)
    with contextlib.suppress(CADAError):
        check_training_state(path)
        assert {"meta", "state_dict", "optimizer", "message_hub"} <= state.keys()
    try:
        found = clean(read_checkpoint(path))
    except CADAError:
        return
    info = found.get("message_hub", {}).get("runtime_info", {})
    assert not [key for key in info if str(key).startswith(("best_ckpt", "last_ckpt"))]
    assert all("/" not in str(value) for key, value in info.items() if str(key).startswith("saved_best"))
    assert "config" not in (found["meta"] if isinstance(found.get("meta"), dict) else {})


def _note(tmp_path_factory, note, names):
    folder = tmp_path_factory.mktemp("note")
    (folder / "last_checkpoint").write_bytes(note)
    for number in names:
        (folder / f"epoch_{number}.pth").write_bytes(VALID["zip"])
    found = last_checkpoint(folder)
    assert (found is None) == (not names) or found.parent == folder
    if names:  # they hold weights alone
        with pytest.raises(CheckpointError, match="none of the"):
            last_good_checkpoint(Place(folder, folder))
    else:
        assert last_good_checkpoint(Place(folder, folder)) == (None, [])


CASES = {
    "bytes": (
        _bytes,
        {"kind": st.sampled_from(list(VALID)), "changes": edits, "cut": st.integers(0, 3000) | st.just(0)},
    ),
    "pickle": (_pickle_inside, {"changes": edits, "cut": st.just(0) | st.integers(0, 40)}),
    "header": (_safetensors_header, {"header": headers}),
    "round trip": (_round_trip, {"tree": trees}),
    "training state": (_training_state, {"state": states}),
    "last_checkpoint": (_note, {"note": st.binary(max_size=30), "names": st.sets(st.integers(0, 20), max_size=3)}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_few_cases(tmp_path_factory, name):
    case, strategies = CASES[name]
    FEW(given(**strategies)(lambda **values: case(tmp_path_factory, **values)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_cases(tmp_path_factory, name):
    case, strategies = CASES[name]
    MANY(given(**strategies)(lambda **values: case(tmp_path_factory, **values)))()


@given(path=st.text(max_size=60))
@FEW
def test_a_file_name_is_one_part_of_a_path(path):
    name = file_name(path)
    assert "/" not in name
    assert name not in ("..", ".") or (Path("/work") / name).name == name


def test_not_finite_names_what_is_broken():
    tree = {"a": [torch.ones(2), torch.tensor([1.0, float("nan")])], "b": {"c": torch.tensor(float("inf"))}, "d": 3}
    assert not_finite(tree) == ["a.1", "b.c"]
