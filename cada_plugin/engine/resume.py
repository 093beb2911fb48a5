"""What a training starts with: nothing, weights, or the state of an earlier one."""

import re
from pathlib import Path

from mmengine.config import Config

from cada_plugin.checkpoints.training_state import check_training_state, file_name
from cada_plugin.errors import CheckpointError

_NUMBERED = re.compile(r"(?:epoch|iter)_(\d+)\.pth")


def choose_start(config: Config, resume: str | None) -> tuple[str | None, list[str]]:
    """Set what the Runner resumes from, or return the weights to start with (None: from scratch).

    ``resume`` is a path or ``auto``: the last good checkpoint of the work dir if there is one, else a first start. A
    config may say the same with ``resume`` and ``load_from``.

    Returns:
        The weights, and what the user should know about the choice.
    """
    weights, notes = config.pop("load_from", None), []
    if resume is None and config.get("resume"):
        resume, weights = weights or "auto", None
    if resume == "auto":
        found, notes = last_good_checkpoint(Path(config.work_dir))
        resume = found and str(found)
    elif resume is not None:
        _check(Path(resume))
    config.resume = resume is not None
    if resume is None:
        return weights, notes
    config.load_from = str(resume)
    return None, notes


def _check(path: Path) -> None:
    try:
        check_training_state(path)
    except CheckpointError as error:
        others = [other for other in numbered_checkpoints(path.parent) if other != path]
        advice = f". Another checkpoint of that folder: --resume {others[0]}" if others else ""
        raise CheckpointError(f"cannot resume: {error}{advice}") from error


def numbered_checkpoints(work_dir: Path) -> list[Path]:
    """``epoch_*.pth`` and ``iter_*.pth`` of a folder, the latest first."""
    found = [path for path in work_dir.glob("*.pth") if _NUMBERED.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: int(_NUMBERED.fullmatch(path.name)[1]), reverse=True)


def last_checkpoint(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` of a work dir names, also where the whole folder was moved since; without such a note,
    the checkpoint with the highest number."""
    try:
        name = file_name((work_dir / "last_checkpoint").read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        name = ""
    if name and "\0" not in name and len(name) < 256 and (work_dir / name).is_file():
        return work_dir / name
    return next(iter(numbered_checkpoints(work_dir)), None)


def last_good_checkpoint(work_dir: Path) -> tuple[Path | None, list[str]]:
    """The latest checkpoint of a work dir that a training can go on from, and notes on those that were passed over.

    Raises:
        CheckpointError: there are checkpoints, but none is usable. Starting afresh would overwrite them.
    """
    named = last_checkpoint(work_dir)
    candidates = list(dict.fromkeys([path for path in (named, *numbered_checkpoints(work_dir)) if path]))
    problems: list[str] = []
    for path in candidates:
        try:
            check_training_state(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        note = work_dir / "last_checkpoint"
        if problems:
            problems = [f"not resumed from: {problem}" for problem in problems]
        elif not note.is_file() or not note.read_bytes().strip().endswith(path.name.encode()):
            problems = [f"{note} is missing or names no checkpoint"]
        return path, [*problems, f"resuming from {path}"] if problems else []
    if candidates:
        raise CheckpointError(
            f"cannot resume: none of the {len(candidates)} checkpoints in {work_dir} can be used. "
            + "; ".join(problems)
            + ". Remove them to start afresh, or train in another --work-dir"
        )
    return None, []
