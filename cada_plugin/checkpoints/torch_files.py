"""Files of ``torch.save`` as tensors and plain data, without running anything that they contain.

The pickle inside is read as data (:mod:`cada_plugin.checkpoints.pickles`). Of the calls that it asks for, those that
weights and MMEngine's training state consist of are carried out here by hand, after their arguments were checked:
shapes against the bytes that are there, types against a list. Sizes are bounded from the headers, before anything is
read, so that no file needs much more memory than it has bytes.
"""

import io
import math
import re
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from cada_plugin.checkpoints.pickles import Call, Name, Persistent, PickleRefused, read_pickle
from cada_plugin.errors import CheckpointError

MAX_PICKLE = 256_000_000  # bytes; ours: the pickle of a checkpoint holds names and shapes, about 100 bytes a tensor
MAX_PATHS = 20_000_000  # parts of a file, each counted as often as something refers to it
MAX_DEPTH = 100  # of dicts in dicts; a Runner's checkpoint has 6
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\x03\x04"

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_NUMPY_KIND = re.compile(r"[biuf][1248]|U[1-9][0-9]{0,4}")
_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_STATISTICS = {f"{_HISTORY}.{method}" for method in ("min", "max", "mean", "current")}
_VALUELESS = {
    "torch._utils._rebuild_meta_tensor_no_storage": "is a meta tensor, which has a shape but no values",
    "torch._utils._rebuild_sparse_tensor": "is sparse",
    "torch._utils._rebuild_qtensor": "is quantised",
    "torch._utils._rebuild_nested_tensor": "is nested",
    "torch._utils._rebuild_wrapper_subclass": "is of a tensor type of another package",
}


def read_torch_file(path: Path) -> Any:
    """What ``torch.save`` wrote, with tensors on the CPU; both of its formats.

    MMEngine's ``HistoryBuffer`` and numpy's numbers and arrays, which its Runner puts beside the weights, are made anew
    from their checked content. Attributes of dicts and tensors are left out.

    Raises:
        CheckpointError: the file is damaged, or wants something that weights do not need; nothing was run.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == _ZIP:
                return _read_zip(path)
            file.seek(0)
            return _read_legacy(file, path.stat().st_size)
    except PickleRefused as error:
        raise CheckpointError(
            f"{path} was refused: it is a pickle that wants to {str(error)[:200]}, which weights do not need and which "
            "could execute anything; nothing of it was run. Ask its author for a file with tensors only (a state dict, "
            "or .safetensors), or save one where you trust it: torch.save(model.state_dict(), ...)"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is not a checkpoint, or is cut off or damaged ({type(error).__name__}: {reason}): "
            "compare its size with the original and fetch it again"
        ) from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        _check_sizes(entries, path.stat().st_size)
        pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise CheckpointError("it is a ZIP archive, but not one of torch.save: it has no data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}constants.pkl" in entries:
            raise CheckpointError("it is a TorchScript program and not weights: save the state_dict() of its model")
        order = archive.read(f"{prefix}byteorder").decode() if f"{prefix}byteorder" in entries else "little"
        if order != sys.byteorder:
            raise CheckpointError(f"it was written on a {order}-endian machine: save it again on one like this")
        content = read_pickle(io.BytesIO(archive.read(pickles[0])), ALLOWED)

        def read(key: str, size: int) -> torch.UntypedStorage:
            info = entries.get(f"{prefix}data/{key}")
            if info is None or info.file_size != size:
                found = "missing" if info is None else f"{info.file_size:,} bytes long"
                raise CheckpointError(f"it is incomplete: storage {key!r} should have {size:,} bytes, and is {found}")
            with archive.open(info) as entry:
                return _fill(entry, size)

        return _built(content, read)


def _built(content: Any, read: Callable[[str, int], torch.UntypedStorage]) -> Any:
    """The content of a file, unless whoever walks through it would not come to an end."""
    result = _Builder(read).build(content)
    if _paths(result, {}) > MAX_PATHS:
        raise CheckpointError("it refers to the same content again and again, so that no end of it could be reached")
    return result


def _paths(node: Any, known: dict[int, int]) -> int:
    """In how many ways the parts of ``node`` can be reached, from it."""
    if not isinstance(node, dict | list | tuple):
        return 1
    if id(node) not in known:
        parts = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_paths(part, known) for part in parts)
    return known[id(node)]


def _check_sizes(entries: dict[str, zipfile.ZipInfo], available: int) -> None:
    """torch never compresses. A small file that unpacks to a large one is made to exhaust memory."""
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise CheckpointError("it is compressed, which torch.save never does: unpack it, load it and save it again")
    if (total := sum(info.file_size for info in entries.values())) > available:
        raise CheckpointError(f"its parts add up to {total:,} bytes, but the file has {available:,}")
    for name, info in entries.items():
        if name.endswith(".pkl") and info.file_size > MAX_PICKLE:
            raise CheckpointError(f"its pickle has {info.file_size:,} bytes; allowed are {MAX_PICKLE:,}")


class _Bounded:
    """A file that is never asked for more than it has: room for all of that would be made first."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell(), MAX_PICKLE))

    def readline(self) -> bytes:
        return self._file.readline(MAX_PICKLE)


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """The format before torch 1.6: pickles one after the other, then the storages."""
    pickles = _Bounded(file, size)
    magic = read_pickle(pickles, set())
    if magic != _LEGACY_MAGIC:
        raise ValueError("it does not begin as a file of torch.save does")
    read_pickle(pickles, set())  # the protocol's version
    if read_pickle(pickles, set()).get("little_endian") is not (sys.byteorder == "little"):
        raise CheckpointError("it was written on a machine of the other byte order: save it again on one like this")
    content = read_pickle(pickles, ALLOWED)
    storages: dict[str, torch.UntypedStorage] = {}
    needed = _storages_of(content)
    for key in read_pickle(pickles, set()):
        elements = struct.unpack("<q", file.read(8))[0]
        length = elements * needed[key].itemsize
        if not 0 <= length <= size - file.tell():
            raise CheckpointError(f"it is cut off: storage {key!r} should have {length:,} bytes")
        storages[key] = _fill(file, length)

    def read(key: str, length: int) -> torch.UntypedStorage:
        if key not in storages or storages[key].nbytes() != length:
            raise CheckpointError(f"it is incomplete: storage {key!r} is missing or of another size")
        return storages[key]

    return _built(content, read)


def _storages_of(content: Any) -> dict[str, torch.dtype]:
    """Element type of every storage that the content refers to, by key."""
    found: dict[str, torch.dtype] = {}
    seen: set[int] = set()
    stack = [content]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Persistent):
            dtype, key, _ = _storage(node)
            found[key] = dtype
        elif isinstance(node, Call):
            stack += [*node.args, node.state, *node.items.values()]
        elif isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, list | tuple) and not isinstance(node, Name):
            stack += node
    return found


def _fill(source: IO[bytes], size: int) -> torch.UntypedStorage:
    """The next ``size`` bytes as a storage, read once and copied nowhere."""
    buffer = torch.empty(size, dtype=torch.uint8)
    view = memoryview(buffer.numpy())
    done = 0
    while done < size:
        count = source.readinto(view[done:])
        if not count:
            raise CheckpointError(f"it is cut off: {size - done:,} bytes of a storage are missing")
        done += count
    return buffer.untyped_storage()


def _storage(reference: Persistent) -> tuple[torch.dtype, str, int]:
    """Element type, key and number of elements."""
    try:
        kind, storage_type, key, _, elements, *rest = reference.identity
    except (TypeError, ValueError):
        raise PickleRefused("refer to something that is no storage") from None
    if kind != "storage" or not isinstance(storage_type, Name) or any(rest):
        raise PickleRefused("refer to something that is no storage")
    dtype = torch.uint8 if storage_type.name == "UntypedStorage" else _STORAGES.get(storage_type.name)
    if dtype is None or not isinstance(key, str) or not _is_size(elements):
        raise PickleRefused("refer to a storage of an unknown kind")
    return dtype, key, elements


class _Builder:
    """Makes tensors and plain data of what :func:`read_pickle` gives.

    Args:
        read: the storage of a key, which must have so many bytes.
    """

    def __init__(self, read: Callable[[str, int], torch.UntypedStorage]) -> None:
        self._read = read
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()

    def build(self, node: Any, where: str = "", depth: int = 0) -> Any:
        """``where`` names the node in errors. A node that is met twice is built once."""
        if isinstance(node, str | int | float | bytes | None):
            return node
        if id(node) in self._built:
            return self._built[id(node)]
        if depth > MAX_DEPTH or id(node) in self._open:
            raise CheckpointError(f"{where[:80]}... is nested more than {MAX_DEPTH} levels deep, or contains itself")
        self._open.add(id(node))
        result = self._make(node, where, depth + 1)
        self._open.discard(id(node))
        self._built[id(node)] = result
        return result

    def _make(self, node: Any, where: str, depth: int) -> Any:
        if isinstance(node, dict):
            return {key: self.build(value, f"{where}.{key}".lstrip("."), depth) for key, value in node.items()}
        if isinstance(node, Call):
            return self._call(node, where, depth)
        if isinstance(node, Name):
            return self._constant(node)
        if isinstance(node, Persistent):
            raise PickleRefused("use a storage without a tensor")
        return type(node)(self.build(value, f"{where}[{number}]", depth) for number, value in enumerate(node))

    def _constant(self, name: Name) -> Any:
        if str(name) in _DTYPES:
            return _DTYPES[str(name)]
        if str(name) in _STATISTICS:
            return None
        raise PickleRefused(f"use {name} where a value is needed")

    def _call(self, call: Call, where: str, depth: int) -> Any:
        name = str(call.function)
        if name in _VALUELESS:
            raise CheckpointError(
                f"{where or 'its content'} {_VALUELESS[name]}: save the model with ordinary (dense) tensors"
            )
        if name not in _BUILDERS:
            raise PickleRefused(f"call {name}")
        return _BUILDERS[name](self, call, where, depth)

    # ------------------------------------------------------------ collections and numbers

    def _dict(self, call: Call, where: str, depth: int) -> dict:
        """OrderedDict and defaultdict; what they were made of, and then filled with."""
        start: dict = {}
        for arg in call.args:
            pairs = arg.items() if isinstance(arg, dict) else arg if isinstance(arg, list) else ()
            for key, value in pairs:
                if not isinstance(key, str | int | float | bytes | None):
                    raise PickleRefused("use dict keys that are neither numbers nor texts")
                start[key] = value
        return self._make({**start, **call.items}, where, depth)

    def _counter(self, call: Call, where: str, depth: int) -> Counter:
        return Counter(self._dict(call, where, depth))

    def _set(self, call: Call, where: str, depth: int) -> set:
        (values,) = call.args
        if not isinstance(values, list) or not all(isinstance(v, str | int | float | None) for v in values):
            raise PickleRefused("fill a set with more than numbers and texts")
        return set(values)

    def _complex(self, call: Call, where: str, depth: int) -> complex:
        real, imaginary = call.args
        return complex(float(real), float(imaginary))

    def _bytes(self, call: Call, where: str, depth: int) -> bytes:
        return _encoded(call)

    def _bytearray(self, call: Call, where: str, depth: int) -> bytes:
        return _encoded(call.args[0]) if call.args else b""

    def _size(self, call: Call, where: str, depth: int) -> torch.Size:
        (sizes,) = call.args
        return torch.Size(_sizes(sizes))

    def _text(self, call: Call, where: str, depth: int) -> str:
        """A device as its name: where the tensors were is of no interest."""
        return ":".join(str(part) for part in call.args if isinstance(part, str | int))[:32]

    # ------------------------------------------------------------ tensors

    def _tensor(self, call: Call, where: str, depth: int) -> Tensor:
        reference, offset, sizes, strides, *rest = call.args
        if not isinstance(reference, Persistent):
            raise PickleRefused("make a tensor of something that is no storage")
        dtype, key, elements = _storage(reference)
        length = elements * dtype.itemsize
        if call.function.name == "_rebuild_tensor_v3":  # newer types come as bytes, with their type at the end
            dtype = _DTYPES.get(str(rest[2]))
        if dtype is None:
            raise PickleRefused("make a tensor of an unknown type")
        sizes, strides = _sizes(sizes), _sizes(strides)
        count = math.prod(sizes)
        end = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1 if count else 0
        available = length // dtype.itemsize
        if not _is_size(offset) or end > available:
            raise CheckpointError(f"{where} of shape {sizes} reaches beyond the {available:,} numbers stored for it")
        if count > max(available, 1):
            raise CheckpointError(
                f"{where} of shape {sizes} repeats {available:,} stored numbers: save it after .contiguous(), or leave "
                "it out. Copied, it could be larger than all memory"
            )
        if key not in self._storages:
            self._storages[key] = self._read(key, length)
        return torch.empty(0, dtype=dtype).set_(self._storages[key], offset, sizes, strides)

    def _parameter(self, call: Call, where: str, depth: int) -> Any:
        return self.build(call.args[0], where, depth)

    def _subclass(self, call: Call, where: str, depth: int) -> Any:
        function, _, args, _ = call.args
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise PickleRefused("call something that is not a name")
        return self._call(Call(function, args), where, depth)  # not by ``build``, which knows nodes of the pickle only

    # ------------------------------------------------------------ numpy and MMEngine

    def _numpy_dtype(self, node: Any) -> np.dtype:
        """An element type, by its name alone. Fields, objects and sub-arrays are refused."""
        kind = node.args[0] if isinstance(node, Call) and str(node.function) == "numpy.dtype" and node.args else None
        if not isinstance(kind, str) or not _NUMPY_KIND.fullmatch(kind):
            raise PickleRefused("make a numpy array of something other than numbers or texts")
        _, order, *others = node.state if isinstance(node.state, tuple) else (3, "|")
        if order not in ("<", "=", "|") or any(other is not None for other in others[:3]):
            raise PickleRefused("make a numpy type of its own")
        return np.dtype(kind)

    def _number(self, call: Call, where: str, depth: int) -> int | float | bool | str:
        dtype, data = self._numpy_dtype(call.args[0]), _encoded(call.args[1])
        if len(data) != dtype.itemsize:
            raise CheckpointError(f"{where} is a number of {len(data)} bytes, expected {dtype.itemsize}")
        return np.frombuffer(data, dtype)[0].item()

    def _array(self, call: Call, where: str, depth: int) -> np.ndarray:
        if not isinstance(call.state, tuple) or len(call.state) != 5:
            raise PickleRefused("make a numpy array without content")
        _, shape, kind, fortran, data = call.state
        dtype, shape, data = self._numpy_dtype(kind), _sizes(shape), _encoded(data)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{where} is an array of shape {shape} with {len(data):,} bytes, which do not fit")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran is True else "C").copy()

    def _buffer(self, call: Call, where: str, depth: int) -> np.ndarray:
        """An array as pickle protocol 5 writes it."""
        data, kind, shape, order = call.args[:4]
        if order not in ("C", "F"):
            raise PickleRefused("make a numpy array of an unknown order")
        state = (1, shape, kind, order == "F", data)
        return self._array(Call(call.function, (), state), where, depth)

    def _history(self, call: Call, where: str, depth: int) -> HistoryBuffer:
        """The numbers alone; methods, which MMEngine pickles as well, are the class's own."""
        state = call.state if isinstance(call.state, dict) else {}
        values, counts = (
            self.build(state.get(key, []), f"{where}.{key}", depth) for key in ("_log_history", "_count_history")
        )
        return make_history(values, counts, state.get("max_length", 1_000_000))


def make_history(values: Any, counts: Any, max_length: Any) -> HistoryBuffer:
    """MMEngine's log history of checked numbers: arrays, tensors or lists of one axis and the same length."""
    try:
        values, counts = (
            (part.double().numpy() if isinstance(part, Tensor) else np.asarray(part)) for part in (values, counts)
        )
    except (TypeError, ValueError, RuntimeError):
        raise CheckpointError("its log history does not consist of numbers") from None
    is_flat = values.ndim == counts.ndim == 1 and values.shape == counts.shape
    if not is_flat or {values.dtype.kind, counts.dtype.kind} - set("fiub") or not _is_size(max_length):
        raise CheckpointError("its log history does not consist of as many values as counts")
    return HistoryBuffer(values, counts, max(max_length, len(values)))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and str(value.function) == "torch.Size":
        (value,) = value.args
    if not isinstance(value, tuple) or len(value) > 64 or not all(map(_is_size, value)):
        raise PickleRefused("use sizes that are no numbers")
    return value


def _encoded(node: Any) -> bytes:
    """Bytes, which pickle protocol 2 writes as a text to be encoded."""
    if isinstance(node, bytes):
        return node
    if isinstance(node, Call) and str(node.function) == "_codecs.encode" and len(node.args) == 2:
        text, encoding = node.args
        if isinstance(text, str) and encoding == "latin1":
            return text.encode("latin1")
    if isinstance(node, Call) and str(node.function) == "builtins.bytes" and not node.args:
        return b""
    raise PickleRefused("use something in place of bytes")


def _left_out(builder: _Builder, call: Call, where: str, depth: int) -> None:
    """A statistic of MMEngine's log history, which MMEngine pickles as an attribute: the class has it anyway."""
    owner, *name = call.args
    if not isinstance(owner, Name) or ".".join(map(str, (owner, *name))) not in _STATISTICS:
        raise PickleRefused("look up an attribute with builtins.getattr")


_BUILDERS: dict[str, Callable[[_Builder, Call, str, int], Any]] = {
    "collections.OrderedDict": _Builder._dict,
    "collections.defaultdict": _Builder._dict,
    "collections.Counter": _Builder._counter,
    "builtins.dict": _Builder._dict,
    "builtins.set": _Builder._set,
    "builtins.complex": _Builder._complex,
    "builtins.bytes": _Builder._bytes,
    "builtins.bytearray": _Builder._bytearray,
    "builtins.getattr": _left_out,
    "_codecs.encode": _Builder._bytes,
    "torch.Size": _Builder._size,
    "torch.device": _Builder._text,
    "torch._utils._rebuild_tensor": _Builder._tensor,
    "torch._utils._rebuild_tensor_v2": _Builder._tensor,
    "torch._utils._rebuild_tensor_v3": _Builder._tensor,
    "torch._utils._rebuild_parameter": _Builder._parameter,
    "torch._utils._rebuild_parameter_with_state": _Builder._parameter,
    "torch._tensor._rebuild_from_type_v2": _Builder._subclass,
    "numpy.core.multiarray._reconstruct": _Builder._array,
    "numpy._core.multiarray._reconstruct": _Builder._array,
    "numpy.core.numeric._frombuffer": _Builder._buffer,
    "numpy._core.numeric._frombuffer": _Builder._buffer,
    "numpy.core.multiarray.scalar": _Builder._number,
    "numpy._core.multiarray.scalar": _Builder._number,
    _HISTORY: _Builder._history,
}
_NEVER_CALLED = {
    *("numpy.ndarray", "numpy.dtype", "builtins.list", "builtins.int", "builtins.float", "torch.Tensor"),
    *("torch.nn.parameter.Parameter", "torch.storage.UntypedStorage", *_DTYPES, *_STATISTICS),
    # so that a tensor which is of no use here is named, and not the way in which it is pickled
    *("torch.serialization._get_layout", "torch.per_tensor_affine", "torch.per_channel_affine", *_VALUELESS),
    *(f"torch.{name}Storage" for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")),
}
ALLOWED = {*_BUILDERS, *_NEVER_CALLED, *(f"torch.{name}" for name in _STORAGES)}
"""Full names that a pickle may mention. None of them is imported because of it."""
