"""Indexing tells files apart, survives kills, loses nothing, and says what it cannot do."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from cada_plugin import load_retriever
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.cli.main import main
from cada_plugin.errors import ConfigError, GalleryError
from cada_plugin.gallery import Gallery, Query
from cada_plugin.gallery import index as index_module

pytestmark = pytest.mark.slow


def content(gallery: Gallery) -> dict:
    rows = list(gallery.store.rows())
    _, embed = gallery.store.get([row.id for row in rows])
    return {row.path: (row, tuple(vector)) for row, vector in zip(rows, embed.round(3), strict=True)}


def test_files_are_told_apart_and_only_new_ones_are_decoded(crops, tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    (crops / "broken.jpg").write_bytes(b"no picture")
    strange = os.fsdecode(b"caf\xe9.jpg")  # Latin-1: no Unicode text
    shutil.copy(sorted(crops.iterdir())[0], crops / strange)
    changes = gallery.index(progress=False)
    assert len(gallery) == 60
    assert sorted(changes.unreadable) == ["broken.jpg", strange]
    (crops / strange).unlink()
    names = sorted(row.path for row in gallery.store.rows())
    decoded = []
    encode = gallery.retriever.encode_readable
    monkeypatch.setattr(gallery.retriever, "encode_readable", lambda p, *a: decoded.extend(p) or encode(p, *a))

    (crops / "broken.jpg").unlink()
    again = gallery.index(progress=False)
    assert (len(again.unchanged), decoded) == (60, [])

    (crops / "deep").mkdir()
    (crops / names[0]).rename(crops / "deep/moved.jpg")
    (crops / names[1]).unlink()
    Image.new("RGB", (64, 128), "red").save(crops / names[2])
    os.utime(crops / names[3], (1, 1))
    Image.new("RGB", (64, 128), "blue").save(crops / "new ü.png")
    (crops / names[4]).write_bytes(b"damaged")
    before = content(gallery)
    changes = gallery.index(progress=False)
    assert [(old.path, file.path) for old, file in changes.moved] == [(names[0], "deep/moved.jpg")]
    assert [row.path for row in changes.removed] == [names[1]]
    assert changes.changed == {names[2], names[4]}
    assert [row.path for row, _ in changes.touched] == [names[3]]
    assert list(changes.unreadable) == [names[4]]
    assert sorted(path.name for path in decoded) == sorted([names[2], "new ü.png", names[4]])
    after = content(gallery)
    assert after.keys() == before.keys() - {names[0], names[1], names[4]} | {"deep/moved.jpg", "new ü.png"}
    assert after["deep/moved.jpg"][1] == before[names[0]][1]
    assert after[names[2]][1] != before[names[2]][1]
    fresh = Gallery.create(tmp_path / "fresh", crops, "cada_procedural")
    fresh.index(progress=False)
    assert content(fresh) == after


KILLED = """
import os, random, signal, sys, time
os.environ["OMP_NUM_THREADS"] = "1"
from cada_plugin.cli import index  # without the database, whose threads would not survive a fork
from cada_plugin.cli.main import main
from cada_plugin.gallery import gallery
gallery._CHUNK = 4
random.seed(0)
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(main(["index", sys.argv[1], "--gallery", sys.argv[2], "--tokens", "int8", "--batch-size", "4"]))
    time.sleep(random.uniform(0.3, 1.1))
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_a_run_killed_at_any_instant_is_continued_and_ends_as_one_that_was_not(crops, tmp_path):
    whole = Gallery.create(tmp_path / "whole", crops, "cada_procedural", tokens="int8")
    whole.index(progress=False)
    place = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(crops), str(place)]
    statuses = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    assert statuses.count("9") > 5  # killed; later runs have little left to do and may end before
    assert main(["index", str(crops), "--gallery", str(place), "--tokens", "int8"]) == 0
    killed = Gallery.open(place)
    assert content(killed) == content(whole)
    files = {str(path.relative_to(place)) for path in place.glob("tokens/*/*.npz")}
    assert files == {str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").glob("tokens/*/*.npz")}


def test_a_second_run_on_ten_thousand_files_decodes_none(crops, tmp_path, monkeypatch):
    """In twenty folders, with files that are hard links of sixty pictures."""
    many = tmp_path / "many"
    sources = sorted(crops.iterdir())
    for number in range(10_000):
        folder = many / f"{number % 20}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(sources[number % len(sources)], folder / f"{number}.jpg")
    gallery = Gallery.create(tmp_path / "gallery", many, "cada_procedural")
    assert len(gallery.index(progress=False).new) == 10_000
    monkeypatch.setattr(gallery.retriever, "encode_readable", None)
    monkeypatch.setattr(index_module, "digest_or_none", None)  # not even read
    assert len(gallery.index(progress=False).unchanged) == len(gallery) == 10_000


def test_a_second_writer_and_another_model_are_told(crops, tmp_path, monkeypatch, retriever, capsys):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    gallery.index(progress=False)
    from cada_plugin.files import only_writer

    blocker = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib\nfrom cada_plugin.files import only_writer\n"
         f"with only_writer(pathlib.Path({str(tmp_path / 'gallery')!r}), 'indexing run'):\n"
         "    print('locked', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert blocker.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match=r"is in use by an? indexing run .*Wait for it, or end it"):
        gallery.index(progress=False)
    blocker.communicate("")
    with only_writer(tmp_path / "gallery", "x"):
        pass
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(tmp_path / "gallery", crops, "cada_procedural")
    other = load_retriever("cada_procedural")
    next(other.model.parameters()).data.add_(1.0)
    with pytest.raises(GalleryError, match=r"was made by CADA 128x64 \w{12}, and this model is CADA 128x64 \w{12}:"):
        Gallery.open(tmp_path / "gallery", other)
    place, weights = str(tmp_path / "gallery"), str(tmp_path / "other.pth")
    torch.save(other.model.state_dict(), weights)
    for arguments, message in (
        ([str(tmp_path)], "is of the folder"),
        (["--config", "cada_procedural", "--checkpoint", weights], "was made by CADA 128x64"),
        (["--tokens", "int8"], "keeps tokens=none, not int8"),
        (["--checkpoint", "x.pth"], "needs the --config"),
    ):
        assert main(["index", *arguments, "--gallery", place]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_that_lost_all_pictures_empties_no_gallery(crops, tmp_path, capsys):
    gallery = Gallery.create(tmp_path / "gallery", crops, "cada_procedural", tokens="int8")
    gallery.index(progress=False)
    before = content(gallery)
    crops.rename(tmp_path / "disk")
    crops.mkdir()  # where the disk was mounted
    assert main(["index", "--gallery", str(tmp_path / "gallery")]) == 2
    assert "is its disk mounted? Nothing was changed" in capsys.readouterr().err
    assert content(gallery) == before
    crops.rmdir()
    (tmp_path / "disk").rename(crops)
    assert not gallery.index(progress=False).new  # their tokens are there too


@pytest.mark.parametrize("checkpoint", ["cada_plugin://cada_procedural.safetensors", "~/mine.safetensors"])
def test_the_weights_of_a_gallery_are_found_again(crops, tmp_path, monkeypatch, checkpoint):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(shipped_path("cada_plugin://cada_procedural.safetensors"), tmp_path / "mine.safetensors")
    Gallery.create(tmp_path / "gallery", crops, "cada_procedural", checkpoint)
    monkeypatch.chdir(crops)
    assert len(Gallery.open(tmp_path / "gallery")) == 0


def test_a_gallery_in_milvus_is_the_same_by_one_changed_argument(crops, tmp_path, monkeypatch):
    """Milvus Lite stands in for a server: it speaks the same protocol."""
    pytest.importorskip("milvus_lite")
    from cada_plugin.gallery import gallery as module
    from cada_plugin.gallery.milvus_store import MilvusStore

    local = Gallery.create(tmp_path / "local", crops, "cada_procedural")
    local.index(progress=False)
    lite = str(tmp_path / "milvus.db")
    monkeypatch.setattr(
        module, "_open_store", lambda place, dim, create: MilvusStore(lite, "crops", dim, create=create)
    )
    remote = Gallery.create("http://host:19530/crops", crops, "cada_procedural")
    remote.index(progress=False)
    assert content(remote).keys() == content(local).keys()
    query = Query(["a man in a blue jacket"], topk=12)
    assert [hit.path for hit in remote.search(query)] == [hit.path for hit in local.search(query)]
    assert len(remote.index(progress=False).unchanged) == 60
    for gallery in (remote, local):
        gallery.store.close()
