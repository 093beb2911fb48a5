"""Retrievers as ONNX graphs: they give what PyTorch gives, with any number and length, and without torch."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_factory import MODELS_OF_THE_TABLE, assert_agree, config, pictures, rde_of_clip, retriever
from PIL import Image
from runner_factory import REPO

from cada_plugin import load_retriever
from cada_plugin.apis import Retriever
from cada_plugin.cli.main import main
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.errors import CheckpointError, ConfigError, GalleryError, ImageError, MissingExtraError
from cada_plugin.export.manifest import CALIBRATION, MANIFEST
from cada_plugin.export.onnx_files import quantise, write_onnx_folder, write_torch_export_folder
from cada_plugin.export.onnx_header import FINGERPRINT, OPSET, read_header
from cada_plugin.files import new_folder
from cada_plugin.gallery import Gallery
from cada_plugin.portable.calibration import Calibration
from cada_plugin.portable.pixels import RESIZES, resized
from cada_plugin.retrieval import EncodedImages
from cada_plugin.text import CaptionTokenizer
from cada_plugin.visualization import draw_explanation

pytestmark = pytest.mark.slow


def export(ours: Retriever, folder: Path, **options: object) -> Path:
    with torch.no_grad(), new_folder(folder) as unfinished:
        write_onnx_folder(ours.trained(), unfinished, **options)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Retriever, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    ours = retriever(folder, MODELS_OF_THE_TABLE["CADA"])
    return ours, export(ours, folder / "onnx")


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> ProceduralPEDES:
    build = {"seed": 9, "identities": {"train": 2, "val": 2, "test": 24}, "images_per_identity": 3}
    root = str(tmp_path_factory.mktemp("export") / "people")
    return ProceduralPEDES(data_root=root, split="test", test_mode=True, build=build)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """The weights that ship with the plugin, exported by the command."""
    folder = tmp_path_factory.mktemp("drawn") / "onnx"
    assert main(["export", "cada_procedural", "own", str(folder), "--format", "onnx"]) == 0
    return folder


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("number", [1, 2, 17])
@pytest.mark.parametrize("length", [3, 24, 73])
def test_any_number_and_length_gives_what_pytorch_gives(tiny, number, length):
    ours, folder = tiny
    lengths = [length] + [3 + place % (length - 2) for place in range(number - 1)]
    assert_agree(ours, load_retriever(folder, backend="onnx"), number, lengths)


def test_the_files_say_that_number_and_length_are_dynamic(tiny):
    dynamic = {"images": 1, "input_ids": 2, "attention_mask": 2, "image_tokens": 1}
    for name, number in (("image", 1), ("text", 2), ("match", 4)):
        graph = onnx.load(tiny[1] / f"{name}.onnx").graph
        assert len(graph.input) == number
        for value in graph.input:
            dims = value.type.tensor_type.shape.dim
            assert all(dim.dim_param for dim in dims[: dynamic[value.name]]), value.name


@pytest.mark.parametrize("name", [name for name in MODELS_OF_THE_TABLE if name != "CADA"])
def test_every_model_of_the_table_is_exported(tmp_path, name):
    ours = retriever(tmp_path, MODELS_OF_THE_TABLE[name])
    exported = load_retriever(export(ours, tmp_path / "onnx"), backend="onnx")
    assert exported.can_match == ours.can_match == (tmp_path / "onnx/match.onnx").is_file()
    for number, lengths in ((1, [3]), (5, [9, 40, 3, 4, 5])):
        assert_agree(ours, exported, number, lengths)


def test_a_model_with_the_encoders_of_clip_is_exported(tmp_path):
    ours = retriever(tmp_path, rde_of_clip(tmp_path / "clip"), image_size=(32, 32))
    exported = load_retriever(export(ours, tmp_path / "onnx"), backend="onnx")
    captions = ["a man in red", "Red-coat [SEP] <|endoftext|> é " * 30]
    texts = ours.encode_text(captions)
    np.testing.assert_array_equal(exported.encode_text(captions).input_ids, texts.input_ids.numpy())
    for ids in (texts, ours.encode_text(captions[:1])):
        one = exported.encode_text(captions[: len(ids.embed)]).embed
        assert (one * ids.embed.numpy()).sum(1).min() >= 0.999
    images = pictures(3)
    embed = exported.encode_image(images).embed
    assert (embed * ours.encode_image(images).embed.numpy()).sum(1).min() >= 0.999


def test_r1_on_drawn_people_is_that_of_pytorch(drawn, people):
    ours, exported = load_retriever("cada_procedural"), load_retriever(drawn, backend="onnx")
    paths = [record["img_path"] for record in people.records]
    person = np.array([record["person_id"] for record in people.records])
    captions = [(caption, record["person_id"]) for record in people.records for caption in record["captions"]]
    found = []
    for one in (ours, exported):
        hits = one.search([caption for caption, _ in captions], one.encode_image(paths), topk=1)
        right = [person[hit[0].index] == owner for hit, (_, owner) in zip(hits, captions, strict=True)]
        found.append(100 * np.mean(right))
    assert 30 < found[0] < 100
    assert abs(found[0] - found[1]) <= 0.1


def test_int8_is_another_model_that_is_near(tmp_path):
    ours = retriever(tmp_path, MODELS_OF_THE_TABLE["CLIP loss"])
    small = export(ours, tmp_path / "int8", int8=True)
    exported = load_retriever(small, backend="onnx")
    texts = "a woman in a red coat with a black backpack"
    assert (exported.encode_text(texts).embed * ours.encode_text(texts).embed.numpy()).sum() > 0.95
    assert exported.fingerprint() == f"{ours.fingerprint()} int8"
    assert "int8" in (small / "README.md").read_text()
    assert not list(small.glob("fp32*"))


def test_int8_is_a_third_of_the_size(drawn, tmp_path):
    shutil.copy(drawn / "text.onnx", tmp_path)
    quantise(tmp_path / "text.onnx")
    assert (tmp_path / "text.onnx").stat().st_size < 0.35 * (drawn / "text.onnx").stat().st_size
    marks = [read_header(folder / "text.onnx").metadata[FINGERPRINT] for folder in (drawn, tmp_path)]
    assert marks[0] == marks[1]


def test_graphs_of_torch_export_give_the_same(tiny, tmp_path):
    ours, _ = tiny
    with torch.no_grad(), new_folder(tmp_path / "graphs") as folder:
        write_torch_export_folder(ours.trained(), folder)
    texts, images = ours.encode_text(["a man", "a woman in a red coat", "a bag"]), ours.encode_image(pictures(2))
    graphs = {name: torch.export.load(tmp_path / f"graphs/{name}.pt2").module() for name in ("image", "text", "match")}
    ids, mask = texts.input_ids, texts.attention_mask
    torch.testing.assert_close(graphs["text"](input_ids=ids, attention_mask=mask)[0], texts.embed)
    pixels = torch.stack([ours._prepare(image, "") for image in pictures(2)])
    torch.testing.assert_close(graphs["image"](images=pixels)[0], images.embed)
    pairs = torch.tensor([[0, 1], [1, 0], [2, 1]])
    logits = graphs["match"](input_ids=ids, attention_mask=mask, image_tokens=images.tokens, images=pairs[:, 1])[0]
    torch.testing.assert_close(logits, ours.match(texts, images, pairs), atol=1e-4, rtol=1e-4)
    with pytest.raises(CheckpointError, match=r"holds graphs of torch.export, not weights"):
        load_retriever(tmp_path / "graphs")


# ---------------------------------------------------------------- pictures and captions without torch


@pytest.mark.parametrize("interpolation", RESIZES)
@pytest.mark.parametrize("size", [(96, 48), (31, 17), (224, 224)])
def test_pictures_are_resized_to_the_pixels_of_torchvision(interpolation, size):
    from torchvision.transforms.v2 import InterpolationMode, functional

    for image in pictures(3, (57, 130)):
        expected = functional.resize(functional.pil_to_tensor(image), size, InterpolationMode(interpolation)).numpy()
        difference = np.abs(resized(image, size, interpolation).astype(int) - expected.astype(int))
        assert difference.max() <= {"bilinear": 1, "bicubic": 2}[interpolation]  # of 255
        assert difference.mean() < 0.15


def test_captions_become_the_ids_of_the_model(tiny):
    ours, folder = tiny
    exported = load_retriever(folder, backend="onnx")
    mine: CaptionTokenizer = ours.model.tokenizer
    captions = ["A man's T-shirt, blue?", "[SEP] [ENC] coat", "ein Mädchen 東京 zzqx", "red " * 90, "a-b_c 12:30", "#"]
    for caption in captions:
        assert exported.tokenizer.encode(caption) == mine.encode(caption)
    assert exported.tokenizer.count_truncated(captions) == mine.count_truncated(captions) == 1


def test_pictures_are_taken_and_refused_as_in_pytorch(tiny, tmp_path):
    exported = load_retriever(tiny[1], backend="onnx")
    image = pictures(1)[0]
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    expected = exported.encode_image(image).embed
    for same in (tmp_path / "a.png", str(tmp_path), array, torch.from_numpy(array.copy()).permute(2, 0, 1), [image]):
        np.testing.assert_array_equal(exported.encode_image(same).embed, expected)
    for wrong in (np.zeros((8, 16), np.uint8), np.zeros((8, 16, 3)), 7, [None], tmp_path / "none.png"):
        with pytest.raises(ImageError, match=r"image 0|missing"):
            exported.encode_image(wrong)
    for wrong in ([], ["a man", " "], ["\ud800"], [7]):
        with pytest.raises(ConfigError, match="sentence"):
            exported.encode_text(wrong)
    (tmp_path / "b.png").write_bytes(b"no picture")
    encoded, bad = exported.encode_readable([tmp_path / "b.png", tmp_path / "a.png"])
    assert (len(encoded), list(bad)) == (1, [0])


# ---------------------------------------------------------------- searching


def test_explanations_tell_the_changes_and_say_that_maps_need_pytorch(tiny, tmp_path):
    ours, folder = tiny
    exported, image = load_retriever(folder, backend="onnx"), ours.encode_image(pictures(1))
    found = exported.explain("A man in a red coat with a black bag.", image)
    texts = ["a man in a red coat with a black bag", "in a red coat with a black bag", "a man in with a black bag"]
    logits = ours.match(ours.encode_text([*texts, "a man in a red coat with"]), image)[:, 0]
    assert [phrase.text for phrase in found.phrases] == ["man", "red coat", "black bag"]
    assert [phrase.change for phrase in found.phrases] == pytest.approx((logits[1:] - logits[0]).tolist(), abs=1e-3)
    assert (found.word_maps, found.layer, {phrase.map for phrase in found.phrases}) == (None, None, {None})
    with pytest.raises(ConfigError, match="maps need gradients, which ONNX graphs do not give"):
        exported.explain("a man", image, layer=0)
    with pytest.raises(ConfigError, match="explain with PyTorch"):
        draw_explanation([found], pictures(1)[0], tmp_path / "x.png")


def test_galleries_of_both_are_searched_by_both(tiny, tmp_path):
    ours, folder = tiny
    exported = load_retriever(folder, backend="onnx")
    images, captions = pictures(7), ["a man in a red coat", "a bag"]
    mine, theirs = ours.encode_image(images), exported.encode_image(images)
    expected = ours.search(captions, mine)
    for one, gallery in ((exported, mine), (exported, theirs), (ours, theirs)):
        for hits, wanted in zip(one.search(captions, gallery), expected, strict=True):
            assert [hit.index for hit in hits] == [hit.index for hit in wanted]
            assert [hit.match is None for hit in hits] == [False] * 3 + [True] * 4
            np.testing.assert_allclose([hit.cosine for hit in hits], [hit.cosine for hit in wanted], atol=1e-5)
    saved = EncodedImages.load(theirs.save(tmp_path / "g.safetensors"))
    np.testing.assert_array_equal(saved.tokens.numpy(), theirs.tokens)
    joined = theirs[:3] + theirs[3:]
    np.testing.assert_array_equal(joined.embed, theirs.embed)
    with pytest.raises(GalleryError, match="embeddings of 3 numbers"):
        exported.search("a man", EncodedImages(np.ones((2, 3), np.float32), None))
    with pytest.raises(ConfigError, match="topk=0"):
        exported.search("a man", theirs, topk=0)


def test_a_kept_gallery_of_pytorch_is_opened_with_onnx(drawn, people, tmp_path, monkeypatch):
    crops = tmp_path / "crops"
    crops.mkdir()
    for record in people.records[:12]:
        shutil.copy(record["img_path"], crops)
    kept = Gallery.create(tmp_path / "gallery", crops, "cada_procedural", tokens="fp16")
    kept.index(progress=False)
    query = "a woman in a red coat"
    opened = Gallery.open(tmp_path / "gallery", load_retriever(drawn, backend="onnx"))
    expected, found = kept.search(query), opened.search(query)
    assert [hit.path for hit in found] == [hit.path for hit in expected]
    again = Gallery.create(tmp_path / "again", crops, str(drawn))
    again.index(progress=False)
    monkeypatch.chdir(tmp_path)
    assert [hit.path for hit in Gallery.open("again").search(query)] == [hit.path for hit in expected]
    np.testing.assert_allclose([hit.match for hit in found], [hit.match for hit in expected], atol=1e-3)


def test_a_calibration_is_read_without_torch(tiny, tmp_path):
    ours, folder = tiny
    shutil.copytree(folder, tmp_path / "copy")
    stages = {"t2i_global": (9.0, -4.0), "t2i": (3.0, -1.0)}
    Calibration(ours.fingerprint(), 50, 2.0, stages).save(tmp_path / "copy" / CALIBRATION)
    assert load_retriever(tmp_path / "copy", backend="onnx").calibration.stages == stages
    assert load_retriever(folder, backend="onnx").calibration is None


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "transformers", "mmengine", "matplotlib", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("torch", "mmengine") else find(name, *a)
"""


def test_everything_that_a_search_needs_works_without_torch(drawn, people, tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for record in people.records[:6]:
        shutil.copy(record["img_path"], crops)
    work = f"""
    from cada_plugin import load_retriever
    from cada_plugin.cli.main import main
    from cada_plugin.retrieval import EncodedImages
    retriever = load_retriever({str(drawn)!r})
    gallery = retriever.encode_image({str(crops)!r})
    again = EncodedImages.load(gallery.save("g.safetensors"))
    assert retriever.search("a man", again) == retriever.search("a man", gallery)
    assert main(["index", {str(crops)!r}, "--gallery", "kept", "--config", {str(drawn)!r}, "--tokens", "int8"]) == 0
    assert main(["search", "kept", "a man in a red coat", "--sheet", "sheet.png"]) == 0
    assert main(["index", {str(crops)!r}, "--gallery", "other", "--config", "cada_procedural"]) == 2
    assert main(["train", "cada_procedural"]) == 2
    """
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + textwrap.dedent(work)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPO), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "match" in done.stdout
    assert (tmp_path / "sheet.png").is_file()
    assert done.stderr.count("is not installed: without PyTorch and MMEngine only folders of ONNX graphs") == 2


def test_the_page_on_exports_runs(drawn, people, tmp_path, monkeypatch, capsys):
    page = (REPO / "docs/export.md").read_text(encoding="utf-8")
    folder, graphs, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_photos").mkdir()
    for record in people.records[:4]:
        shutil.copy(record["img_path"], tmp_path / "my_photos")
    shutil.copytree(drawn, tmp_path / "people_onnx")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(folder, names)
    exec(graphs, names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "True"
    assert [line[:12] for line in printed[1:]] == [f"{rank} my_photos/"[:12] for rank in (1, 2, 3)]


# ---------------------------------------------------------------- bad input


def test_an_lstm_is_refused_with_the_reason(tmp_path):
    model = {
        "type": "CMPMRetriever",
        "visual_encoder": {"type": "TorchreidEncoder", "name": "osnet_x0_25"},
        "text_encoder": {"type": "BiLSTMEncoder", "word_width": 8, "hidden": 8},
        "num_classes": 3,
        "loss_cmpm": {"type": "CMPMLoss"},
        "loss_cmpc": {"type": "CMPCLoss"},
    }
    with pytest.raises(ConfigError, match="CMPMRetriever cannot be exported: its text encoder is an LSTM"):
        export(retriever(tmp_path, model), tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_pipeline_that_needs_torch_is_refused(tiny, tmp_path):
    ours, _ = tiny
    cfg = config(MODELS_OF_THE_TABLE["CADA"])
    cfg.test_dataloader.dataset.pipeline.insert(2, {"type": "torchvision/CenterCrop", "size": (32, 16)})
    write = tmp_path / "weights.safetensors"
    from cada_plugin.checkpoints import write_weights

    write_weights(ours.model.state_dict(), write)
    with pytest.raises(ConfigError, match=r"has to be one torchvision/Resize .*CenterCrop"):
        export(load_retriever(cfg, write), tmp_path / "onnx")


def test_code_that_fixes_the_batch_is_refused_with_its_graph(tiny, tmp_path, monkeypatch):
    ours, _ = tiny
    encode = type(ours.model).encode_text
    fixed = lambda self, ids, mask: encode(self, ids[: len(ids)], mask)  # noqa: E731
    monkeypatch.setattr(type(ours.model), "encode_text", fixed)
    with pytest.raises(ConfigError, match="the text graph of CADA cannot be exported"):
        export(ours, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tiny, capsys):
    assert main(["export", "cada_procedural", "own", str(tiny[1]), "--format", "onnx"]) == 2
    assert "is there already" in capsys.readouterr().err


def edit_manifest(folder: Path, **changes: object) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(content | changes))


def set_size(folder: Path, name: str) -> None:
    files = json.loads((folder / MANIFEST).read_text())["files"]
    edit_manifest(folder, files=files | {name: (folder / name).stat().st_size})


def lost(folder: Path) -> None:
    (folder / "match.onnx").unlink()


def cut(folder: Path) -> None:
    content = (folder / "text.onnx").read_bytes()
    (folder / "text.onnx").write_bytes(content[: len(content) // 2])


def cut_unnoticed(folder: Path) -> None:
    cut(folder)
    set_size(folder, "text.onnx")


def of_another_model(folder: Path) -> None:
    model = onnx.load(folder / "text.onnx")
    next(entry for entry in model.metadata_props if "fingerprint" in entry.key).value = "CADA 32x16 0123456789ab"
    onnx.save(model, folder / "text.onnx")
    set_size(folder, "text.onnx")


def of_an_old_opset(folder: Path) -> None:
    model = onnx.load(folder / "text.onnx")
    model.opset_import[0].version = 11
    onnx.save(model, folder / "text.onnx")
    set_size(folder, "text.onnx")


def no_graph_at_all(folder: Path) -> None:
    (folder / "text.onnx").write_text("text")
    set_size(folder, "text.onnx")


def of_another_version(folder: Path) -> None:
    edit_manifest(folder, format=99)


def that_leaves_the_folder(folder: Path) -> None:
    edit_manifest(folder, files={"../../etc/passwd": 1})


def without_its_card(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def with_a_broken_vocabulary(folder: Path) -> None:
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    set_size(folder, "tokenizer/tokenizer.json")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lost, r"incomplete: match\.onnx is missing"),
        (cut, r"text\.onnx has .* bytes, not .*cut off"),
        (cut_unnoticed, r"text\.onnx is missing, cut off or no ONNX file"),
        (no_graph_at_all, r"text\.onnx is missing, cut off or no ONNX file"),
        (of_another_model, r"is a graph of CADA 32x16 0123456789ab, and its folder is of CADA 32x16"),
        (of_an_old_opset, rf"opset 11 of ONNX, and {OPSET} or later"),
        (of_another_version, r"cannot be read \(its format is of another version"),
        (that_leaves_the_folder, "names what no folder of this plugin holds"),
        (without_its_card, rf"of another kind: it has no {MANIFEST}"),
        (with_a_broken_vocabulary, r"tokenizer\.json is missing or damaged"),
    ],
)
def test_a_bad_folder_is_named(tiny, tmp_path, damage, words):
    folder = tmp_path / "copy"
    shutil.copytree(tiny[1], folder)
    load_retriever(folder, backend="onnx")
    damage(folder)
    with pytest.raises(CheckpointError, match=words):
        load_retriever(folder, backend="onnx")


def test_other_things_than_a_folder_of_graphs_are_named(tiny, tmp_path):
    ours, folder = tiny
    with pytest.raises(CheckpointError, match="holds weights for PyTorch, not ONNX graphs"):
        load_retriever(ours.save_pretrained(tmp_path / "weights"), backend="onnx")
    with pytest.raises(CheckpointError, match="holds ONNX graphs, not weights for PyTorch"):
        load_retriever(folder, backend="torch")
    with pytest.raises(CheckpointError, match="no folder cada_procedural"):
        load_retriever("cada_procedural", backend="onnx")
    with pytest.raises(ConfigError, match="backend='tensorrt'"):
        load_retriever(folder, backend="tensorrt")
    with pytest.raises(ConfigError, match="runs on the CPU, not on cuda"):
        load_retriever(folder, device="cuda", backend="onnx")
    with pytest.raises(ConfigError, match="its own weights"):
        load_retriever(folder, tmp_path / "weights/model.safetensors")


@pytest.mark.parametrize("package", ["onnxruntime", "onnxscript", "tokenizers"])
def test_a_missing_package_names_the_extra(tiny, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    ours, folder = tiny
    action = partial(load_retriever, folder, backend="onnx")
    if package == "onnxscript":
        action = partial(export, ours, tmp_path / "onnx")
    with pytest.raises(MissingExtraError, match=r"cada_plugin\[onnx\]"):
        action()


def test_the_header_is_that_of_the_onnx_package(tiny):
    path = tiny[1] / "match.onnx"
    model, header = onnx.load(path), read_header(path)
    assert header.opset == next(one.version for one in model.opset_import if not one.domain)
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}


def test_a_picture_is_no_folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(CheckpointError, match="no folder"):
        load_retriever(tmp_path / "a.png", backend="onnx")
