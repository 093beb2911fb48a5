"""A gallery of encoded images: parts of it, joining, saving, loading."""

import json
import operator
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from cada_plugin.errors import GalleryError
from cada_plugin.retrieval import EncodedImages


def gallery(images: int = 5, width: int = 4, tokens: int | None = 3, seed: int = 0) -> EncodedImages:
    generator = torch.Generator().manual_seed(seed)
    embed = torch.randn(images, width, generator=generator)
    memory = None if tokens is None else torch.randn(images, tokens, 6, generator=generator)
    return EncodedImages(embed, memory, [None if i == 1 else f"folder {seed}/ä{i}.jpg" for i in range(images)])


def assert_same(one: EncodedImages, other: EncodedImages) -> None:
    assert torch.equal(one.embed, other.embed)
    assert one.paths == other.paths
    assert (one.tokens is None) == (other.tokens is None)
    assert one.tokens is None or torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("tokens", [3, None])
def test_what_is_saved_is_loaded(tmp_path, tokens):
    saved = gallery(tokens=tokens)
    path = saved.save(tmp_path / "people.safetensors")
    assert_same(EncodedImages.load(path), saved)
    assert [file.name for file in tmp_path.iterdir()] == ["people.safetensors"]


def test_paths_that_are_no_utf_8_survive(tmp_path):
    saved = EncodedImages(torch.ones(1, 2), None, ["a\udcff.jpg"])
    assert EncodedImages.load(saved.save(tmp_path / "g")).paths == saved.paths


def test_a_part_of_a_gallery_can_be_saved(tmp_path):
    """Also rows that are views of larger tensors."""
    part = gallery()[1:3]
    assert_same(EncodedImages.load(part.save(tmp_path / "g")), part)
    shared = EncodedImages(torch.ones(1, 4).expand(3, 4), None)
    assert len(EncodedImages.load(shared.save(tmp_path / "g"))) == 3


def test_parts_keep_images_and_paths_together():
    whole = gallery()
    for rows, expected in ((3, [3]), (-1, [4]), (slice(1, 4), [1, 2, 3]), ([4, 0], [4, 0]), (torch.tensor([2]), [2])):
        part = whole[rows]
        assert len(part) == len(expected)
        assert torch.equal(part.embed, whole.embed[expected])
        assert torch.equal(part.tokens, whole.tokens[expected])
        assert part.paths == tuple(whole.paths[i] for i in expected)
    assert len(whole[5:]) == 0
    with pytest.raises(IndexError):
        whole[5]


def test_a_sum_is_both_in_their_order():
    one, two = gallery(2, seed=1), gallery(3, seed=2)
    joined = one + two
    assert len(joined) == 5
    assert_same(joined[:2], one)
    assert_same(joined[2:], two)


@pytest.mark.parametrize("other", [gallery(width=5), gallery(tokens=None), gallery(tokens=4)], ids=repr)
def test_galleries_of_different_models_are_not_joined(other):
    with pytest.raises(GalleryError, match="encoded by different models"):
        gallery() + other


def test_only_galleries_are_joined():
    with pytest.raises(TypeError):
        operator.add(gallery(), [1, 2])


@pytest.mark.parametrize(
    ("embed", "tokens", "paths"),
    [
        (torch.ones(3), None, None),
        (torch.ones(3, 2), torch.ones(2, 4, 5), None),
        (torch.ones(3, 2), torch.ones(3, 4), None),
        (torch.ones(3, 2), None, ["a"]),
    ],
)
def test_parts_that_do_not_fit_are_refused(embed, tokens, paths):
    with pytest.raises(GalleryError, match="expected"):
        EncodedImages(embed, tokens, paths)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = gallery().save(tmp_path / "g")
    before = path.read_bytes()

    def half_written(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("cada_plugin.retrieval.encoded_images.save_file", half_written)
    with pytest.raises(GalleryError, match="disk full"):
        gallery(seed=1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(GalleryError, match=r"cannot write the gallery .*nowhere"):
        gallery().save(tmp_path / "nowhere/g")


def test_other_files_are_named(tmp_path):
    with pytest.raises(GalleryError, match="no gallery file"):
        EncodedImages.load(tmp_path / "absent")
    with pytest.raises(GalleryError, match="no gallery file"):
        EncodedImages.load(tmp_path / ("x" * 300))
    with pytest.raises(GalleryError, match="no gallery file"):
        EncodedImages.load(tmp_path)
    (tmp_path / "text").write_text("a list of people")
    torch.save({"embed": torch.ones(2, 2)}, tmp_path / "pickle.pth")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "pickle.pth", "empty"):
        with pytest.raises(GalleryError, match="not a saved gallery"):
            EncodedImages.load(tmp_path / name)
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "weights.safetensors", {"format": "pt"})
    with pytest.raises(GalleryError, match="no gallery that this version saves"):
        EncodedImages.load(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embed": torch.full((5, 4), torch.nan)}, "not finite"),
        ({"embed": torch.ones(5, 4, dtype=torch.long)}, "not finite"),
        ({"embed": torch.ones(4, 4)}, "same number"),
        ({"tokens": torch.ones(5, 3)}, "expected embed"),
        ({"other": torch.ones(1)}, "no gallery that this version saves"),
    ],
)
def test_tensors_that_are_no_gallery_are_named(tmp_path, change, words):
    path = gallery().save(tmp_path / "g")
    save_file(load_file(path) | change, path, {"format": "cada_plugin.gallery.1", "paths": json.dumps([None] * 5)})
    with pytest.raises(GalleryError, match=words):
        EncodedImages.load(path)


@pytest.mark.parametrize("paths", ["", "{}", "[1, 2, 3, 4, 5]", '["a"]', "[" * 100_000])
def test_damaged_paths_are_named(tmp_path, paths):
    path = gallery().save(tmp_path / "g")
    save_file(load_file(path), path, {"format": "cada_plugin.gallery.1", "paths": paths})
    with pytest.raises(GalleryError):
        EncodedImages.load(path)


def test_any_damage_is_either_harmless_or_named(tmp_path):
    data = gallery().save(tmp_path / "g").read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        spoiled = bytearray(data)
        for _ in range(generator.randrange(1, 4)):
            spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
        (tmp_path / "g").write_bytes(spoiled[: generator.choice([len(spoiled), generator.randrange(len(spoiled))])])
        try:
            EncodedImages.load(tmp_path / "g")
        except GalleryError:
            refused += 1
    assert 150 < refused < 300
