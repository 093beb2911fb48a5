"""Load weights into a model, and report what was and was not found.

There are three ways to load, and all end in the same code:

- in Python, ``load_checkpoint`` and ``load_into_runner``;
- in a config, ``init_cfg=dict(type='Pretrained', checkpoint=PATH)`` of a
  :class:`~cada_plugin.models.TextImageRetriever`, whose ``init_weights`` calls ``load_checkpoint``;
- ``load_from=PATH`` of a plain MMEngine Runner, where the model's pre-hook :func:`fit_state_dict` converts and checks
  the weights.

MMEngine reads all local files with our reader. It therefore accepts ``.safetensors`` files and folders as well, and
nothing that a file contains is ever executed, whichever Runner reads it.
"""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from cada_plugin.checkpoints.convert import FORMAT_NAMES, Conversion
from cada_plugin.checkpoints.fit import Grid, fit_state
from cada_plugin.checkpoints.io import SHIPPED, read_checkpoint, read_weights
from cada_plugin.checkpoints.training_state import clean
from cada_plugin.errors import CheckpointError


@dataclass
class LoadReport:
    """What a model got from a checkpoint. ``missing`` lists names of the model, ``unexpected`` lists names after the
    conversion, and ``dropped`` lists names of the source that only its training needed. ``resized`` and ``notes``
    describe values that changed."""

    source: str
    format: str
    loaded: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.loaded} tensors loaded ({FORMAT_NAMES[self.format]} names)"]
        for title, names in (
            ("not in the checkpoint, left as they were", self.missing),
            ("not in the model, ignored", self.unexpected),
            ("only for the source's training, dropped", self.dropped),
        ):
            if names:
                lines.append(f"  {title}: {group_names(names)}")
        lines += [f"  resized: {text}" for text in self.resized]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def group_names(names: list[str]) -> str:
    """Shorten a list of names to ``itm_local_head.* (2), temp``: names are counted by their first part. Names of
    cross-attention, which BERT does not have, are counted apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        part = name.split(".")[0]
        if ".crossattention." in name and not part.endswith("_m"):
            part += "...crossattention"
        groups.setdefault(part, []).append(name)
    return ", ".join(f"{part}.* ({len(all_)})" if len(all_) > 1 else all_[0] for part, all_ in groups.items())


def load_checkpoint(
    model: nn.Module, path: str | os.PathLike, strict: bool = False, old_grid: Grid | None = None
) -> LoadReport:
    """Fill a model with the weights of a file or folder, in place.

    The formats are released CADA, our own, MMEngine's, BLIP, Hugging Face BLIP and CLIP, BERT, and OpenAI's CLIP with
    the IRRA and RDE that are built on it. Other models take files with their own parameter names. Image positions are
    resized to the model's image size.

    Args:
        model: a CADA model, one of its encoders, or any module. An MMEngine module counts as initialised afterwards, so
            that a Runner does not initialise it again.
        path: see :func:`~cada_plugin.checkpoints.io.read_weights`.
        strict: treat a missing or unexpected name as an error.
        old_grid: (rows, columns) of the checkpoint's image patches, needed only if their number leaves it open.

    Raises:
        CheckpointError: the file cannot be read, its weights do not fit the model, or ``strict`` fails. The model is
            then unchanged.
    """
    target = model.state_dict()
    state = read_weights(path)
    try:
        result, resized = fit_state(state, target, _grids(model), old_grid and tuple(old_grid))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    report = _report(str(path), result, resized, target)
    if strict and (report.missing or report.unexpected):
        raise CheckpointError(
            f"{path} does not fit exactly (strict=True). Missing: {group_names(report.missing) or 'nothing'}; "
            f"unexpected: {group_names(report.unexpected) or 'nothing'}. Load with strict=False to accept that"
        )
    for name, tensor in result.state.items():
        if name in target:
            target[name].copy_(tensor)
    if isinstance(model, BaseModule):
        model.is_init = True
    return report


def bare_model(runner: Runner) -> nn.Module:
    """The model of a Runner, without the DistributedDataParallel around it."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def load_into_runner(runner: Runner, path: str | os.PathLike, strict: bool = False) -> LoadReport:
    """Call :func:`load_checkpoint` for the model of a Runner, before ``train``, ``val`` or ``test``, and log the
    report. The Runner loads nothing else afterwards: leave ``load_from`` unset, and do not use this to resume."""
    model = bare_model(runner)
    report = load_checkpoint(model, path, strict)
    runner._has_loaded = True
    runner.logger.info(str(report))
    return report


def fit_state_dict(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """A ``load_state_dict`` pre-hook that converts weights of any known format to the names and shapes of ``module``,
    in place.

    Weights that were saved from the same model pass unchanged. If ``module`` is only a part of the model that is being
    loaded, the hook does nothing.

    Raises:
        CheckpointError: the weights do not fit the model. MMEngine alone would only warn.
    """
    if prefix or not state_dict:
        return
    target = module.state_dict()
    result, resized = fit_state(state_dict, target, _grids(module))
    if resized or result.notes or result.format not in ("cada", "plain"):
        report = _report(type(module).__name__, result, resized, target)
        print_log(str(report), logger="current", level=logging.INFO)
    state_dict.clear()
    state_dict.update(result.state)


def _grids(model: nn.Module) -> dict[str, Grid]:
    """For each image position embedding that has a class token, by its name, the (rows, columns) of patches."""
    grids = {}
    for name, module in model.named_modules():
        positions = getattr(module, "pos_embed", None)
        grid = getattr(module, "grid_size", None) or getattr(getattr(module, "patch_embed", None), "grid_size", None)
        if isinstance(positions, Tensor) and grid:
            rows, columns = grid
            if positions.shape[1] == 1 + rows * columns:
                grids[f"{name}.pos_embed".lstrip(".")] = (rows, columns)
    return grids


def _report(source: str, result: Conversion, resized: list[str], target: dict[str, Tensor]) -> LoadReport:
    common = [name for name in target if name in result.state]
    filled = {target[name].data_ptr() for name in common}  # a tied matrix has two names and one memory
    return LoadReport(
        source,
        result.format,
        loaded=len(common),
        missing=[name for name in target if name not in result.state and target[name].data_ptr() not in filled],
        unexpected=[name for name in result.state if name not in target],
        resized=resized,
        dropped=result.dropped,
        notes=result.notes,
    )


def load_from_local(filename: str, map_location: object = None) -> dict:
    """The reader that MMEngine uses for local files and folders. It returns the whole checkpoint, made safe by
    :func:`clean`, with tensors on the CPU; the model and the optimiser move them to their device."""
    path = Path(filename).expanduser()
    if path.suffix == ".safetensors" or path.is_dir() or str(filename).startswith(SHIPPED):
        return {"state_dict": read_weights(filename)}
    return clean(read_checkpoint(path))


# Replace MMEngine's own reader, which lets torch unpickle the file.
CheckpointLoader.register_scheme("", load_from_local, force=True)
