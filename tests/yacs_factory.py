"""What the tests of yacs files share: the shipped configs, with changes, and files that a test writes."""

import copy
import functools
import textwrap
from pathlib import Path

import runner_factory as factory
from mmengine.config import Config
from yacs.config import CfgNode

CONFIGS = factory.REPO / "configs"
EXAMPLES = CONFIGS / "yacs"
SPLITS = ("train", "val", "test")
# keys of the hosts that are taken with these values alone
REFUSED = {
    "MODEL.DEVICE": "cuda",
    "use_gpu": True,
    "data.type": "image",
    "model.resume": "",
    "test.evaluate": False,
    "test.rerank": False,
    "TEST.RERANK.ENABLED": False,
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@functools.cache
def load(path: Path) -> Config:
    return Config.fromfile(path)


def changed(source: str | Path, **changes: object) -> dict:
    """A shipped config, or a file, with changes; ``__`` stands for a point."""
    config = copy.deepcopy(load(CONFIGS / f"{source}.py" if isinstance(source, str) else source))
    config.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config.to_dict()


def leaves(tree: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def tree_of(keys: dict) -> CfgNode:
    tree = CfgNode()
    for key, value in keys.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, CfgNode())
        node[leaf] = value
    return tree
