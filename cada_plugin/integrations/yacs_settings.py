"""How to read each setting of a yacs tree from an MMEngine config, and how to write it there."""

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from cada_plugin.engine.config import SHIPPED
from cada_plugin.engine.start import use_amp
from cada_plugin.errors import ConfigError


class Ignored(str):
    """A remark: the reason why a value has no effect here."""


class Approximated(str):
    """A remark: how the effect of a value differs from its effect in the host."""


Remark = Ignored | Approximated | None


class Setting(NamedTuple):
    """Reads and writes one setting. Values have the format of yacs, but names are ours (see ``Option.words``).

    Attributes:
        read: returns the value in a config; None if the config does not have it.
        write: puts a value into a config. Returns a remark if the effect is not the one in the host; raises ConfigError
            if the config has no place for the value.
    """

    read: Callable[[Config], Any]
    write: Callable[[Config, Any], Remark]


# ---------------------------------------------------------------- settings with a path in the config

_ABSENT = object()


def at(
    *paths: str,
    also: Sequence[str] = (),
    to_ours: Callable[[Any, Any], Any] = lambda value, old: value,
    to_theirs: Callable[[Any], Any] = lambda value: value,
) -> Setting:
    """A setting that has the same value at several paths of the config.

    It is read from and written to all ``paths`` whose parents exist. Paths in ``also`` are only written, if they exist.
    ``to_ours`` gets the new value and the one that it replaces.
    """

    def read(config: Config) -> Any:
        values = [node.get(key, _ABSENT) for path in paths for node, key in _places(config, path)]
        if not values or values[0] is _ABSENT or any(value != values[0] for value in values):
            return None
        return to_theirs(values[0])

    def write(config: Config, value: Any) -> None:
        places = [place for path in paths for place in _places(config, path)]
        if not places:
            raise ConfigError(f"the base config has no {paths[0].rpartition('.')[0]}: name another base config")
        places += [(node, key) for path in also for node, key in _places(config, path) if key in node]
        for node, key in places:
            node[key] = to_ours(value, node.get(key))

    return Setting(read, write)


def _places(config: Config, path: str) -> Iterator[tuple[Any, str]]:
    """All (parent, key) of a dotted path. Where a parent is a list, a name selects its elements with that ``type``."""
    nodes: list[Any] = [config]
    *parents, key = path.split(".")
    for name in parents:
        children: list[Any] = []
        for node in nodes:
            children += [item for item in node if type_of(item) == name] if isinstance(node, list) else [node.get(name)]
        nodes = [child for child in children if isinstance(child, dict | list)]
    return ((node, key) for node in nodes)


def type_of(cfg: dict) -> str:
    """Registered name without its scope: ``torchvision/Resize`` -> ``Resize``."""
    return str(cfg.get("type")).replace("/", ".").rpartition(".")[2]


def loaders(path: str, *splits: str) -> list[str]:
    return [f"{split}_dataloader.{path}" for split in splits or ("train", "val", "test")]


def none_as(word: Any) -> dict[str, Callable]:
    """Converters for a value that may be None, which the hosts write as ``word``."""
    return {
        "to_ours": lambda value, old: None if value == word else value,
        "to_theirs": lambda value: word if value is None else value,
    }


def masking(key: str) -> Setting:
    where = f"pipeline.MaskAttributes.{key}"
    return at(f"train_dataloader.dataset.{where}", also=[f"train_{where}"])


# ---------------------------------------------------------------- settings that need more than a path


def _nothing(config: Config, value: Any = None) -> None:
    return None


def section(config: Config, name: str) -> ConfigDict:
    """A section at the top of a config.

    Raises:
        ConfigError: the config has no such section.
    """
    found = config.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"the base config has no {name}: name another base config")
    return found


def _base_config(config: Config) -> str | None:
    path, shipped = Path(config.filename or "").resolve(), SHIPPED.resolve()  # in a checkout, SHIPPED is a link
    return path.relative_to(shipped).with_suffix("").as_posix() if path.is_relative_to(shipped) else config.filename


BASE_CONFIG = Setting(_base_config, _nothing)
DATA_ROOT = at(
    *loaders("dataset.data_root"),
    also=["data_root"],
    to_ours=lambda root, old: str(Path(root) / Path(old).name),
    to_theirs=lambda folder: str(Path(folder).parent),
)


def dataset(split: str) -> Setting:
    """The data set. The base config determines it, so a file may only repeat it; another value is an error."""

    def read(config: Config) -> str | None:
        loader = config.get(f"{split}_dataloader")
        return type_of(loader.get("dataset", {})) if loader else None

    def write(config: Config, value: str) -> None:
        raise ConfigError(f"the base config reads {read(config)}, not {value}: name another base config, or none")

    return Setting(read, write)


def _height_and_width(value: list, old: Any) -> tuple[int, int]:
    if len(value) != 2 or not all(type(number) is int and number > 0 for number in value):
        raise ConfigError(f"expected [height, width] in pixels, got {value}")
    return tuple(value)


_PIPELINES = ("train", "plain", "random", "test")  # configs hold pipelines in variables called NAME_pipeline
_SIZE = at(
    *loaders("dataset.pipeline.Resize.size"),
    *loaders("dataset.pipeline.RandomCrop.size", "train"),
    also=[
        "model.visual_encoder.image_size",
        "image_size",
        *(f"{name}_pipeline.{step}.size" for name in _PIPELINES for step in ("Resize", "RandomCrop")),
    ],
    to_ours=_height_and_width,
    to_theirs=lambda size: list(size) if isinstance(size, Sequence) else None,
)


def _set_image_size(config: Config, value: list) -> None:
    if _SIZE.read(config) is None:
        raise ConfigError("the base config has images of several sizes: change its pipelines")
    _SIZE.write(config, value)


def _other_size(config: Config, value: list) -> None:
    raise ConfigError(f"{value} is not INPUT.SIZE_TRAIN: the image encoder has one size, so set both")


IMAGE_SIZE = Setting(_SIZE.read, _set_image_size)
TEST_SIZE = Setting(_SIZE.read, _other_size)


def side(index: int) -> Setting:
    def read(config: Config) -> int | None:
        size = _SIZE.read(config)
        return size and size[index]

    def write(config: Config, value: int) -> None:
        size = _SIZE.read(config) or [0, 0]
        size[index] = value
        _set_image_size(config, size)

    return Setting(read, write)


_ALL_WORKERS = at(*loaders("num_workers"))


def _set_num_workers(config: Config, value: int) -> None:
    _ALL_WORKERS.write(config, value)
    if value == 0:  # torch raises on persistent_workers without workers
        for path in loaders("persistent_workers"):
            for loader, key in _places(config, path):
                loader.pop(key, None)


NUM_WORKERS = Setting(_ALL_WORKERS.read, _set_num_workers)


def _sampler(config: Config) -> str | None:
    loader = config.get("train_dataloader")
    return type_of(loader.get("sampler", {})) if loader else None


def _set_sampler(config: Config, value: str) -> None:
    loader = section(config, "train_dataloader")
    loader.sampler = ConfigDict(type=value)
    if value == "IdentitySampler":
        loader.sampler.update(num_instances=4, batch_size=loader.get("batch_size", 1))  # 4: the default of both hosts
    elif value == "LookAlikeSampler":
        loader.sampler.update(batch_size=loader.get("batch_size", 1), group_size=8)
    else:
        loader.sampler.shuffle = True


def _set_num_instances(config: Config, value: int) -> Remark:
    if _sampler(config) != "IdentitySampler":  # no error: hosts' files have this key with any sampler
        return Ignored("the sampler does not group by identity")
    config.train_dataloader.sampler.num_instances = value
    return None


SAMPLER = Setting(_sampler, _set_sampler)
NUM_INSTANCES = Setting(at("train_dataloader.sampler.num_instances").read, _set_num_instances)


def _amp(config: Config) -> bool | None:
    return {"OptimWrapper": False, "BF16OptimWrapper": True}.get(type_of(config.get("optim_wrapper", {})))


def _set_amp(config: Config, value: bool) -> None:
    if value:
        section(config, "optim_wrapper")
        use_amp(config)
    else:
        at("optim_wrapper.type").write(config, "OptimWrapper")


AMP = Setting(_amp, _set_amp)


_VAL_INTERVAL = at("train_cfg.val_interval")


def _set_eval_period(config: Config, value: int) -> None:
    epochs = at("train_cfg.max_epochs").read(config) or 1
    _VAL_INTERVAL.write(config, value if value > 0 else epochs)  # torchreid's -1 means at the end


EVAL_PERIOD = Setting(_VAL_INTERVAL.read, _set_eval_period)


def _two_scales(value: list, old: Any) -> tuple:
    if len(value) != 2 or not all(type(number) in (int, float) and isfinite(number) for number in value):
        raise ConfigError(f"expected two numbers, at the start and at the end of training, got {value}")
    return tuple(value)


NEGATIVE_SCALE = at("model.negative_scale", to_ours=_two_scales, to_theirs=list)


def _start_weights(config: Config) -> str | None:
    init = (config.get("model") or {}).get("init_cfg")
    return init.get("checkpoint") if init else ""


def _set_start_weights(config: Config, value: str) -> None:
    model = section(config, "model")
    init = model.get("init_cfg") or {"type": "Pretrained"}
    model.init_cfg = ConfigDict(init, checkpoint=value) if value else None


START_WEIGHTS = Setting(_start_weights, _set_start_weights)


def loss(name: str) -> Setting:
    """The weight of a loss; 0 removes the loss from the model."""

    def read(config: Config) -> float | None:
        loss = (config.get("model") or {}).get(name, _ABSENT)
        return 0.0 if loss is None else None if loss is _ABSENT else loss.get("weight")

    def write(config: Config, value: float) -> None:
        model = section(config, "model")
        if name not in model or (value and model[name] is None):
            raise ConfigError(f"the base config has no {name}: name another base config")
        if value:
            model[name].weight = value
            return
        model[name] = None
        if name == "loss_ara":
            model.text_decoder = None

    return Setting(read, write)


def ignored(reason: str) -> Setting:
    """A key that has no effect here, whatever its value."""
    return Setting(_nothing, lambda config, value: Ignored(reason))


def only(allowed: Any, reason: str) -> Setting:
    """A key that is common in hosts' files, but here can only have the value ``allowed``."""

    def write(config: Config, value: Any) -> None:
        if value != allowed:
            raise ConfigError(f"only {allowed!r} is possible here: {reason}")

    return Setting(_nothing, write)
