"""Stop a training at once when its numbers are no longer finite, and keep its last good checkpoint as it is."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.checkpoints.training_state import not_finite
from cada_plugin.engine.resume import Place
from cada_plugin.errors import CADAError, TrainingError, first_line
from cada_plugin.registry import HOOKS

_ADVICE = (
    "What to try: a lower learning rate (optim_wrapper.optimizer.lr) or a longer warm-up, gradient clipping "
    "(optim_wrapper.clip_grad=dict(max_norm=5.0)), or training without --amp"
)


@HOOKS.register_module()
class FiniteCheckHook(Hook):
    """Stops a run whose loss or weights are NaN or infinite, before such weights are saved. ``CalmRunner`` always has
    this hook.

    Losses are checked after every iteration, in the log that ``RuntimeInfoHook`` has already fetched from the device.
    Weights are checked before they are validated or saved.

    Raises:
        TrainingError: the message has the step, loss terms, learning rate, last good checkpoint, and what to try.
    """

    priority = "HIGH"  # before CheckpointHook, after RuntimeInfoHook

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        scalars = runner.message_hub.log_scalars
        terms = {
            key: scalars[f"train/{key}"].current()
            for key in outputs or {}
            if "loss" in key and f"train/{key}" in scalars
        }
        if not all(map(math.isfinite, terms.values())):
            values = ", ".join(f"{key} {value:.4g}" for key, value in terms.items())
            _stop(runner, f"the loss is not finite ({values})")
        if any(_saves_now(hook, runner) for hook in runner.hooks):
            self._check_weights(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._check_weights(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._check_weights(runner)  # before CheckpointHook saves the best epoch

    def _check_weights(self, runner: Runner) -> None:
        if broken := broken_tensors(runner):
            _stop(runner, f"{len(broken)} tensors hold NaN or infinite numbers, such as {broken[0]}")


def broken_tensors(runner: Runner) -> list[str]:
    """Names of the tensors of the model and of its optimizer's state that are not finite. The optimizer counts because
    an infinite second moment stops all learning, although weights and losses stay finite."""
    model = bare_model(runner)
    optimizer = runner.optim_wrapper  # a config, or None, until a training has begun
    state = optimizer.state_dict() if hasattr(optimizer, "state_dict") else {}
    return not_finite({"model": model.state_dict(), "optimizer": state})


@contextmanager
def divergence_first(runner: Runner) -> Iterator[None]:
    """If the block fails and the model has diverged, raise the error of a diverged model instead: NaN may make some
    operation fail before it reaches the loss.

    Raises:
        TrainingError: see :class:`FiniteCheckHook`.
    """
    try:
        yield
    except CADAError:
        raise
    except Exception as error:
        if hasattr(runner.optim_wrapper, "state_dict") and (broken := broken_tensors(runner)):
            reason = f"{len(broken)} tensors hold NaN or infinite numbers, such as {broken[0]} ({first_line(error)})"
            _stop(runner, reason)
        raise


def _saves_now(hook: Hook, runner: Runner) -> bool:
    """Whether ``hook`` is a CheckpointHook that counts iterations and saves a checkpoint after this one."""
    return (
        isinstance(hook, CheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )


def _stop(runner: Runner, what: str) -> None:
    rates = {float(rate) for rates in runner.optim_wrapper.get_lr().values() for rate in rates}
    last = Place.of_runner(runner).last()
    good = f"{last} is the last good one" if last else ""
    raise TrainingError(
        f"training stopped in iteration {runner.iter + 1:,} (epoch {runner.epoch + 1}): {what}, at a learning rate of "
        f"{', '.join(f'{rate:.3g}' for rate in sorted(rates))}. No checkpoint was written from these weights"
        + (f"; {good}, from where --resume goes on. " if good else ". ")
        + _ADVICE
    )
