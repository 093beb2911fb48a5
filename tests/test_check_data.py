"""The data check: every problem is reported with what to do about it, and determines the exit status."""

import subprocess
import sys
from pathlib import Path

import pytest
from dataset_factory import (
    write_cuhk,
    write_custom,
    write_custom_csv,
    write_icfg,
    write_json,
    write_mals,
    write_rstp,
    write_synth,
    write_ufine,
)

from cada_plugin.cli import check_data
from cada_plugin.datasets import CUHKPEDES, ICFGPEDES, MALS, CustomPEDES, RSTPReid, SynthPEDES, UFine6926, images
from cada_plugin.datasets.checks import check_captions, check_counts, check_dataset
from cada_plugin.registry import DATASETS

TOOL = Path(__file__).parents[1] / "tools/check_data.py"
CUHK_TINY = {"train": (3, 6, 12), "val": (1, 2, 4), "test": (2, 4, 8)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def tool():
    return check_data


def kinds(report, notes=False):
    return {problem.kind for problem in report.problems if problem.is_note == notes}


def message(report, kind):
    (found,) = (problem.message for problem in report.problems if problem.kind == kind)
    return found


# Exit status and output


def test_clean_data_exits_0(tmp_path, tool, capsys):
    write_custom(tmp_path)
    assert tool.main(["custom", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "clean" in output
    assert "published" not in output
    assert [line.split() for line in output.splitlines() if line.startswith(("train", "test"))] == [
        ["train", "3", "6", "12"],
        ["test", "2", "4", "8"],
    ]


def test_published_counts_stand_beside_those_found(tmp_path, tool, capsys):
    write_cuhk(tmp_path)
    assert tool.main(["cuhk", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert ["train", "3", "6", "12", "11,003", "34,054", "68,126"] in [line.split() for line in output.splitlines()]
    assert "instead of the published 11,003 ids, 34,054 images, 68,126 captions" in output


@pytest.mark.parametrize(
    ("name", "write", "dataset", "counts"),
    [
        ("cuhk", write_cuhk, CUHKPEDES, CUHK_TINY),
        ("icfg", write_icfg, ICFGPEDES, {"train": (3, 6, 6), "test": (2, 4, 4)}),
        ("rstp", write_rstp, RSTPReid, {"train": (3, 15, 30), "val": (1, 5, 10), "test": (1, 5, 10)}),
        ("ufine", write_ufine, UFine6926, {"train": (None, 6, 12), "test": (None, 4, 8)}),
        ("mals", write_mals, MALS, {"train": (4, 4, 4)}),
        ("synth", write_synth, SynthPEDES, {"train": (3, 6, 12)}),
    ],
)
def test_a_complete_copy_is_clean(tmp_path, monkeypatch, tool, name, write, dataset, counts):
    monkeypatch.setattr(dataset, "PUBLISHED", counts)
    write(tmp_path)
    assert tool.main([name, str(tmp_path)]) == 0


@pytest.mark.parametrize("content", [None, "[{", "{}", "[]"])
def test_nothing_usable_exits_2(tmp_path, tool, capsys, content):
    if content is not None:
        (tmp_path / "reid_raw.json").write_text(content)
    assert tool.main(["cuhk", str(tmp_path)]) == 2
    assert "UNUSABLE" in capsys.readouterr().err


def test_absent_folder_exits_2(tmp_path, tool, capsys):
    assert tool.main(["custom", str(tmp_path / "absent")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_tool_runs_as_a_program_from_any_folder(tmp_path):
    done = subprocess.run([sys.executable, TOOL, "icfg", tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "expected ICFG-PEDES.json or ICFG_PEDES.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_tool_offers_every_data_set(tmp_path, tool, capsys):
    for name in ("cuhk", "icfg", "rstp", "ufine", "custom", "procedural", "mals", "synth"):
        assert tool.main([name, str(tmp_path / "absent")]) == 2
        assert "is not a folder" in capsys.readouterr().err


def test_a_name_that_nobody_has_lists_those_that_there_are(tmp_path, tool, capsys):
    assert tool.main(["chuk", str(tmp_path)]) == 2
    message = "no data set is called 'chuk': use one of cuhk, custom, icfg, mals, procedural, rstp, synth, ufine"
    assert message in capsys.readouterr().err


def test_help_comes_at_once():
    code = "import sys\ntry: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", f"from cada_plugin.cli.check_data import main\n{code}"], check=True)


def test_a_data_set_of_a_user_is_checked_by_its_alias(tmp_path, monkeypatch):
    class Shop(CustomPEDES):
        """Written outside the package."""

        NAME = "Shop"
        ALIAS = "shop"
        PUBLISHED = {"train": (2, 2, 2)}

    class ShopAgain(Shop):
        """Another data set in the layout of the first."""

    monkeypatch.setattr(DATASETS, "_module_dict", dict(DATASETS.module_dict))  # what is registered here ends here
    for cls in (Shop, ShopAgain):
        DATASETS.register_module(module=cls)
    assert (ShopAgain.ALIAS, ShopAgain.CONFIG, ShopAgain.PUBLISHED) == ("", "", Shop.PUBLISHED)
    rows = [{"file_path": f"{i}.png", "caption": f"Coat {i}.", "id": i, "split": "train"} for i in range(2)]
    write_custom_csv(tmp_path, rows)
    report = check_dataset("shop", str(tmp_path))
    assert report.is_clean
    assert report.counts == report.published == Shop.PUBLISHED


def test_another_annotation_file(tmp_path, tool):
    write_custom_csv(tmp_path, [{"file_path": "a.png", "caption": "A coat.", "id": 1, "split": "train"}])
    (tmp_path / "annotations.csv").rename(tmp_path / "people.csv")
    assert tool.main(["custom", str(tmp_path)]) == 2
    assert tool.main(["custom", str(tmp_path), "--ann-file", "people.csv"]) == 0


def test_notes_do_not_change_the_exit_status(tmp_path, tool, capsys):
    raw = write_custom(tmp_path)
    raw[0]["captions"] = ["word " * 73]
    raw[1]["captions"] = ["word " * 72]
    write_json(tmp_path / "annotations.json", raw)
    assert tool.main(["custom", str(tmp_path)]) == 0
    assert "1 captions are longer than 72 words (up to 73)" in capsys.readouterr().out


# Images


def test_missing_images_are_grouped_by_folder_with_a_hint(tmp_path):
    raw = write_cuhk(tmp_path)
    for path in (tmp_path / "imgs/CUHK03").iterdir():
        path.unlink()
    (tmp_path / "imgs/cam_a/0002_1.png").unlink()
    for decode in (True, False):
        report = check_dataset("cuhk", str(tmp_path), decode=decode)
        found = [problem for problem in report.problems if problem.kind == "missing_images"]
        assert [problem.count for problem in found] == [2, 1]
        assert found[0].message.startswith("imgs/CUHK03: 2 of 2 missing")
        assert "get the CUHK03 crops and put them into imgs/CUHK03" in found[0].message
        assert found[1].message.startswith("imgs/cam_a: 1 of 2 missing (for example imgs/cam_a/0002_1.png)")
        assert sum(images for _, images, _ in report.counts.values()) == len(raw)


def test_missing_images_of_a_flat_folder(tmp_path):
    write_rstp(tmp_path)
    (tmp_path / "imgs/0000_c1_0000.jpg").unlink()
    assert message(check_dataset("rstp", str(tmp_path)), "missing_images").startswith("imgs: 1 of 25 missing")


def test_damaged_images_are_found_only_when_decoding(tmp_path, tool, capsys):
    raw = write_custom(tmp_path)
    (tmp_path / raw[0]["file_path"]).write_bytes(b"not an image")
    assert tool.main(["custom", str(tmp_path), "--no-decode"]) == 0
    assert tool.main(["custom", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "1 images cannot be decoded" in output
    assert "10_0.png: not an image in a format that is read" in output


def test_loading_after_the_check_decodes_nothing_again(tmp_path, monkeypatch):
    write_custom(tmp_path)
    check_dataset("custom", str(tmp_path))
    monkeypatch.setattr(images, "load_person_image", lambda path: pytest.fail("decoded again"))
    assert CustomPEDES(tmp_path).num_images == 6


# Annotations


def test_json_without_split_is_the_wrong_one(tmp_path, tool, capsys):
    raw = write_cuhk(tmp_path)
    for record in raw:
        del record["split"]
    write_json(tmp_path / "caption_all.json", raw)
    assert tool.main(["cuhk", str(tmp_path), "--ann-file", "caption_all.json"]) == 1
    output = capsys.readouterr().out
    assert "caption_all.json: no record has a 'split'" in output
    assert "use reid_raw.json" in output
    assert output.count("[") == 1  # said once, not once more per record or as wrong counts


def test_old_rstpreid_annotation():
    counts = {"train": (3901, 19505, 39010), "val": (100, 500, 1000), "test": (100, 500, 1000)}
    (problem,) = check_counts(counts, RSTPReid.PUBLISHED, "RSTPReid", RSTPReid.OUTDATED_IDS)
    assert problem.kind == "old_annotation"
    assert "3901/100/100 ids" in problem.message
    assert "download the one with 3701/200/200" in problem.message


def test_dropped_captions_change_the_number_of_queries():
    counts = {**CUHKPEDES.PUBLISHED, "test": (1000, 3074, 6148)}
    (problem,) = check_counts(counts, CUHKPEDES.PUBLISHED, "CUHK-PEDES", {})
    assert (problem.kind, problem.count) == ("captions_dropped", 8)
    assert "8 captions were dropped (6,148 of 6,156)" in problem.message


def test_absent_split():
    counts = {"train": UFine6926.PUBLISHED["train"]}
    (problem,) = check_counts(counts, UFine6926.PUBLISHED, "UFine6926", {})
    assert problem.kind == "missing_split"


def test_published_counts_have_no_problem_even_where_ids_are_unknown():
    assert check_counts({"train": (5000, 18577, 37154), "test": (2, 7629, 15258)}, UFine6926.PUBLISHED, "", {}) == []


def test_icfg_and_rstp_share_images(tmp_path):
    write_icfg(tmp_path / "icfg")
    write_rstp(tmp_path / "rstp")
    write_cuhk(tmp_path / "cuhk")
    for name in ("icfg", "rstp"):
        assert "MSMT17" in message(check_dataset(name, str(tmp_path / name)), "overlap")
    assert kinds(check_dataset("cuhk", str(tmp_path / "cuhk")), notes=True) == set()


def test_an_image_that_is_listed_twice_is_a_problem_where_the_loader_does_not_join_its_records(tmp_path):
    records = write_cuhk(tmp_path / "cuhk")
    write_json(tmp_path / "cuhk/reid_raw.json", [*records, records[0]])
    assert "listed more than once" in message(check_dataset("cuhk", str(tmp_path / "cuhk")), "duplicate_image")
    records = write_custom(tmp_path / "custom")
    write_json(tmp_path / "custom/annotations.json", [*records, records[0] | {"captions": ["A third one."]}])
    report = check_dataset("custom", str(tmp_path / "custom"))
    loaded = CustomPEDES(tmp_path / "custom", split="train")
    assert kinds(report) == set()
    assert report.counts["train"] == (loaded.num_ids, loaded.num_images, loaded.num_captions)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"id": 10}, "shared_ids", "1 ids occur in both train and test (for example 10)"),
        ({"file_path": "../a.png"}, "path_outside", "leaves the image folder"),
        ({"captions": []}, "no_captions", "'captions' is empty"),
        ({"captions": ["...!!"]}, "bad_caption", "a caption has no word"),
        ({"id": "13"}, "wrong_type", "expected an integer"),
        ({"captions": ["A caf\u00e9 waiter."]}, "non_ascii", "non-ASCII characters (\u00e9;"),
        ({"captions": ["self.caption = get(x)"]}, "code", "fragments of code (for example 'self.caption = get(x)')"),
    ],
)
def test_each_problem_has_its_words(tmp_path, tool, capsys, changes, kind, words):
    raw = write_custom(tmp_path)
    assert raw[6]["split"] == "test"
    raw[6].update(changes)
    write_json(tmp_path / "annotations.json", raw)
    report = check_dataset("custom", str(tmp_path))
    assert kinds(report) == {kind}
    assert words in message(report, kind)
    assert tool.main(["custom", str(tmp_path)]) == 1
    assert words in capsys.readouterr().out


def test_missing_key_is_a_problem_and_the_rest_is_still_checked(tmp_path):
    raw = write_custom(tmp_path)
    del raw[0]["id"]
    raw[1]["captions"] = ["\u4e2d"]
    write_json(tmp_path / "annotations.json", raw)
    assert kinds(check_dataset("custom", str(tmp_path))) == {"missing_keys", "non_ascii"}


def test_captions_reused_across_ids():
    records = [
        {"person_id": 1, "captions": ["A man in black.", "A man with a bag."]},
        {"person_id": 1, "captions": ["a man with a bag."]},  # the same person: fine
        {"person_id": 2, "captions": ["a man  in BLACK."]},
    ]
    (problem,) = check_captions(records)
    assert (problem.kind, problem.count) == ("reused_captions", 2)
    assert "for ids 1, 2" in problem.message


def test_defects_of_the_released_texts_are_notes(tmp_path, monkeypatch):
    raw = write_cuhk(tmp_path)
    raw[0]["captions"] = raw[-1]["captions"]
    write_json(tmp_path / "reid_raw.json", raw)
    assert "reused_captions" in kinds(check_dataset("cuhk", str(tmp_path)))
    monkeypatch.setattr(CUHKPEDES, "PUBLISHED", CUHK_TINY)
    report = check_dataset("cuhk", str(tmp_path))
    assert report.is_clean
    assert kinds(report, notes=True) == {"reused_captions"}


@pytest.mark.parametrize(
    "caption",
    [
        "for i in range(3): print(i)",
        "x = row['id']",
        "<div class='a'>a man</div>",
        "import json",
        "{'id': 3}",
        "df.head()",
    ],
)
def test_code_is_recognised(caption):
    assert [problem.kind for problem in check_captions([{"person_id": 1, "captions": [caption]}])] == ["code"]


@pytest.mark.parametrize(
    "caption",
    [
        "A woman (about 30) with a bag(black); she wears jeans.",
        "He has a T-shirt with the print 'New York', size > 40, and a class ring.",
        "A man of import: 1.80 m tall, b/w shoes & a #7 jersey, 50% wool.",
        "He is returning from class, and carries a print (a poster).",
    ],
)
def test_prose_is_not_code(caption):
    assert check_captions([{"person_id": 1, "captions": [caption]}]) == []
