"""The training state that an MMEngine Runner saves beside the weights: saved as plain data, and checked when read.

A file may come from anywhere. The config inside is never executed, and no path inside is ever followed: of the path of
the best checkpoint only the file name is kept, and a Runner looks for it in its own work dir.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.checkpoints.pickled_values import make_history
from cada_plugin.errors import CheckpointError

_PARTS = {"meta", "state_dict", "optimizer", "message_hub"}
_HISTORY_KEYS = {"log_history", "count_history", "max_length"}
BEST, SAVED_BEST = "best_ckpt", "saved_best_ckpt"
"""Prefixes of keys of ``runtime_info``. Under the first, ``CheckpointHook`` keeps the path of its best checkpoint;
under the second, :func:`clean` puts the name of that file."""
_NUMBERS, SAVED_NUMBERS = "keep_ckpt_ids", "saved_keep_ckpt_ids"  # the same for the numbers of the kept epochs
_BEST_FILE = re.compile(r"best_[^/\\\0]{1,200}")


def to_plain(value: Any) -> Any:
    """A checkpoint without numpy and without MMEngine's log buffers, so that any reader of tensors can read it."""
    if isinstance(value, HistoryBuffer):
        numbers = (torch.from_numpy(np.ascontiguousarray(part, float)) for part in value.data)
        return {**dict(zip(("log_history", "count_history"), numbers, strict=True)), "max_length": value.max_length}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biuf" else value.tolist()
    if type(value) in (dict, OrderedDict, Counter):
        return type(value)({key: to_plain(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(map(to_plain, value))
    return value


def clean(checkpoint: dict) -> dict:
    """Make a checkpoint that was read from a file safe to resume from, in place.

    Log buffers are rebuilt from the plain data that :func:`to_plain` wrote. ``meta['config']``, which MMEngine would
    execute as Python, is removed, and so is every path.
    """
    meta = checkpoint.get("meta")
    if isinstance(meta, dict):
        meta.pop("config", None)
    hub = checkpoint.get("message_hub")
    if not isinstance(hub, dict) or not all(isinstance(hub.get(part, {}), dict) for part in hub):
        checkpoint.pop("message_hub", None)
        return checkpoint
    scalars, info, resumed = (hub.setdefault(part, {}) for part in ("log_scalars", "runtime_info", "resumed_keys"))
    for key, value in scalars.items():
        if isinstance(value, dict) and value.keys() == _HISTORY_KEYS:
            scalars[key] = make_history(*(value[part] for part in ("log_history", "count_history", "max_length")))
    for key in [key for key, value in resumed.items() if type(value) is not bool]:
        del resumed[key]
    for key in [key for key in info if str(key).startswith((SAVED_BEST, SAVED_NUMBERS))]:  # set below alone
        info.pop(key), resumed.pop(key, None)
    for key in [key for key in info if str(key).startswith((BEST, "last_ckpt"))]:
        path, _ = info.pop(key), resumed.pop(key, None)
        if not str(key).startswith(BEST):
            continue
        suffix = str(key).removeprefix(BEST)
        if isinstance(path, str) and _BEST_FILE.fullmatch(file_name(path)):
            info[SAVED_BEST + suffix] = file_name(path)
        else:  # the best epoch will be determined anew
            for other in (f"best_score{suffix}", "validated_epoch"):
                info.pop(other, None), resumed.pop(other, None)
    kept, _ = info.pop(_NUMBERS, None), resumed.pop(_NUMBERS, None)
    if isinstance(kept, list) and all(type(number) is int and 0 <= number < 2**31 for number in kept):
        info[SAVED_NUMBERS] = list(dict.fromkeys(kept))[:1000]
    return checkpoint


def file_name(path: str) -> str:
    """The last part of a path, whether it was written on Windows or on another system."""
    return PurePosixPath(PureWindowsPath(path).name).name


def check_training_state(path: Path) -> None:
    """Check that training can resume from a file. Cost: the file is read once.

    Raises:
        CheckpointError: the file is damaged, holds weights alone, or has numbers that are not finite.
    """
    state = read_checkpoint(path)
    if not state.keys() >= _PARTS:
        raise CheckpointError(f"{path} holds no training state: use it as load_from=... to start with its weights")
    meta = state["meta"] if isinstance(state["meta"], dict) else {}
    if not all(type(meta.get(key)) is int and 0 <= meta[key] < 2**31 for key in ("epoch", "iter")):
        raise CheckpointError(f"{path} does not say after which epoch and iteration it was written")
    try:
        hub = clean(state).get("message_hub")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    schedulers = state.get("param_schedulers", [])
    if hub is None or not isinstance(state["optimizer"], dict) or not _are_schedulers(schedulers):
        raise CheckpointError(f"{path} holds no log or no optimizer's or scheduler's state: no Runner has written it")
    if broken := not_finite({"weights": state["state_dict"], "optimizer": state["optimizer"]}):
        raise CheckpointError(
            f"{path} holds numbers that are NaN or infinite ({len(broken)} tensors, such as {broken[0]}): "
            "the training had diverged"
        )


def _are_schedulers(states: Any) -> bool:
    """Whether this is a list of scheduler states, or a dict with such a list for each of several optimizers."""
    lists = list(states.values()) if isinstance(states, dict) else [states]
    counters = ("last_step", "_global_step", "begin", "end")
    return all(
        isinstance(one, list)
        and all(isinstance(s, dict) and all(isinstance(s.get(key, 0), int) for key in counters) for s in one)
        for one in lists
    )


def not_finite(value: Any, name: str = "", seen: set[int] | None = None) -> list[str]:
    """Names of the floating-point tensors that hold a NaN or an infinite number. Each tensor is checked only once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return []
    if isinstance(value, Tensor | Mapping | list | tuple):
        seen.add(id(value))
    if isinstance(value, Tensor):
        return [name] if value.is_floating_point() and not bool(value.float().isfinite().all()) else []
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return []
    return [found for key, item in items for found in not_finite(item, f"{name}.{key}".lstrip("."), seen)]
