"""Converts between yacs and MMEngine configs, for codebases (hosts) built on FastReID or torchreid.

    config = to_mmengine('configs/yacs/fastreid_procedural.yml', ['SOLVER.MAX_EPOCH', '1'])
    tree = to_yacs(config, 'torchreid')

A YAML file lists only its changes to a *base config*, one of ``configs/*.py``. The base config is that of the file's
data set, or the one given by ``MODEL.CADA.BASE_CONFIG`` (``cada.base_config``), as a name such as ``cada_procedural``
or as a path relative to the file. A value of None keeps that of the base config. All keys are listed in
:mod:`cada_plugin.integrations.yacs_table`; ``add_cada_config`` adds our own ones to the tree of a host.

No setting is dropped silently, because the run would not be the one that the user meant. A key that is not in the table
is an error unless ``ignore_unknown`` is given, and ``to_mmengine`` logs the :class:`Report` of :func:`convert`, which
lists the keys that were taken, approximated or ignored.
"""

import difflib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from yacs.config import CfgNode

from cada_plugin.datasets import CUHKPEDES
from cada_plugin.datasets.catalogue import data_sets
from cada_plugin.engine.config import read_config
from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs_files import Entry, expanded, flatten, read_entries
from cada_plugin.integrations.yacs_settings import Approximated, Ignored
from cada_plugin.integrations.yacs_table import ROWS, STYLES, Option

_DEFAULT_BASE = CUHKPEDES.CONFIG  # used if a host's file trains on a data set without captions
_OWN = {"fastreid": "MODEL.CADA", "torchreid": "cada"}  # the node with our own options
_EXPECTED = {
    str: "a string",
    int: "an integer",
    float: "a number with a point or exponent, such as 1.0",
    bool: "True or False",
    list: "a list, such as [384, 128] or ('CUHKPEDES',)",
}
_LIKENESS = 0.85  # from this similarity on, an unknown name is taken for a misspelling of a known one


logger = logging.getLogger(__name__)


@dataclass
class Report:
    """How each key of a file or tree was converted.

    Attributes:
        source: the file, or "the tree".
        taken: keys with the same effect as in the host, with their values.
        approximated: keys whose effect differs from that in the host, with the difference.
        ignored: keys without effect, with the reason.
    """

    source: str
    taken: dict[str, Any] = field(default_factory=dict)
    approximated: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.taken)} keys taken as they are ({', '.join(self.taken) or 'none'})"]
        for title, remarks in (("approximated", self.approximated), ("ignored", self.ignored)):
            reasons: dict[str, list[str]] = {}
            for key, reason in remarks.items():
                reasons.setdefault(reason, []).append(key)
            lines += [f"{title} {', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
        return "\n".join(lines)


# ---------------------------------------------------------------- both directions


def to_mmengine(
    source: str | Path | CfgNode, overrides: Sequence[str] = (), world_size: int = 1, ignore_unknown: bool = False
) -> Config:
    """The MMEngine config of a YAML file or of a host's tree. Logs the report of :func:`convert`, as a warning if any
    key was ignored or approximated."""
    config, report = convert(source, overrides, world_size, ignore_unknown)
    logger.log(logging.WARNING if report.ignored or report.approximated else logging.INFO, "%s", report)
    return config


def convert(
    source: str | Path | CfgNode, overrides: Sequence[str] = (), world_size: int = 1, ignore_unknown: bool = False
) -> tuple[Config, Report]:
    """The MMEngine config of a YAML file or of a host's tree, with a report on each key.

    Args:
        source: a YAML file of either style, read together with its ``_BASE_``; or the whole tree of a host. Keys of a
            tree that are not in the table belong to its host and are reported as ignored.
        overrides: alternating keys and values that override the file. Unknown keys are always an error here, because
            the user has just typed them.
        world_size: number of processes. Batch sizes of yacs are totals over all processes.
        ignore_unknown: report unknown keys of a file as ignored, like those of a tree, instead of raising an error.

    Raises:
        ConfigError: the file cannot be read or has unknown keys (the message lists all), a value has a wrong type, or
            the base config has no setting for it.
    """
    if len(overrides) % 2:
        raise ConfigError(
            f"expected pairs of KEY VALUE, got an odd number of words: {' '.join(overrides)}. "
            "On a command line, put them before flags that may take a word, such as --resume [PATH]"
        )
    pairs = [Entry(*pair, "command line") for pair in zip(overrides[::2], overrides[1::2], strict=True)]
    lenient = ignore_unknown or isinstance(source, CfgNode)
    if isinstance(source, CfgNode):
        entries, name = [Entry(key, value, "tree") for key, value in flatten(source)], "the tree"
    else:
        entries, name = read_entries(Path(source)), str(source)
    style = _style([entry.key for entry in entries], name)
    report = Report(name)
    known = _rows(style)
    if lenient:
        report.ignored = {entry.key: _hint(entry.key, style) for entry in entries if entry.key not in known}
        entries = [entry for entry in entries if entry.key in known]
    _check_keys([*entries, *pairs], style, name)
    values = _check_values([*entries, *pairs], style)
    if lenient:
        _leave_out_other_data_sets(values, style, report)
    config = _load_base(values, style, report, lenient)
    for key, row in known.items():
        if key in values:
            try:
                remark = _write(row, config, values[key], world_size)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error
            if isinstance(remark, Ignored):
                report.ignored[key] = str(remark)
            elif isinstance(remark, Approximated):
                report.approximated[key] = str(remark)
            else:
                report.taken[key] = values[key]
    return config, report


def to_yacs(config: Config, style: str, world_size: int = 1) -> CfgNode:
    """A config as a tree of style ``fastreid`` or ``torchreid``. ``to_mmengine`` converts it back to the same config.

    Raises:
        ConfigError: the config was not read from a file, or was changed since in a way that no key can express.
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
    ours, again = config.to_dict(), convert(tree, world_size=world_size)[0].to_dict()
    if lost := [key for key in {**ours, **again} if _text(ours.get(key)) != _text(again.get(key))]:
        raise ConfigError(
            f"no key of a yacs tree says how {', '.join(lost)} differ from {config.filename}: write the config to a "
            "file of its own with config.dump(...), and convert what Config.fromfile reads from there"
        )
    return tree


def add_cada_config(cfg: CfgNode) -> None:
    """Add our options to a host's tree: the node ``MODEL.CADA``, or ``cada`` in a lower-case tree.

    All options are None, which keeps the value of the base config, until a file or command line of the host sets them.
    A second call changes nothing; a frozen tree stays frozen. ``to_mmengine(cfg)`` then converts the whole tree.

    Raises:
        ConfigError: the tree has another node of that name, or is neither FastReID- nor torchreid-style.
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
        if not isinstance(host[name], CfgNode) or dict(flatten(host[name])).keys() != dict(flatten(own)).keys():
            raise ConfigError(f"the tree has a {_OWN[style]} of its own: rename it")
        return
    if host.is_frozen():
        own.freeze()
    host[name] = own  # set as an item, because a frozen node refuses attributes only


# ---------------------------------------------------------------- trees


def _rows(style: str) -> dict[str, Option]:
    """The rows of the table by their key in a style."""
    return {row.key(style): row for row in ROWS if row.key(style)}


def _put(tree: CfgNode, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for name in parents:
        tree = tree.setdefault(name, CfgNode())
    tree[leaf] = value


def _text(value: Any) -> str:
    """A value as JSON, so that a tuple and a list of the same items compare as equal."""
    return json.dumps(value, sort_keys=True, default=str)


# ---------------------------------------------------------------- reading


def _style(keys: Sequence[str], source: object) -> str:
    """The style of a tree: torchreid if more keys are lower-case than upper-case, else fastreid."""
    sections = {key.partition(".")[0].lower() for style in STYLES for key in _rows(style)}
    if not any(key.partition(".")[0].lower() in sections for key in keys):
        raise ConfigError(
            f"{source} is neither FastReID-style (SOLVER.BASE_LR) nor torchreid-style (train.lr): "
            f"it has {', '.join(keys) or 'no keys'}"
        )
    return "torchreid" if sum(map(str.islower, keys)) > sum(map(str.isupper, keys)) else "fastreid"


def _check_keys(entries: Iterable[Entry], style: str, source: object) -> None:
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
                f"What has no key is set in the Python config that {base} names, or with --cfg-options. "
                "--ignore-unknown leaves out what a file says for another project, and reports it",
            ]
        )
    )


def _hint(key: str, style: str) -> str:
    for row in ROWS:
        if row.key(style) and key in (row.fastreid, row.torchreid):
            return f"the other style's name for {row.key(style)}"
    known = {name.lower(): name for name in _rows(style)}
    if key.lower() in known:
        return f"write {known[key.lower()]}"
    if any(name.startswith(f"{key.lower()}.") for name in known):
        return "a section, of which a key is expected"
    if above := [name for name in known if key.lower().startswith(f"{name}.")]:
        return f"{known[above[0]]} is a value and no section"
    nearest = max(known, key=lambda name: _likeness(key.lower(), name))
    alike = _likeness(key.lower(), nearest) >= _LIKENESS
    return f"the nearest key is {known[nearest]}" if alike else "no key that has a meaning here"


def _likeness(one: str, other: str) -> float:
    """Similarity (0 to 1) of the only part in which two dotted keys differ; 0 if they differ in several parts."""
    names = [*zip(one.split("."), other.split("."), strict=False)]
    differing = [pair for pair in names if pair[0] != pair[1]]
    if len(differing) != 1 or one.count(".") != other.count("."):
        return 0.0
    return difflib.SequenceMatcher(None, *differing[0]).ratio()


def _check_values(entries: Iterable[Entry], style: str) -> dict[str, Any]:
    """The value of each key; the last entry of a key wins. yacs decodes it and checks its type against the table."""
    values: dict[str, Any] = {}
    for key, value, source in entries:
        kind = _rows(style)[key].kind
        leaf = CfgNode({"value": kind()})
        try:
            leaf.merge_from_list(["value", value])
        except Exception as error:  # yacs reads a text as Python, which can fail in any way
            raise ConfigError(f"{key}: {value!r} ({source}) is of a wrong type: expected {_EXPECTED[kind]}") from error
        values[key] = leaf["value"]
    return {key: value for key, value in values.items() if value is not None}


def _leave_out_other_data_sets(values: dict[str, Any], style: str, report: Report) -> None:
    """Remove and report data sets of the host, which have no captions, if another key determines the base config."""
    base, trained, tested = (row.key(style) for row in ROWS[:3])
    for key, row in ((trained, ROWS[1]), (tested, ROWS[2])):
        if key in values and (values.get(base) or (key == tested and trained in values)):
            try:
                row.decode(values[key])
            except ConfigError:
                report.ignored[key] = f"{values.pop(key)} is none of our data sets; those of the base config are used"


def _load_base(values: dict[str, Any], style: str, report: Report, lenient: bool) -> Config:
    base, names = (row.key(style) for row in ROWS[:2])
    name = values.get(base)
    if not name and names not in values:
        raise ConfigError(f"nothing says where to start from: set {names} to a data set, or {base} to a Python config")
    if not name:
        try:
            name = data_sets()[ROWS[1].decode(values[names])].CONFIG
        except ConfigError as error:
            if not lenient:
                raise ConfigError(f"{names}: {error}. Or name a config with {base}") from error
            name = _DEFAULT_BASE
            report.ignored[names] = (
                f"{values.pop(names)} has no captions; the data set of {name} is used, or name {base}"
            )
    try:
        return read_config(expanded(name, base) if name.endswith(".py") else name)
    except ConfigError as error:
        raise ConfigError(f"{base}: {error}") from error


def _write(row: Option, config: Config, value: Any, world_size: int) -> Ignored | Approximated | None:
    row.check(value)
    remark = Approximated(row.remark(value)) if row.remark(value) else None
    value = row.decode(value)
    if row.of_all_processes:
        if value % world_size:
            raise ConfigError(f"{value} is for all {world_size} processes together: use a multiple of {world_size}")
        value //= world_size
    if value != row.setting.read(config):  # an equal value is not written again
        remark = row.setting.write(config, value) or remark
    return remark
