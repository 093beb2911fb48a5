"""Person images: everything readable becomes RGB, everything else an error that says why."""

import os
import warnings
import zlib

import numpy as np
import pytest
from dataset_factory import (
    write_cuhk,
    write_image,
)
from PIL import Image

from cada_plugin.datasets import CUHKPEDES, images
from cada_plugin.datasets.cache import cache_dir
from cada_plugin.datasets.images import load_person_image, verify_images
from cada_plugin.errors import ImageError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CADA_CACHE", str(tmp_path_factory.mktemp("cache")))


# Images


def test_all_bad_images_in_one_error(tmp_path):
    write_cuhk(tmp_path, train=8)
    paths = [record["img_path"] for record in CUHKPEDES(tmp_path).records]
    for path in paths[2:]:
        os.unlink(path)
    with open(paths[0], "wb"):
        pass
    with open(paths[1], "r+b") as file:
        file.truncate(50)
    with pytest.raises(ImageError) as caught:
        CUHKPEDES(tmp_path)
    text = str(caught.value)
    for words in (
        "16 of 16 images",
        "0 bytes",
        "truncated or damaged",
        "is missing",
        "and 6 more",
        "tools/check_data.py",
    ):
        assert words in text
    assert sum(path in text for path in paths) == 10


def test_verify_images_can_be_left_out(tmp_path):
    write_cuhk(tmp_path)
    os.unlink(tmp_path / "imgs/CUHK01/0001_0.png")
    assert CUHKPEDES(tmp_path, verify_images=False).num_images == 6


def test_second_verification_decodes_nothing_until_a_file_changes(tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        write_image(tmp_path / path)
    decoded = []
    monkeypatch.setattr(images, "load_person_image", lambda path: decoded.append(path))
    verify_images(paths)
    assert sorted(decoded) == paths
    verify_images(paths)
    assert len(decoded) == 3
    os.utime(paths[0], ns=(1, 1))
    verify_images(paths)
    assert len(decoded) == 6
    assert not list(cache_dir().glob("*.tmp"))


def test_known_bad_image_is_tried_again(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    write_image(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(images, "load_person_image", lambda path: (_ for _ in ()).throw(ImageError("no permission")))
        assert verify_images([path]) == {path: "no permission"}
    assert verify_images([path]) == {}


@pytest.mark.parametrize("content", ["", "[", '{"bad": 3}', '{"bad": [["x"]]}', '{"bad": ["elsewhere.png"]}'])
def test_damaged_cache_is_ignored(tmp_path, content):
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    verify_images(paths)
    (cached,) = cache_dir().iterdir()
    cached.write_text(content)
    assert list(verify_images(paths)) == paths[1:]


def test_unwritable_cache_does_not_stop_anything(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CADA_CACHE", str(tmp_path / "file/cache"))
    assert verify_images([str(tmp_path / "a.png")]) == {}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (8, 16), (255, 255, 255)).convert(mode).save(path)
    image = load_person_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 16))
    assert min(image.getpixel((3, 3))) > 250


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (8, 16), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.save(tmp_path / "a.png", transparency=b"\x80\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_person_image(tmp_path / "a.png").getpixel((0, 0)) == (200, 10, 10)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((16, 8), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    assert load_person_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    Image.new("RGB", (16, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert load_person_image(tmp_path / "a.jpg").size == (8, 16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not an image"),
        ("folder", "cannot be opened"),
    ],
)
def test_unusable_image_file(tmp_path, content, words):
    path = tmp_path / "a.png"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words):
        load_person_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_person_image(path)


@pytest.mark.parametrize("side", [8001, 10000, 40000])  # above our limit, above Pillow's warning, above Pillow's error
def test_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch, side):
    path = tmp_path / "a.png"
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2  # the header's width and height
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="too large to decode safely"):
            load_person_image(path)
