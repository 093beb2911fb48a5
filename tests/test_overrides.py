"""One value that stands once in a config is set once: overrides reach every copy, or say where the value stands."""

import re
from pathlib import Path

import pytest
import runner_factory as factory
from mmengine.config import Config

from cada_plugin.engine.config import override, read_config
from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATASETS, HOOKS, LOOPS, METRICS, MODELS


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("overrides"))


def places(config: Config, key: str) -> list:
    """All values of a key in the parts of a config that a Runner reads."""
    found = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            found.extend(value for name, value in node.items() if name == key)
            node = list(node.values())
        if isinstance(node, list | tuple):
            for item in node:
                walk(item)

    walk([config.get(name) for name in ("model", "train_dataloader", "val_dataloader", "test_dataloader")])
    return found


CONFIGS = factory.REPO / "configs"


def test_an_override_of_a_variable_reaches_every_copy():
    config = read_config(CONFIGS / "cada_procedural.py")
    options = {"data_root": "mine", "build.identities.train": 30, "tokenizer.vocab": "v.txt", "image_size": [64, 32]}
    override(config, options)
    assert places(config, "data_root") == ["mine"] * 3
    assert [build.identities.train for build in places(config, "build")] == [30] * 3
    assert {cfg.vocab for cfg in places(config, "tokenizer")} == {"v.txt"}
    assert len(places(config, "tokenizer")) == 7
    assert [tuple(size) for size in places(config, "size")] == [(64, 32)] * 4
    assert [tuple(size) for size in places(config, "image_size")] == [(64, 32)]


@pytest.mark.parametrize("name", ["cada_cuhk", "cada_icfg", "cada_rstp", "cada_ufine", "baselines/clip_cuhk"])
def test_the_folder_of_a_published_set_is_one_value(name):
    config = read_config(CONFIGS / f"{name}.py")
    override(config, {"data_root": "/data/people"})
    assert set(places(config, "data_root")) == {"/data/people"}


def test_a_variable_of_a_config_reaches_the_copies_of_its_base(tmp_path):
    (tmp_path / "middle.py").write_text(f"_base_ = ['{CONFIGS}/cada_procedural.py']\ndata_root = 'middle'\n")
    (tmp_path / "mine.py").write_text(
        "_base_ = ['middle.py']\ndata_root = 'mine'\ntokenizer = dict(max_length=40)\n"
        "test_dataloader = dict(dataset=dict(data_root='elsewhere'))\n"
    )
    config = read_config(tmp_path / "mine.py")
    assert places(config, "data_root") == ["mine", "mine", "elsewhere"]
    assert {cfg.max_length for cfg in places(config, "tokenizer")} == {40}
    assert {cfg.vocab for cfg in places(config, "tokenizer")} == {"procedural"}


@pytest.mark.parametrize(
    "name", ["cada_procedural", "cada_ufine", "blip_procedural", "cmpm_osnet_cuhk", "irra_procedural"]
)
def test_the_image_size_reaches_every_step_that_has_one(name):
    config = read_config(name)
    override(config, {"image_size": (64, 32)})
    loaders = [config[split] for split in ("train_dataloader", "val_dataloader", "test_dataloader") if config[split]]
    steps = [step for loader in loaders for step in loader.dataset.pipeline if "size" in step]
    assert len(steps) == len(loaders) + 1  # a resize in each, and the crop of training
    assert {tuple(step["size"]) for step in steps} == {(64, 32)}
    assert tuple(config.model.visual_encoder.get("image_size", (64, 32))) == (64, 32)


@pytest.mark.slow
def test_reading_changes_no_config_of_ours():
    paths = sorted(path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts)
    assert len(paths) > 30
    for path in paths:
        assert read_config(path).to_dict() == Config.fromfile(path).to_dict(), path


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("rerank_topk", r"val_cfg\.rerank_topk, test_cfg\.rerank_topk"),
        ("batch_size", r"train_dataloader\.batch_size"),
        ("dataroot", "did you mean data_root"),
        ("image_sise", "did you mean image_size"),
        ("env_cfg.cudnn_benchmrk", "did you mean cudnn_benchmark"),
        ("optim_wrapper.clip_grad.max_nrm", "did you mean max_norm"),
        ("data_preprocessor.mean", r"set model\.data_preprocessor\.mean"),
        ("launcher", "the config has no launcher"),
    ],
)
def test_an_override_that_reaches_nothing_says_where_the_value_stands(option, words):
    with pytest.raises(ConfigError, match=rf"--cfg-options {option} would change nothing.*{words}"):
        override(read_config(CONFIGS / "cada_procedural.py"), {option: 3})


def test_variables_of_the_same_value_are_not_confused(tmp_path):
    (tmp_path / "c.py").write_text(
        "mean = [127.5] * 3\nstd = [127.5] * 3\nlr = 1.0\noptions = dict()\n"
        "model = dict(data_preprocessor=dict(mean=mean, std=std), empty=dict())\n"
        "optim_wrapper = dict(optimizer=dict(lr=lr, beta=1.0))\n"
    )
    config = read_config(tmp_path / "c.py")
    override(config, {"std": [1, 1, 1], "lr": 3.0})
    assert config.model.data_preprocessor.to_dict() == {"mean": [127.5] * 3, "std": [1, 1, 1]}
    assert config.optim_wrapper.optimizer.to_dict() == {"lr": 3.0, "beta": 1.0}
    with pytest.raises(ConfigError, match="options is a variable"):
        override(config, {"options.a": 1})
    (tmp_path / "child.py").write_text("_base_ = ['c.py']\nlr = 5.0\nmean = [1, 1, 1]\nstd = [2, 2, 2]\n")
    child = read_config(tmp_path / "child.py")
    assert child.optim_wrapper.optimizer.lr == 5.0
    assert child.model.data_preprocessor.to_dict() == {"mean": [1, 1, 1], "std": [2, 2, 2]}


def test_overriding_a_variable_that_nothing_reads_is_an_error():
    with pytest.raises(ConfigError, match=r"image_size is a variable .* Set model\.visual_encoder\.image_size"):
        override(read_config(CONFIGS / "baselines/clip_cuhk.py"), {"image_size": (64, 32)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("optim_wrapper.optimizer.lr=abc", "optim_wrapper.optimizer.lr='abc': expected a number"),
        ("train_cfg.max_epochs=0", "train_cfg.max_epochs=0"),
        ("image_size=224", "image_size=224"),
        ("train_dataloader.batch_size.x=1", "--cfg-options train_dataloader.batch_size.x"),
    ],
)
def test_values_of_a_wrong_kind_are_our_errors(config, option, words):
    args = ("--cfg-options", option)
    outcome = factory.tool("train", config, "--work-dir", config.parent / "wrong", *args, cwd=config.parent)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.slow
def test_amp_does_not_need_our_default_scope(config):
    path = config.with_name("foreign_scope.py")
    ours = {name for registry in (MODELS, DATASETS, HOOKS, LOOPS, METRICS) for name in registry.module_dict}
    text = Config.fromfile(config).pretty_text.replace("default_scope = 'cada_plugin'", "default_scope = 'mmengine'")
    path.write_text(re.sub(r"type='(\w+)'", lambda m: f"type='cada_plugin.{m[1]}'" if m[1] in ours else m[0], text))
    args = ("--amp", "--cfg-options", "train_cfg.max_epochs=1")
    outcome = factory.tool("train", path, "--work-dir", config.parent / "amp", *args, cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
