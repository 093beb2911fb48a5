"""Own data without a split column: people are divided, the same way every time, and nobody is in two splits."""

import csv
from collections import Counter

import pytest
from dataset_factory import write_custom, write_custom_csv, write_json

from cada_plugin.datasets import CustomPEDES
from cada_plugin.datasets.checks import check_dataset
from cada_plugin.datasets.splits import DERIVED_SPLITS, split_people
from cada_plugin.errors import AnnotationError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_without_split(root, people: int) -> None:
    raw = write_custom(root, train=people, test=0)
    for record in raw:
        del record["split"]
    write_json(root / "annotations.json", raw)


def test_shares_are_about_80_10_10():
    counts = Counter(split_people(range(10_000)).values())
    assert counts["train"] == pytest.approx(8000, abs=150)
    assert counts["val"] == pytest.approx(1000, abs=120)
    assert counts["test"] == pytest.approx(1000, abs=120)


def test_the_division_never_changes():
    """Splits must stay the same in all versions: otherwise an old model would be tested on people it was trained on."""
    splits = split_people(range(100))
    assert {person: splits[person] for person in range(30) if splits[person] != "train"} == {
        20: "val",
        21: "val",
        22: "test",
        28: "val",
        29: "test",
    }


def test_people_who_are_added_move_nobody():
    few = split_people(range(0, 3000, 30))
    many = split_people(range(3000))
    assert {person: many[person] for person in few} == few


@pytest.mark.parametrize("first", range(40))
def test_no_split_is_empty_even_of_three_people(first):
    for people in (3, 4, 7):
        assert set(split_people(range(first, first + people)).values()) == set(DERIVED_SPLITS)


def test_order_and_repetition_of_ids_do_not_matter():
    assert split_people([5, 1, 9, 1, 5, 22]) == split_people([1, 5, 9, 22])


@pytest.mark.slow
@pytest.mark.parametrize("as_csv", [False, True])
def test_nobody_is_in_two_splits(tmp_path, as_csv, capsys):
    people = 12
    if as_csv:
        rows = [
            {"file_path": f"{p}_{i}.png", "caption": f"Coat {p} {i}.", "id": p} for p in range(people) for i in (0, 1)
        ]
        write_custom_csv(tmp_path, rows)
    else:
        write_without_split(tmp_path, people)
    capsys.readouterr()
    loaded = {split: CustomPEDES(tmp_path, split=split, test_mode=True) for split in DERIVED_SPLITS}
    ids = {split: {record["person_id"] for record in dataset.records} for split, dataset in loaded.items()}
    assert all(ids.values())
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == people
    assert sum(dataset.num_images for dataset in loaded.values()) == 2 * people
    output = "".join(capsys.readouterr())
    counts = ", ".join(f"{len(ids[split])} {split}" for split in DERIVED_SPLITS)
    assert output.count(f"people are divided by a hash of their id ({counts}); this is the val split") == 1


def test_too_few_people_are_told_to_write_a_split(tmp_path):
    write_without_split(tmp_path, 2)
    with pytest.raises(AnnotationError, match=r"2 people cannot be divided into train, val, test: add a split"):
        CustomPEDES(tmp_path)
    report = check_dataset("custom", str(tmp_path))
    assert [problem.kind for problem in report.problems if not problem.is_note] == ["too_few_people"]


def test_another_split_needs_to_be_written_down(tmp_path):
    write_without_split(tmp_path, 4)
    with pytest.raises(AnnotationError, match=r"no 'split'.*add a split 'query'"):
        CustomPEDES(tmp_path, split="query")


@pytest.mark.slow
def test_the_check_reports_what_the_loader_does(tmp_path):
    write_without_split(tmp_path, 12)
    report = check_dataset("custom", str(tmp_path))
    assert report.is_clean
    assert [problem.kind for problem in report.problems] == ["derived_split"]
    for split in DERIVED_SPLITS:
        dataset = CustomPEDES(tmp_path, split=split)
        assert report.counts[split] == (dataset.num_ids, dataset.num_images, dataset.num_captions)


def test_the_check_merges_rows_of_one_image(tmp_path):
    rows = [{"file_path": f"{p}.png", "caption": f"Coat {p} {i}.", "id": p} for p in range(5) for i in (0, 1)]
    write_custom_csv(tmp_path, rows)
    with open(tmp_path / "annotations.csv") as file:
        assert len(list(csv.reader(file))) == 11
    counts = check_dataset("custom", str(tmp_path)).counts
    assert sum(images for _, images, _ in counts.values()) == 5
    assert sum(captions for _, _, captions in counts.values()) == 10
