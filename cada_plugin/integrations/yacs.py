"""yacs codebases: runs from FastReID- and torchreid-style YAML, and our options in a host's own tree.

    config = to_mmengine('configs/yacs/fastreid_procedural.yml', ['SOLVER.MAX_EPOCH', '1'])
    tree = to_yacs(config, 'torchreid')

A YAML file says what it changes in a *base config*, one of ``configs/*.py``: the one of its data set, or the one that
``MODEL.CADA.BASE_CONFIG`` (``cada.base_config``) names, as ``cada_procedural`` or as a path relative to the file. The
table of all keys is :mod:`cada_plugin.integrations.yacs_table`. Any other key is an error: a setting that is dropped
silently is a run that nobody meant. None stands for what the base config says.
"""

import argparse
import difflib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mmengine.config import Config
from yacs.config import CfgNode

from cada_plugin.engine.runner import first_line
from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs_settings import SHIPPED
from cada_plugin.integrations.yacs_table import ROWS, STYLES, Row

# Which config a data set stands for.
_BASE_CONFIGS = {
    "CUHKPEDES": "cada_cuhk",
    "ICFGPEDES": "cada_icfg",
    "RSTPReid": "cada_rstp",
    "UFine6926": "cada_ufine",
    "ProceduralPEDES": "cada_procedural",
}
_OWN = {"fastreid": "MODEL.CADA", "torchreid": "cada"}  # the node of our own options
_EXPECTED = {
    str: "a string",
    int: "an integer",
    float: "a number with a point or exponent, such as 1.0",
    bool: "True or False",
    list: "a list, such as [384, 128] or ('CUHKPEDES',)",
}
# Where each launcher tells the number of processes.
_PROCESSES = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}


class _Entry(NamedTuple):
    """A key with its value, and for error messages where it stands."""

    key: str
    value: Any
    source: str


# ---------------------------------------------------------------- both directions


def to_mmengine(source: str | Path | CfgNode, overrides: Sequence[str] = (), world_size: int = 1) -> Config:
    """The MMEngine config of a YAML file, or of a host's tree.

    Args:
        source: a YAML file of either style, ``_BASE_`` is followed; or a whole tree, of which only the keys of the
            table are read: the others are its host's business.
        overrides: keys and values in turn, which win over the file.
        world_size: number of processes; batch sizes of yacs are of all together.

    Raises:
        ConfigError: the file cannot be read or has unknown keys, which are named all at once; a value is of a wrong
            type, or the base config has no place for it.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"expected pairs of KEY VALUE, got an odd number of words: {' '.join(overrides)}. "
            "On a command line, put them before flags that may take a word, such as --resume [PATH]"
        )
    pairs = [_Entry(*pair, "command line") for pair in zip(overrides[::2], overrides[1::2], strict=True)]
    if isinstance(source, CfgNode):
        entries, source = [_Entry(key, value, "tree") for key, value in _flatten(source)], "the tree"
        style = _style([entry.key for entry in entries], source)
        entries = [entry for entry in entries if entry.key in _rows(style)]
    else:
        entries = _read(Path(source).expanduser())
        style = _style([entry.key for entry in entries], source)
    _check_keys([*entries, *pairs], style, source)
    values = _check_values([*entries, *pairs], style)
    config = _load_base(values, style)
    for key, row in _rows(style).items():
        if key in values:
            try:
                _write(row, config, values[key], world_size)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error
    return config


def to_yacs(config: Config, style: str, world_size: int = 1) -> CfgNode:
    """What a config says in the keys of ``fastreid`` or ``torchreid``; ``to_mmengine`` makes the same config of it.

    Raises:
        ConfigError: the config was not read from a file, or was changed since in ways that no key can say.
    """
    if style not in STYLES:
        raise ConfigError(f"style={style!r}: use one of {', '.join(STYLES)}")
    if not config.filename:
        raise ConfigError("to_yacs needs a config that was read from a file: its keys say what differs from that")
    tree = CfgNode()
    for key, row in _rows(style).items():
        value = row.encode(row.setting.read(config), style)
        if value is not None:
            _put(tree, key, value * world_size if row.of_all_processes else value)
    ours, again = config.to_dict(), to_mmengine(tree, world_size=world_size).to_dict()
    if lost := [key for key in {**ours, **again} if _text(ours.get(key)) != _text(again.get(key))]:
        raise ConfigError(
            f"no key of a yacs tree says how {', '.join(lost)} differ from {config.filename}: write the config to a "
            "file of its own with config.dump(...), and convert what Config.fromfile reads from there"
        )
    return tree


def add_cada_config(cfg: CfgNode) -> None:
    """Add our options to a host's tree: the node ``MODEL.CADA``, or ``cada`` in a lower-case tree.

    All are None, what the base config says, until a file or command line of the host sets them. A second call changes
    nothing; a frozen tree stays frozen. ``to_mmengine(cfg)`` then gives the config of the whole tree.

    Raises:
        ConfigError: the tree has another node of that name, or is of neither style.
    """
    style = _style([str(key) for key in cfg], "the tree")
    *parents, name = _OWN[style].split(".")
    host: Any = cfg
    for parent in parents:
        host = host.get(parent)
        if not isinstance(host, CfgNode):
            raise ConfigError(f"the tree has no node {parent}: add it, then our options as {_OWN[style]}")
    own = CfgNode()
    for key in _rows(style):
        if key.startswith(f"{_OWN[style]}."):
            _put(own, key.removeprefix(f"{_OWN[style]}."), None)
    if name in host:
        if not isinstance(host[name], CfgNode) or dict(_flatten(host[name])).keys() != dict(_flatten(own)).keys():
            raise ConfigError(f"the tree has a {_OWN[style]} of its own: rename it")
        return
    if host.is_frozen():
        own.freeze()
    host[name] = own  # as an item, which a frozen node allows


# ---------------------------------------------------------------- the tools' command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let a tool take YAML files and, after its other words, KEY VALUE pairs: parse with ``parse_intermixed_args``."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY VALUE", help="for a YAML config: SOLVER.MAX_EPOCH 1"
    )
    parser.set_defaults(read_config=_read_config)


def _read_config(args: argparse.Namespace) -> Config:
    if Path(args.config).suffix in (".yml", ".yaml"):
        return to_mmengine(args.config, args.overrides, int(os.environ.get(_PROCESSES.get(args.launcher, ""), 1)))
    if args.overrides:
        raise ConfigError(
            f"KEY VALUE pairs are for YAML configs, and {args.config} is none: use --cfg-options KEY=VALUE in place of "
            f"{' '.join(args.overrides)}"
        )
    return Config.fromfile(args.config)


# ---------------------------------------------------------------- trees


def _rows(style: str) -> dict[str, Row]:
    """The table by the keys of a style."""
    return {row.key(style): row for row in ROWS if row.key(style)}


def _put(tree: CfgNode, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for name in parents:
        tree = tree.setdefault(name, CfgNode())
    tree[leaf] = value


def _flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    """For comparisons in which a tuple is a list."""
    return json.dumps(value, sort_keys=True, default=str)


# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if first.setdefault(str(key.value), key) is not key:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
        return node


def _read(path: Path, chain: tuple[Path, ...] = ()) -> list[_Entry]:
    """What a file says, after what its ``_BASE_`` says; ``chain`` are the files that led to it."""
    if path.resolve() in chain:
        raise ConfigError(f"_BASE_ goes round in a circle: {' -> '.join(p.name for p in (*chain, path))}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        whose = f", the _BASE_ of {chain[-1]}," if chain else ""
        raise ConfigError(f"{path}{whose} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} is no tree of keys: expected lines such as SOLVER: or train:")
    pairs = list(_flatten(content or {}))
    entries = dict(pairs)
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:  # nested and dotted
        raise ConfigError(f"{path}: the key {twice[0]} is given twice")
    base = entries.pop("_BASE_", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"{path}: _BASE_ is the name of one file, got {base!r}")
    for style in STYLES:
        key = ROWS[0].key(style)
        if str(entries.get(key)).endswith(".py"):
            entries[key] = str(path.absolute().parent / Path(entries[key]).expanduser())
    own = [_Entry(key, value, path.name) for key, value in entries.items()]
    return own if base is None else _read(path.parent / Path(base).expanduser(), (*chain, path.resolve())) + own


def _style(keys: Sequence[str], source: object) -> str:
    """The style of a tree, by the case of most keys."""
    sections = {key.partition(".")[0].lower() for style in STYLES for key in _rows(style)}
    if not any(key.partition(".")[0].lower() in sections for key in keys):
        raise ConfigError(
            f"{source} is neither FastReID-style (SOLVER.BASE_LR) nor torchreid-style (train.lr): "
            f"it has {', '.join(keys) or 'no keys'}"
        )
    return "torchreid" if sum(map(str.islower, keys)) > sum(map(str.isupper, keys)) else "fastreid"


def _check_keys(entries: Iterable[_Entry], style: str, source: object) -> None:
    unknown = {entry.key: entry.source for entry in entries if entry.key not in _rows(style)}
    if not unknown:
        return
    case = "FastReID-style: keys are upper-case" if style == "fastreid" else "torchreid-style: keys are lower-case"
    base = ROWS[0].key(style)
    raise ConfigError(
        "\n".join(
            [
                f"unknown keys in {source} (read as {case}):",
                *(f"  {key} ({where}): {_hint(key, style)}" for key, where in unknown.items()),
                f"What has no key is set in the Python config that {base} names, or with --cfg-options.",
            ]
        )
    )


def _hint(key: str, style: str) -> str:
    for row in ROWS:
        if row.key(style) and key in (row.fastreid, row.torchreid):
            return f"the other style's name for {row.key(style)}"
    known = {name.lower(): name for name in _rows(style)}
    nearest = known[difflib.get_close_matches(key.lower(), known, 1, cutoff=0)[0]]
    return f"write {nearest}" if nearest.lower() == key.lower() else f"the nearest key is {nearest}"


def _check_values(entries: Iterable[_Entry], style: str) -> dict[str, Any]:
    """Value by key, the last one said; yacs decodes and checks it against the type of its row."""
    values: dict[str, Any] = {}
    for key, value, source in entries:
        kind = _rows(style)[key].kind
        leaf = CfgNode({"value": kind()})
        try:
            leaf.merge_from_list(["value", value])
        except ValueError as error:
            raise ConfigError(f"{key}: {value!r} ({source}) is of a wrong type: expected {_EXPECTED[kind]}") from error
        values[key] = leaf["value"]
    return {key: value for key, value in values.items() if value is not None}


def _load_base(values: dict[str, Any], style: str) -> Config:
    base, names = (row.key(style) for row in ROWS[:2])
    name = values.get(base)
    if not name and names not in values:
        raise ConfigError(f"nothing says where to start from: set {names} to a data set, or {base} to a Python config")
    if not name:
        try:
            name = _BASE_CONFIGS[ROWS[1].decode(values[names])]
        except ConfigError as error:
            raise ConfigError(f"{names}: {error}") from error
    path = Path(name).expanduser() if name.endswith(".py") else SHIPPED / f"{name}.py"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.py")))
        raise ConfigError(f"{base}: no config {path}; give the path of a .py config, or one of {shipped}")
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a Python file: it can fail in any way
        raise ConfigError(f"{base}: {path} cannot be read as a config: {first_line(error)}") from error


def _write(row: Row, config: Config, value: Any, world_size: int) -> None:
    value = row.decode(value)
    if row.of_all_processes:
        if value % world_size:
            raise ConfigError(f"{value} is for all {world_size} processes together: use a multiple of {world_size}")
        value //= world_size
    if value != row.setting.read(config):  # what the base config says already is not said again
        row.setting.write(config, value)
