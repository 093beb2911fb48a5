"""A retriever as one folder: it opens without anything else, on the Hub too, and holds what its card says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from export_factory import MODELS_OF_THE_TABLE, VISION, config, pictures, rde_of_clip, retriever
from hub_stand_in import stand_in
from PIL import Image
from runner_factory import REPO
from torchvision.transforms import InterpolationMode
from transformers import AutoTokenizer, BlipForImageTextRetrieval, BlipImageProcessor

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.cli.main import main
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.export.manifest import MANIFEST
from cada_plugin.models import CADA
from cada_plugin.portable.calibration import Calibration
from cada_plugin.registry import MODELS

METRICS = {"t2i_global/R1": 56.7, "t2i/R1": 59.8, "t2i/mAP": 65.7}


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Retriever:
    return retriever(tmp_path_factory.mktemp("ours"), MODELS_OF_THE_TABLE["CADA"])


@pytest.fixture(scope="module")
def saved(ours, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "people"
    return ours.save_pretrained(folder, METRICS, "2026-11-21, two CPU cores")


@pytest.mark.parametrize("change", ["mean", "std", "resize", "weights"])
def test_whatever_changes_the_embeddings_of_images_changes_the_fingerprint(tmp_path, change):
    model = retriever(tmp_path, MODELS_OF_THE_TABLE["CADA"])
    before, image = model.fingerprint(), pictures(1)
    embed = model.encode_image(image).embed.clone()
    if change == "resize":
        model.image_transforms[0].transform.interpolation = InterpolationMode.NEAREST
    else:
        of_preprocessor = vars(model.model.data_preprocessor)["_buffers"]
        tensor = of_preprocessor[change] if change != "weights" else next(model.model.visual_encoder.parameters())
        with torch.no_grad():
            tensor.mul_(1.5)
    assert not torch.equal(model.encode_image(image).embed, embed)
    assert model.fingerprint() != before


def assert_same(one: Retriever, other: Retriever) -> None:
    assert one.fingerprint() == other.fingerprint()
    assert (one.rerank_topk, one.cosine_weight) == (other.rerank_topk, other.cosine_weight)
    captions = ["a man [SEP] in a RED coat; é", "a bag"]
    texts = [each.encode_text(captions) for each in (one, other)]
    for left, right in zip(*texts, strict=True):
        assert torch.equal(left, right)
    assert torch.equal(one.encode_image(pictures(2)).embed, other.encode_image(pictures(2)).embed)


def test_a_saved_folder_opens_as_the_same_retriever(ours, saved):
    assert_same(load_retriever(saved), ours)
    assert_same(Retriever.from_pretrained(saved), ours)


@pytest.mark.slow
def test_the_folder_is_all_that_another_machine_needs(tmp_path):
    """Also where the vocabulary came from a folder that is not there any more, and after it was moved."""
    ours = retriever(tmp_path / "ours", rde_of_clip(tmp_path / "clip"), image_size=(32, 32))
    ours.save_pretrained(tmp_path / "saved").rename(tmp_path / "moved")
    expected = ours.encode_text("a man in red").embed
    np.save(tmp_path / "expected.npy", expected.numpy())
    shutil.rmtree(tmp_path / "clip")
    shutil.rmtree(tmp_path / "ours")
    code = (
        "import numpy as np, sys\nfrom cada_plugin import load_retriever\n"
        "embed = load_retriever('moved').encode_text('a man in red').embed\n"
        "assert np.array_equal(embed.numpy(), np.load('expected.npy'))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_folder_is_saved_again_from_what_was_opened(saved, tmp_path):
    again = load_retriever(saved).save_pretrained(tmp_path / "again")
    assert_same(load_retriever(again), load_retriever(saved))


def test_the_card_tells_what_is_known(saved):
    _, front, text = (saved / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    for words in ("CADA", "ProceduralPEDES", "batch size 8", "`weights.safetensors`", "59.80", "65.70"):
        assert words in text
    assert "2026-11-21, two CPU cores" in text
    assert "knows nothing of photographs" in text
    assert json.loads((saved / "metrics.json").read_text())["metrics"] == METRICS
    assert "Apache License" in (saved / "LICENSE").read_text()


def test_the_calibration_goes_along(ours, tmp_path):
    stages = {"t2i_global": (9.0, -4.0), "t2i": (3.0, -1.0)}
    ours.calibration = Calibration(ours.fingerprint(), 50, 2.0, stages)
    folder = ours.save_pretrained(tmp_path / "saved")
    ours.calibration = None
    assert load_retriever(folder).calibration.stages == stages


def test_the_config_needs_no_path_of_this_machine(saved):
    settings = json.loads((saved / "config.json").read_text())
    assert "init_cfg" not in settings["model"]
    assert settings["model"]["tokenizer"]["vocab"] == "folder://tokenizer"
    assert settings["test_dataloader"]["dataset"]["pipeline"][2]["tokenizer"]["vocab"] == "folder://tokenizer"


def test_nothing_is_left_of_a_folder_that_cannot_be_written(ours, tmp_path, monkeypatch):
    def full(state, path, wrap=True):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("cada_plugin.export.folder.write_weights", full)
    with pytest.raises(OSError, match="disk full"):
        ours.save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(ours, saved, tmp_path):
    before = (saved / "README.md").read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        ours.save_pretrained(saved)
    assert (saved / "README.md").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        ours.save_pretrained(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert_same(load_retriever(ours.save_pretrained(tmp_path / "empty")), ours)


# ---------------------------------------------------------------- what is refused


class OfAnotherPackage(CADA):
    """A user's own model."""


def test_a_model_of_another_package_needs_that_package(tmp_path):
    MODELS.register_module(module=OfAnotherPackage)
    try:
        model = {**MODELS_OF_THE_TABLE["CADA"], "type": "OfAnotherPackage"}
        folder = retriever(tmp_path / "ours", model).save_pretrained(tmp_path / "saved")
        assert load_retriever(folder).name == "OfAnotherPackage"
    finally:
        del MODELS._module_dict["OfAnotherPackage"]
    with pytest.raises(CheckpointError, match=r"needs 'OfAnotherPackage'.*import the package that registers it"):
        load_retriever(folder)


@pytest.mark.parametrize("kind", ["os.system", "cada_plugin.os.system", "subprocess.Popen", ["CADA"], 7])
def test_a_config_of_a_folder_calls_nothing_else(saved, tmp_path, kind):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["model"]["loss_atp"] = {"type": kind, "command": f"touch {tmp_path / 'called'}"}
    (folder / "config.json").write_text(json.dumps(settings))
    edit_size(folder, "config.json")
    with pytest.raises(CheckpointError, match="has not registered"):
        load_retriever(folder)
    assert not (tmp_path / "called").exists()


def edit_size(folder: Path, name: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = (folder / name).stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_folders_of_another_kind_are_named(saved, tmp_path):
    (tmp_path / "any").mkdir()
    with pytest.raises(CheckpointError, match=f"of another kind: it has no {MANIFEST}"):
        load_retriever(tmp_path / "any")
    (tmp_path / "any" / MANIFEST).write_text("[]")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_retriever(tmp_path / "any")
    shutil.copytree(saved, tmp_path / "cut")
    (tmp_path / "cut/model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cut off or was replaced"):
        load_retriever(tmp_path / "cut")
    shutil.copytree(saved, tmp_path / "json")
    (tmp_path / "json/config.json").write_text('{"model": ')
    edit_size(tmp_path / "json", "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        load_retriever(tmp_path / "json")


def test_a_retriever_without_a_config_cannot_be_saved(ours, tmp_path):
    bare = Retriever(ours.model, ours.image_transforms)
    with pytest.raises(ConfigError, match="its config is not known"):
        bare.save_pretrained(tmp_path / "saved")


# ---------------------------------------------------------------- the Hub


@pytest.mark.slow
def test_a_folder_goes_to_the_hub_and_comes_back(saved, tmp_path):
    """Against a local server in place of the Hub, in a process of its own, as ``huggingface_hub`` reads the address of
    the Hub when it is imported."""
    code = f"""
from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.errors import CheckpointError
ours = load_retriever({str(saved)!r})
print(ours.push_to_hub("somebody/people", private=True))
assert Retriever.from_pretrained("somebody/people").fingerprint() == ours.fingerprint()
for action in (lambda: Retriever.from_pretrained("somebody/nothing"), lambda: ours.push_to_hub("not a name")):
    try:
        action()
    except CheckpointError as error:
        print(error)
"""
    with stand_in() as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_stand_in", "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    address, nothing, wrong = done.stdout.strip().splitlines()
    assert address.startswith(f"{hub.address}/somebody/people/commit/")
    assert "somebody/nothing is no folder here, and no repository of the Hub" in nothing
    assert "not a name could not be pushed" in wrong
    assert hub.private == {"somebody/people": True}
    uploaded = hub.files["somebody/people/model.safetensors"]
    assert uploaded == (saved / "model.safetensors").read_bytes()


# ---------------------------------------------------------------- Hugging Face's BLIP


@pytest.mark.slow
def test_the_folder_for_transformers_gives_the_scores_of_ours(tmp_path, capsys, monkeypatch):
    model = {**MODELS_OF_THE_TABLE["CADA"], "visual_encoder": {**VISION, "image_size": (32, 32)}}
    ours = retriever(tmp_path / "ours", model, image_size=(32, 32))
    (tmp_path / "config.py").write_text(config(model, (32, 32)).pretty_text)
    arguments = [str(tmp_path / "config.py"), str(tmp_path / "ours/weights.safetensors"), str(tmp_path / "blip")]
    assert main(["export", *arguments, "--format", "hf-blip"]) == 0
    assert "itm_local_head" in capsys.readouterr().out

    theirs = BlipForImageTextRetrieval.from_pretrained(tmp_path / "blip").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "blip")
    caption, image = "a man in a red coat", pictures(1, (32, 32))[0]
    ids = tokenizer(caption, return_tensors="pt").input_ids
    texts, images = ours.encode_text(caption), ours.encode_image(image)
    assert torch.equal(ids, texts.input_ids)
    pixels = BlipImageProcessor.from_pretrained(tmp_path / "blip")(image, return_tensors="pt").pixel_values
    asking = ids.clone()
    asking[:, 0] = tokenizer.convert_tokens_to_ids("[ENC]")
    with torch.no_grad():
        cosine = theirs(ids, pixels, use_itm_head=False).itm_score
        logits = theirs(asking, pixels, use_itm_head=True).itm_score
    torch.testing.assert_close(images.embed @ texts.embed.T, cosine, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.match(texts, images)[0], logits[:, 1], atol=1e-3, rtol=0)

    image.save(tmp_path / "person.jpg")
    (tmp_path / "blip").rename(tmp_path / "people_blip")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", (REPO / "docs/export.md").read_text(), re.DOTALL)[-1], names)
    expected = ours.encode_image(tmp_path / "person.jpg")
    torch.testing.assert_close(names["cosine"], expected.embed @ texts.embed.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(names["match"], ours.match(texts, expected)[0], atol=1e-3, rtol=0)


def test_a_model_that_hugging_face_has_no_place_for_is_refused(tmp_path, capsys):
    assert main(["export", "cada_procedural", "own", str(tmp_path / "a"), "--format", "hf-blip"]) == 2
    assert "are 128x64 pixels, and Hugging Face's BLIP takes square ones only" in capsys.readouterr().err
    assert main(["export", "clip_procedural", "own", str(tmp_path / "a"), "--format", "hf-blip"]) == 2
    assert "is no CADA or BLIP" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_the_command_says_what_it_cannot_use(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", "cada_procedural", "own", out, "--int8"]) == 2
    assert "--int8 belongs to --format onnx" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text("[1]")
    arguments = ["export", "cada_procedural", "own", out, "--metrics"]
    assert main([*arguments, str(tmp_path / "metrics.json")]) == 2
    assert "holds no metrics by name" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "absent.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    assert main([*arguments, str(tmp_path / "metrics.json"), "--measured", "today"]) == 0
    assert "model.safetensors 9." in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert "epochs 2" in card
    assert "Weights: `cada_procedural.safetensors`" in card
    assert load_retriever(out).encode_image(Image.new("RGB", (8, 8))).embed.shape == (1, 128)
