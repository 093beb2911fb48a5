"""Reading and writing weight files. A pickle is never trusted: torch's restricted reader takes tensors and plain data
only, and whatever else a file wants to build is refused, not run."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cada_plugin.compat import allow_mmengine_checkpoints
from cada_plugin.errors import CheckpointError

FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SHIPPED = "cada_plugin://"  # weights that come with the plugin, wherever it is installed
WEIGHTS = Path(__file__).parents[1] / "weights"
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_NAME_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_REFUSED = re.compile(r"(?:GLOBAL|callable|class|type|got) (?:<class ')?([A-Za-z_][\w.]*\.\w+)")


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU.

    Args:
        path: ``.pth``, ``.pt``, ``.bin`` or ``.safetensors``, or a Hugging Face folder (sharded ones too). Wrappers
            (``{'model': ...}``, ``{'state_dict': ...}``) and the prefixes of DistributedDataParallel and torch.compile
            are taken off; everything that is not a tensor is left out. ``cada_plugin://NAME`` is a file that ships with
            the plugin.

    Raises:
        CheckpointError: there is no such file, it is empty, damaged or not a checkpoint, or it would have to run code.
    """
    if str(path).startswith(SHIPPED):
        path = WEIGHTS / str(path).removeprefix(SHIPPED)
    path = Path(path).expanduser()
    if "://" in str(path) or re.match(r"\w{2,}:/\w", str(path)):
        raise CheckpointError(f"{path} is an address: download the file and give its local path")
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist (looked in {Path.cwd()})")
    state = _unwrap(_read_folder(path) if path.is_dir() else _read_file(path), path)
    for prefix in _NAME_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def read_checkpoint(path: str | os.PathLike) -> dict:
    """All that a torch file holds, such as the optimiser's state beside the weights. Errors are ``read_weights``'."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist (looked in {Path.cwd()})")
    loaded = _read_file(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict")
    return loaded


def write_weights(state: Mapping[str, Tensor], path: str | os.PathLike, wrap: bool = True) -> None:
    """Write a state dict to ``.safetensors`` or, by torch, to ``.pth``, ``.pt`` or ``.bin``; ``path`` appears complete
    or not at all. ``wrap`` puts torch files inside ``{'state_dict': ...}``, where MMEngine looks for it."""
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise CheckpointError(f"{path}: the name must end in .pth, .pt, .bin or .safetensors")
    if not path.parent.is_dir():
        raise CheckpointError(f"the folder {path.parent} does not exist: create it first")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as unfinished:
        if path.suffix == ".safetensors":  # the format has no shared tensors
            save_file({name: tensor.clone() for name, tensor in tensors.items()}, unfinished, metadata={"format": "pt"})
        else:
            torch.save({"state_dict": tensors} if wrap else tensors, unfinished)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that takes its place when the block ends well, and vanishes otherwise."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _read_folder(folder: Path) -> dict:
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"the folder {folder} holds no weights: expected one of {', '.join(FOLDER_FILES)}")
    if found.suffix != ".json":
        return _read_file(found)
    try:
        shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{found} is not an index of weight files: {error}") from error
    state: dict = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f"{found} names a file outside its folder: {shard!r}")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder} is incomplete: {shard}, named by {found.name}, is missing")
        state |= _read_file(folder / shard)
    return state


def _read_file(path: Path) -> dict:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes): the copy or download failed, fetch it again")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a safetensors file, or is cut off: {error}") from error
    allow_mmengine_checkpoints()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    reason = text.split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    if "WeightsUnpickler error" in text and ("GLOBAL" in reason or "allowlist" in reason or "Can only" in reason):
        name = _REFUSED.search(reason)
        what = f"build {name.group(1)}" if name else f"run code ({reason[:200]})"
        return CheckpointError(
            f"{path} was refused: it is a pickle that wants to {what}, which can execute anything, and nothing of it "
            "was run. Ask its author for a file with tensors only (a state dict, or .safetensors), or save one where "
            "you trust it: torch.save(model.state_dict(), ...)"
        )
    return CheckpointError(
        f"{path} is not a checkpoint, or is cut off or damaged ({type(error).__name__}: {reason[:200]}): "
        "compare its size with the original and fetch it again"
    )


def _unwrap(loaded: object, path: Path) -> dict[str, Tensor]:
    for _ in range(2):  # {'model': {'state_dict': ...}} is seen too
        if isinstance(loaded, dict):
            loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a dict of tensors: save model.state_dict()")
    state = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(repr, list(loaded)[:8])) or "nothing"
        raise CheckpointError(f"{path} holds no tensors where weights are kept ({', '.join(_WRAPPERS)}); it has {keys}")
    return state
