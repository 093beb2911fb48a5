"""MMEngine's Runner with a quiet console, checkpoints that are never incomplete, and errors that say what to do."""

import contextlib
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger, print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cada_plugin.checkpoints.io import read_weights
from cada_plugin.checkpoints.training_state import BEST, SAVED_BEST, SAVED_NUMBERS, not_finite, to_plain
from cada_plugin.compat import HARMLESS_RECORDS
from cada_plugin.engine.finite import FiniteCheckHook
from cada_plugin.engine.resume import Place
from cada_plugin.errors import CADAError, CheckpointError, ConfigError, TrainingError, first_line
from cada_plugin.files import replacing
from cada_plugin.portable.interruption import raise_if_interrupted
from cada_plugin.progress import write_above_bars
from cada_plugin.registry import OPTIMIZERS

_MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
# Parts of a checkpoint that must hold finite numbers only.
_FINITE = ("state_dict", "ema_state_dict", "optimizer")
# Log records that only the log file gets: long dumps, and one-line metrics that the retrieval table shows better.
_FILE_ONLY = (
    "\n----",
    "Config:",
    "Hooks will be executed",
    "Epoch(val)",
    "Epoch(test)",
    "Exp name:",
    "Checkpoints will be",
    "Traceback",
    *HARMLESS_RECORDS,
)


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn errors that occur while parts are built from a config into ConfigError; the traceback goes to the log file.

    Raises:
        ConfigError: a part cannot be built.
    """
    try:
        yield
    except CADAError:
        raise
    except (AssertionError, AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        print_log(traceback.format_exc(), logger="current")
        raise ConfigError(f"the config cannot be built: {first_line(error)} (the log file says where)") from error


class _AboveTheBar:
    """A stream for log handlers that writes above the progress bar on the last line of the terminal."""

    def write(self, text: str) -> None:
        write_above_bars(text)

    def flush(self) -> None:
        sys.stderr.flush()


@RUNNERS.register_module()
class CalmRunner(Runner):
    """A Runner whose console shows only what a person can act on; everything else is in the log file of the work dir.

    A checkpoint file is complete or does not exist, whenever the process is killed. Resuming executes nothing that a
    checkpoint contains, and reads the data in the order that the checkpoint's seed gives.
    """

    def build_logger(self, *args: object, **kwargs: object) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not str(record.msg).startswith(_FILE_ONLY))
                handler.setStream(_AboveTheBar())
        return logger

    def build_model(self, model: object) -> torch.nn.Module:
        if self.cfg.get("compile"):
            raise ConfigError(
                "compile is not supported, because a training step leaves padding out, so that its shapes change with "
                "every batch and torch.compile compiles again and again (the first step of the smallest model took "
                "seven minutes on a CPU): remove compile from the config"
            )
        return super().build_model(model)

    def build_optim_wrapper(self, optim_wrapper: object) -> object:
        kind = optim_wrapper.get("optimizer", {}).get("type") if isinstance(optim_wrapper, dict) else None
        if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:  # MMEngine: "None is not a callable object"
            raise ConfigError(f"{kind} is not in the optimizer registry: write it as torch.optim does, such as AdamW")
        optimizer = optim_wrapper.get("optimizer", {}) if isinstance(optim_wrapper, dict) else {}
        for key in ("lr", "weight_decay", "momentum"):
            value = optimizer.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:
                raise ConfigError(
                    f"optim_wrapper.optimizer.{key}={value!r}: expected a number from 0 to 1e6, such as 1e-5"
                )
        return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: object) -> object:
        with config_errors():
            return super().build_param_scheduler(scheduler)

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        super().register_hooks(default_hooks, custom_hooks)
        if not any(isinstance(hook, FiniteCheckHook) for hook in self.hooks):
            self.register_hook(FiniteCheckHook())

    def call_hook(self, fn_name: str, **kwargs: object) -> None:
        raise_if_interrupted()
        super().call_hook(fn_name, **kwargs)
        if fn_name == "before_save_checkpoint":  # the last thing that happens to a checkpoint before it is written
            checkpoint = kwargs["checkpoint"]
            if broken := not_finite({key: checkpoint[key] for key in _FINITE if key in checkpoint}):
                raise TrainingError(
                    f"not saved: {len(broken)} tensors of the checkpoint are not finite, such as {broken[0]}"
                )
            checkpoint.update({key: to_plain(value) for key, value in checkpoint.items() if key != "state_dict"})

    def save_checkpoint(self, out_dir: str, filename: str, *args: object, **kwargs: object) -> None:
        if "://" in str(out_dir):  # a remote store: nothing to rename
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        unfinished = Path(out_dir) / f".{filename}.unfinished"
        try:
            if is_main_process():
                unfinished.unlink(missing_ok=True)  # torch.save would follow a link
            super().save_checkpoint(out_dir, unfinished.name, *args, **kwargs)
            if is_main_process():
                os.replace(unfinished, Path(out_dir) / filename)
        except OSError as error:
            raise TrainingError(_not_written(Path(out_dir), filename, unfinished, error)) from error
        finally:
            if is_main_process():
                unfinished.unlink(missing_ok=True)

    def dump_config(self) -> None:
        if is_main_process() and self.cfg.filename:
            target = Path(self.work_dir) / Path(self.cfg.filename).name
            if target.is_symlink():  # the dump would follow the link
                target.unlink()
        super().dump_config()

    def resume(self, filename: str, *args: object, **kwargs: object) -> None:
        configured = {name: [dict(group) for group in groups] for name, groups in _param_groups(self).items()}
        try:
            super().resume(filename, *args, **kwargs)
            _check_optimizer(self, configured)
            self._find_best(filename)
            self._follow_config(configured)
        except CADAError:
            raise
        except Exception as error:  # the state of another model, optimiser or MMEngine can fail in any way
            raise CheckpointError(
                f"cannot resume from {filename}: its training state does not fit this config ({first_line(error)}). "
                "Resume with the config that it was trained with, or start from its weights with load_from"
            ) from error
        sampler = self.train_dataloader.sampler
        if hasattr(sampler, "seed"):  # it was built before the checkpoint's seed was known
            sampler.seed = self.seed

    def _find_best(self, filename: str) -> None:
        """Find the best checkpoint that the resumed one records. It is used if it lies in this run's folder, or copied
        there if it lies beside the resumed one. A file anywhere else is neither tested nor removed, because a work dir
        may have been moved or copied, and the resumed checkpoint may belong to another run."""
        info, place = self.message_hub.runtime_info, Place.of_runner(self)
        kept = info.pop(SAVED_NUMBERS, [])  # epochs whose files the hook wrote and will remove later
        if Path(filename).resolve().parent == place.folder.resolve():
            own = {path.name for path in place.numbered() if not path.is_symlink()}
            hooks = [hook for hook in self.hooks if isinstance(hook, CheckpointHook)]
            kept = [number for number in kept if any(hook.filename_tmpl.format(number) in own for hook in hooks)]
            self.message_hub.update_info("keep_ckpt_ids", kept)
        for key in [key for key in info if key.startswith(SAVED_BEST)]:
            name, suffix = info.pop(key), key.removeprefix(SAVED_BEST)
            best = place.folder / name
            if is_main_process() and not best.exists():
                _copy_weights(Path(filename).parent / name, best)
            barrier()
            if _is_weights(best):
                self.message_hub.update_info(f"{BEST}{suffix}", str(best))
                continue
            self.logger.info(f"{best} is not there, so the best epoch is looked for again from {filename} on")
            info.pop(f"best_score{suffix}", None)
            info.pop("validated_epoch", None)

    def _follow_config(self, configured: dict[str, list[dict]]) -> None:
        """Let the config's learning rate and weight decay replace those of the checkpoint, because whoever resumes with
        a lower rate means it. The effect of schedulers is kept: a rate that they had halved is half of the new one."""
        changed: dict[str, str] = {}
        schedulers = self.param_schedulers if isinstance(self.param_schedulers, dict) else {"": self.param_schedulers}
        for name, groups in _param_groups(self).items():
            own = schedulers.get(name) or []
            steered = {scheduler.param_name for scheduler in own}
            for group, wanted in zip(groups, configured.get(name, groups), strict=True):
                decay = wanted.get("weight_decay")
                if decay is not None and "weight_decay" not in steered and group["weight_decay"] != decay:
                    changed["weight_decay"] = f"weight_decay {group['weight_decay']} -> {decay}"
                    group["weight_decay"] = decay
                key = "initial_lr" if "lr" in steered and "initial_lr" in wanted else "lr"
                group.setdefault(key, group["lr"])
                if group[key] != wanted[key]:
                    changed["lr"] = f"lr {group[key]} -> {wanted[key]}"
                    group["lr"] *= wanted[key] / group[key] if group[key] else 0.0
                    group[key] = wanted[key]
            if "lr" in changed:
                for scheduler in own:
                    if scheduler.param_name == "lr":
                        scheduler.base_values = [group["initial_lr"] for group in groups]
        if changed:
            self.logger.warning(f"the config's settings replace those of the checkpoint: {', '.join(changed.values())}")


def _param_groups(runner: Runner) -> dict[str, list[dict]]:
    """Parameter groups by the name of their optimizer; a single one has the name "". Empty until they are built."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        return {name: one.optimizer.param_groups for name, one in wrapper.items()}
    return {"": wrapper.optimizer.param_groups} if isinstance(wrapper, OptimWrapper) else {}


def _check_optimizer(runner: Runner, configured: dict[str, list[dict]]) -> None:
    """Check what torch loads without checking and would fail on in the first step: settings and shapes of moments.

    Raises:
        ValueError: the restored state does not fit the optimizer of this run.
    """
    for name, groups in _param_groups(runner).items():
        for group, wanted in zip(groups, configured.get(name, groups), strict=True):
            for key, value in wanted.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if (key not in group and key != "initial_lr") or (
                    number and not isinstance(group.get(key, value), int | float)
                ):
                    raise ValueError(f"the optimizer's {key} is missing or is no number")
    wrapper = runner.optim_wrapper
    for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
        for parameter, state in one.optimizer.state.items():
            for key in _MOMENTS & state.keys():
                value = state[key]
                if isinstance(value, torch.Tensor) and value.shape != parameter.shape:
                    raise ValueError(f"{key} of shape {tuple(value.shape)} for a weight of {tuple(parameter.shape)}")


def _is_weights(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        read_weights(path)
    except CheckpointError:
        return False
    return True


def _copy_weights(source: Path, target: Path) -> None:
    """Copy a checkpoint, if ``source`` is one."""
    if _is_weights(source):
        with replacing(target) as unfinished:
            shutil.copyfile(source, unfinished)


def _not_written(folder: Path, filename: str, unfinished: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        written = unfinished.stat().st_size if unfinished.exists() else 0
        reason += f"; {written / 1e6:,.1f} MB were written and {free / 1e6:,.1f} MB are free"
    before = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    whole = f"{before[-1]}, written before it, is whole ({before[-1].stat().st_size / 1e6:,.1f} MB)" if before else ""
    return (
        f"the checkpoint {folder / filename} cannot be written: {reason}. "
        + (f"{whole}; " if whole else "")
        + "make room or choose another --work-dir, then go on with --resume"
    )
