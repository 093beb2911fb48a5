"""Every shipped config builds, at a size that a test can afford; every kind of model takes a training step."""

import re
from pathlib import Path

import pytest
import torch
from clip_factory import write_tokenizer
from mmengine.config import Config
from mmengine.fileio import load

from cada_plugin.benchmark.variants import Variant, read_grid
from cada_plugin.datasets import person_collate
from cada_plugin.datasets.catalogue import data_sets
from cada_plugin.engine.config import find_grid, override, read_config, settings_of, shipped_configs
from cada_plugin.errors import ConfigError
from cada_plugin.registry import DATASETS, MODELS, TRANSFORMS, build_part

ROOT = Path(__file__).parents[1]
CONFIG_DIR = ROOT / "configs"
CONFIGS = sorted(str(path.relative_to(CONFIG_DIR)) for path in CONFIG_DIR.rglob("*.py") if "_base_" not in path.parts)
GRIDS = {
    "grids/beyond": ["cada_procedural"],
    "grids/plus": ["cada_procedural", "cada_plus_procedural"],
    "grids/procedural": ["cada_procedural"],
    "grids/published": ["cada_cuhk", "cada_icfg", "cada_rstp"],
}
ALONE = {"text_decoder", "loss_atp", "loss_ara"}  # what is None where the global association stands alone
BEYOND = {  # the parts of the model that a variant of grids/beyond and grids/plus changes
    "global_tal": {"loss_global", *ALONE},
    "global_sdm": {"loss_global", *ALONE},
    "tal": {"loss_global"},
    "mars": {"grouping", "loss_atp"},
    "ranking": set(),
    "phrases_judged": set(),
    "one_negative": {"loss_ranking"},
    "conv": {"visual_encoder", "init_cfg", "loss_phrases"},
    "residual": {"visual_encoder", "init_cfg"},
}
VARIANTS = [
    pytest.param(config, Variant(variant.name.rpartition("/")[2], variant.options), id=variant.row(config))
    for grid, configs in GRIDS.items()
    for config in configs
    for variant in read_grid(grid)
    if variant.config in (None, config)
]


def shrink(config: Config, clip_folder: Path) -> Config:
    """The same structure, small: widths, depths, vocabularies, and a tagger that needs no download."""
    model = config.model
    model.init_cfg = None
    small = {"width": 32, "depth": 1, "heads": 2}
    if model.visual_encoder.type == "TorchreidEncoder":
        model.visual_encoder.update(pretrained=False)
    else:
        model.visual_encoder.update(small)
    for part in ("text_encoder", "text_decoder"):
        if model.get(part) and model[part].type != "BiLSTMEncoder":
            model[part].update(
                small, max_positions=model.tokenizer.max_length if "max_length" in model.tokenizer else 77
            )
    pipelines = [config[loader].dataset.pipeline for loader in ("train_dataloader", "test_dataloader")]
    for part in [model, *(step for pipeline in pipelines for step in pipeline)]:
        if "tokenizer" in part:
            clip = part.tokenizer.type == "CLIPCaptionTokenizer"
            part.tokenizer.vocab = str(clip_folder) if clip else "procedural"
        if part["type"] in ("TagAttributes", "ReadPhrases"):
            part.tagger = {"type": "LexiconTagger"}
    return config


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder)
    return folder


def fake_item(path: Path, index: int) -> dict:
    return {
        "img_path": str(path),
        "caption": "a man with short black hair wears a red shirt , blue jeans and white shoes",
        "person_id": index,
        "label": index,
        "image_id": index,
        "camera_id": None,
        "sample_index": index,
    }


@pytest.fixture
def image(tmp_path) -> Path:
    from PIL import Image

    path = tmp_path / "person.png"
    Image.effect_noise((90, 250), 60).convert("RGB").save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_config_builds_and_takes_a_step(name, image, clip_folder):
    take_a_step(Config.fromfile(CONFIG_DIR / name), image, clip_folder)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "variant"), [one for one in VARIANTS if one.values[1].name in BEYOND])
def test_a_proposal_of_others_builds_and_takes_a_step(config, variant, image, clip_folder):
    take_a_step(varied(config, variant)[1], image, clip_folder)


def take_a_step(config: Config, image: Path, clip_folder: Path) -> None:
    config = shrink(config, clip_folder)
    model = build_part(MODELS, config.model).train()
    pipeline = [build_part(TRANSFORMS, step) for step in config.train_dataloader.dataset.pipeline]
    items = [fake_item(image, index) for index in range(3)]
    for step in pipeline:
        if hasattr(step, "prepare"):
            step.prepare([item["caption"] for item in items])
        if hasattr(step, "prepare_people"):
            step.prepare_people({item["person_id"]: [item["caption"]] for item in items})
    for index, item in enumerate(items):
        for step in pipeline:
            item = step(item)
        items[index] = item
    batch = model.data_preprocessor(person_collate(items), True)
    model.train_without_hooks()
    losses = model(**batch, mode="loss")
    assert losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", CONFIGS)
def test_loaders_and_loops_agree(name):
    config = Config.fromfile(CONFIG_DIR / name)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if config.get(loader):
            assert DATASETS.get(config[loader].dataset.type) is not None
            assert config[loader].dataset.get("test_mode", False) == (loader != "train_dataloader")
    for loader in ("val_dataloader", "test_dataloader"):  # the model reads what the loader writes
        if config.get(loader):
            steps = {step["type"]: step for step in config[loader].dataset.pipeline}
            assert steps["EncodeCaptions"].tokenizer == config.model.tokenizer
            if "image_size" in config.model.visual_encoder:
                assert steps["torchvision/Resize"].size == config.model.visual_encoder.image_size
    if config.get("val_cfg"):
        assert config.val_cfg.rerank_topk == config.test_cfg.rerank_topk


def test_cuhk_config_has_the_released_values():
    config = Config.fromfile(CONFIG_DIR / "cada_cuhk.py")
    model = config.model
    assert (model.grouping, model.negatives) == ({"type": "PositionGroups", "num_groups": 2}, "hardest")
    assert model.text_decoder.causal is True
    assert (model.loss_global.scale, model.loss_ara.weight, model.embed_dim) == (50.0, 0.1, 256)
    assert (model.tokenizer.max_words, model.tokenizer.max_length) == (72, 73)
    masking = next(step for step in config.train_pipeline if step["type"] == "MaskAttributes")
    assert (masking.unit, masking.probability) == ("words", 0.4)
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 1e-5, "weight_decay": 0.05, "fused": True}
    assert (config.train_cfg.max_epochs, config.train_dataloader.batch_size, config.test_cfg.rerank_topk) == (
        30,
        24,
        32,
    )


@pytest.mark.parametrize(("name", "classes"), [("cuhk", 11003), ("icfg", 3102), ("rstp", 3701)])
def test_classifiers_have_the_published_number_of_people(name, classes):
    dataset = DATASETS.get(Config.fromfile(CONFIG_DIR / f"cada_{name}.py").train_dataloader.dataset.type)
    assert dataset.PUBLISHED["train"][0] == classes
    for baseline in ("cmpm_osnet", "cmpm_resnet50", "irra"):
        assert Config.fromfile(CONFIG_DIR / f"baselines/{baseline}_{name}.py").model.num_classes == classes


@pytest.mark.parametrize("name", ["cuhk", "icfg", "rstp", "procedural"])
def test_cada_plus_is_cada_with_what_helped(name):
    plus, plain = (read_config(f"cada_{kind}{name}") for kind in ("plus_", ""))
    cosine_weight = plus.test_cfg.get("cosine_weight", 1.0)
    ranking = {"type": "MatchRankingLoss", "cosine_weight": cosine_weight, "negatives": 5}
    phrases = {"loss_phrases": {"type": "PhraseMatchingLoss"}, "phrase_weight": 1.0}
    model = plain.model | {"loss_ranking": ranking} | phrases
    if name == "procedural":
        model["loss_phrases"]["weight"] = 10.0
        model["visual_encoder"] = plain.model.visual_encoder | {"stem": "residual"}
        model["init_cfg"] = {"type": "Pretrained", "checkpoint": "cada_plugin://web_plus_start.safetensors"}
    assert plus.model == model
    hubness = {"weight": 0.75, "neighbours": 128}
    for loop in ("val_cfg", "test_cfg"):
        if plain[loop]:
            cosine = {"cosine_weight": 20.0} if name == "procedural" else {}
            assert plus[loop] == plain[loop] | {"hubness": hubness} | cosine
    steps, before = (some.train_dataloader.dataset.pipeline for some in (plus, plain))
    assert_phrases_are_read_too(steps, before)
    rest = {"model", "val_cfg", "test_cfg", "train_dataloader", "trained_weights"}
    one, other = ({k: v for k, v in settings_of(some).items() if k not in rest} for some in (plus, plain))
    assert one == other


def assert_phrases_are_read_too(steps: list[dict], before: list[dict]) -> None:
    """A pipeline is another one with phrases that are read, and contradicted, behind the attributes."""
    (place,) = (number for number, step in enumerate(before) if step["type"] == "TagAttributes")
    contradict = {"type": "ContradictPhrases", "tokenizer": before[place]["tokenizer"]}
    read = before[place] | {"type": "ReadPhrases"}
    assert steps == [*before[: place + 1], read, contradict, *before[place + 1 :]]


# ---------------------------------------------------------------- grids of variants


def varied(config: str, variant: Variant) -> tuple[Config, Config]:
    """A config, and its variant."""
    main, ours = read_config(config), read_config(config)
    override(ours, variant.options)
    return main, ours


@pytest.mark.parametrize(("config", "variant"), VARIANTS)
def test_a_variant_changes_what_its_name_says_and_nothing_else(config, variant):
    main, ours = varied(config, variant)
    before, after = settings_of(main), settings_of(ours)
    assert before.keys() == after.keys()
    changed = {key for key in before if before[key] != after[key]}
    model = {key for key in before["model"] if before["model"][key] != after["model"].get(key)}
    parts = {
        "global_only": ALONE,
        "no_atp": {"loss_atp"},
        "no_ara": {"text_decoder", "loss_ara"},
    }.get(variant.name)
    if variant.name.startswith("mask_"):
        assert changed == {"train_dataloader"}
    elif variant.name.startswith("k"):
        assert changed == {"test_cfg"}
        assert ours.test_cfg == main.test_cfg | {"rerank_topk": int(variant.name[1:])}
    elif parts is not None:
        assert (changed, model) == ({"model"}, parts)
        assert all(ours.model[part] is None for part in parts)
    elif variant.name in ("causal", "bidirectional"):
        assert (changed, model) == ({"model"}, {"text_decoder"})
        causal = variant.name == "causal"
        assert ours.model.text_decoder == main.model.text_decoder | {"causal": causal}
    elif variant.name == "short_captions":
        assert changed == {"train_dataloader"}
        main_steps, steps = (some["train_dataloader"]["dataset"]["pipeline"] for some in (before, after))
        (keep,) = (step for step in steps if step["type"] == "KeepPhrases")
        assert keep["tokenizer"] == before["model"]["tokenizer"]
        assert [step for step in steps if step != keep] == main_steps
    elif variant.name == "phrases_judged":
        assert (changed, model) == ({"model", "train_dataloader"}, set())
        assert ours.model.pop("loss_phrases") == {"type": "PhraseMatchingLoss"}
        main_steps, steps = (some["train_dataloader"]["dataset"]["pipeline"] for some in (before, after))
        assert_phrases_are_read_too(steps, main_steps)
        assert ours.model == main.model
    elif variant.name == "nnn":
        assert changed == {"test_cfg"}
        assert ours.test_cfg == main.test_cfg | {"hubness": {"weight": 0.75, "neighbours": 128}}
    elif variant.name in BEYOND:
        assert (changed, model) == ({"model"}, BEYOND[variant.name])
        added = {
            "mars": {"shared_head": True},
            "ranking": {"loss_ranking": {"type": "MatchRankingLoss", "cosine_weight": main.test_cfg.cosine_weight}},
        }
        new = {key: value for key, value in after["model"].items() if key not in before["model"]}
        assert new == added.get(variant.name, {})
        assert all(ours.model[part] is None for part in ALONE) == variant.name.startswith("global_")
    elif variant.name == "conv_k16":
        assert (changed, model) == ({"model", "test_cfg"}, BEYOND["conv"])
        assert ours.test_cfg == main.test_cfg | {"rerank_topk": 16}
    elif variant.name == "weight1":
        assert changed == {"test_cfg"}
        assert ours.test_cfg == main.test_cfg | {"cosine_weight": 1.0}
    elif variant.name == "no_false_captions":
        assert (changed, model, ours.model.false_captions) == ({"model"}, {"false_captions"}, 0)
    elif variant.name == "hardest":
        assert (changed, model, ours.model.negatives) == ({"model"}, {"negatives"}, "hardest")
    elif variant.name == "uniform_batches":
        assert changed == {"train_dataloader"}
        assert ours.train_dataloader.pop("sampler") == {"type": "DefaultSampler", "shuffle": True}
        main.train_dataloader.pop("sampler")
        assert ours.train_dataloader == main.train_dataloader
    else:
        assert (changed, model) == ({"model"}, {"grouping"})
        kind, number = re.fullmatch(r"(position|tokens|phrases)(\d|_each)", variant.name).groups()
        groups = {"type": {"position": "PositionGroups", "tokens": "TokenGroups", "phrases": "PhraseGroups"}[kind]}
        assert ours.model.grouping == groups | ({} if number == "_each" else {"num_groups": int(number)})


@pytest.mark.parametrize(("config", "variant"), [one for one in VARIANTS if "-mask_" in one.id])
def test_a_variant_of_the_masking_reads_captions_as_its_config_does(config, variant, clip_folder):
    """It writes a pipeline of its own, so the steps that are no masking must be those of the config."""
    pipelines = [settings_of(some)["train_dataloader"]["dataset"]["pipeline"] for some in varied(config, variant)]
    masking = ("TagAttributes", "MaskAttributes", "MaskTokens")
    main, ours = ([step for step in steps if step["type"] not in masking] for steps in pipelines)
    assert main == ours
    (mask,) = (step for step in pipelines[1] if step["type"].startswith("Mask"))
    assert mask["tokenizer"] == read_config(config).model.tokenizer
    if variant.name == "mask_phrases":
        assert (mask["type"], mask["unit"], mask["probability"]) == ("MaskAttributes", "phrases", 0.8)
    else:
        assert (mask["type"], mask["probability"]) == ("MaskTokens", 0.15)
        assert "TagAttributes" not in [step["type"] for step in pipelines[1]]
    for step in shrink(varied(config, variant)[1], clip_folder).train_dataloader.dataset.pipeline:
        build_part(TRANSFORMS, step)


def test_a_grid_is_found_as_configs_are_and_is_none():
    assert find_grid("grids/published") == find_grid("published.yml")
    assert find_grid("published").samefile(CONFIG_DIR / "grids" / "published.yml")
    assert not [name for name in shipped_configs() if "published" in name or name.startswith("grids")]
    with pytest.raises(ConfigError, match=r"no grid file grids/publisht: .* did you mean grids/published or"):
        find_grid("grids/publisht")
    with pytest.raises(ConfigError, match="no config file grids/published"):
        read_config("grids/published")


def test_the_metafile_is_true():
    """What it says of a config holds. It is OpenMMLab's index of methods; ``list_models`` finds configs by itself."""
    index = load(ROOT / "model-index.yml")
    assert index["Import"] == ["configs/metafile.yml"]
    metafile = load(ROOT / index["Import"][0])
    listed = [model["Config"] for model in metafile["Models"]]
    assert {f"configs/{name}" for name in CONFIGS} >= set(listed)
    collections = {collection["Name"] for collection in metafile["Collections"]}
    assert {model["In Collection"] for model in metafile["Models"]} == collections
    names = [model["Name"] for model in metafile["Models"]]
    assert len(set(names)) == len(names)
    for model in metafile["Models"]:
        assert model["Name"] == Path(model["Config"]).stem
        dataset = Config.fromfile(ROOT / model["Config"]).train_dataloader.dataset.type
        assert model["Metadata"]["Training Data"] == DATASETS.get(dataset).NAME


def test_pretraining_people_are_not_those_of_the_main_job():
    """Nobody is in two worlds."""
    main = Config.fromfile(CONFIG_DIR / "cada_procedural.py").build
    start = Config.fromfile(CONFIG_DIR / "pretrain_web.py").build
    assert (main.world, start.world) == ("camera", "web")
    assert main.identities.test >= 1000


@pytest.mark.parametrize("name", sorted(data_sets()))
def test_a_data_set_names_a_config_that_reads_it(name):
    config = Config.fromfile(CONFIG_DIR / f"{data_sets()[name].CONFIG}.py")
    assert config.train_dataloader.dataset.type == name
