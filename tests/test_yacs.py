"""yacs files of both styles: each key changes the right place of a config, both directions, bad input, real runs."""

import copy
import functools
import math
import textwrap
from pathlib import Path

import pytest
import runner_factory as factory
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from yacs.config import CfgNode

from cada_plugin.datasets import CustomPEDES
from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs import STYLES, add_cada_config, convert, to_mmengine, to_yacs
from cada_plugin.integrations.yacs_table import ROWS
from cada_plugin.registry import DATASETS

CONFIGS = factory.REPO / "configs"
EXAMPLES = CONFIGS / "yacs"
SPLITS = ("train", "val", "test")


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


# ---------------------------------------------------------------- the table, one row after the other

SAME = object()  # torchreid's value is FastReID's

# FastReID's key, torchreid's, value, torchreid's value, what it changes in configs/cada_procedural.py (list elements by
# their position: of the training steps, 1 resizes, 3 crops and 7 masks; of the test steps, 1 resizes)
ON_PROCEDURAL = [
    (
        "DATASETS.ROOT_DIR",
        "data.root",
        "~/sets",
        SAME,
        {f"{s}_dataloader__dataset__data_root": "~/sets/procedural_pedes" for s in SPLITS}
        | {"data_root": "~/sets/procedural_pedes"},
    ),
    (
        "DATALOADER.NUM_WORKERS",
        "data.workers",
        3,
        SAME,
        {f"{s}_dataloader__num_workers": 3 for s in SPLITS},
    ),
    (
        "SOLVER.IMS_PER_BATCH",
        "train.batch_size",
        24,
        SAME,
        {"train_dataloader__batch_size": 24, "train_dataloader__sampler__batch_size": 24},
    ),
    (
        "TEST.IMS_PER_BATCH",
        "test.batch_size",
        7,
        SAME,
        {"val_dataloader__batch_size": 7, "test_dataloader__batch_size": 7},
    ),
    (
        "DATALOADER.SAMPLER_TRAIN",
        "sampler.train_sampler",
        "NaiveIdentitySampler",
        "RandomIdentitySampler",
        {
            "train_dataloader__sampler": {
                "_delete_": True,
                "type": "IdentitySampler",
                "num_instances": 4,
                "batch_size": 64,
            }
        },
    ),
    (
        "SOLVER.MAX_EPOCH",
        "train.max_epoch",
        9,
        SAME,
        {"train_cfg__max_epochs": 9, "param_scheduler__1__T_max": 9, "param_scheduler__1__end": 9},
    ),
    ("SOLVER.OPT", "train.optim", "Adam", "adam", {"optim_wrapper__optimizer__type": "Adam"}),
    ("SOLVER.BASE_LR", "train.lr", 3.5e-4, SAME, {"optim_wrapper__optimizer__lr": 3.5e-4}),
    ("SOLVER.WEIGHT_DECAY", "train.weight_decay", 0.0, SAME, {"optim_wrapper__optimizer__weight_decay": 0.0}),
    ("SOLVER.WARMUP_ITERS", "cada.warmup_iters", 7, SAME, {"param_scheduler__0__end": 7}),
    ("SOLVER.WARMUP_FACTOR", "cada.warmup_factor", 0.2, SAME, {"param_scheduler__0__start_factor": 0.2}),
    (
        "SOLVER.WARMUP_METHOD",
        "cada.warmup_method",
        "constant",
        SAME,
        {
            "param_scheduler": [
                {"type": "ConstantLR", "factor": 0.01, "begin": 0, "end": 50, "by_epoch": False},
                {
                    "type": "CosineAnnealingLR",
                    "T_max": 2,
                    "end": 2,
                    "by_epoch": True,
                    "convert_to_iter_based": True,
                },
            ]
        },
    ),
    ("SOLVER.ETA_MIN_LR", "cada.eta_min_lr", 1e-6, SAME, {"param_scheduler__1__eta_min": 1e-6}),
    (
        "SOLVER.DELAY_EPOCHS",
        "cada.delay_epochs",
        1,
        SAME,
        {"param_scheduler__1__begin": 1, "param_scheduler__1__T_max": 1},
    ),
    ("SOLVER.AMP.ENABLED", "cada.amp", True, SAME, {"optim_wrapper__type": "cada_plugin.BF16OptimWrapper"}),
    ("SOLVER.CHECKPOINT_PERIOD", "cada.checkpoint_period", 2, SAME, {"default_hooks__checkpoint__interval": 2}),
    ("SOLVER.LOG_PERIOD", "train.print_freq", 5, SAME, {"default_hooks__logger__interval": 5}),
    ("TEST.EVAL_PERIOD", "test.eval_freq", 3, SAME, {"train_cfg__val_interval": 3}),
    ("SEED", "train.seed", 11, SAME, {"randomness__seed": 11}),
    ("MODEL.WEIGHTS", "model.load_weights", "a/b.pth", SAME, {"load_from": "a/b.pth"}),
    ("OUTPUT_DIR", "data.save_dir", "runs/x", SAME, {"work_dir": "runs/x"}),
    ("MODEL.CADA.START_WEIGHTS", "cada.start_weights", "x.pth", SAME, {"model__init_cfg__checkpoint": "x.pth"}),
    ("MODEL.CADA.GROUPING", "cada.grouping", "position", SAME, {"model__grouping__type": "PositionGroups"}),
    ("MODEL.CADA.NUM_GROUPS", "cada.num_groups", 0, SAME, {"model__grouping__num_groups": None}),
    ("MODEL.CADA.NEGATIVES", "cada.negatives", "hardest", SAME, {"model__negatives": "hardest"}),
    (
        "MODEL.CADA.NEGATIVE_SCALE",
        "cada.negative_scale",
        [1.0, 2.5],
        SAME,
        {"model__negative_scale": (1.0, 2.5)},
    ),
    ("MODEL.CADA.CAUSAL", "cada.causal", True, SAME, {"model__text_decoder__causal": True}),
    ("MODEL.CADA.LOSS_WEIGHTS.GLOBAL", "cada.loss_weights.global", 2.0, SAME, {"model__loss_global__weight": 2.0}),
    ("MODEL.CADA.LOSS_WEIGHTS.ATP", "cada.loss_weights.atp", 0.0, SAME, {"model__loss_atp": None}),
    (
        "MODEL.CADA.LOSS_WEIGHTS.ARA",
        "cada.loss_weights.ara",
        0.0,
        SAME,
        {"model__loss_ara": None, "model__text_decoder": None},
    ),
    (
        "MODEL.CADA.ARA.UNIT",
        "cada.ara.unit",
        "phrases",
        SAME,
        {"train_dataloader__dataset__pipeline__7__unit": "phrases", "train_pipeline__7__unit": "phrases"},
    ),
    (
        "MODEL.CADA.ARA.PROBABILITY",
        "cada.ara.probability",
        0.8,
        SAME,
        {"train_dataloader__dataset__pipeline__7__probability": 0.8, "train_pipeline__7__probability": 0.8},
    ),
    ("MODEL.CADA.RERANK_TOPK", "cada.rerank_topk", 5, SAME, {"val_cfg__rerank_topk": 5, "test_cfg__rerank_topk": 5}),
    (
        "MODEL.CADA.COSINE_WEIGHT",
        "cada.cosine_weight",
        0.5,
        SAME,
        {"val_cfg__cosine_weight": 0.5, "test_cfg__cosine_weight": 0.5},
    ),
]
SIZE = {
    f"{place}__size": (64, 32)
    for place in (
        "train_dataloader__dataset__pipeline__1",
        "train_dataloader__dataset__pipeline__3",
        "val_dataloader__dataset__pipeline__1",
        "test_dataloader__dataset__pipeline__1",
        "train_pipeline__1",
        "train_pipeline__3",
        "plain_pipeline__1",
        "plain_pipeline__3",
        "random_pipeline__1",
        "random_pipeline__3",
        "test_pipeline__1",
    )
} | {"image_size": (64, 32), "model__visual_encoder__image_size": (64, 32)}
WARM_UP = {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": 50, "by_epoch": False}


def schedule(**main: object) -> dict:
    return {"param_scheduler": [WARM_UP, {"by_epoch": True, **main}]}


def optimizer(**other: object) -> dict:
    return {"optim_wrapper__optimizer": {"_delete_": True, "lr": 6e-4, "weight_decay": 0.05, **other}}


def paramwise(**multiples: float) -> dict:
    return {"optim_wrapper__paramwise_cfg": {"bypass_duplicate": True, **multiples}}


# What is said with several keys, in one style only, or only confirmed.
MORE = {
    "fastreid": [
        (
            {"SOLVER.SCHED": "MultiStepLR", "SOLVER.STEPS": [1, 3], "SOLVER.GAMMA": 0.5},
            schedule(type="MultiStepLR", milestones=[1, 3], gamma=0.5),
        ),
        ({"SOLVER.SCHED": "MultiStepLR"}, schedule(type="MultiStepLR", milestones=[30, 55], gamma=0.1)),
        (
            {"SOLVER.OPT": "SGD", "SOLVER.MOMENTUM": 0.8, "SOLVER.NESTEROV": True},
            optimizer(type="SGD", momentum=0.8, nesterov=True),
        ),
        ({"SOLVER.OPT": "SGD"}, optimizer(type="SGD", momentum=0.9)),
        ({"SOLVER.BIAS_LR_FACTOR": 2.0}, paramwise(bias_lr_mult=2.0)),
        ({"SOLVER.WEIGHT_DECAY_BIAS": 0.0}, paramwise(bias_decay_mult=0.0)),
        ({"SOLVER.WEIGHT_DECAY_NORM": 0.1}, paramwise(norm_decay_mult=2.0)),
        ({"CUDNN_BENCHMARK": True}, {"env_cfg__cudnn_benchmark": True}),
        ({"INPUT.SIZE_TRAIN": [64, 32], "INPUT.SIZE_TEST": [64, 32]}, SIZE),
        (
            {"DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler", "DATALOADER.NUM_INSTANCE": 2},
            {
                "train_dataloader__sampler": {
                    "_delete_": True,
                    "type": "IdentitySampler",
                    "num_instances": 2,
                    "batch_size": 64,
                }
            },
        ),
        ({"DATASETS.NAMES": ["ProceduralPEDES"], "DATASETS.TESTS": ["ProceduralPEDES"]}, {}),
    ],
    "torchreid": [
        (
            {"train.lr_scheduler": "multi_step", "train.stepsize": [1, 3], "train.gamma": 0.5},
            schedule(type="MultiStepLR", milestones=[1, 3], gamma=0.5),
        ),
        (
            {"train.lr_scheduler": "single_step", "train.stepsize": [3]},
            schedule(type="StepLR", step_size=3, gamma=0.1),
        ),
        ({"train.lr_scheduler": "cosine"}, {}),
        (
            {"train.optim": "sgd", "sgd.momentum": 0.8, "sgd.nesterov": True, "sgd.dampening": 0.5},
            optimizer(type="SGD", momentum=0.8, nesterov=True, dampening=0.5),
        ),
        (
            {"train.optim": "amsgrad", "adam.beta1": 0.8, "adam.beta2": 0.99},
            optimizer(type="Adam", amsgrad=True, fused=True, betas=(0.8, 0.99)),
        ),
        ({"data.height": 64, "data.width": 32}, SIZE),
        (
            {"sampler.train_sampler": "RandomIdentitySampler", "sampler.num_instances": 2},
            {
                "train_dataloader__sampler": {
                    "_delete_": True,
                    "type": "IdentitySampler",
                    "num_instances": 2,
                    "batch_size": 64,
                }
            },
        ),
        ({"data.sources": ["procedural_pedes"], "data.targets": ["procedural_pedes"]}, {}),
    ],
}
BASE_KEY = {"fastreid": "MODEL.CADA.BASE_CONFIG", "torchreid": "cada.base_config"}
CASES = [
    (
        style,
        {row[0] if style == "fastreid" else row[1]: row[2] if style == "fastreid" or row[3] is SAME else row[3]},
        row[4],
    )
    for row in ON_PROCEDURAL
    for style in STYLES
] + [(style, keys, changes) for style in STYLES for keys, changes in MORE[style]]
REFUSED = {
    "MODEL.DEVICE": "cuda",
    "use_gpu": True,
    "data.type": "image",
    "model.resume": "",
    "test.evaluate": False,
    "test.rerank": False,
    "TEST.RERANK.ENABLED": False,
}


def tree_of(keys: dict) -> CfgNode:
    tree = CfgNode()
    for key, value in keys.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, CfgNode())
        node[leaf] = value
    return tree


@pytest.fixture(scope="module")
def procedural(tmp_path_factory) -> Path:
    """configs/cada_procedural.py in one file, which is read faster."""
    path = tmp_path_factory.mktemp("base") / "procedural.py"
    load(CONFIGS / "cada_procedural.py").dump(path)
    return path


@pytest.mark.parametrize(("style", "keys", "changes"), CASES, ids=["+".join(keys) for _, keys, _ in CASES])
def test_a_key_changes_its_setting_alone_and_is_given_back(style, keys, changes, procedural, tmp_path):
    keys = {BASE_KEY[style]: str(procedural)} | keys
    config = to_mmengine(write(tmp_path, "run.yml", tree_of(keys).dump()))
    assert config.to_dict() == changed(procedural, **changes)
    said = leaves(to_yacs(config, style))
    assert {key: said[key] for key in keys} == keys


def test_every_key_of_the_table_is_tested():
    tested = {key for _, keys, _ in CASES for key in keys} | {*BASE_KEY.values(), *REFUSED}
    assert tested == {key for row in ROWS for key in (row.fastreid, row.torchreid) if key}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["cada_icfg", "pretrain_web_dual", "baselines/clip_procedural"])
def test_a_config_comes_back_from_its_tree(name, style, tmp_path):
    """Also configs without a validation split, without losses and decoder, and with another model."""
    config = Config.fromfile(CONFIGS / f"{name}.py")
    path = write(tmp_path, "tree.yml", to_yacs(config, style, world_size=2).dump())
    assert to_mmengine(path, world_size=2).to_dict() == config.to_dict()


def test_warm_up_is_added_where_there_is_none_and_taken_away():
    keys = {"MODEL.CADA.BASE_CONFIG": "cada_cuhk", "SOLVER.WARMUP_ITERS": 100}
    warm_up, cosine = to_mmengine(tree_of(keys)).param_scheduler
    assert warm_up == {"type": "LinearLR", "start_factor": 0.01, "begin": 0, "end": 100, "by_epoch": False}
    assert [cosine] == Config.fromfile(CONFIGS / "cada_cuhk.py").param_scheduler
    keys = {"MODEL.CADA.BASE_CONFIG": "cada_procedural", "SOLVER.WARMUP_ITERS": 0}
    assert [s.type for s in to_mmengine(tree_of(keys)).param_scheduler] == ["CosineAnnealingLR"]


def rates(config: Config, lr: float = 1.0) -> list[float]:
    """Learning rate of each epoch, as MMEngine's schedulers by epoch set it."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr))
    schedulers = [
        PARAM_SCHEDULERS.build({**cfg, "optimizer": wrapper}) for cfg in config.param_scheduler if cfg.by_epoch
    ]
    found = []
    for _ in range(config.train_cfg.max_epochs):
        found.append(wrapper.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_the_rate_follows_the_curve_of_the_host():
    """FastReID steps its scheduler after every epoch beyond the delay; torch's schedulers are its own."""
    keys = {"DATASETS.NAMES": ["CUHKPEDES"], "SOLVER.MAX_EPOCH": 12, "SOLVER.DELAY_EPOCHS": 4}
    cosine = to_mmengine(tree_of(keys | {"SOLVER.SCHED": "CosineAnnealingLR", "SOLVER.ETA_MIN_LR": 0.01}))
    expected = [0.01 + 0.99 * (1 + math.cos(math.pi * max(0, epoch - 4) / 8)) / 2 for epoch in range(12)]
    assert rates(cosine) == pytest.approx(expected)
    steps = to_mmengine(tree_of(keys | {"SOLVER.SCHED": "MultiStepLR", "SOLVER.STEPS": [3, 5], "SOLVER.GAMMA": 0.5}))
    assert rates(steps) == pytest.approx([1.0] * 7 + [0.5] * 2 + [0.25] * 3)
    keys = {"data.sources": ["cuhk_pedes"], "train.max_epoch": 7, "train.lr_scheduler": "single_step"}
    one = to_mmengine(tree_of(keys | {"train.stepsize": [3], "train.gamma": 0.1}))
    assert rates(one) == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01])


def test_a_shorter_run_shortens_a_schedule_that_begins_later():
    config = to_mmengine(tree_of({"MODEL.CADA.BASE_CONFIG": "baselines/clip_cuhk", "SOLVER.MAX_EPOCH": 20}))
    warm_up, cosine = config.param_scheduler
    assert (warm_up.end, cosine.begin, cosine.T_max, cosine.end) == (5, 5, 15, 20)


def test_values_with_a_meaning_of_their_own():
    config = to_mmengine(
        tree_of(
            {
                "data.sources": ["cuhk_pedes"],
                "data.workers": 0,
                "test.eval_freq": -1,
                "train.max_epoch": 12,
                "train.seed": -1,
                "cada.start_weights": "",
                "cada.causal": None,
            }
        )
    )
    assert config.train_cfg == {"type": "EpochBasedTrainLoop", "max_epochs": 12, "val_interval": 12}
    assert config.train_dataloader.num_workers == 0
    assert "persistent_workers" not in config.train_dataloader
    assert config.randomness.seed is None
    assert config.model.init_cfg is None
    assert config.model.text_decoder.causal is True


def test_batch_sizes_are_of_all_processes():
    keys = {"DATASETS.NAMES": ["CUHKPEDES"], "SOLVER.IMS_PER_BATCH": 120, "TEST.IMS_PER_BATCH": 20}
    config = to_mmengine(tree_of(keys), world_size=5)
    assert (config.train_dataloader.batch_size, config.test_dataloader.batch_size) == (24, 4)
    assert to_yacs(config, "torchreid", world_size=5).train.batch_size == 120
    with pytest.raises(ConfigError, match=r"SOLVER.IMS_PER_BATCH: 120 is for all 7 processes together.*multiple of 7"):
        to_mmengine(tree_of(keys), world_size=7)


def test_the_sampler_follows_the_batch_size():
    keys = {
        "data.sources": ["procedural_pedes"],
        "train.batch_size": 32,
        "sampler.train_sampler": "RandomIdentitySampler",
    }
    assert to_mmengine(tree_of(keys), world_size=2).train_dataloader.sampler.batch_size == 16


@pytest.mark.parametrize("name", ["cuhk_pedes", "CUHKPEDES", "icfg_pedes", "RSTPReid", "ufine6926", "ProceduralPEDES"])
def test_a_data_set_chooses_its_config(name, tmp_path):
    expected = {"cu": "cada_cuhk", "ic": "cada_icfg", "rs": "cada_rstp", "uf": "cada_ufine", "pr": "cada_procedural"}
    path = write(tmp_path, "run.yaml", f"DATASETS:\n  NAMES: ('{name}',)\n")
    assert to_mmengine(path).to_dict() == changed(expected[name[:2].lower()])


def test_a_data_set_that_is_registered_later_chooses_its_config_too(tmp_path, monkeypatch):
    class Shop(CustomPEDES):
        """Written outside the package."""

        CONFIG = str(tmp_path / "shop.py")
        TORCHREID_NAME = "shop"

    monkeypatch.setattr(DATASETS, "_module_dict", dict(DATASETS.module_dict))  # what is registered here ends here
    DATASETS.register_module(module=Shop)
    text = "train_dataloader = dict(batch_size=7, dataset=dict(type='Shop'))"
    (tmp_path / "shop.py").write_text(f"_base_ = ['{CONFIGS / 'cada_custom.py'}']\n{text}\n")
    for name in ("shop", "Shop"):
        path = write(tmp_path, "run.yaml", f"DATASETS:\n  NAMES: ('{name}',)\n")
        assert to_mmengine(path).train_dataloader.batch_size == 7


# ---------------------------------------------------------------- files


def test_the_examples_say_what_they_promise():
    for style in STYLES:
        config = to_mmengine(EXAMPLES / f"{style}_procedural.yml")
        assert config.to_dict() == changed("cada_procedural", work_dir=f"work_dirs/{style}_procedural")
    config = to_mmengine(EXAMPLES / "fastreid_cuhk.yml", world_size=5)
    assert config.train_dataloader.batch_size == 24
    assert config.model.visual_encoder.image_size == (384, 128)
    assert config.train_cfg.max_epochs == 30
    assert config.train_dataloader.dataset.data_root == "data/CUHK-PEDES"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["fastreid_procedural", "torchreid_procedural", "fastreid_cuhk"])
def test_the_examples_convert_into_either_style(name, style, tmp_path):
    config = to_mmengine(EXAMPLES / f"{name}.yml")
    path = write(tmp_path, "converted.yml", to_yacs(config, style).dump())
    assert to_mmengine(path).to_dict() == config.to_dict()


def test_base_files_are_followed_and_the_command_line_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "deep").mkdir()
    (tmp_path / "mine.py").write_text(f"_base_ = ['{CONFIGS / 'cada_procedural.py'}']\nlog_level = 'ERROR'\n")
    write(
        tmp_path,
        "root.yml",
        """
        MODEL: {CADA: {BASE_CONFIG: mine.py, RERANK_TOPK: 1}}
        SOLVER: {MAX_EPOCH: 1, BASE_LR: 1e-1, WEIGHT_DECAY: 0.1, IMS_PER_BATCH: 1}
        """,
    )
    write(
        tmp_path / "deep", "middle.yml", "_BASE_: ~/root.yml\nSOLVER: {MAX_EPOCH: 2, BASE_LR: 2e-1, WEIGHT_DECAY: 0.2}"
    )
    leaf = write(tmp_path / "deep", "leaf.yml", "_BASE_: middle.yml\nSOLVER: {MAX_EPOCH: 3, BASE_LR: 3e-1}")
    monkeypatch.chdir("/")
    config = to_mmengine(leaf, ["SOLVER.MAX_EPOCH", "4", "SOLVER.MAX_EPOCH", "5"])
    assert config.log_level == "ERROR"  # the base config is looked for beside the file that names it
    assert config.train_cfg.max_epochs == 5
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 0.3, "weight_decay": 0.2, "fused": True}
    assert (config.train_dataloader.batch_size, config.test_cfg.rerank_topk) == (1, 1)


def test_null_restores_the_base_config(tmp_path):
    write(tmp_path, "base.yml", "data: {sources: [cuhk_pedes]}\ntrain: {lr: 0.5}")
    config = to_mmengine(write(tmp_path, "run.yml", "_BASE_: base.yml\ntrain: {lr: null}"))
    assert config.to_dict() == changed("cada_cuhk")


@pytest.mark.parametrize(("key", "value"), REFUSED.items(), ids=list(REFUSED))
def test_keys_of_the_hosts_that_change_nothing(key, value, caplog):
    names = "DATASETS.NAMES" if key.isupper() else "data.sources"
    config = to_mmengine(tree_of({names: ["cuhk_pedes"], key: value}))
    assert config.to_dict() == changed("cada_cuhk")
    if key in ("MODEL.DEVICE", "use_gpu"):
        assert f"ignored {key}: a GPU" in caplog.text
    else:
        other = {"image": "video", "": "x.pth", False: True}[value]
        with pytest.raises(ConfigError, match=f"{key}: only .* is possible here"):
            to_mmengine(tree_of({names: ["cuhk_pedes"], key: other}))


def test_instances_without_an_identity_sampler_are_said_to_be_ignored(caplog):
    config = to_mmengine(tree_of({"DATASETS.NAMES": ["CUHKPEDES"], "DATALOADER.NUM_INSTANCE": 4}))
    assert config.to_dict() == changed("cada_cuhk")
    assert "the sampler does not group by identity" in caplog.text


# ---------------------------------------------------------------- as other projects ship them

# A strong baseline of FastReID in three files, with the keys and values that such files have.
FASTREID_SHIPPED = {
    "base.yml": """
        MODEL:
          META_ARCHITECTURE: Baseline
          BACKBONE: {NAME: build_resnet_backbone, DEPTH: 50x, LAST_STRIDE: 1, WITH_IBN: False, PRETRAIN: True}
          HEADS: {NAME: EmbeddingHead, NORM: BN, POOL_LAYER: GlobalAvgPool, CLS_LAYER: Linear}
          LOSSES:
            NAME: ("CrossEntropyLoss", "TripletLoss",)
            CE: {EPSILON: 0.1, SCALE: 1.}
        INPUT:
          SIZE_TRAIN: [ 256, 128 ]
          SIZE_TEST: [ 256, 128 ]
          REA: {ENABLED: True, PROB: 0.5}
          FLIP: {ENABLED: True}
        DATALOADER: {SAMPLER_TRAIN: NaiveIdentitySampler, NUM_INSTANCE: 4, NUM_WORKERS: 8}
        SOLVER:
          AMP: {ENABLED: True}
          OPT: Adam
          MAX_EPOCH: 120
          BASE_LR: 0.00035
          WEIGHT_DECAY: 0.0005
          IMS_PER_BATCH: 64
          SCHED: MultiStepLR
          STEPS: [ 40, 90 ]
          GAMMA: 0.1
          WARMUP_FACTOR: 0.1
          WARMUP_ITERS: 2000
          CHECKPOINT_PERIOD: 30
        TEST: {EVAL_PERIOD: 30, IMS_PER_BATCH: 128}
        CUDNN_BENCHMARK: True
        """,
    "strong.yml": """
        _BASE_: base.yml
        MODEL:
          FREEZE_LAYERS: [ backbone ]
          HEADS: {POOL_LAYER: GeneralizedMeanPoolingP, SCALE: 64, MARGIN: 0.35}
        INPUT:
          SIZE_TRAIN: [ 384, 128 ]
          SIZE_TEST: [ 384, 128 ]
          AUTOAUG: {ENABLED: True, PROB: 0.1}
        DATALOADER: {NUM_INSTANCE: 16}
        SOLVER:
          MAX_EPOCH: 60
          SCHED: CosineAnnealingLR
          DELAY_EPOCHS: 30
          ETA_MIN_LR: 0.0000007
          FREEZE_ITERS: 1000
          CHECKPOINT_PERIOD: 20
        TEST: {EVAL_PERIOD: 10}
        """,
    "strong_r50.yml": """
        _BASE_: strong.yml
        MODEL: {BACKBONE: {WITH_NL: True}}
        DATASETS:
          NAMES: ("Market1501",)
          TESTS: ("Market1501",)
        OUTPUT_DIR: logs/market1501/strong_r50
        """,
}
TORCHREID_SHIPPED = """
    model: {name: 'osnet_x1_0', pretrained: True}
    data:
      type: 'image'
      sources: ['market1501']
      targets: ['market1501']
      height: 256
      width: 128
      combineall: False
      transforms: ['random_flip']
      save_dir: 'log/osnet'
    loss: {name: 'softmax', softmax: {label_smooth: True}}
    train:
      optim: 'amsgrad'
      lr: 0.0015
      max_epoch: 50
      batch_size: 32
      fixbase_epoch: 10
      open_layers: ['classifier']
      lr_scheduler: 'cosine'
    test: {batch_size: 100, dist_metric: 'euclidean', normalize_feature: False, evaluate: False, eval_freq: 5,
           rerank: False}
    """


@pytest.fixture
def strong(tmp_path) -> Path:
    for name, text in FASTREID_SHIPPED.items():
        path = write(tmp_path, name, text)
    return path


@pytest.mark.parametrize(
    "pairs",
    [
        ("MODEL.CADA.BASE_CONFIG", "cada_cuhk"),
        ("DATASETS.NAMES", "('CUHKPEDES',)"),
        ("DATASETS.NAMES", "('CUHKPEDES',)", "DATASETS.TESTS", "('CUHKPEDES',)"),
    ],
)
def test_a_file_of_fastreid_as_it_is_shipped(strong, pairs):
    config, report = convert(strong, pairs, ignore_unknown=True)
    warm_up, cosine = config.param_scheduler
    assert warm_up == {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 2000, "by_epoch": False}
    assert cosine == {
        "type": "CosineAnnealingLR",
        "begin": 30,
        "end": 60,
        "T_max": 30,
        "eta_min": 7e-7,
        "by_epoch": True,
    }
    assert config.optim_wrapper.optimizer == {"type": "Adam", "lr": 0.00035, "weight_decay": 0.0005, "fused": True}
    assert config.model.visual_encoder.image_size == (384, 128)
    assert config.train_dataloader.sampler == {"type": "IdentitySampler", "num_instances": 16, "batch_size": 64}
    assert (config.train_cfg.max_epochs, config.env_cfg.cudnn_benchmark) == (60, True)
    assert "SOLVER.WARMUP_ITERS" in report.approximated
    assert {"SOLVER.FREEZE_ITERS", "MODEL.BACKBONE.NAME", "MODEL.HEADS.MARGIN", "SOLVER.STEPS"} <= report.ignored.keys()
    assert report.ignored["SOLVER.STEPS"] == "the schedule has no steps"
    assert ("DATASETS.TESTS" in report.ignored) == ("DATASETS.TESTS" not in pairs)
    assert report.taken["SOLVER.SCHED"] == "CosineAnnealingLR"
    said = {*report.taken, *report.approximated, *report.ignored} - {"DATASETS.TESTS", *pairs[::2]}
    in_files = {key for text in FASTREID_SHIPPED.values() for key in leaves(yaml.safe_load(textwrap.dedent(text)))}
    assert said == in_files - {"_BASE_", "DATASETS.NAMES", "DATASETS.TESTS"} | (said & {"DATASETS.NAMES"})
    assert "ignored MODEL.META_ARCHITECTURE, MODEL.BACKBONE.NAME" in str(report)


def test_a_file_of_torchreid_as_it_is_shipped(tmp_path):
    path = write(tmp_path, "im_osnet.yaml", TORCHREID_SHIPPED)
    config, report = convert(path, ["cada.base_config", "cada_icfg"], ignore_unknown=True)
    assert config.param_scheduler == [
        {"type": "CosineAnnealingLR", "T_max": 50, "end": 50, "eta_min": 0, "by_epoch": 1}
    ]
    assert config.optim_wrapper.optimizer == {
        "type": "Adam",
        "amsgrad": True,
        "lr": 0.0015,
        "weight_decay": 0.05,
        "fused": True,
    }
    assert (config.train_cfg.max_epochs, config.train_dataloader.batch_size) == (50, 32)
    assert config.model.visual_encoder.image_size == (256, 128)
    assert {"model.name", "loss.name", "train.fixbase_epoch", "data.sources", "data.targets"} <= report.ignored.keys()
    assert {"train.optim", "train.lr_scheduler", "test.rerank"} <= report.taken.keys()


def test_such_a_file_is_refused_without_the_flag_and_reads_ours_in_place_of_a_data_set_without_captions(strong):
    with pytest.raises(ConfigError, match=r"SOLVER.FREEZE_ITERS \(strong.yml\).*(\n.*)*--ignore-unknown leaves out"):
        to_mmengine(strong, ["MODEL.CADA.BASE_CONFIG", "cada_cuhk"])
    config, report = convert(strong, ignore_unknown=True)
    assert config.train_dataloader.dataset.type == "CUHKPEDES"
    assert "has no captions; the data set of cada_cuhk is used" in report.ignored["DATASETS.NAMES"]
    pair = ["DATASETS.NAMES", "('Market1501',)"]
    with pytest.raises(ConfigError, match=r"DATASETS.NAMES: .*got Market1501. Or name a config with MODEL.CADA.BASE"):
        to_mmengine(CONFIGS / "yacs/fastreid_cuhk.yml", pair)
    with pytest.raises(ConfigError, match=r"SOLVER.EPOCHS \(command line\)"):  # what was typed just now is meant
        to_mmengine(strong, ["MODEL.CADA.BASE_CONFIG", "cada_cuhk", "SOLVER.EPOCHS", "3"], ignore_unknown=True)


def test_names_that_are_taken_for_others_are_said(caplog):
    keys = {
        "DATASETS.NAMES": ["CUHKPEDES"],
        "DATALOADER.SAMPLER_TRAIN": "BalancedIdentitySampler",
        "SOLVER.SCHED": "WarmupMultiStepLR",
        "SOLVER.WARMUP_ITERS": 10,
        "SOLVER.WARMUP_METHOD": "exp",
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.BIAS_LR_FACTOR": 2.0,
        "SOLVER.SWA.ENABLED": False,
    }
    config, report = convert(tree_of(keys))
    assert [s.type for s in config.param_scheduler] == ["LinearLR", "MultiStepLR"]
    assert report.approximated.keys() == {
        "DATALOADER.SAMPLER_TRAIN",
        "SOLVER.SCHED",
        "SOLVER.WARMUP_ITERS",
        "SOLVER.WARMUP_METHOD",
        "SOLVER.BIAS_LR_FACTOR",
    }
    assert report.ignored == {
        "SOLVER.MOMENTUM": "the optimiser is not SGD",
        "SOLVER.SWA.ENABLED": "no key that has a meaning here",
    }
    to_mmengine(tree_of(keys))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "ignored SOLVER.MOMENTUM: the optimiser is not SGD" in record.getMessage()
    assert "1 keys taken as they are (DATASETS.NAMES)" in record.getMessage()


# ---------------------------------------------------------------- bad input

CUHK = "DATASETS: {NAMES: [CUHKPEDES]}\n"
BAD = {
    "unknown": (
        CUHK + "MODEL: {BACKBONE: {NAME: resnet}, WEIGHT: x}\nSOLVER: {MAX_EPOCHS: 3}\nSEED: 1",
        [
            "MODEL.BACKBONE.NAME (bad.yml): no key that has a meaning here",
            "--ignore-unknown leaves out",
            "MODEL.WEIGHT (bad.yml): the nearest key is MODEL.WEIGHTS",
            "SOLVER.MAX_EPOCHS (bad.yml): the nearest key is SOLVER.MAX_EPOCH",
        ],
    ),
    "lower case in FastReID's": (
        CUHK + "train: {lr: 0.1}\nSOLVER: {max_epoch: 3, MAX_EPOCH: 3}",
        [
            "FastReID-style: keys are upper-case",
            "train.lr (bad.yml): the other style's name for SOLVER.BASE_LR",
            "SOLVER.max_epoch (bad.yml): write SOLVER.MAX_EPOCH",
        ],
    ),
    "upper case in torchreid's": (
        "data: {sources: [cuhk_pedes]}\ntrain: {lr: 0.1}\nSOLVER: {BASE_LR: 0.1}\ntest: {EVAL_FREQ: 1}",
        [
            "torchreid-style: keys are lower-case",
            "SOLVER.BASE_LR (bad.yml): the other style's name for train.lr",
            "test.EVAL_FREQ (bad.yml): write test.eval_freq",
        ],
    ),
    "title case": ("Model: {Weights: x.pth}", ["upper-case", "Model.Weights (bad.yml): write MODEL.WEIGHTS"]),
    "neither": (
        "services: {web: {image: nginx}}",
        ["neither FastReID-style", "nor torchreid-style", "services.web.image"],
    ),
    "empty": ("# nothing\n", ["bad.yml is neither", "it has no keys"]),
    "no tree": ("- a\n- b\n", ["bad.yml is no tree of keys"]),
    "no YAML": ("MODEL: [1, 2\nSEED: 1", ["bad.yml is not valid YAML", "line 2"]),
    "duplicate key": (
        "SEED: 1\n" + CUHK + "SEED: 2",
        ["bad.yml is not valid YAML", "the key SEED is given twice", "line 3"],
    ),
    "duplicate inner key": (CUHK + "SOLVER:\n  OPT: Adam\n  OPT: AdamW", ["the key OPT is given twice"]),
    "duplicate dotted key": (CUHK + "SOLVER: {OPT: Adam}\nSOLVER.OPT: AdamW", ["the key SOLVER.OPT is given twice"]),
    "a section as value": (CUHK + "SOLVER:\n", ["SOLVER (bad.yml): a section, of which a key is expected"]),
    "a value as section": (CUHK + "SEED: {A: 1}", ["SEED.A (bad.yml): SEED is a value and no section"]),
    "text for a number": (CUHK + "SOLVER: {BASE_LR: fast}", ["SOLVER.BASE_LR: 'fast' (bad.yml)", "a number"]),
    "number for a float": (CUHK + "SOLVER: {BASE_LR: 1}", ["SOLVER.BASE_LR: 1 (bad.yml)", "such as 1.0"]),
    "text for a list": ("DATASETS: {NAMES: CUHKPEDES}", ["DATASETS.NAMES: 'CUHKPEDES' (bad.yml)", "a list"]),
    "list for a number": (CUHK + "SEED: [1]", ["SEED: [1] (bad.yml)", "an integer"]),
    "number for a switch": (CUHK + "SOLVER: {AMP: {ENABLED: 1}}", ["SOLVER.AMP.ENABLED: 1", "True or False"]),
    "size": (CUHK + "INPUT: {SIZE_TRAIN: [384]}", ["INPUT.SIZE_TRAIN: expected [height, width] in pixels, got [384]"]),
    "two sizes": (CUHK + "INPUT: {SIZE_TEST: [384, 128]}", ["INPUT.SIZE_TEST: [384, 128] is not INPUT.SIZE_TRAIN"]),
    "data set": (
        "DATASETS: {NAMES: [Market1501]}",
        ["DATASETS.NAMES: expected one of CUHKPEDES, cuhk_pedes", "Market1501"],
    ),
    "two data sets": (
        "data: {sources: [cuhk_pedes, rstpreid]}",
        ["data.sources: expected one of", "cuhk_pedes, rstpreid"],
    ),
    "no data set": ("data: {sources: []}", ["data.sources: expected one of", "got none"]),
    "another test set": (
        CUHK.replace("}", ", TESTS: [RSTPReid]}"),
        ["DATASETS.TESTS: the base config reads CUHKPEDES"],
    ),
    "data set against base": (
        CUHK + "MODEL: {CADA: {BASE_CONFIG: cada_rstp}}",
        ["DATASETS.NAMES: the base config reads RSTPReid, not CUHKPEDES"],
    ),
    "nothing to start from": ("SEED: 1", ["set DATASETS.NAMES to a data set, or MODEL.CADA.BASE_CONFIG"]),
    "missing config": ("cada: {base_config: cada_market}", ["cada.base_config: no config", "cada_market", "cada_cuhk"]),
    "broken config": ("cada: {base_config: broken.py}", ["cada.base_config:", "broken.py cannot be read as a config"]),
    "optimiser": (CUHK + "SOLVER: {OPT: Lamb}", ["SOLVER.OPT: expected one of Adam, adam, AdamW", "got Lamb"]),
    "schedule": (CUHK + "SOLVER: {SCHED: PolyLR}", ["SOLVER.SCHED: expected one of CosineAnnealingLR", "got PolyLR"]),
    "no epoch": (CUHK + "SOLVER: {MAX_EPOCH: 0}", ["SOLVER.MAX_EPOCH: expected 1 or more, got 0"]),
    "no image": (CUHK + "SOLVER: {IMS_PER_BATCH: 0}", ["SOLVER.IMS_PER_BATCH: expected 1 or more, got 0"]),
    "not a number": (CUHK + "SOLVER: {BASE_LR: .nan}", ["SOLVER.BASE_LR: expected a finite number, got nan"]),
    "factor": (
        CUHK + "SOLVER: {WARMUP_ITERS: 5, WARMUP_FACTOR: 2.0}",
        ["SOLVER.WARMUP_FACTOR: expected 1 or less, got 2.0"],
    ),
    "falling steps": (
        CUHK + "SOLVER: {SCHED: MultiStepLR, STEPS: [90, 40]}",
        ["SOLVER.STEPS: expected epochs in rising order, such as [40, 90], got [90, 40]"],
    ),
    "long delay": (
        CUHK + "SOLVER: {MAX_EPOCH: 30, DELAY_EPOCHS: 30}",
        ["SOLVER.DELAY_EPOCHS: a delay of 30 epochs leaves none of 30"],
    ),
    "fewer epochs than the warm-up": (
        "MODEL: {CADA: {BASE_CONFIG: baselines/clip_cuhk}}\nSOLVER: {MAX_EPOCH: 5}",
        ["SOLVER.MAX_EPOCH: 5 epochs, but the base config's CosineAnnealingLR begins after 5"],
    ),
    "temperatures": (
        CUHK + "MODEL: {CADA: {NEGATIVE_SCALE: [1.0]}}",
        ["MODEL.CADA.NEGATIVE_SCALE: expected two numbers", "got [1.0]"],
    ),
    "a config without a model": (
        "MODEL: {CADA: {BASE_CONFIG: _base_/default_runtime, LOSS_WEIGHTS: {ATP: 2.0}}}",
        ["MODEL.CADA.LOSS_WEIGHTS.ATP: the base config has no model"],
    ),
    "a date that does not exist": (CUHK + "SEED: 2001-99-99", ["bad.yml is not valid YAML"]),
    "a tree without end": ("SOLVER: &a {B: *a}", ["bad.yml is not valid YAML"]),
    "somebody's home": ("_BASE_: ~nobody_of_that_name/x.yml\n" + CUHK, ["_BASE_: ~nobody_of_that_name/x.yml is in"]),
    "loss that is not there": (
        "cada: {base_config: pretrain_web_dual, loss_weights: {atp: 1.0}}",
        ["cada.loss_weights.atp: the base config has no loss_atp"],
    ),
    "decoder that is not there": (
        "cada: {base_config: pretrain_web_dual, causal: true}",
        ["cada.causal: the base config has no model.text_decoder"],
    ),
    "missing base": ("_BASE_: nowhere.yml\n" + CUHK, ["nowhere.yml, the _BASE_ of", "bad.yml, cannot be read"]),
    "circle": ("_BASE_: again.yml\n" + CUHK, ["circle: bad.yml -> again.yml -> bad.yml"]),
    "two bases": ("_BASE_: [a.yml, b.yml]\n" + CUHK, ["_BASE_ is the name of one file"]),
    "unknown in the base": ("_BASE_: odd.yml\n" + CUHK, ["MODEL.HEADS.NAME (odd.yml)"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_clear_error(name, tmp_path):
    text, words = BAD[name]
    write(tmp_path, "again.yml", "_BASE_: bad.yml\nSEED: 1")
    write(tmp_path, "odd.yml", "MODEL: {HEADS: {NAME: EmbeddingHead}}")
    write(tmp_path, "broken.py", "model = dict(")
    with pytest.raises(ConfigError) as error:
        to_mmengine(write(tmp_path, "bad.yml", text))
    for word in words:
        assert word in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bad.yml").write_bytes(b"SEED: \xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.yml is not valid YAML"):
        to_mmengine(tmp_path / "bad.yml")


def test_bad_overrides():
    example = EXAMPLES / "fastreid_procedural.yml"
    with pytest.raises(ConfigError, match="got an odd number of words: SEED 1 OUTPUT_DIR"):
        to_mmengine(example, ["SEED", "1", "OUTPUT_DIR"])
    with pytest.raises(ConfigError, match=r"train.lr \(command line\): the other style's name for SOLVER.BASE_LR"):
        to_mmengine(example, ["train.lr", "0.1"])
    with pytest.raises(ConfigError, match=r"SEED: 'one' \(command line\) is of a wrong type: expected an integer"):
        to_mmengine(example, ["SEED", "one"])


def test_a_tree_that_would_lose_something_is_refused():
    config = Config.fromfile(CONFIGS / "cada_cuhk.py")
    with pytest.raises(ConfigError, match="style='mine': use one of fastreid, torchreid"):
        to_yacs(config, "mine")
    config.model.embed_dim = 3
    with pytest.raises(ConfigError, match="no key of a yacs tree says how model differ"):
        to_yacs(config, "fastreid")
    with pytest.raises(ConfigError, match="read from a file"):
        to_yacs(Config(config.to_dict()), "fastreid")


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
