"""Our options in a host's own tree of yacs, and the tools on yacs files."""

from pathlib import Path

import pytest
import runner_factory as factory
from mmengine.config import Config
from yacs.config import CfgNode
from yacs_factory import write

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs import STYLES, add_cada_config, to_mmengine

# ---------------------------------------------------------------- in a host's own tree


def upper_host() -> CfgNode:
    """As FastReID builds its defaults."""
    cfg = CfgNode()
    cfg.MODEL = CfgNode({"META_ARCHITECTURE": "Baseline", "DEVICE": "cuda", "WEIGHTS": ""})
    cfg.MODEL.BACKBONE = CfgNode({"NAME": "build_resnet_backbone", "PRETRAIN": True})
    cfg.INPUT = CfgNode({"SIZE_TRAIN": [256, 128], "SIZE_TEST": [256, 128], "FLIP": CfgNode({"ENABLED": False})})
    cfg.DATASETS = CfgNode({"NAMES": ("Market1501",), "TESTS": ("Market1501",)})
    cfg.SOLVER = CfgNode({"OPT": "Adam", "BASE_LR": 3e-4, "MAX_EPOCH": 120, "IMS_PER_BATCH": 64, "STEPS": [30, 55]})
    cfg.OUTPUT_DIR = "logs/"
    return cfg


def lower_host() -> CfgNode:
    """As torchreid's scripts build their defaults."""
    cfg = CfgNode()
    cfg.model = CfgNode({"name": "resnet50", "load_weights": ""})
    cfg.data = CfgNode({"root": "reid-data", "sources": ["market1501"], "targets": ["market1501"], "height": 256})
    cfg.data.width = 128
    cfg.train = CfgNode({"optim": "adam", "lr": 0.0003, "max_epoch": 60, "batch_size": 32, "gamma": 0.1})
    cfg.use_gpu = True
    return cfg


def test_our_options_in_an_upper_case_tree(tmp_path):
    cfg = upper_host()
    add_cada_config(cfg)
    cfg.merge_from_file(
        write(
            tmp_path,
            "host.yml",
            """
            MODEL: {CADA: {GROUPING: tokens, LOSS_WEIGHTS: {ARA: 0.5}}}
            DATASETS:
              NAMES: ("CUHKPEDES",)
              TESTS: ("CUHKPEDES",)
            """,
        )
    )
    cfg.merge_from_list(["MODEL.CADA.RERANK_TOPK", "64", "SOLVER.BASE_LR", "0.002"])
    config = to_mmengine(cfg)
    assert config.model.grouping == {"type": "TokenGroups", "num_groups": 2}  # said, and the base config's
    assert config.model.loss_ara == {"type": "MaskedAttributeLoss", "weight": 0.5}
    assert config.optim_wrapper.optimizer == {"type": "Adam", "lr": 0.002, "weight_decay": 0.05, "fused": True}
    assert config.model.visual_encoder.image_size == (256, 128)
    assert (config.test_cfg.rerank_topk, config.train_cfg.max_epochs, config.work_dir) == (64, 120, "logs/")


def test_our_options_in_a_lower_case_tree():
    cfg = lower_host()
    add_cada_config(cfg)
    cfg.merge_from_list(["data.sources", "['rstpreid']", "data.targets", "['rstpreid']", "cada.negatives", "sampled"])
    config = to_mmengine(cfg)
    assert config.model.negatives == "sampled"
    assert config.train_dataloader.dataset.data_root == "reid-data/RSTPReid"
    assert config.model.visual_encoder.image_size == (256, 128)
    assert config.optim_wrapper.optimizer == {"type": "Adam", "lr": 0.0003, "weight_decay": 0.05, "fused": True}
    assert config.train_cfg.max_epochs == 60


@pytest.mark.parametrize("make", [upper_host, lower_host])
def test_adding_twice_keeps_values_and_a_frozen_tree_stays_frozen(make):
    cfg = make()
    cfg.freeze()
    add_cada_config(cfg)
    own = cfg.MODEL.CADA if "MODEL" in cfg else cfg.cada
    assert cfg.is_frozen()
    assert own.is_frozen()
    cfg.defrost()
    key = "MODEL.CADA.ARA.UNIT" if "MODEL" in cfg else "cada.ara.unit"
    cfg.merge_from_list([key, "phrases"])
    before = cfg.clone()
    add_cada_config(cfg)
    assert cfg == before
    assert not cfg.is_frozen()
    with pytest.raises(AssertionError, match="Non-existent key"):  # the host goes on to refuse what nobody knows
        cfg.merge_from_list([key + "S", "words"])


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (CfgNode({"MODEL": {"CADA": {"DEPTH": 12}}}), "MODEL.CADA of its own"),
        (CfgNode({"model": {}, "cada": "yes"}), "cada of its own"),
        (CfgNode({"SOLVER": {"BASE_LR": 0.1}}), "has no node MODEL"),
        (CfgNode({"OPTIMIZATION": {"RATE": 0.1}}), "neither FastReID-style"),
        (CfgNode(), "it has no keys"),
    ],
    ids=["other node", "other value", "no model", "other host", "empty"],
)
def test_trees_that_our_options_cannot_join(cfg, words):
    before = cfg.clone()
    with pytest.raises(ConfigError, match=words):
        add_cada_config(cfg)
    assert cfg == before


# ---------------------------------------------------------------- the tools


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("yacs"))


@pytest.fixture(scope="module")
def from_python(config) -> Path:
    """Work dir of a run of the Python config."""
    options = ("--cfg-options", "train_cfg.max_epochs=1", "optim_wrapper.optimizer.lr=0.002", "test_cfg.rerank_topk=3")
    outcome = factory.tool(
        "train", config, "--work-dir", "python", *options, "val_cfg.rerank_topk=3", cwd=config.parent
    )
    assert outcome.status == 0, outcome.stderr
    return config.parent / "python"


FASTREID = """
MODEL: {CADA: {BASE_CONFIG: tiny.py, RERANK_TOPK: 2}}
SOLVER: {BASE_LR: 0.002, MAX_EPOCH: 30}
OUTPUT_DIR: elsewhere
MODEL.BACKBONE.NAME: resnet
"""
TORCHREID = """
cada: {base_config: tiny.py, rerank_topk: 2}
train: {lr: 0.002, max_epoch: 30}
data: {save_dir: elsewhere}
"""


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_a_yaml_trains_and_tests_as_the_python_config_does(style, config, from_python):
    path = write(config.parent, f"{style}.yml", FASTREID if style == "fastreid" else TORCHREID)
    epochs, save_dir = (
        ("SOLVER.MAX_EPOCH", "OUTPUT_DIR") if style == "fastreid" else ("train.max_epoch", "data.save_dir")
    )
    pairs = (epochs, 1, save_dir, f"runs/{style}")
    options = ("--cfg-options", "val_cfg.rerank_topk=3", "test_cfg.rerank_topk=3")  # wins over the file
    outcome = factory.tool(
        "train", "--launcher", "none", "--ignore-unknown", path, *pairs, "--resume", *options, cwd=config.parent
    )
    assert outcome.status == 0, outcome.stderr
    work_dir = config.parent / "runs" / style
    expected = factory.metrics(from_python)
    assert factory.metrics(work_dir) == expected
    written = Config.fromfile(work_dir / "tiny.py")  # what ran, as a config of its own
    assert (written.train_cfg.max_epochs, written.optim_wrapper.optimizer.lr) == (1, 0.002)

    tested = config.parent / f"{style}_test"
    arguments = (path, "--ignore-unknown", "--work-dir", tested, work_dir / "epoch_1.pth", *pairs[:2])
    outcome = factory.tool("test", *arguments, "--out", tested / "out.json", *options, cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
    assert factory.metrics(tested) == expected[-1:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["fastreid.yml", "SOLVER.MAX_EPOCHS", "1"],
            "SOLVER.MAX_EPOCHS (command line): the nearest key is SOLVER.MAX_EPOCH",
        ),
        (["fastreid.yml", "--resume", "SOLVER.MAX_EPOCH", "1"], "put them before flags that may take a word"),
        (["tiny.py", "SOLVER.MAX_EPOCH", "1"], "KEY VALUE pairs are for YAML configs"),
        (["tiny.py", "--ignore-unknown"], "--ignore-unknown is for YAML configs"),
        (["nowhere.yml"], "no config file nowhere.yml"),
    ],
    ids=["key", "flag first", "Python config", "flag", "missing"],
)
def test_command_lines_that_are_wrong(arguments, words, config):
    write(config.parent, "fastreid.yml", FASTREID)
    outcome = factory.tool("train", *arguments, cwd=config.parent)
    assert outcome.status == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert words in outcome.stderr


def test_the_launcher_tells_how_many_share_a_batch(config):
    path = write(config.parent, "shared.yml", FASTREID)
    arguments = (path, "SOLVER.IMS_PER_BATCH", 7, "--ignore-unknown", "--launcher", "pytorch")
    outcome = factory.tool("train", *arguments, cwd=config.parent, processes=2)
    assert outcome.status == 2, outcome.stderr
    assert "SOLVER.IMS_PER_BATCH: 7 is for all 2 processes together: use a multiple of 2" in outcome.stderr
