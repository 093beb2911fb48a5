"""Choose what a training starts from: scratch, weights, or the checkpoint of an earlier training."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from cada_plugin.checkpoints.training_state import check_training_state, file_name
from cada_plugin.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints: the files in ``folder``, and the note ``last_checkpoint`` in the work dir."""

    work_dir: Path
    folder: Path
    pattern: str = r"(?:epoch|iter)_(\d+)\.pth"  # file names of numbered checkpoints

    @classmethod
    def of(cls, config: Config) -> "Place":
        """The place that the CheckpointHook of a config will use, by MMEngine's rules."""
        hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
        return cls._made(config.work_dir, hook.get("out_dir"), hook.get("filename_tmpl"))

    @classmethod
    def of_runner(cls, runner: Runner) -> "Place":
        """The place that the CheckpointHook of a Runner uses."""
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        if hook is None:
            return cls._made(runner.work_dir, None, None)
        place = cls._made(runner.work_dir, hook.out_dir, hook.filename_tmpl)
        # after its before_train, the hook's out_dir is the final folder
        return replace(place, folder=Path(hook.out_dir)) if hasattr(hook, "file_backend") else place

    @classmethod
    def _made(cls, work_dir: str, out_dir: str | None, template: str | None) -> "Place":
        own = Path(os.path.abspath(work_dir))
        elsewhere = out_dir and str(out_dir) != str(own) and "://" not in str(out_dir)
        folder = Path(os.path.abspath(out_dir)) / own.name if elsewhere else own
        if not template:
            return cls(own, folder)
        return cls(own, folder, r"(\d+)".join(map(re.escape, re.split(r"\{[^{}]*\}", template))))

    def numbered(self) -> list[Path]:
        """The checkpoints numbered by epoch or iteration, the latest first."""
        if not self.folder.is_dir():
            return []
        matches = [(re.fullmatch(self.pattern, path.name), path) for path in self.folder.iterdir() if path.is_file()]
        found = [(int(match[1]), path) for match, path in matches if match and match.groups()]
        return [path for _, path in sorted(found, reverse=True)]

    def last(self) -> Path | None:
        """The checkpoint that ``last_checkpoint`` refers to, even if the whole folder was moved since. Without such a
        note, the checkpoint with the highest number."""
        try:
            name = file_name((self.work_dir / "last_checkpoint").read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            name = ""
        if name and "\0" not in name and len(name) < 256 and (self.folder / name).is_file():
            return self.folder / name
        return next(iter(self.numbered()), None)


def choose_start(config: Config, resume: str | None) -> tuple[str | None, list[str]]:
    """Set the checkpoint that the Runner resumes from, or return the weights to start with (None: from scratch).

    ``resume`` is a path, or ``auto`` for the last good checkpoint of the work dir; if there is none, the training
    starts from the beginning. A config may say the same with its keys ``resume`` and ``load_from``.

    Returns:
        The weights, and notes on the choice that the user should see.
    """
    weights, notes = config.pop("load_from", None), []
    if resume is None and config.get("resume"):
        resume, weights = weights or "auto", None
    if resume == "auto":
        out_dir = ((config.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
        if "://" in str(out_dir):
            raise ConfigError(f"--resume cannot look for checkpoints in {out_dir}: give the path of one, --resume PATH")
        found, notes = last_good_checkpoint(Place.of(config))
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
        others = [other for other in Place(path.parent, path.parent).numbered() if other != path]
        advice = f". Another checkpoint of that folder: --resume {others[0]}" if others else ""
        raise CheckpointError(f"cannot resume: {error}{advice}") from error


def last_checkpoint(work_dir: Path) -> Path | None:
    """:meth:`Place.last` of a work dir that holds the checkpoints itself, under MMEngine's file names."""
    return Place(work_dir, work_dir).last()


def last_good_checkpoint(place: Place) -> tuple[Path | None, list[str]]:
    """The latest checkpoint of a run from which training can go on, and notes on the checkpoints that were skipped.

    Raises:
        CheckpointError: there are checkpoints, but none is usable. Starting from scratch would overwrite them.
    """
    candidates = list(dict.fromkeys([path for path in (place.last(), *place.numbered()) if path]))
    problems: list[str] = []
    for path in candidates:
        try:
            check_training_state(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        note = place.work_dir / "last_checkpoint"
        if problems:
            problems = [f"not resumed from: {problem}" for problem in problems]
        elif not note.is_file() or not note.read_bytes().strip().endswith(path.name.encode()):
            problems = [f"{note} is missing or names no checkpoint"]
        return path, [*problems, f"resuming from {path}"] if problems else []
    if candidates:
        raise CheckpointError(
            f"cannot resume: none of the {len(candidates)} checkpoints in {place.folder} can be used. "
            + "; ".join(problems)
            + ". Remove them to start afresh, or train in another --work-dir"
        )
    return None, []
