"""Whatever an annotation, a table or an image file holds, it is read, or refused by one of the plugin's own errors."""

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import write_cuhk, write_custom, write_icfg, write_rstp, write_ufine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cada_plugin.datasets import CUHKPEDES, ICFGPEDES, CustomPEDES, RSTPReid, UFine6926
from cada_plugin.datasets.annotations import read_csv_annotations
from cada_plugin.datasets.checks import check_dataset
from cada_plugin.errors import CADAError, ImageError
from cada_plugin.portable.pictures import load_person_image
from cada_plugin.text import CaptionTokenizer

FORMATS = {
    "cuhk": (CUHKPEDES, write_cuhk),
    "icfg": (ICFGPEDES, write_icfg),
    "rstp": (RSTPReid, write_rstp),
    "ufine": (UFine6926, write_ufine),
    "custom": (CustomPEDES, write_custom),
}
# Every property has a short run and a long one.
CASES = pytest.mark.parametrize("cases", [20, pytest.param(200, marks=pytest.mark.slow)])
TOKENIZER = CaptionTokenizer("procedural")


def check(cases: int, strategy: st.SearchStrategy, body: Callable[[object], None]) -> None:
    """Try ``body`` on so many values; the same ones in every run."""
    settings(max_examples=cases, deadline=None, derandomize=True, database=None)(given(strategy)(body))()


@contextmanager
def folder() -> Iterator[Path]:
    """A new one for each case, where pytest's ``tmp_path`` is one for each test."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# ---------------------------------------------------------------- strategies

TEXTS = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    [
        "",
        " ",
        "...",
        "\0",
        "\ud800",
        "../a.png",
        "/etc/passwd",
        "C:\\a",
        "a/./b",
        ".",
        "x" * 5000,
        "a.png",
        "train",
        "val",
    ]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, True, 2**63, 2**63 - 1, -(2**63), 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", "file_path", "img_path", "captions", "caption", "split", "camera_id", "other"])


@st.composite
def spoiled_records(draw: st.DrawFn, records: list[dict]) -> list:
    """Valid records, of which some have lost, changed or gained values, were doubled, or became something else."""
    records = [dict(record) for record in records]
    for _ in range(draw(st.integers(0, 4))):
        index = draw(st.integers(0, len(records) - 1))
        what = draw(st.sampled_from(["change", "remove", "double", "replace", "split everywhere"]))
        if what == "double":
            records.insert(index, dict(records[index]) if isinstance(records[index], dict) else records[index])
        elif what == "replace":
            records[index] = draw(VALUES)
        elif what == "split everywhere":
            for record in records:
                if isinstance(record, dict):
                    record.pop("split", None)
        elif isinstance(records[index], dict) and what == "change":
            records[index][draw(KEYS)] = draw(VALUES)
        elif isinstance(records[index], dict):
            records[index].pop(draw(KEYS), None)
    return records


@st.composite
def spoiled_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with a few bytes changed, cut out or inserted; or cut short."""
    spoiled = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(len(spoiled) - 1, 0)))
        kind = draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        some = draw(st.binary(min_size=1, max_size=4))
        if kind == "change":
            spoiled[position : position + len(some)] = some
        elif kind == "remove":
            del spoiled[position : position + len(some)]
        elif kind == "insert":
            spoiled[position:position] = some
        elif draw(st.booleans()):
            del spoiled[position:]
    return bytes(spoiled)


# ---------------------------------------------------------------- annotations


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, tuple[Path, list[dict]]]:
    """Of every format a folder with a whole data set, and its records."""
    made = {}
    for name, (_, write) in FORMATS.items():
        root = tmp_path_factory.mktemp(name)
        made[name] = (root, write(root))
    return made


def is_read_or_refused(name: str, root: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> None:
    """Loader and check agree: what the check finds nothing wrong with is loaded, and what is loaded makes sense."""
    dataset, _ = FORMATS[name]
    try:
        report = check_dataset(name, str(root), decode=False)
    except CADAError:
        report = None
    people: list[int] = []
    for split in splits:
        try:
            loaded = dataset(root, split=split, verify_images=False, serialize_data=False, test_mode=True)
        except CADAError:
            continue
        assert report is not None
        assert loaded.num_images == len(loaded.records) > 0
        for item in (loaded.get_data_info(index) for index in range(len(loaded))):
            assert 0 <= item["label"] < loaded.num_ids
            assert item["img_path"].startswith(str(root))
            for caption in item["captions"]:
                assert len(TOKENIZER.encode(caption).input_ids) >= 2
        assert report.counts[split] == (loaded.num_ids, loaded.num_images, loaded.num_captions)
        people += {record["person_id"] for record in loaded.records}
    if report is not None and not any(problem.kind == "shared_ids" for problem in report.problems):
        assert len(people) == len(set(people))


@pytest.mark.slow
@CASES
@pytest.mark.parametrize("name", FORMATS)
def test_records_of_any_kind_are_read_or_refused(originals, name, cases):
    whole, records = originals[name]
    (file,) = whole.glob("*.json")

    def body(content: object) -> None:
        with folder() as root:
            (root / file.name).write_text(json.dumps(content))
            is_read_or_refused(name, root)

    check(cases, spoiled_records(records) | VALUES, body)


@CASES
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_annotation_files_are_read_or_refused(originals, name, cases):
    whole, _ = originals[name]
    (file,) = whole.glob("*.json")

    def body(data: bytes) -> None:
        with folder() as root:
            (root / file.name).write_bytes(data)
            is_read_or_refused(name, root)

    check(cases, spoiled_bytes(file.read_bytes()) | st.binary(max_size=50), body)


@CASES
def test_tables_of_any_cells_are_read_or_refused(cases):
    columns = ["file_path", "caption", "id", "split", "camera_id"]
    usual = [
        [f"{person}_{image}.png", f"A coat, seen {image}.", str(person), split, str(image)]
        for person, split in enumerate(["train", "train", "val", "test"])
        for image in range(2)
    ]
    cells = st.one_of(
        TEXTS, st.sampled_from(["1", "+3", "-0", "1.5", "9" * 30, "train", "a.png", "\n", '"', "a\rb", "\u0661"])
    )
    row = st.lists(cells, min_size=2, max_size=6) | st.sampled_from(usual)
    tables = st.tuples(
        st.just(columns) | st.just(columns[:3]) | st.lists(cells | st.sampled_from(columns), max_size=6),
        st.lists(row, max_size=4),
    )

    def body(table: tuple[list[str], list[list[str]]]) -> None:
        header, rows = table
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_MINIMAL).writerows([header, *(r[: len(header)] for r in usual), *rows])
        with folder() as root:
            (root / "annotations.csv").write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
            is_read_or_refused("custom", root)

    check(cases, tables, body)


@CASES
def test_damaged_tables_are_read_or_refused(cases):
    lines = ["file_path,caption,id,split"]
    lines += [f'{p}.png,"A coat, ""red"".",{p},{split}' for p, split in enumerate(["train", "val", "test"])]

    def body(data: bytes) -> None:
        with folder() as root:
            (root / "annotations.csv").write_bytes(data)
            is_read_or_refused("custom", root)

    check(cases, spoiled_bytes("\n".join(lines).encode()) | st.binary(max_size=50), body)


def test_the_usual_table_is_read():
    """The tables above would prove little if all of them were refused."""
    with folder() as root:
        (root / "annotations.csv").write_text(
            "file_path,caption,id\n" + "".join(f"{p}.png,A coat.,{p}\n" for p in range(9))
        )
        assert len(read_csv_annotations(root / "annotations.csv").records) == 9
        is_read_or_refused("custom", root)
        assert CustomPEDES(root, verify_images=False).num_images > 0


# ---------------------------------------------------------------- images

SUFFIXES = ("png", "jpg", "bmp", "webp", "tiff", "gif", "ppm", "mpo")
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)


def encode(mode: str, suffix: str, size: tuple[int, int], orientation: int, seed: int) -> bytes | None:
    """A file of noise; None where the format cannot hold the mode."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    try:
        image = Image.fromarray(noise)
        grey = image.convert("L")
        image = (
            grey.convert("I").convert(mode)
            if mode == "I;16"
            else Image.new(mode, size)
            if mode in ("La", "RGBa")
            else (image.convert("RGBA").convert(mode) if mode == "PA" else image.convert(mode))
        )
        image.save(file, {"jpg": "jpeg"}.get(suffix, suffix), exif=exif)
    except (OSError, ValueError, KeyError):
        return None
    return file.getvalue()


PICTURES = st.builds(
    encode,
    st.sampled_from(MODES),
    st.sampled_from(SUFFIXES),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 9),
    st.integers(0, 99),
).filter(lambda data: data is not None)


def image_is_read_or_refused(data: bytes) -> None:
    with folder() as root:
        path = root / "image.jpg"
        path.write_bytes(data)
        try:
            image = load_person_image(path)
        except ImageError:
            return
        assert image.mode == "RGB"
        assert np.asarray(image).shape == (image.height, image.width, 3)


@CASES
def test_pictures_of_every_mode_and_format_are_read_or_refused(cases):
    check(cases, PICTURES, image_is_read_or_refused)


@CASES
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_pictures_are_read_or_refused(suffix, cases):
    data = encode("RGB", suffix, (9, 20), 6, 0)
    check(cases, spoiled_bytes(data), image_is_read_or_refused)


@CASES
def test_bytes_of_any_kind_are_read_or_refused(cases):
    heads = [encode("RGB", suffix, (2, 2), 1, 0)[:length] for suffix in SUFFIXES for length in (4, 12, 30)]
    check(cases, st.builds(bytes.__add__, st.sampled_from(heads), st.binary(max_size=60)), image_is_read_or_refused)


# ---------------------------------------------------------------- captions


@CASES
def test_any_caption_has_one_start_and_one_end(cases):
    special = [TOKENIZER.pad_id, TOKENIZER.mask_id, TOKENIZER.enc_id, TOKENIZER.dec_id, TOKENIZER.end_id]
    marks = st.sampled_from(["[SEP]", "[MASK]", "[ENC]", "[CLS]", "[PAD]", "red", " ", "-", "."])
    captions = st.lists(marks | st.text(st.characters(codec="utf-8"), max_size=5), max_size=20).map("".join)

    def body(caption: str) -> None:
        encoded = TOKENIZER.encode(caption)
        assert len(encoded.input_ids) == len(encoded.word_index) <= TOKENIZER.max_length
        assert encoded.input_ids[-1] == TOKENIZER.end_id
        assert not set(special) & set(encoded.input_ids[1:-1])
        assert TOKENIZER.count_truncated([caption]) in (0, 1)

    check(cases, captions, body)
