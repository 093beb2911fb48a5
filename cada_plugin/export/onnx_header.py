"""Read the head of an ONNX file (versions and metadata) without the ``onnx`` package, which a search does not need."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cada_plugin.errors import CheckpointError

OPSET = 18
"""Version of ONNX's operators that graphs are written with, and the oldest that is read."""
FINGERPRINT = "cada_plugin.fingerprint"
"""Key of the model's fingerprint in the metadata of a graph."""
# Numbers of fields of ModelProto, OperatorSetIdProto and StringStringEntryProto in onnx.proto.
_OPSET_IMPORT, _METADATA, _FIRST, _SECOND = 8, 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Header:
    """``opset`` of ONNX's own operators, 0 if none is named, and the ``metadata`` of a file."""

    opset: int
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of an ONNX file.

    Raises:
        CheckpointError: the file is missing, cut off, or no ONNX file.
    """
    opset, metadata = 0, {}
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                number, content = _field(file, size, wanted=(_OPSET_IMPORT, _METADATA))
                if content is None:
                    continue
                first, second = _entry(content)
                if number == _OPSET_IMPORT and first in (b"", b"ai.onnx"):
                    opset = second
                elif number == _METADATA:
                    metadata[first.decode()] = second.decode()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is missing, cut off or no ONNX file ({error}): export the model again"
        ) from error
    return Header(opset, metadata)


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value


def _field(file: BinaryIO, end: int, wanted: tuple[int, ...]) -> tuple[int, bytes | int | None]:
    """Number and content of the next field; None for a field that is not wanted and skipped."""
    key = _varint(file)
    number, kind = key >> 3, key & 7
    if kind == _VARINT:
        value = _varint(file)
        return number, value if number in wanted else None
    length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
    if kind == _BYTES:
        length = _varint(file)
    if length is None or number == 0 or file.tell() + length > end:
        raise ValueError("a field of it does not end inside the file")
    if number not in wanted:
        file.seek(length, 1)
        return number, None
    return number, file.read(length)


def _entry(content: bytes) -> tuple[bytes, bytes | int]:
    """The two fields of a small message; the first defaults to the empty text."""
    found = dict(_fields(io.BytesIO(content), len(content)))
    return found.get(_FIRST, b""), found.get(_SECOND, b"")


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes | int]]:
    while file.tell() < end:
        number, value = _field(file, end, wanted=(_FIRST, _SECOND))
        if value is not None:
            yield number, value
