"""yacs files: the examples, files as other projects ship them, and bad input."""

import textwrap
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from yacs_factory import CONFIGS, EXAMPLES, REFUSED, changed, leaves, tree_of, write

from cada_plugin.errors import ConfigError
from cada_plugin.integrations.yacs import STYLES, convert, to_mmengine, to_yacs

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
