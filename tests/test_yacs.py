"""yacs files of both styles: each key against where it belongs in a config, both directions, bad input, real runs."""

import copy
import functools
import textwrap
from pathlib import Path

import pytest
import runner_factory as factory
from mmengine.config import Config
from yacs.config import CfgNode

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs import STYLES, add_cada_config, to_mmengine, to_yacs
from cada_plugin.integrations.yacs_table import ROWS

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
# their position: of the training steps, 1 resizes, 4 crops and 7 masks; of the test steps, 1 resizes)
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
    ("SOLVER.IMS_PER_BATCH", "train.batch_size", 24, SAME, {"train_dataloader__batch_size": 24}),
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
    ("SOLVER.AMP.ENABLED", "cada.amp", True, SAME, {"optim_wrapper__type": "BF16OptimWrapper"}),
    ("SOLVER.CHECKPOINT_PERIOD", "cada.checkpoint_period", 2, SAME, {"default_hooks__checkpoint__interval": 2}),
    ("SOLVER.LOG_PERIOD", "train.print_freq", 5, SAME, {"default_hooks__logger__interval": 5}),
    ("TEST.EVAL_PERIOD", "test.eval_freq", 3, SAME, {"train_cfg__val_interval": 3}),
    ("SEED", "train.seed", 11, SAME, {"randomness__seed": 11}),
    ("MODEL.WEIGHTS", "model.load_weights", "a/b.pth", SAME, {"load_from": "a/b.pth"}),
    ("OUTPUT_DIR", "data.save_dir", "runs/x", SAME, {"work_dir": "runs/x"}),
    ("MODEL.CADA.START_WEIGHTS", "cada.start_weights", "x.pth", SAME, {"model__init_cfg__checkpoint": "x.pth"}),
    ("MODEL.CADA.GROUPING", "cada.grouping", "position", SAME, {"model__grouping": "position"}),
    ("MODEL.CADA.NUM_GROUPS", "cada.num_groups", 0, SAME, {"model__num_groups": None}),
    ("MODEL.CADA.NEGATIVES", "cada.negatives", "hardest", SAME, {"model__negatives": "hardest"}),
    (
        "MODEL.CADA.NEGATIVE_TEMPERATURE",
        "cada.negative_temperature",
        [1.0, 2.5],
        SAME,
        {"model__negative_temperature": (1.0, 2.5)},
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
        "train_dataloader__dataset__pipeline__4",
        "val_dataloader__dataset__pipeline__1",
        "test_dataloader__dataset__pipeline__1",
        "train_pipeline__1",
        "train_pipeline__4",
        "test_pipeline__1",
    )
} | {"image_size": (64, 32), "model__visual_encoder__image_size": (64, 32)}
# What is said with several keys, or only confirmed.
MORE = {
    "fastreid": [
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
@pytest.mark.parametrize("name", ["cada_icfg", "pretrain_procedural_dual", "baselines/clip_procedural"])
def test_a_config_comes_back_from_its_tree(name, style, tmp_path):
    """No validation split, losses and decoder left out, another model."""
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


# ---------------------------------------------------------------- bad input

CUHK = "DATASETS: {NAMES: [CUHKPEDES]}\n"
BAD = {
    "unknown": (
        CUHK + "MODEL: {BACKBONE: {NAME: resnet}, WEIGHT: x}\nSOLVER: {MAX_EPOCHS: 3}\nSEED: 1",
        [
            "MODEL.BACKBONE.NAME (bad.yml): the nearest key is",
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
    "a section as value": (CUHK + "SOLVER:\n", ["SOLVER (bad.yml): the nearest key is"]),
    "a value as section": (CUHK + "SEED: {A: 1}", ["SEED.A (bad.yml): the nearest key is SEED"]),
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
    "optimiser": (CUHK + "SOLVER: {OPT: SGD}", ["SOLVER.OPT: expected one of Adam, adam, AdamW, adamw; got SGD"]),
    "loss that is not there": (
        "cada: {base_config: pretrain_procedural_dual, loss_weights: {atp: 1.0}}",
        ["cada.loss_weights.atp: the base config has no loss_atp"],
    ),
    "decoder that is not there": (
        "cada: {base_config: pretrain_procedural_dual, causal: true}",
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
    assert (config.model.grouping, config.model.num_groups) == ("tokens", 2)  # said, and the base config's
    assert config.model.loss_ara == {"type": "MaskedAttributeLoss", "weight": 0.5}
    assert config.optim_wrapper.optimizer == {"type": "Adam", "lr": 0.002, "weight_decay": 0.05, "fused": True}
    assert config.model.visual_encoder.image_size == (256, 128)
    assert (config.test_cfg.rerank_topk, config.train_cfg.max_epochs, config.work_dir) == (64, 120, "logs/")


def test_our_options_in_a_lower_case_tree():
    cfg = lower_host()
    add_cada_config(cfg)
    cfg.merge_from_list(["data.sources", "['rstpreid']", "data.targets", "['rstpreid']", "cada.negatives", "drawn"])
    config = to_mmengine(cfg)
    assert config.model.negatives == "drawn"
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
"""
TORCHREID = """
cada: {base_config: tiny.py, rerank_topk: 2}
train: {lr: 0.002, max_epoch: 30}
data: {save_dir: elsewhere}
"""


@pytest.mark.parametrize("style", STYLES)
def test_a_yaml_trains_and_tests_as_the_python_config_does(style, config, from_python):
    path = write(config.parent, f"{style}.yml", FASTREID if style == "fastreid" else TORCHREID)
    epochs, save_dir = (
        ("SOLVER.MAX_EPOCH", "OUTPUT_DIR") if style == "fastreid" else ("train.max_epoch", "data.save_dir")
    )
    pairs = (epochs, 1, save_dir, f"runs/{style}")
    options = ("--cfg-options", "val_cfg.rerank_topk=3", "test_cfg.rerank_topk=3")  # wins over the file
    outcome = factory.tool("train", "--launcher", "none", path, *pairs, "--resume", *options, cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
    work_dir = config.parent / "runs" / style
    expected = factory.metrics(from_python)
    assert factory.metrics(work_dir) == expected
    written = Config.fromfile(work_dir / "tiny.py")  # what ran, as a config of its own
    assert (written.train_cfg.max_epochs, written.optim_wrapper.optimizer.lr) == (1, 0.002)

    tested = config.parent / f"{style}_test"
    arguments = (path, "--work-dir", tested, work_dir / "epoch_1.pth", *pairs[:2])
    outcome = factory.tool("test", *arguments, "--out", tested / "out.json", *options, cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
    assert factory.metrics(tested) == expected[-1:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fastreid.yml", "SOLVER.EPOCHS", "1"], "SOLVER.EPOCHS (command line): the nearest key is SOLVER.MAX_EPOCH"),
        (["fastreid.yml", "--resume", "SOLVER.MAX_EPOCH", "1"], "put them before flags that may take a word"),
        (["tiny.py", "SOLVER.MAX_EPOCH", "1"], "KEY VALUE pairs are for YAML configs"),
        (["nowhere.yml"], "no config file nowhere.yml"),
    ],
    ids=["key", "flag first", "Python config", "missing"],
)
def test_command_lines_that_are_wrong(arguments, words, config):
    write(config.parent, "fastreid.yml", FASTREID)
    outcome = factory.tool("train", *arguments, cwd=config.parent)
    assert outcome.status == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert words in outcome.stderr


def test_the_launcher_tells_how_many_share_a_batch(config):
    path = write(config.parent, "shared.yml", FASTREID)
    arguments = (path, "SOLVER.IMS_PER_BATCH", 7, "--launcher", "pytorch")
    outcome = factory.tool("train", *arguments, cwd=config.parent, processes=2)
    assert outcome.status == 2, outcome.stderr
    assert "SOLVER.IMS_PER_BATCH: 7 is for all 2 processes together: use a multiple of 2" in outcome.stderr
