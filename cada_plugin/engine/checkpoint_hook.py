"""Checkpoints in an order in which no moment leaves the work dir without a good one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from cada_plugin.registry import HOOKS


class _RemoveLater:
    """A file backend that notes what is to be removed instead of removing it."""

    def __init__(self, backend: object, folder: str) -> None:
        self._backend, self._folder = backend, folder
        self.outdated: list[Path] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        # a checkpoint's own log says which file is outdated, and it may have been written elsewhere
        if os.path.dirname(os.path.abspath(path)) == self._folder:
            self.outdated.append(Path(os.path.abspath(path)))

    def isdir(self, path: str) -> bool:
        """Never: MMEngine would remove a whole tree, which only DeepSpeed's checkpoints are."""
        return False


@HOOKS.register_module(name="CheckpointHook")
class SafeCheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook``, which removes an outdated checkpoint only after the new one is written, and only
    files of its own folder. A full disk or a kill in between then costs the new file and not the old one as well."""

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        note = Path(runner.work_dir) / "last_checkpoint"
        if is_main_process() and note.is_symlink():  # MMEngine would write through it
            note.unlink()
        with self._removing_last(runner):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._removing_last(runner):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self, runner: Runner) -> Iterator[None]:
        backend = self.file_backend
        if isinstance(backend, _RemoveLater) or "://" in str(self.out_dir):  # nested, or a remote store
            yield
            return
        self.file_backend = later = _RemoveLater(backend, os.path.abspath(self.out_dir))
        try:
            yield
        finally:
            self.file_backend = backend
        info = runner.message_hub.runtime_info
        kept = {os.path.abspath(v) for key, v in info.items() if key.startswith(("best_ckpt", "last_ckpt"))}
        if is_main_process():
            for path in later.outdated:
                if str(path) not in kept:
                    path.unlink(missing_ok=True)
