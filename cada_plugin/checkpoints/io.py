"""Read and write weight files. A pickle is never trusted: it is read as data, and a file that would call anything else
than weights need is refused, not run (see :mod:`cada_plugin.checkpoints.torch_files`)."""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cada_plugin.checkpoints.torch_files import read_torch_file
from cada_plugin.errors import CheckpointError
from cada_plugin.files import SHIPPED, replacing, writable_file

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
WEIGHTS = Path(__file__).parents[1] / "weights"
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_NAME_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


def shipped_path(path: str | os.PathLike) -> str | os.PathLike:
    """The file behind ``cada_plugin://NAME``; any other path as it is."""
    return WEIGHTS / str(path).removeprefix(SHIPPED) if str(path).startswith(SHIPPED) else path


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU.

    Args:
        path: a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file, or a Hugging Face folder (sharded or not).
            Wrappers (``{'model': ...}``, ``{'state_dict': ...}``) and the name prefixes of DistributedDataParallel and
            torch.compile are removed; everything that is not a tensor is left out. ``cada_plugin://NAME`` means a file
            that ships with the plugin.

    Raises:
        CheckpointError: the file does not exist, is empty, damaged or not a checkpoint, or reading it would run code.
    """
    path = shipped_path(path)
    if "://" in str(path) or re.match(r"\w{2,}:/\w", str(path)):
        raise CheckpointError(f"{path} is an address: download the file and give its local path")
    path = _existing(path)
    state = _unwrap(_read_folder(path) if path.is_dir() else _read_file(path), path)
    for prefix in _NAME_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Everything that a torch file holds, such as the optimiser's state beside the weights.

    Raises:
        CheckpointError: as in :func:`read_weights`.
    """
    path = _existing(path)
    loaded = _read_file(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict")
    return loaded


def write_weights(state: Mapping[str, Tensor], path: str | os.PathLike, wrap: bool = True) -> None:
    """Write a state dict to a ``.safetensors`` file or, by torch, to ``.pth``, ``.pt`` or ``.bin``. The file appears
    complete or not at all. ``wrap`` puts the weights of a torch file into ``{'state_dict': ...}``, where MMEngine looks
    for them."""
    path = check_target(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as unfinished:
        if path.suffix == ".safetensors":  # the format has no shared tensors
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, unfinished, metadata={"format": "pt"})
        else:
            torch.save({"state_dict": tensors} if wrap else tensors, unfinished)


def check_target(path: str | os.PathLike) -> Path:
    """Check that a weight file can be written, before the work that computes its content; returns its path.

    Raises:
        CheckpointError: the ending is of no known format, or the folder does not exist.
        ConfigError: the folder cannot be written to.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise CheckpointError(f"{path}: the name must end in .pth, .pt, .bin or .safetensors")
    if not path.parent.is_dir():
        raise CheckpointError(f"the folder {path.parent} does not exist: create it first")
    writable_file(path, "the weights")
    return path


def _existing(path: str | os.PathLike) -> Path:
    """The path with ``~`` expanded.

    Raises:
        CheckpointError: no file or folder is there.
    """
    try:
        found = Path(path).expanduser()
        mode = os.stat(found).st_mode
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist (looked in {Path.cwd()})") from None
    except (OSError, ValueError, RuntimeError) as error:  # a name that is too long, a NUL, ``~`` of an unknown user
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"checkpoint {str(path)[:200]!r} cannot be opened: {reason}") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe could wait for ever
        raise CheckpointError(f"checkpoint {path} is neither a file nor a folder")
    return found


def _read_folder(folder: Path) -> dict:
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"the folder {folder} holds no weights: expected one of {', '.join(FOLDER_FILES)}")
    return _read_shards(folder, found) if found.suffix == ".json" else _read_file(found)


def _read_shards(folder: Path, index: Path) -> dict:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{index} is not an index of weight files ({type(error).__name__}): fetch the folder again"
        ) from error
    state: dict = {}
    for shard in sorted(shards, key=str):
        if not isinstance(shard, str) or Path(shard).name != shard or len(os.fsencode(shard)) > 255:
            raise CheckpointError(f"{index} names what is no file of its folder: {str(shard)[:100]!r}")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} is incomplete: {shard}, named by {index.name}, is missing")
        state |= _read_file(folder / shard)
    return state


def _read_file(path: Path) -> dict:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes): the copy or download failed, fetch it again")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is cut off: {error}") from error


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    for _ in range(2):  # twice, for {'model': {'state_dict': ...}}
        if isinstance(loaded, dict):
            loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict of tensors: save model.state_dict()")
    state = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(repr, list(loaded)[:8])) or "nothing"
        raise CheckpointError(f"{path} holds no tensors where weights are kept ({', '.join(_WRAPPERS)}); it has {keys}")
    return state
