"""Read files of ``torch.save`` as tensors and plain data, without running anything that they contain.

:mod:`cada_plugin.checkpoints.pickles` reads the pickle inside as data. From that,
:mod:`cada_plugin.checkpoints.pickled_values` builds the values that weights and MMEngine's training state consist of.
This module reads the two containers in which torch puts the pickle and its storages. Sizes are checked in the headers
before anything is read, so that no file needs much more memory than it has bytes.
"""

import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from cada_plugin.checkpoints.pickled_values import ALLOWED, ValueBuilder, storage_of
from cada_plugin.checkpoints.pickles import Call, Name, Persistent, PickleRefused, read_pickle
from cada_plugin.errors import CheckpointError

MAX_PICKLE = 256_000_000  # bytes, our limit; a pickle holds names and shapes, about 100 bytes per tensor
MAX_PATHS = 20_000_000  # our limit on the parts of a file, each counted once for every path that leads to it
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\x03\x04"


def read_torch_file(path: Path) -> Any:
    """The content of a file of ``torch.save``, in either of its formats, with tensors on the CPU.

    MMEngine's ``HistoryBuffer`` and numpy's numbers and arrays, which its Runner saves beside the weights, are rebuilt
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
        if any(name.endswith("constants.pkl") and name.count("/") <= 1 for name in entries):
            raise CheckpointError(
                "it is a TorchScript program and not weights: take what torch.save wrote of its state_dict(), as in "
                "torch.save(torch.jit.load(OLD, map_location='cpu').state_dict(), NEW), where you trust the file"
            )
        _check_sizes(entries, path.stat().st_size)
        pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise CheckpointError("it is a ZIP archive, but not one of torch.save: it has no data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")
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
    """Build the content of a file.

    Raises:
        CheckpointError: it refers to its own parts so often that a loop over all of them would practically never end.
    """
    result = ValueBuilder(read).build(content)
    if _paths(result, {}) > MAX_PATHS:
        raise CheckpointError("it refers to the same content again and again, so that no end of it could be reached")
    return result


def _paths(node: Any, known: dict[int, int]) -> int:
    """The number of paths from ``node`` to itself and its parts; a part that is referred to twice counts twice."""
    if not isinstance(node, dict | list | tuple):
        return 1
    if id(node) not in known:
        parts = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_paths(part, known) for part in parts)
    return known[id(node)]


def _check_sizes(entries: dict[str, zipfile.ZipInfo], available: int) -> None:
    """Refuse compressed archives and parts larger than the file. torch never compresses, and a small file that unpacks
    to a large one was made to exhaust memory."""
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries.values()):
        raise CheckpointError("it is compressed, which torch.save never does: unpack it, load it and save it again")
    if (total := sum(info.file_size for info in entries.values())) > available:
        raise CheckpointError(f"its parts add up to {total:,} bytes, but the file has {available:,}")
    for name, info in entries.items():
        if name.endswith(".pkl") and info.file_size > MAX_PICKLE:
            raise CheckpointError(f"its pickle has {info.file_size:,} bytes; allowed are {MAX_PICKLE:,}")


class _Bounded:
    """A file of which never more is read than it has, because a read first allocates all the memory requested."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell(), MAX_PICKLE))

    def readline(self) -> bytes:
        return self._file.readline(MAX_PICKLE)


def _read_legacy(file: IO[bytes], size: int) -> Any:
    """Read the format before torch 1.6: several pickles in a row, then the storages."""
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
            dtype, key, _ = storage_of(node)
            found[key] = dtype
        elif isinstance(node, Call):
            stack += [*node.args, node.state, *node.items.values()]
        elif isinstance(node, dict):
            stack += node.values()
        elif isinstance(node, list | tuple) and not isinstance(node, Name):
            stack += node
    return found


def _fill(source: IO[bytes], size: int) -> torch.UntypedStorage:
    """Read the next ``size`` bytes directly into a new storage, without another copy."""
    buffer = torch.empty(size, dtype=torch.uint8)
    view = memoryview(buffer.numpy())
    done = 0
    while done < size:
        count = source.readinto(view[done:])
        if not count:
            raise CheckpointError(f"it is cut off: {size - done:,} bytes of a storage are missing")
        done += count
    return buffer.untyped_storage()
