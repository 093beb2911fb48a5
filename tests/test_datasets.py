"""Data sets: what a good annotation becomes, item by item."""

import os

import pytest
import torch
from dataset_factory import (
    caption,
    write_cuhk,
    write_custom,
    write_icfg,
    write_json,
    write_mals,
    write_rstp,
    write_synth,
    write_ufine,
)

from cada_plugin.datasets import CUHKPEDES, ICFGPEDES, MALS, CustomPEDES, RSTPReid, SynthPEDES, UFine6926
from cada_plugin.engine.config import read_config
from cada_plugin.errors import AnnotationError, ConfigError
from cada_plugin.registry import DATASETS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


def add_random(item):
    item["random"] = torch.rand(3).tolist()
    return item


def drop(item):
    return None


# Layouts


@pytest.mark.parametrize(
    ("write", "dataset", "train_captions", "test_images"),
    [
        (write_cuhk, CUHKPEDES, 12, 4),
        (write_icfg, ICFGPEDES, 6, 4),
        (write_rstp, RSTPReid, 30, 5),
        (write_ufine, UFine6926, 12, 4),
        (write_custom, CustomPEDES, 12, 4),
    ],
)
def test_every_layout_gives_one_item_per_caption_or_image(tmp_path, write, dataset, train_captions, test_images):
    write(tmp_path)
    train = dataset(tmp_path)
    test = dataset(tmp_path, split="test", test_mode=True)
    assert len(train) == train.num_captions == train_captions
    assert len(test) == test.num_images == test_images
    assert all(os.path.isfile(record["img_path"]) for record in [*train.records, *test.records])


def test_training_item_has_the_contract_keys(tmp_path):
    write_cuhk(tmp_path)
    item = CUHKPEDES(tmp_path)[3]
    assert item == {
        "img_path": str(tmp_path / "imgs/CUHK03/0001_1.png"),
        "caption": "Person 1 wears a coat, seen in image 1, told the second time.",
        "person_id": 1,
        "label": 0,
        "image_id": 1,
        "camera_id": None,
        "sample_index": 3,
    }


def test_evaluation_item_has_all_captions(tmp_path):
    raw = write_cuhk(tmp_path)
    item = CUHKPEDES(tmp_path, split="test", test_mode=True)[0]
    assert "caption" not in item
    assert item["captions"] == next(r["captions"] for r in raw if r["split"] == "test")


def test_labels_number_the_ids_of_the_split_from_zero(tmp_path):
    write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path, split="test", test_mode=True)
    assert [(item["person_id"], item["label"]) for item in dataset] == [(5, 0), (5, 0), (6, 1), (6, 1)]
    assert dataset.num_ids == 2


@pytest.mark.parametrize("ann_file", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_accepts_both_file_names(tmp_path, ann_file):
    write_icfg(tmp_path, ann_file)
    assert ICFGPEDES(tmp_path).num_images == 6


def test_captions_per_image_keeps_the_first(tmp_path):
    raw = write_cuhk(tmp_path)
    raw[0]["captions"] += ["A third one.", "A fourth one."]
    write_json(tmp_path / "reid_raw.json", raw)
    assert CUHKPEDES(tmp_path).num_captions == 14
    dataset = CUHKPEDES(tmp_path, captions_per_image=2)
    assert dataset.num_captions == 12
    assert dataset.records[0]["captions"] == raw[0]["captions"][:2]


def test_camera_from_the_image_name_or_the_annotation(tmp_path):
    write_rstp(tmp_path / "rstp")
    write_custom(tmp_path / "custom")
    assert [r["camera_id"] for r in RSTPReid(tmp_path / "rstp", split="test").records] == [1, 2, 3, 4, 5]
    assert [r["camera_id"] for r in CustomPEDES(tmp_path / "custom", split="test").records] == [0, 1, 0, 1]


def test_records_are_the_same_serialized_or_not(tmp_path):
    write_cuhk(tmp_path)
    assert CUHKPEDES(tmp_path).records == CUHKPEDES(tmp_path, serialize_data=False, test_mode=True).records


def test_another_codebase_builds_by_the_full_name(tmp_path):
    from mmengine.registry import DATASETS as MMENGINE_DATASETS

    write_cuhk(tmp_path)
    assert MMENGINE_DATASETS.build({"type": "cada_plugin.CUHKPEDES", "data_root": str(tmp_path)}).num_ids == 3
    assert DATASETS.get("RSTPReid") is RSTPReid


def test_lazy_init_reads_nothing_until_used(tmp_path):
    dataset = CUHKPEDES(tmp_path, lazy_init=True)
    write_cuhk(tmp_path)
    assert dataset.num_images == 6
    assert dataset.metainfo["dataset_name"] == "CUHK-PEDES"


# Items


def test_transform_that_drops_a_sample_is_an_error(tmp_path):
    write_cuhk(tmp_path)
    for test_mode in (False, True):
        with pytest.raises(ConfigError, match=r"returned None for sample 2 .*samples would change"):
            CUHKPEDES(tmp_path, pipeline=[drop], test_mode=test_mode)[2]


def test_index_outside_is_an_index_error(tmp_path):
    write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path)
    assert dataset[-1] == dataset[11]
    for index in (12, -13):
        with pytest.raises(IndexError):
            dataset[index]


def keep(batch):
    return batch


def draws(dataset, workers):
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=workers, collate_fn=keep, persistent_workers=workers > 0
    )
    epochs = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch, seed=5)
        epochs.append([item["random"] for batch in loader for item in batch])
    return epochs


def test_randomness_depends_on_seed_epoch_and_index_only(tmp_path):
    write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path, pipeline=[add_random])
    alone = draws(dataset, workers=0)
    torch.manual_seed(99)  # the program's own generator must not matter
    assert draws(dataset, workers=2) == alone  # persistent workers see set_epoch
    values = [tuple(value) for epoch in alone for value in epoch]
    assert len(set(values)) == len(values) == 24
    dataset.set_epoch(0, seed=6)
    assert dataset[0]["random"] not in alone[0]


def test_items_leave_the_generator_alone(tmp_path):
    write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path, pipeline=[add_random])
    dataset.set_epoch(0, seed=1)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    dataset[0]
    assert torch.equal(torch.rand(2), expected)


def test_without_an_epoch_items_are_drawn_anew_each_time(tmp_path):
    write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path, pipeline=[add_random])  # as in a codebase that does not use EpochSeedHook
    assert dataset[0]["random"] != dataset[0]["random"]


def test_set_epoch_reaches_running_workers_of_a_subset(tmp_path):
    write_cuhk(tmp_path)
    subset = CUHKPEDES(tmp_path, pipeline=[add_random]).get_subset([0, 1, 2])
    first, second = draws(subset, workers=1)
    assert all(a != b for a, b in zip(first, second, strict=True))


# Data sets to pre-train on


def test_synth_pedes_is_one_training_split_of_its_captions(tmp_path):
    write_synth(tmp_path)
    train = SynthPEDES(tmp_path)
    assert (train.num_ids, train.num_images, train.num_captions) == (3, 6, 12)
    assert train[0]["caption"] == "Person 7 wears a coat, seen in image 0, told the first time."
    assert train[0]["img_path"] == str(tmp_path / "Part1/7/0.jpg")
    with pytest.raises(AnnotationError, match="split 'test' does not exist in SYNTH-PEDES: use one of train"):
        SynthPEDES(tmp_path, split="test")


def test_mals_joins_its_files_and_numbers_its_people(tmp_path):
    first, _ = write_mals(tmp_path)
    train = MALS(tmp_path)
    assert (train.num_ids, train.num_images, train.num_captions) == (4, 4, 4)
    assert [record["img_path"] for record in train.records][:2] == [str(tmp_path / one["image"]) for one in first]
    part = MALS(tmp_path, ann_file="gene_attrs/g_c_g_a_0_attrs.json")
    assert [item["caption"] for item in part] == [caption(1, 0, 0), caption(3, 0, 0)]


def test_a_bad_record_of_mals_is_named_with_its_file(tmp_path):
    first, second = write_mals(tmp_path)
    first[0]["caption"] = 3
    first[1]["image_id"] = None
    write_json(tmp_path / "gene_attrs/g_4x_attrs.json", first)
    del second[1]["caption"]
    second[0]["image"] = "../secret.jpg"
    write_json(tmp_path / "gene_attrs/g_c_g_a_0_attrs.json", second)
    with pytest.raises(AnnotationError) as raised:
        MALS(tmp_path)
    for message in (
        "a caption is blank or not text: write one or remove it (record 0 of g_4x_attrs.json)",
        "'image_id' has type NoneType, expected an integer",
        "no 'caption' (record 1 of g_c_g_a_0_attrs.json)",
        "leaves the image folder",
    ):
        assert message in str(raised.value)


def test_mals_without_its_files_says_where_they_belong(tmp_path):
    with pytest.raises(AnnotationError, match=r"no annotation of MALS in .*: expected gene_attrs"):
        MALS(tmp_path)
    (tmp_path / "gene_attrs").mkdir()
    with pytest.raises(AnnotationError, match=r"gene_attrs holds no \.json file"):
        MALS(tmp_path)


@pytest.mark.parametrize(("name", "write", "captions"), [("mals", write_mals, 4), ("synth", write_synth, 12)])
def test_pre_training_has_their_pairs_and_the_validation_of_cuhk(tmp_path, name, write, captions):
    write(tmp_path)
    config = read_config(f"pretrain_{name}")
    dataset = config.train_dataloader.dataset
    assert (dataset.split, config.val_dataloader.dataset.type) == ("train", "CUHKPEDES")
    assert len(DATASETS.build({**dataset, "data_root": str(tmp_path), "pipeline": []})) == captions
