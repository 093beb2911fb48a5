"""Read a config so that changing one of its variables also changes all copies of it.

In a text config of MMEngine, ``dataset=dict(data_root=data_root)`` copies the value of the variable ``data_root`` into
the loader when the file is read. If the command line or another config changes the variable afterwards, MMEngine leaves
the copies at the old value. The functions here update them.
"""

import ast
import copy
import difflib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from cada_plugin.errors import CADAError, ConfigError, first_line
from cada_plugin.registry import SCOPE

SHIPPED = Path(__file__).resolve().parents[1] / ".mim" / "configs"
"""Folder of the configs of an installed package, by OpenMMLab's convention; in a checkout, a link to ``configs``."""

# Top-level keys of a config that a Runner reads. Every other one is a variable that only the config itself uses.
SETTINGS = {
    *set(inspect.signature(Runner.__init__).parameters) - {"self"},
    *("runner_type", "custom_imports", "find_unused_parameters", "model_wrapper_cfg"),
} - {"cfg", "launcher"}
_COPIED = str | int | float | dict | list | tuple
# All keys that MMEngine reads in these dicts. It ignores any other key without a message.
_FIXED = {
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "env_cfg.dist_cfg": {
        "backend",
        "timeout",
        "init_backend",
        "init_method",
        "port",
        "world_size",
        "rank",
        "device_id",
    },
    "auto_scale_lr": {"enable", "base_batch_size"},
    "randomness": {"seed", "deterministic", "diff_rank_seed"},
    "optim_wrapper.clip_grad": {"type", "max_norm", "norm_type", "error_if_nonfinite", "foreach", "clip_value"},
}


def shipped_configs() -> list[str]:
    """Names of the configs that come with the plugin, such as ``cada_cuhk`` and ``baselines/clip_cuhk``. Names of YAML
    configs keep their ending, such as ``yacs/fastreid_cuhk.yml``."""
    return sorted(_configs())


def find_config(config: str | Path) -> Path:
    """The file of a config, given by its path or by the name of a shipped config (``cada_cuhk``, ``clip_cuhk``).

    Raises:
        ConfigError: there is no such config, or a name without its folder fits several.
    """
    return _find(config, ".py", _configs(), "config", "configs/my_config.py or cada_procedural")


def find_grid(grid: str | Path) -> Path:
    """The file of a grid of variants for ``cada benchmark --vary``, given by its path or by the name of a shipped grid
    (``grids/procedural``).

    Raises:
        ConfigError: there is no such grid.
    """
    grids = {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in SHIPPED.glob("grids/*.yml")}
    return _find(grid, ".yml", grids, "grid", "my_grid.yml or grids/procedural")


def _configs() -> dict[str, Path]:
    """The files of the shipped configs by name; ``_base_`` files, grids of variants and the metafile do not count."""
    python = [path for path in SHIPPED.rglob("*.py") if "_base_" not in path.parts]
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in python} | {
        path.relative_to(SHIPPED).as_posix(): path for path in SHIPPED.glob("yacs/*.yml")
    }


def _find(source: str | Path, ending: str, known: dict[str, Path], what: str, examples: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    name = str(source).removesuffix(ending)
    if name in known:
        return known[name]
    if (SHIPPED / f"{name}{ending}").is_file():  # a part of a config, such as _base_/default_runtime
        return SHIPPED / f"{name}{ending}"
    found = [one for one in known if name == one.rpartition("/")[2]]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise ConfigError(f"{name} is the name of several {what}s: give one of {', '.join(sorted(found))}")
    near = difflib.get_close_matches(name, sorted(known), 3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"such as {examples}"
    raise ConfigError(f"no {what} file {source}: give a path, or the name of one that ships with the plugin; {hint}")


def read_config(config: str | Path) -> Config:
    """Read a Python config, in which copies of a variable follow the last file that sets the variable.

    For example, a config that sets ``data_root`` changes it in the loaders that a ``_base_`` file defines, too.

    Args:
        config: a path, or the name of a config that comes with the plugin.

    Raises:
        ConfigError: there is no such file, or it cannot be read as a config.
    """
    path = find_config(config)
    try:
        result = Config.fromfile(path)
        earlier = [Config.fromfile(base) for base in _bases(Path(path))]
    except CADAError:
        raise
    except Exception as error:  # a config is a Python file: it can fail in any way
        raise ConfigError(f"{path} cannot be read as a config: {first_line(error)}") from error
    if result.get("default_scope") == SCOPE:
        for key in result:
            _drop_scope(result[key])
    for name in _variables(result):
        for base in earlier:
            if name in base and _plain(base[name]) != _plain(result[name]):
                _follow(result, name, base[name], _twins(base, name))
    return result


def _drop_scope(node: Any) -> None:
    """Remove the ``_scope_`` that MMEngine adds to every typed dict of a base named ``cada_plugin::...``. If ours is
    the default scope, ``_scope_`` has no effect, but it makes copies of a variable differ from the variable."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        _drop_scope(value)
    if isinstance(node, dict) and node.get("_scope_") == SCOPE:
        del node["_scope_"]


def settings_of(config: Config) -> dict[str, Any]:
    """The part of a config that a Runner reads, as plain dicts and lists. Two configs with the same settings make the
    same run, even if their variables differ."""
    return {key: _plain(value) for key, value in config.to_dict().items() if key in SETTINGS}


def override(config: Config, options: dict[str, Any], said_by: str = "--cfg-options") -> None:
    """Apply ``--cfg-options`` in place, such as ``{'train_cfg.max_epochs': 3, 'data_root': 'my_people'}``.

    If an option sets a variable of the config, every copy of the variable changes too.

    Args:
        said_by: name of these options on the command line; error messages begin with it.

    Raises:
        ConfigError: an option changes nothing that a Runner reads; the message says where such a setting is found.
    """
    variables = _variables(config)
    twins = {name: _twins(config, name) for name in variables}
    for head in dict.fromkeys(key.partition(".")[0] for key in options):
        own = {key: value for key, value in options.items() if key.partition(".")[0] == head}
        if head in SETTINGS:
            for key in own:
                _check_fixed(key, said_by)
            if head == "data_preprocessor" and (config.get("model") or {}).get("data_preprocessor"):
                raise ConfigError(f"{said_by} {key} would change nothing: the model has its own, set model.{key}")
            _merge(config, own, said_by)
            continue
        old = copy.deepcopy(config.get(head))
        if head in variables:
            _merge(config, own, said_by)
        if head not in variables or not _follow(config, head, old, twins[head]):
            raise ConfigError(_nowhere(config, next(iter(own)), head, said_by))


def _check_fixed(option: str, said_by: str) -> None:
    parts = option.split(".")
    for depth in range(1, len(parts)):
        known = _FIXED.get(".".join(parts[:depth]))
        if known and parts[depth] not in known:
            near = difflib.get_close_matches(parts[depth], known, 1) or sorted(known)
            raise ConfigError(
                f"{said_by} {option} would change nothing: {'.'.join(parts[:depth])} has no {parts[depth]}; "
                f"did you mean {' or '.join(near)}?"
            )


def _merge(config: Config, options: dict[str, Any], said_by: str) -> None:
    try:
        config.merge_from_dict(copy.deepcopy(options))  # a copy, as MMEngine removes _delete_ from its argument
    except Exception as error:  # MMEngine raises TypeError, KeyError, IndexError ... for a wrong path
        raise ConfigError(
            f"{said_by} {' '.join(options)}: {first_line(error)}: give the path of a setting, such as "
            "train_dataloader.batch_size=32"
        ) from error


def _variables(config: Config) -> list[str]:
    """Names of the variables: top-level values that no Runner reads, and only other parts of the config refer to."""
    return [name for name in config if name not in SETTINGS and isinstance(config[name], _COPIED)]


def _twins(config: Config, name: str) -> list[str]:
    """Other variables of the same value, whose copies cannot be told from copies of this variable by the value."""
    return [one for one in _variables(config) if one != name and _plain(config[one]) == _plain(config[name])]


def _follow(config: Config, name: str, old: Any, twins: list[str]) -> int:
    """Replace copies of a variable's ``old`` value by its present one, and count the copies that a Runner reads.

    A copy has the old value, and as its key the name of the variable or the end of that name (``clip_image_size``:
    ``image_size``, ``size``). If the variable has ``twins``, the key must be the whole name.
    """
    new, count, plain = config[name], 0, _plain(old)
    parts = name.split("_")
    names = {name} if twins else {"_".join(parts[start:]) for start in range(len(parts))}
    for key in [key for key in config if key != name]:
        changed = _replace(config, key, names, plain, new)
        count += changed if key in SETTINGS else 0
    return count


def _replace(parent: Any, key: Any, names: set[str], old: Any, new: Any) -> int:
    """Replace ``old`` in ``parent[key]`` and below, wherever its key is one of the names; returns how often."""
    node = parent[key]
    if key in names and _plain(node) == old and type(_plain(node)) is type(old):
        value = tuple(new) if isinstance(node, tuple) and isinstance(new, list) else new
        parent[key] = copy.deepcopy(value)
        return 1
    if isinstance(node, tuple):
        return 0
    inner = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return sum(_replace(node, one, names, old, new) for one in inner)


def _plain(value: Any) -> Any:
    """The value with lists in place of tuples, so that a list and a tuple compare as equal."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _nowhere(config: Config, option: str, head: str, said_by: str) -> str:
    last = option.rpartition(".")[2]
    places = [path for key in config if key in SETTINGS for path in _paths(config[key], str(key), last)]
    if head in config:
        reason = f"{head} is a variable of the config that nothing which is trained or tested holds a copy of"
    else:
        reason = f"the config has no {head}"
    if places:
        more = f" and {len(places) - 6} more" if len(places) > 6 else ""
        return f"{said_by} {option} would change nothing: {reason}. Set {', '.join(places[:6])}{more}"
    near = difflib.get_close_matches(head, [*SETTINGS, *_variables(config)], 1)
    hint = f"did you mean {near[0]}?" if near else "see the config for its settings"
    return f"{said_by} {option} would change nothing: {reason}; {hint}"


def _paths(node: Any, path: str, last: str) -> Iterator[str]:
    """Dotted paths at which the key ``last`` occurs."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == last:
            yield f"{path}.{key}"
        yield from _paths(value, f"{path}.{key}", last)


def _bases(path: Path) -> Iterator[Path]:
    """The Python files that a config is based on, directly or through other bases. Missing files are skipped."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "_base_" for target in node.targets):
            names = ast.literal_eval(node.value)
            for name in [names] if isinstance(names, str) else names:
                shipped = name.removeprefix(f"{SCOPE}::")
                base = path.parent / name if shipped == name else SHIPPED / shipped
                if base.suffix == ".py" and base.is_file():
                    yield base
                    yield from _bases(base)
