"""Fit weights to a model: image and text positions of another size, the two words that BLIP adds, the decoder.

All functions are pure functions on state dicts. What cannot be fitted without guessing is an error, not a warning.
"""

from collections.abc import Mapping
from math import isqrt

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from cada_plugin.checkpoints.convert import FORMAT_NAMES, Conversion, has_update, to_cada
from cada_plugin.checkpoints.openai_clip import is_openai_clip
from cada_plugin.errors import CheckpointError

Grid = tuple[int, int]  # (rows, columns) of patches
_VOCABULARY = ("word_embeddings.weight", "predictions.decoder.weight", "predictions.decoder.bias", "predictions.bias")
_WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ADDED_WORDS = 2  # [DEC] and [ENC]
_DECODER, _ENCODER = "text_decoder.bert.", "text_encoder."


def resize_image_positions(positions: Tensor, grid: Grid, old_grid: Grid | None = None, square: bool = False) -> Tensor:
    """Resize the position embeddings (1, 1+N, C) of an image encoder to another grid, (1, 1+rows*columns, C).

    The interpolation is bicubic with antialiasing (timm's ``resample_abs_pos_embed``); the class token's row is kept.

    Args:
        grid: (rows, columns) of patches of the model.
        old_grid: (rows, columns) of ``positions``; None infers it with :func:`find_grid`.
        square: the source is known to take square images (BLIP).

    Raises:
        CheckpointError: ``old_grid`` has another number of patches, or cannot be inferred.
    """
    old_grid = old_grid or find_grid(positions.shape[1] - 1, grid, square)
    if old_grid[0] * old_grid[1] != positions.shape[1] - 1:
        raise CheckpointError(
            f"old_grid={old_grid} has {old_grid[0] * old_grid[1]} patches but the checkpoint {positions.shape[1] - 1}"
        )
    return resample_abs_pos_embed(positions, list(grid), list(old_grid))


def find_grid(patches: int, grid: Grid, square: bool = False) -> Grid:
    """Infer the (rows, columns) of a checkpoint with ``patches`` image patches, for a model that has ``grid``.

    If the model has as many patches, the grids are the same, unless the source takes square images. Otherwise the
    checkpoint's grid is either square or has the aspect ratio of ``grid``.

    Raises:
        CheckpointError: both are possible, or neither.
    """
    rows, columns = grid
    side = isqrt(patches)
    found = set()
    if side * side == patches:
        found.add((side, side))
    if not (square and found):
        if patches == rows * columns:
            return grid
        scaled, rest = divmod(patches * rows, columns)
        height = isqrt(scaled)
        if not square and not rest and height * height == scaled and patches % max(height, 1) == 0:
            found.add((height, patches // height))
    if len(found) == 1:
        return found.pop()
    what = " or ".join(f"{h}x{w}" for h, w in sorted(found)) if found else "neither square nor of that aspect ratio"
    raise CheckpointError(
        f"cannot tell the layout of the checkpoint's {patches} image patches: {what} (the model has {rows}x{columns}). "
        "Say it: load_checkpoint(..., old_grid=(rows, columns)), also a key of init_cfg"
    )


def fit_state(
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    grids: Mapping[str, Grid] | None = None,
    old_grid: Grid | None = None,
) -> tuple[Conversion, list[str]]:
    """Convert a state dict of any known format and fit it to a model.

    Args:
        state: weights as :func:`~cada_plugin.checkpoints.io.read_weights` gives them.
        target: ``model.state_dict()``.
        grids: for each image position embedding of the model, by its name, the (rows, columns) of patches.
        old_grid: (rows, columns) of the checkpoint, needed where the number of patches leaves it open.

    Returns:
        The conversion, in which all names that ``target`` has too have the shapes of ``target``, and a description of
        what was resized.

    Raises:
        CheckpointError: no name matches, a weight is unusable (NaN, quantised), or the weights belong to another
            architecture.
    """
    grids = grids or {}
    # if all names of the model are there, nothing needs converting, even if the names look like another format's
    same_names = target.keys() <= state.keys() or is_openai_clip(target)
    result = Conversion(dict(state), "plain") if same_names else to_cada(state)
    if result.format == "plain" and "itm_local_head.weight" in target:
        result.format = "cada"
    _take_part(result, target)
    _keep_below_updates(result, target)
    if result.format in ("blip", "hf-blip", "bert"):
        _start_decoder(result, target)
    for name in target:
        if name.endswith("position_ids"):  # a constant that some formats leave out
            result.state[name] = target[name]
    if not result.state.keys() & {name for name in target if not name.endswith("position_ids")}:
        raise CheckpointError(
            f"nothing in the checkpoint fits the model: it has names like {_sample(state)}, the model "
            f"{_sample(target)}. Check that the checkpoint belongs to this model"
        )
    _check_values(result, target)
    resized = _fit_shapes(result, target, grids, old_grid)
    return result, resized


def _check_values(result: Conversion, target: Mapping[str, Tensor]) -> None:
    """Check that every weight that the model would take is a dense tensor of finite numbers, of the model's kind.

    Raises:
        CheckpointError: some are not.
    """
    problems = []
    for name in [name for name in result.state if name in target]:
        tensor, wanted = result.state[name], target[name]
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "quantised" if tensor.is_quantized else "without values" if tensor.is_meta else str(tensor.layout)
            problems.append(f"{name} is {kind}")
        elif tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex() != wanted.is_complex():
            problems.append(f"{name} is of {tensor.dtype}, the model's of {wanted.dtype}")
        elif tensor.is_floating_point() and tensor.dtype not in _WEIGHT_TYPES:
            problems.append(f"{name} is of {tensor.dtype}, which means nothing without its scales")
        elif tensor.is_floating_point() and not tensor.float().isfinite().all():
            bad = tensor.numel() - int(tensor.float().isfinite().sum())
            problems.append(f"{name} has {bad:,} of {tensor.numel():,} numbers that are NaN or infinite")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{len(problems)} of the weights cannot be used: {'; '.join(problems[:5])}{more}. "
            "Take a checkpoint from before the training diverged, or save the model with ordinary tensors"
        )


def _sample(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3])


def _take_part(result: Conversion, target: Mapping[str, Tensor]) -> None:
    """If the model is a text or image encoder alone, use the weights of that part."""
    if result.state.keys() & target.keys():
        return
    cuts = {
        part: {name.removeprefix(part): tensor for name, tensor in result.state.items() if name.startswith(part)}
        for part in (_ENCODER, "visual_encoder.")
    }
    # layers of CLIP's two encoders have the same names, but embeddings have not
    part = max(cuts, key=lambda one: len(cuts[one].keys() & target.keys()))
    if cuts[part].keys() & target.keys():
        rest = {name: x for name, x in result.state.items() if not name.startswith(part)}
        result.state = cuts[part] | rest


def _keep_below_updates(result: Conversion, target: Mapping[str, Tensor]) -> None:
    """If layers of the model have low-rank updates (LoRA), let weights without updates be those below them.

    Raises:
        CheckpointError: the weights have updates, and the model has none.
    """
    if any(map(has_update, result.state)) and not any(map(has_update, target)):
        raise CheckpointError(
            "the checkpoint has low-rank updates (LoRA), which this model has not: use the config that trained it, or "
            "set model.lora as there"
        )
    for name in target:
        plain = name.replace(".base_layer.", ".")
        if plain in result.state and name not in result.state:
            result.state[name] = result.state.pop(plain)


def _start_decoder(result: Conversion, target: Mapping[str, Tensor]) -> None:
    """If the source has no attribute decoder, let the model's decoder start from the weights of the text encoder."""
    if any(name.startswith(_DECODER) for name in result.state):
        return
    copies = {
        name: result.state[_ENCODER + name.removeprefix(_DECODER)]
        for name in target
        if name.startswith(_DECODER) and _ENCODER + name.removeprefix(_DECODER) in result.state
    }
    result.state |= copies
    if copies:
        result.notes.append(f"the attribute decoder starts from the text encoder ({len(copies)} tensors)")


def _fit_shapes(
    result: Conversion, target: Mapping[str, Tensor], grids: Mapping[str, Grid], old_grid: Grid | None
) -> list[str]:
    resized, wrong, added = [], [], []
    # IRRA and RDE, whose CLIP is called base_model, take tall images
    square = result.format in ("blip", "hf-blip", "hf-clip", "openai-clip") and not result.tall
    for name in [name for name in result.state if name in target]:
        tensor, wanted = result.state[name], target[name].shape
        same_width = tensor.ndim == len(wanted) and tensor.shape[-1:] == wanted[-1:]  # scalars have no last axis
        if name in grids and same_width and tensor.ndim == 3 and len(tensor) == 1 and tensor.shape[1] > 1:
            old = old_grid or find_grid(tensor.shape[1] - 1, grids[name], square)
            if old != grids[name] or tensor.shape != wanted:
                result.state[name] = resize_image_positions(tensor, grids[name], old)
                resized.append(f"{name} {old[0]}x{old[1]} -> {grids[name][0]}x{grids[name][1]} patches")
        elif tensor.shape == wanted:
            continue
        elif name.endswith("position_embeddings.weight") and same_width:
            if len(tensor) < wanted[0]:
                raise CheckpointError(
                    f"the checkpoint has {len(tensor)} text positions, the model {wanted[0]}: set max_positions of the "
                    f"text encoder and decoder to {len(tensor)} or less"
                )
            result.state[name] = tensor[: wanted[0]]
            resized.append(f"{name} {len(tensor)} -> {wanted[0]} positions")
        elif (
            result.format == "bert"
            and name.endswith(_VOCABULARY)
            and (len(tensor) + _ADDED_WORDS, *tensor.shape[1:]) == tuple(wanted)
        ):
            mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
            result.state[name] = torch.cat([tensor, *[mean] * _ADDED_WORDS])
            added.append(name)
        else:
            wrong.append(name)
    if wrong:
        raise _another_architecture(result, target, wrong)
    if added:
        result.notes.append(f"[DEC] and [ENC] were added to the vocabulary as the mean word: {', '.join(added)}")
    return resized


def _another_architecture(result: Conversion, target: Mapping[str, Tensor], wrong: list[str]) -> CheckpointError:
    lines = [f"{name} {tuple(result.state[name].shape)}, the model {tuple(target[name].shape)}" for name in wrong[:5]]
    more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    if all(name.endswith(_VOCABULARY) for name in wrong):
        remedy = "the vocabulary differs: set tokenizer.vocab to the one the checkpoint was trained with"
    else:
        remedy = (
            "give the model the checkpoint's sizes (width, depth, heads, patch_size, embed_dim), or another checkpoint"
        )
    return CheckpointError(
        f"the checkpoint ({FORMAT_NAMES[result.format]} names) belongs to another architecture. It has "
        f"{'; '.join(lines)}{more}. What to do: {remedy}"
    )
