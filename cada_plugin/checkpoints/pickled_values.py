"""Build the values that the pickle of a weight file describes: tensors, collections, numpy numbers, MMEngine's log.

Nothing is called because a pickle says so. The arguments of every call are checked before a value is built from them:
shapes against the number of stored bytes, types against a list. A call that is in no table here is refused.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from cada_plugin.checkpoints.pickles import Call, Name, Persistent, PickleRefused
from cada_plugin.errors import CheckpointError

MAX_DEPTH = 100  # nesting of dicts, lists and calls; a Runner's checkpoint has 6 levels

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


def storage_of(reference: Persistent) -> tuple[torch.dtype, str, int]:
    """Element type, key and number of elements of the storage that ``reference`` means."""
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


class ValueBuilder:
    """Builds tensors and plain data from the result of :func:`read_pickle`.

    Args:
        read: returns the storage of a key, which must have the given number of bytes.
    """

    def __init__(self, read: Callable[[str, int], torch.UntypedStorage]) -> None:
        self._read = read
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()

    def build(self, node: Any, where: str = "", depth: int = 0) -> Any:
        """Build the value of a node. ``where`` is its path, for errors. A node that occurs twice is built once."""
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
        """OrderedDict or defaultdict, from the items in the constructor's arguments and those set later."""
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
        """A device as its name. The name is not used, because all tensors are read to the CPU."""
        return ":".join(str(part) for part in call.args if isinstance(part, str | int))[:32]

    # ------------------------------------------------------------ tensors

    def _tensor(self, call: Call, where: str, depth: int) -> Tensor:
        reference, offset, sizes, strides, *rest = call.args
        if not isinstance(reference, Persistent):
            raise PickleRefused("make a tensor of something that is no storage")
        dtype, key, elements = storage_of(reference)
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
        return self._call(Call(function, args), where, depth)  # not ``build``, which is for nodes of the pickle

    # ------------------------------------------------------------ numpy and MMEngine

    def _numpy_dtype(self, node: Any) -> np.dtype:
        """An element type, built from its name alone. Structured, object and sub-array types are refused."""
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
        """MMEngine's log history, from its numbers alone. MMEngine pickles its methods too, but the class has them."""
        state = call.state if isinstance(call.state, dict) else {}
        values, counts = (
            self.build(state.get(key, []), f"{where}.{key}", depth) for key in ("_log_history", "_count_history")
        )
        return make_history(values, counts, state.get("max_length", 1_000_000))


def make_history(values: Any, counts: Any, max_length: Any) -> HistoryBuffer:
    """MMEngine's log history, after checking that values and counts are numbers of one axis and the same length.

    Raises:
        CheckpointError: they are not.
    """
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
    """Bytes. Pickle protocol 2 writes them as a text with a call that encodes it."""
    if isinstance(node, bytes):
        return node
    if isinstance(node, Call) and str(node.function) == "_codecs.encode" and len(node.args) == 2:
        text, encoding = node.args
        if isinstance(text, str) and encoding == "latin1":
            return text.encode("latin1")
    if isinstance(node, Call) and str(node.function) == "builtins.bytes" and not node.args:
        return b""
    raise PickleRefused("use something in place of bytes")


def _left_out(builder: ValueBuilder, call: Call, where: str, depth: int) -> None:
    """None for a statistic of MMEngine's log history, which MMEngine pickles as an attribute of the class."""
    owner, *name = call.args
    if not isinstance(owner, Name) or ".".join(map(str, (owner, *name))) not in _STATISTICS:
        raise PickleRefused("look up an attribute with builtins.getattr")


_BUILDERS: dict[str, Callable[[ValueBuilder, Call, str, int], Any]] = {
    "collections.OrderedDict": ValueBuilder._dict,
    "collections.defaultdict": ValueBuilder._dict,
    "collections.Counter": ValueBuilder._counter,
    "builtins.dict": ValueBuilder._dict,
    "builtins.set": ValueBuilder._set,
    "builtins.complex": ValueBuilder._complex,
    "builtins.bytes": ValueBuilder._bytes,
    "builtins.bytearray": ValueBuilder._bytearray,
    "builtins.getattr": _left_out,
    "_codecs.encode": ValueBuilder._bytes,
    "torch.Size": ValueBuilder._size,
    "torch.device": ValueBuilder._text,
    "torch._utils._rebuild_tensor": ValueBuilder._tensor,
    "torch._utils._rebuild_tensor_v2": ValueBuilder._tensor,
    "torch._utils._rebuild_tensor_v3": ValueBuilder._tensor,
    "torch._utils._rebuild_parameter": ValueBuilder._parameter,
    "torch._utils._rebuild_parameter_with_state": ValueBuilder._parameter,
    "torch._tensor._rebuild_from_type_v2": ValueBuilder._subclass,
    "numpy.core.multiarray._reconstruct": ValueBuilder._array,
    "numpy._core.multiarray._reconstruct": ValueBuilder._array,
    "numpy.core.numeric._frombuffer": ValueBuilder._buffer,
    "numpy._core.numeric._frombuffer": ValueBuilder._buffer,
    "numpy.core.multiarray.scalar": ValueBuilder._number,
    "numpy._core.multiarray.scalar": ValueBuilder._number,
    _HISTORY: ValueBuilder._history,
}
_NEVER_CALLED = {
    *("numpy.ndarray", "numpy.dtype", "builtins.list", "builtins.int", "builtins.float", "torch.Tensor"),
    *("torch.nn.parameter.Parameter", "torch.storage.UntypedStorage", *_DTYPES, *_STATISTICS),
    # allowed so that the error is about the unsupported kind of tensor, and not about how it is pickled
    *("torch.serialization._get_layout", "torch.per_tensor_affine", "torch.per_channel_affine", *_VALUELESS),
    *(f"torch.{name}Storage" for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")),
}
ALLOWED = {*_BUILDERS, *_NEVER_CALLED, *(f"torch.{name}" for name in _STORAGES)}
"""Full names that a pickle may mention. Mentioning a name does not import it."""
