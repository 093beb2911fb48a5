"""Person images: everything readable becomes RGB, everything else an error that says why."""

import os
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections import Counter

import numpy as np
import pytest
from dataset_factory import (
    write_cuhk,
    write_image,
)
from PIL import Image, PngImagePlugin

from cada_plugin.datasets import CUHKPEDES, cache, images
from cada_plugin.datasets.cache import cache_dir
from cada_plugin.datasets.images import verify_images
from cada_plugin.errors import ImageError
from cada_plugin.portable.pictures import find_images, load_person_image, to_person_image


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
        "cada check-data",
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


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="not a regular file but a pipe or device"):
        load_person_image(tmp_path / "a.png")
    assert list(verify_images([str(tmp_path / "a.png")])) == [str(tmp_path / "a.png")]


def test_a_pipe_that_appears_during_training_is_not_waited_for(tmp_path):
    raw = write_cuhk(tmp_path)
    dataset = CUHKPEDES(tmp_path, pipeline=[{"type": "LoadPersonImage"}])
    path = tmp_path / "imgs" / raw[0]["file_path"]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ImageError, match="a pipe or device"):
        dataset[0]


def test_a_device_is_refused():
    with pytest.raises(ImageError, match="a pipe or device"):
        load_person_image("/dev/zero")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "gif", "ppm", "mpo"])
@pytest.mark.parametrize("name", ["right", "truncated", "none"])
def test_formats_are_told_by_the_content_not_the_name(tmp_path, suffix, name):
    path = tmp_path / f"a.{suffix}"
    image = Image.new("RGB", (8, 16), (10, 200, 30))
    image.save(path, **({"save_all": True, "append_images": [image]} if suffix == "mpo" else {}))
    path = path.rename(tmp_path / {"right": path.name, "truncated": path.name[:-1], "none": "image"}[name])
    red, green, blue = load_person_image(path).getpixel((3, 3))
    assert green > 180 > 60 > max(red, blue)


@pytest.mark.parametrize("suffix", ["eps", "pdf", "tga", "ico", "sgi", "pcx", "jp2", "icns"])
def test_other_formats_of_pillow_are_not_opened(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (32, 32)).save(path)
    path = path.rename(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not an image in a format that is read"):
        load_person_image(path)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_grey_without_a_known_white_is_refused(tmp_path, dtype):
    Image.fromarray(np.full((16, 8), 100, dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="save it with 8 bits"):
        load_person_image(tmp_path / "a.tiff")


def test_twelve_bit_grey_is_not_taken_for_sixteen(tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(np.full((16, 8), 4095, np.uint16)).save(path)
    sixteen = (258).to_bytes(2, "little") + b"\x03\0\x01\0\0\0\x10\0"  # the tag BitsPerSample, one short, 16
    data = path.read_bytes()
    assert data.count(sixteen) == 1
    path.write_bytes(data.replace(sixteen, sixteen[:-2] + b"\x0c\0"))
    with pytest.raises(ImageError, match="save it with 8 bits"):
        load_person_image(path)


@pytest.mark.parametrize("suffix", ["tiff", "png"])
def test_sixteen_bit_grey_of_every_format_is_scaled(tmp_path, suffix):
    Image.fromarray(np.full((16, 8), 40_000, np.uint16)).save(tmp_path / f"a.{suffix}")
    assert load_person_image(tmp_path / f"a.{suffix}").getpixel((0, 0)) == (40_000 >> 8,) * 3


def test_sixteen_bit_grey_that_stands_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((8, 16), 40_000, np.uint16)).save(tmp_path / "a.png", exif=exif)
    image = load_person_image(tmp_path / "a.png")
    assert (image.size, image.getpixel((0, 0))) == ((8, 16), (40_000 >> 8,) * 3)


def test_pictures_in_memory_obey_the_same_rules():
    with pytest.raises(ImageError, match=r"the third: .*too large.*10000 x 10000"):
        to_person_image(Image.new("1", (10_000, 10_000)), "the third")
    with pytest.raises(ImageError, match="empty"):
        to_person_image(Image.new("RGB", (0, 8)))
    with pytest.raises(ImageError, match="save it with 8 bits"):
        to_person_image(Image.new("F", (8, 8), 0.5))


@pytest.mark.slow
def test_the_check_decodes_large_images_one_at_a_time(tmp_path, monkeypatch):
    """And small ones beside each other."""
    monkeypatch.setattr(images, "MAX_PIXELS_PER_THREAD", 64)
    for number in range(12):
        Image.new("RGB", (8, 8 + number % 2)).save(tmp_path / f"{number}.png")
    lock = threading.Lock()
    now, most = Counter(), Counter()
    load = PngImagePlugin.PngImageFile.load

    def slow_load(self):
        kind = "large" if self.height > 8 else "small"
        with lock:
            now[kind] += 1
            most[kind] = max(most[kind], now[kind])
        time.sleep(0.05)
        with lock:
            now[kind] -= 1
        return load(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", slow_load)
    assert verify_images([str(tmp_path / f"{number}.png") for number in range(12)]) == {}
    assert most["large"] == 1
    assert most["small"] > 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory as Linux gives it")
def test_the_check_of_many_large_images_needs_the_memory_of_one(tmp_path):
    """Each of these takes 144 MB, and as much again for a conversion."""
    for number in range(8):
        Image.new("RGB", (6000, 6000)).save(tmp_path / f"{number}.png", compress_level=1)
    code = """
import os, resource, sys
os.cpu_count = lambda: 16
from cada_plugin.datasets.images import verify_images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert verify_images(sys.argv[1:]) == {}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    paths = [str(tmp_path / f"{number}.png") for number in range(8)]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400


def test_large_images_are_checked_as_others_are(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS_PER_THREAD", 64)
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    Image.effect_noise((64, 64), 90).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-500])
    bad = verify_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    assert list(bad) == [str(tmp_path / "a.png")]
    assert "truncated" in bad[str(tmp_path / "a.png")]


def test_a_folder_is_searched_for_images_in_alphabetical_order(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/.hidden.png", "notes.txt", "a/b/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == [str(tmp_path / name) for name in ("a/b/c.webp", "a/z.png", "b.JPG")]


# The cache's folder


@pytest.mark.parametrize("unknown", ["no home", "no such user"])
def test_a_cache_without_a_home_is_done_without(tmp_path, monkeypatch, caplog, unknown):
    monkeypatch.setenv("CADA_CACHE", "~nosuchuser/cache" if unknown == "no such user" else "")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    cache._warn_once.cache_clear()
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for _ in range(2):
        assert list(verify_images(paths)) == paths[1:]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Set CADA_CACHE to a writable folder" in caplog.text


def test_a_cache_file_nested_without_end_is_ignored(tmp_path):
    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "deep.json").write_text("[" * 100_000)
    assert cache.read_cache("deep.json") is None


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
