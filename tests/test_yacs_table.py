"""yacs files of both styles: each key changes the right place of a config, in both directions."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from yacs_factory import CONFIGS, REFUSED, SPLITS, changed, leaves, load, tree_of, write

from cada_plugin.datasets import CustomPEDES
from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs import STYLES, to_mmengine, to_yacs
from cada_plugin.integrations.yacs_table import ROWS
from cada_plugin.registry import DATASETS

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
