"""Every shipped config builds and takes a training step, at a size that a test can afford."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from cada_plugin.datasets import person_collate
from cada_plugin.integrations.torchreid import PROCEDURAL_BUILD
from cada_plugin.registry import DATASETS, MODELS, TRANSFORMS, build_part

CONFIG_DIR = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path.name for path in CONFIG_DIR.glob("*.py"))


def shrink(config: Config) -> Config:
    """The same structure, small: widths, depths, vocabulary, and a tagger that needs no download."""
    model = config.model
    model.init_cfg = None
    model.tokenizer.vocab = "procedural"
    model.visual_encoder.update(width=32, depth=1, heads=2)
    for part in ("text_encoder", "text_decoder"):
        if model.get(part):
            model[part].update(width=32, depth=1, heads=2, max_positions=model.tokenizer.max_length)
    for step in [*config.train_pipeline, *config.test_pipeline]:
        if "tokenizer" in step:
            step.tokenizer.vocab = "procedural"
        if step["type"] == "TagAttributes":
            step.tagger = {"type": "LexiconTagger"}
    return config


def fake_item(path: Path, index: int) -> dict:
    return {
        "img_path": str(path),
        "caption": "a man with short black hair wears a red shirt , blue jeans and white shoes",
        "person_id": index,
        "label": index,
        "image_id": index,
        "camera_id": None,
        "is_twin": False,
        "sample_index": index,
    }


@pytest.fixture
def image(tmp_path) -> Path:
    from PIL import Image

    path = tmp_path / "person.png"
    Image.effect_noise((90, 250), 60).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_and_takes_a_step(name, image):
    config = shrink(Config.fromfile(CONFIG_DIR / name))
    model = build_part(MODELS, config.model)
    pipeline = [build_part(TRANSFORMS, step) for step in config.train_pipeline]
    items = []
    for index in range(3):
        item = fake_item(image, index)
        for step in pipeline:
            item = step(item)
        items.append(item)
    batch = model.data_preprocessor(person_collate(items), True)
    losses = model(**batch, mode="loss")
    assert losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", CONFIGS)
def test_loaders_name_registered_data_sets_and_both_loops_agree(name):
    config = Config.fromfile(CONFIG_DIR / name)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if config.get(loader):
            assert DATASETS.get(config[loader].dataset.type) is not None
            assert config[loader].dataset.get("test_mode", False) == (loader != "train_dataloader")
    if config.get("val_cfg"):
        assert config.val_cfg.rerank_topk == config.test_cfg.rerank_topk
    else:  # no split to choose an epoch on
        assert config.default_hooks.checkpoint.save_best is None


def test_cuhk_config_has_the_released_values():
    config = Config.fromfile(CONFIG_DIR / "cada_cuhk.py")
    model = config.model
    assert (model.grouping, model.num_groups, model.negatives) == ("position", 2, "hardest")
    assert model.text_decoder.causal is True
    assert (model.loss_global.scale, model.loss_ara.weight, model.embed_dim) == (50.0, 0.1, 256)
    assert (model.tokenizer.max_words, model.tokenizer.max_length) == (72, 73)
    masking = next(step for step in config.train_pipeline if step["type"] == "MaskAttributes")
    assert (masking.unit, masking.probability) == ("words", 0.4)
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 1e-5, "weight_decay": 0.05}
    assert (config.train_cfg.max_epochs, config.train_dataloader.batch_size, config.test_cfg.rerank_topk) == (
        30,
        24,
        32,
    )


def test_pretraining_people_are_not_those_of_the_main_job():
    main = Config.fromfile(CONFIG_DIR / "cada_procedural.py").build
    start = Config.fromfile(CONFIG_DIR / "pretrain_procedural.py").build
    assert main.get("pool", "main") != start.pool
    assert main.seed != start.seed
    assert main.identities.test >= 200


def test_torchreid_draws_the_same_people_into_the_same_folder():
    assert Config.fromfile(CONFIG_DIR / "cada_procedural.py").build == PROCEDURAL_BUILD
