"""A checkpoint hook that never leaves the work dir without a good checkpoint, and chooses the metric of the best."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.engine.loops import RetrievalValLoop
from cada_plugin.errors import ConfigError
from cada_plugin.portable.stages import FINAL, GAIN_P_VALUE, MATCH_ALONE, STAGE_ONE
from cada_plugin.registry import HOOKS


def settle_best(hook: MMEngineCheckpointHook, runner: Runner) -> None:
    """Adapt ``save_best`` of a checkpoint hook to the metrics that this run's validation gives, and log the change.

    One ``save_best='t2i/R1'`` then serves every model: if validation does not re-rank, the stage-1 metric
    ``t2i_global/R1`` is used instead, and without a validation split no best epoch is chosen. If the validation loop
    comes from another package, the hook is left as it is, because only that package knows its metrics.

    Raises:
        ConfigError: the metric exists only with re-ranking, and stage 1 has no counterpart of it.
    """
    if not hook.save_best:
        return
    if runner.val_loop is None:
        runner.logger.info(f"save_best={', '.join(hook.save_best)} is left out: there is no validation split")
        hook.save_best = None
        return
    model = bare_model(runner)
    if not isinstance(runner.val_loop, RetrievalValLoop) or runner.val_loop.reranks(model):
        return
    rules: dict[str, str | None] = {}
    for key, rule in zip(hook.key_indicators, hook.rules, strict=True):
        stage, _, metric = key.partition("/")
        if stage == MATCH_ALONE or key == GAIN_P_VALUE:
            raise ConfigError(
                f"save_best={key!r} is not measured, because validation does not re-rank: "
                f"use '{STAGE_ONE}/R1', or a model that matches and val_cfg.rerank_topk > 0"
            )
        taken = f"{STAGE_ONE}/{metric}" if stage == FINAL else key
        if taken != key:
            runner.logger.info(f"save_best={key}: validation does not re-rank, so {taken} chooses the best epoch")
        rules.setdefault(taken, rule)
    hook.save_best = list(rules)
    hook._init_rule(list(rules.values()), list(rules))


class _RemoveLater:
    """A file backend that records which files are to be removed, instead of removing them."""

    def __init__(self, backend: object, folder: str) -> None:
        self._backend, self._folder = backend, folder
        self.outdated: list[Path] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        # the path comes from the log inside a checkpoint, which a run in another folder may have written
        if os.path.dirname(os.path.abspath(path)) == self._folder:
            self.outdated.append(Path(os.path.abspath(path)))

    def isdir(self, path: str) -> bool:
        """Always False, because MMEngine would remove a folder with all its content. Only DeepSpeed writes folders."""
        return False


@HOOKS.register_module(name="CheckpointHook")
class SafeCheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook``, except that it removes an outdated checkpoint only after the new one is written,
    and only from its own folder. If the disk is full or the process is killed in between, the old checkpoint remains.

    ``save_best='t2i/R1'`` also works for models that do not re-rank, and without validation: see :func:`settle_best`.
    """

    def before_train(self, runner: Runner) -> None:
        settle_best(self, runner)
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        note = Path(runner.work_dir) / "last_checkpoint"
        if is_main_process() and note.is_symlink():  # MMEngine would overwrite the file it points to
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
