"""Converts the optimiser and learning-rate keys of FastReID and torchreid to MMEngine's optimiser and schedulers.

Both hosts have one schedule that counts epochs; FastReID also has a warm-up before it that counts iterations. If the
base config has another kind of schedule, it is kept, and the host's keys for it are ignored with a remark.
"""

from collections.abc import Callable
from typing import Any

from mmengine.config import Config, ConfigDict

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs_settings import Approximated, Ignored, Remark, Setting, at, section, type_of

_EPOCHS = at("train_cfg.max_epochs")
_STEPPED = ("MultiStepLR", "StepLR")
_COSINE = ("CosineAnnealingLR",)


def _schedulers(config: Config) -> list[ConfigDict]:
    schedulers = config.get("param_scheduler") or []
    return [schedulers] if isinstance(schedulers, dict) else schedulers


def _is_warm_up(scheduler: dict) -> bool:
    return type_of(scheduler) in ("LinearLR", "ConstantLR") and scheduler.get("begin", 0) == 0


def _warm_up(config: Config) -> ConfigDict | None:
    return next(filter(_is_warm_up, _schedulers(config)), None)


def _main(config: Config) -> ConfigDict:
    """The only schedule besides the warm-up, if it counts epochs; empty if there is none or several."""
    others = [scheduler for scheduler in _schedulers(config) if not _is_warm_up(scheduler)]
    return others[0] if len(others) == 1 and others[0].get("by_epoch", True) else ConfigDict()


# ---------------------------------------------------------------- epochs and the schedule


def _set_max_epochs(config: Config, value: int) -> None:
    """Set the length of training, and move the end of the schedulers that end with it."""
    old = _EPOCHS.read(config)
    _EPOCHS.write(config, value)
    for scheduler in _schedulers(config):
        begin = scheduler.get("begin", 0)
        if old is None or not scheduler.get("by_epoch", True) or scheduler.get("end") not in (old, None):
            continue
        if begin >= value:
            raise ConfigError(
                f"{value} epochs, but the base config's {type_of(scheduler)} begins after {begin}: use more, or change "
                "its param_scheduler"
            )
        if scheduler.get("T_max") in (old, old - begin):
            scheduler.T_max = value - begin
        if "end" in scheduler:
            scheduler.end = value


MAX_EPOCHS = Setting(_EPOCHS.read, _set_max_epochs)


def schedule(steps: list[int]) -> Setting:
    """The kind of schedule. ``steps`` are the host's default steps, for a file that gives none."""

    def read(config: Config) -> str | None:
        kind = type_of(_main(config))
        return kind if kind in (*_STEPPED, *_COSINE) else None

    def write(config: Config, value: str) -> None:
        epochs = _EPOCHS.read(config)
        if epochs is None:
            raise ConfigError("the base config does not train by epochs: name another base config")
        options = {
            "CosineAnnealingLR": {"T_max": epochs, "end": epochs},
            "MultiStepLR": {"milestones": steps, "gamma": 0.1},
            "StepLR": {"step_size": steps[-1], "gamma": 0.1},
        }
        warm_ups = filter(_is_warm_up, _schedulers(config))
        config.param_scheduler = [*warm_ups, ConfigDict(type=value, by_epoch=True, **options[value])]

    return Setting(read, write)


def _of_schedule(kinds: tuple[str, ...], key: str, default: Any) -> Setting:
    """An argument of the schedule, for schedules of one of ``kinds``; ignored with a remark for the others."""

    def read(config: Config) -> Any:
        main = _main(config)
        value = main.get(key)
        return (default if value is None else value) if type_of(main) in kinds else None

    def write(config: Config, value: Any) -> Remark:
        main = _main(config)
        if type_of(main) not in kinds:
            return Ignored(f"it belongs to {' and '.join(kinds)}, and the schedule is another one")
        main[key] = value
        return None

    return Setting(read, write)


GAMMA = _of_schedule(_STEPPED, "gamma", 0.1)
MINIMUM_RATE = _of_schedule(_COSINE, "eta_min", 0.0)


def _steps(config: Config) -> list[int] | None:
    main = _main(config)
    if type_of(main) == "MultiStepLR":
        return list(main.get("milestones", []))
    return [main.get("step_size")] if type_of(main) == "StepLR" else None


def _set_steps(config: Config, value: list) -> Remark:
    if not value or any(type(step) is not int or step < 1 for step in value) or sorted({*value}) != list(value):
        raise ConfigError(f"expected epochs in rising order, such as [40, 90], got {value}")
    main = _main(config)
    if type_of(main) == "MultiStepLR":
        main.milestones = list(value)
    elif type_of(main) == "StepLR":
        main.step_size = value[-1]  # as in torchreid: the last number is the distance between steps
    else:
        return Ignored("the schedule has no steps")
    return None


STEPS = Setting(_steps, _set_steps)


def _delay(config: Config) -> int | None:
    main = _main(config)
    return main.get("begin", 0) if main else None


def _set_delay(config: Config, value: int) -> Remark:
    main, epochs = _main(config), _EPOCHS.read(config)
    if not main or epochs is None:
        return Ignored("the base config has no schedule by epochs")
    if value >= epochs:
        raise ConfigError(
            f"a delay of {value} epochs leaves none of {epochs} for the schedule: lower it, or train longer"
        )
    main.begin = value
    if type_of(main) in _COSINE:
        main.update(T_max=epochs - value, end=epochs)
    return None


DELAY_EPOCHS = Setting(_delay, _set_delay)


# ---------------------------------------------------------------- the warm-up


def _warmup_iters(config: Config) -> int | None:
    warm_up = _warm_up(config)
    if warm_up is None:
        return 0
    return None if warm_up.get("by_epoch", True) else warm_up.get("end")


def _set_warmup_iters(config: Config, value: int) -> None:
    if _warmup_iters(config) is None:
        raise ConfigError("the base config warms up by epochs, or without end: change its param_scheduler")
    # 0.01 is the factor in our own configs
    warm_up = _warm_up(config) or ConfigDict(type="LinearLR", start_factor=0.01, begin=0)
    others = [scheduler for scheduler in _schedulers(config) if not _is_warm_up(scheduler)]
    config.param_scheduler = [ConfigDict(warm_up, by_epoch=False, end=value), *others] if value else others


def _set_host_warmup_iters(config: Config, value: int) -> Remark:
    _set_warmup_iters(config, value)
    return Approximated("the schedule goes on during the warm-up, FastReID's waits for its end") if value else None


WARMUP_ITERS = Setting(_warmup_iters, _set_warmup_iters)
HOST_WARMUP_ITERS = Setting(_warmup_iters, _set_host_warmup_iters)
_FACTORS = {"LinearLR": "start_factor", "ConstantLR": "factor"}


def _warmup_factor(config: Config) -> float | None:
    warm_up = _warm_up(config)
    return None if warm_up is None else warm_up.get(_FACTORS[type_of(warm_up)], 1 / 3)


def _set_warmup_factor(config: Config, value: float) -> Remark:
    warm_up = _warm_up(config)
    if warm_up is None:
        return Ignored("there is no warm-up")
    warm_up[_FACTORS[type_of(warm_up)]] = value
    return None


WARMUP_FACTOR = Setting(_warmup_factor, _set_warmup_factor)


def _warmup_method(config: Config) -> str | None:
    warm_up = _warm_up(config)
    return None if warm_up is None else type_of(warm_up)


def _set_warmup_method(config: Config, value: str) -> Remark:
    warm_up = _warm_up(config)
    if warm_up is None:
        return Ignored("there is no warm-up")
    factor = warm_up.pop(_FACTORS[type_of(warm_up)], 1 / 3)
    warm_up.update({"type": value, _FACTORS[value]: factor})
    return None


WARMUP_METHOD = Setting(_warmup_method, _set_warmup_method)


# ---------------------------------------------------------------- the optimiser


def _optimizer(config: Config) -> ConfigDict:
    return (config.get("optim_wrapper") or {}).get("optimizer") or ConfigDict()


def _kind(config: Config) -> str | None:
    optimizer = _optimizer(config)
    if not optimizer:
        return None
    return "AMSGrad" if type_of(optimizer) == "Adam" and optimizer.get("amsgrad") else type_of(optimizer)


def _set_kind(config: Config, value: str) -> None:
    optimizer = _optimizer(config)
    if not optimizer:
        raise ConfigError("the base config has no optim_wrapper.optimizer: name another base config")
    common = ("lr", "weight_decay") if value == "SGD" else ("lr", "weight_decay", "betas", "eps", "fused")
    for key in [key for key in optimizer if key not in common]:
        del optimizer[key]
    if value == "SGD":
        optimizer.update(type="SGD", momentum=0.9)  # the default of both hosts
    elif value == "AMSGrad":
        optimizer.update(type="Adam", amsgrad=True)
    else:
        optimizer.type = value


OPTIMIZER = Setting(_kind, _set_kind)


def sgd(key: str, default: Any) -> Setting:
    """An argument that only SGD has."""

    def read(config: Config) -> Any:
        return _optimizer(config).get(key, default) if _kind(config) == "SGD" else None

    def write(config: Config, value: Any) -> Remark:
        if _kind(config) != "SGD":
            return Ignored("the optimiser is not SGD")
        _optimizer(config)[key] = value
        return None

    return Setting(read, write)


def beta(index: int) -> Setting:
    """One of Adam's two decay rates."""

    def betas(config: Config) -> list[float]:
        return list(_optimizer(config).get("betas", (0.9, 0.999)))

    def read(config: Config) -> float | None:
        return betas(config)[index] if _kind(config) in ("Adam", "AdamW", "AMSGrad") else None

    def write(config: Config, value: float) -> Remark:
        if read(config) is None:
            return Ignored("the optimiser is not Adam")
        changed = betas(config)
        changed[index] = value
        _optimizer(config).betas = tuple(changed)
        return None

    return Setting(read, write)


def _paramwise(key: str, to_multiple: Callable[[Config, float], float], unit: Callable[[Config], float]) -> Setting:
    """A value that MMEngine's ``paramwise_cfg`` holds as a multiple of ``unit``; the multiple is 1 by default."""

    def read(config: Config) -> float:
        return ((config.get("optim_wrapper") or {}).get("paramwise_cfg") or {}).get(key, 1.0) * unit(config)

    def write(config: Config, value: float) -> Remark:
        wrapper = section(config, "optim_wrapper")
        if not unit(config):
            return Ignored("there is no weight decay that it could be a multiple of")
        # without bypass_duplicate, MMEngine raises on weights that two layers share
        chosen = wrapper.setdefault("paramwise_cfg", ConfigDict(bypass_duplicate=True))
        chosen[key] = to_multiple(config, value)
        return Approximated("biases of normalisation layers are no biases for MMEngine") if "bias" in key else None

    return Setting(read, write)


def _decay(config: Config) -> float:
    return _optimizer(config).get("weight_decay", 0.0)


def decay(key: str) -> Setting:
    """A separate weight decay for some parameters, which MMEngine expresses as a multiple of the common one."""
    return _paramwise(key, lambda config, value: value / _decay(config), _decay)


BIAS_LR_FACTOR = _paramwise("bias_lr_mult", lambda config, value: value, lambda config: 1.0)
