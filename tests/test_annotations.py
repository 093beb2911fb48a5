"""Annotation files: a user's own data in JSON and CSV, and the error messages for bad files."""

import json

import pytest
from dataset_factory import (
    write_cuhk,
    write_custom_csv,
    write_icfg,
    write_image,
    write_json,
)

from cada_plugin.datasets import CUHKPEDES, ICFGPEDES, CustomPEDES
from cada_plugin.errors import AnnotationError, ConfigError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


# Custom data


def test_csv_rows_of_one_image_are_merged(tmp_path):
    rows = [
        {"file_path": "a.png", "caption": "A red coat, and boots.", "id": 1, "split": "train"},
        {"file_path": "b.png", "caption": "A blue hat.", "id": 2, "split": "train"},
        {"file_path": "a.png", "caption": "Boots under red.", "id": 1, "split": "train"},
    ]
    write_custom_csv(tmp_path, rows, encoding="utf-8-sig")  # with the byte order mark that Excel writes
    dataset = CustomPEDES(tmp_path, test_mode=True)
    assert [r["captions"] for r in dataset.records] == [["A red coat, and boots.", "Boots under red."], ["A blue hat."]]
    assert [r["camera_id"] for r in dataset.records] == [None, None]


def test_csv_split_and_camera_columns(tmp_path):
    rows = [
        {"file_path": "a.png", "caption": "A coat.", "id": 1, "split": "train", "camera_id": 4},
        {"file_path": "b.png", "caption": "A hat.", "id": 2, "split": "test", "camera_id": ""},
    ]
    write_custom_csv(tmp_path, rows)
    assert CustomPEDES(tmp_path).records[0]["camera_id"] == 4
    assert CustomPEDES(tmp_path, split="test").records[0]["camera_id"] is None


def test_json_with_one_caption_per_record(tmp_path):
    write_image(tmp_path / "a.png")
    write_json(tmp_path / "annotations.json", [{"file_path": "a.png", "caption": "A coat.", "id": 1, "split": "train"}])
    assert CustomPEDES(tmp_path)[0]["caption"] == "A coat."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_path,caption,id\na.png,A coat, a hat,1\n", r"line 2.*double quotes"),
        ("file_path;caption;id\na.png;A coat;1\n", "separated by commas"),
        ("file_path,caption\na.png,A coat\n", "needed once each"),
        ('file_path,caption,id\na.png,"A coat,1\n', "check the quotes"),
        ("file_path,caption,id\na.png,A coat,one\n", r"'id' has type str.*line 2"),
        ("file_path,caption,id\na.png,A coat,\n", r"no 'id'.*line 2"),
        ("file_path,caption,id\na.png,A coat,1\na.png,A hat,2\n", r"another id.*line 3"),
        ("", "needed once each"),
    ],
)
def test_bad_csv_is_told_where_and_why(tmp_path, text, words):
    write_image(tmp_path / "a.png")
    (tmp_path / "annotations.csv").write_text(text)
    with pytest.raises(AnnotationError, match=words):
        CustomPEDES(tmp_path)


def test_csv_in_another_encoding(tmp_path):
    (tmp_path / "annotations.csv").write_bytes("file_path,caption,id\na.png,café,1\n".encode("utf-16"))
    with pytest.raises(AnnotationError, match="save it as UTF-8"):
        CustomPEDES(tmp_path)


# Bad annotations


def spoil(tmp_path, **changes):
    raw = write_cuhk(tmp_path)
    for key, value in changes.items():
        raw[1][key] = value
    write_json(tmp_path / "reid_raw.json", raw)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "2"}, r"'id' has type str, expected an integer.*record 1\)"),
        ({"id": True}, "'id' has type bool"),
        ({"id": None}, "'id' has type NoneType"),
        ({"id": 2**70}, "'id' does not fit into 64 bits"),
        ({"captions": []}, "'captions' is empty"),
        ({"captions": "A coat."}, "'captions' has type str, expected a list"),
        ({"captions": ["A coat.", "  "]}, "blank or not text"),
        ({"captions": ["A coat.", 7]}, "blank or not text"),
        ({"captions": ["A coat.", "...!!"]}, r"a caption has no word.*record 1\)"),
        ({"captions": ["A \ud800 coat."]}, "blank or not text"),
        ({"file_path": 3}, "'file_path' is not a path"),
        ({"file_path": ""}, "'file_path' is not a path"),
        ({"file_path": "../secret.png"}, "leaves the image folder"),
        ({"file_path": "CUHK01/../../../secret.png"}, "leaves the image folder"),
        ({"file_path": "/etc/passwd"}, "leaves the image folder"),
        ({"file_path": "C:\\secret.png"}, "leaves the image folder"),
        ({"file_path": "..\\secret.png"}, "leaves the image folder"),
        ({"split": "trian"}, r"split 'trian' is unknown: allowed train, val, test"),
        ({"split": 1}, "'split' has type int"),
        ({"camera_id": "c1"}, "'camera_id' has type str"),
    ],
)
def test_bad_value_is_told_with_its_record(tmp_path, changes, words):
    spoil(tmp_path, **changes)
    with pytest.raises(AnnotationError, match=words):
        CUHKPEDES(tmp_path)


@pytest.mark.parametrize("key", ["id", "captions", "file_path", "split"])
def test_missing_key_is_named(tmp_path, key):
    raw = write_cuhk(tmp_path)
    for index in (2, 5):
        del raw[index][key]
    write_json(tmp_path / "reid_raw.json", raw)
    with pytest.raises(AnnotationError, match=rf"2 records: no '{key}' \(record 2, 5\)"):
        CUHKPEDES(tmp_path)


def test_everything_is_reported_at_once(tmp_path):
    raw = write_cuhk(tmp_path)
    for record in raw:
        record["id"] = str(record["id"])
    raw[0] = "not an object"
    raw[3]["captions"] = []
    raw[4]["file_path"] = "../x.png"
    write_json(tmp_path / "reid_raw.json", raw)
    with pytest.raises(AnnotationError) as caught:
        CUHKPEDES(tmp_path)
    text = str(caught.value)
    for words in (
        "a str instead of an object",
        "'captions' is empty",
        "leaves",
        "11 records: 'id'",
        "1, 2, 3, 4, 5, ...",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "is not JSON"),
        ("", "the file is empty"),
        ("<html>sign in</html>", "saved web page"),
        ('{"annotations": []}', r"holds a dict with keys \['annotations'\], expected a list"),
        ("[]", "holds no record"),
    ],
)
def test_file_that_is_no_annotation(tmp_path, content, words):
    (tmp_path / "reid_raw.json").write_text(content)
    with pytest.raises(AnnotationError, match=words):
        CUHKPEDES(tmp_path)


def test_json_with_byte_order_mark_is_read(tmp_path):
    raw = write_cuhk(tmp_path)
    (tmp_path / "reid_raw.json").write_text(json.dumps(raw), encoding="utf-8-sig")
    assert CUHKPEDES(tmp_path).num_images == 6


def test_split_that_the_data_set_does_not_have(tmp_path):
    write_icfg(tmp_path)
    with pytest.raises(AnnotationError, match="split 'val' does not exist in ICFG-PEDES: use one of train, test"):
        ICFGPEDES(tmp_path, split="val")


def test_split_without_records_names_those_found(tmp_path):
    write_cuhk(tmp_path, val=0)
    with pytest.raises(AnnotationError, match=r"no record of split 'val'; splits found: train \(6\), test \(4\)"):
        CUHKPEDES(tmp_path, split="val")


def test_caption_all_json_is_recognised(tmp_path):
    raw = write_cuhk(tmp_path)
    for record in raw:
        del record["split"]
    write_json(tmp_path / "caption_all.json", raw)
    with pytest.raises(AnnotationError, match=r"use the annotation that has them \(CUHK-PEDES: reid_raw.json\)"):
        CUHKPEDES(tmp_path, ann_file="caption_all.json")
    (tmp_path / "reid_raw.json").unlink()
    with pytest.raises(AnnotationError, match=r"caption_all\.json is another file"):
        CUHKPEDES(tmp_path)


def test_missing_folder_and_missing_annotation(tmp_path):
    with pytest.raises(AnnotationError, match="is not a folder"):
        CUHKPEDES(tmp_path / "absent")
    with pytest.raises(AnnotationError, match=r"expected ICFG-PEDES\.json or ICFG_PEDES\.json; found no"):
        ICFGPEDES(tmp_path)


@pytest.mark.parametrize("number", [0, -1, 1.5])
def test_impossible_captions_per_image(tmp_path, number):
    with pytest.raises(ConfigError, match="use an integer from 1"):
        CUHKPEDES(tmp_path, captions_per_image=number)


def test_overlong_names_are_told_as_others_are(tmp_path):
    write_cuhk(tmp_path)
    with pytest.raises(AnnotationError, match="no annotation of CUHK-PEDES"):
        CUHKPEDES(tmp_path, ann_file="x" * 300)
    with pytest.raises(AnnotationError, match="is not a folder"):
        CUHKPEDES(tmp_path / ("x" * 300))


def test_image_folder_may_be_a_link(tmp_path):
    write_cuhk(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/imgs").symlink_to(tmp_path / "real/imgs")
    (tmp_path / "linked/reid_raw.json").write_bytes((tmp_path / "real/reid_raw.json").read_bytes())
    assert CUHKPEDES(tmp_path / "linked").num_images == 6
