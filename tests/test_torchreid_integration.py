"""Our images in torchreid's own data manager, model and engine."""

import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import TOKENIZER, build_batch

from cada_plugin.compat import import_torchreid
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.engine.config import SHIPPED
from cada_plugin.errors import CheckpointError, MissingExtraError
from cada_plugin.integrations import torchreid as bridge
from cada_plugin.models import TorchreidEncoder
from cada_plugin.registry import MODELS

BUILD = {"seed": 3, "identities": {"train": 6, "val": 2, "test": 5}, "images_per_identity": 3}


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    config = tmp_path / "few_people.py"
    config.write_text(f"_base_ = ['{SHIPPED / 'cada_procedural.py'}']\nbuild = dict(_delete_=True, **{BUILD})\n")
    monkeypatch.setattr(ProceduralPEDES, "CONFIG", str(config))
    return tmp_path


def test_registering_twice_is_fine():
    assert bridge.register() == bridge.register()
    assert set(bridge.register()) >= {"cuhk_pedes", "icfg_pedes", "procedural_pedes", "rstpreid", "ufine6926"}


def test_lists_keep_every_image_once_and_never_share_a_camera():
    train = [{"img_path": f"t{i}", "person_id": 10 + i // 2, "camera_id": 4} for i in range(4)]
    test = [{"img_path": f"q{i}", "person_id": p, "camera_id": None} for i, p in enumerate([7, 7, 7, 9, 8, 8])]
    train_list, query, gallery = bridge.torchreid_lists(train, test)
    assert [person for _, person, _ in train_list] == [0, 0, 1, 1]
    assert sorted(path for path, _, _ in query + gallery) == [f"q{i}" for i in range(6)]
    assert {person for _, person, _ in query} == {7, 8}  # person 9 has one image: nothing to find
    assert not {camera for _, _, camera in query} & {camera for _, _, camera in gallery}


@pytest.mark.slow
def test_torchreid_trains_its_own_model_on_our_images_and_we_search_with_it(data_root, tmp_path, capsys):
    bridge.register()
    torchreid = import_torchreid()
    manager = torchreid.data.ImageDataManager(
        root=str(data_root),
        sources="procedural_pedes",
        height=64,
        width=32,
        batch_size_train=6,
        batch_size_test=6,
        workers=0,
        use_gpu=False,
    )
    assert manager.num_train_pids == 6
    torch.manual_seed(0)
    model = torchreid.models.build_model("osnet_x0_25", manager.num_train_pids, loss="softmax", pretrained=False)
    before = model.conv1.conv.weight.clone()
    optimizer = torchreid.optim.build_optimizer(model, optim="adam", lr=1e-3)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=1)
    engine = torchreid.engine.ImageSoftmaxEngine(
        manager, model, optimizer=optimizer, scheduler=scheduler, use_gpu=False
    )
    engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, print_freq=100, ranks=[1, 5])
    assert not torch.equal(before, model.conv1.conv.weight)
    assert "Rank-1" in capsys.readouterr().out

    # ... and its backbone becomes the image encoder of one of ours
    checkpoint = tmp_path / "log/model/model.pth.tar-1"
    retriever = MODELS.build(
        {
            "type": "CMPMRetriever",
            "loss_cmpm": {"type": "CMPMLoss"},
            "loss_cmpc": {"type": "CMPCLoss"},
            "num_classes": 9,
            "visual_encoder": {"type": "TorchreidEncoder", "name": "osnet_x0_25", "weights": str(checkpoint)},
            "text_encoder": {"type": "BiLSTMEncoder", "word_width": 8, "hidden": 8},
            "tokenizer": TOKENIZER,
            "embed_dim": 8,
        }
    )
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = model.eval().featuremaps(images).mean((2, 3))
        torch.testing.assert_close(retriever.eval().visual_encoder(images)[:, 0], expected)
    losses = retriever.train().loss(**build_batch())
    sum(losses.values()).backward()
    assert retriever.visual_encoder.model.conv1.conv.weight.grad.abs().sum() > 0


def test_a_package_of_that_name_in_neither_layout_is_named(monkeypatch):
    stranger = types.ModuleType("torchreid")
    stranger.__file__ = "/somewhere/torchreid/__init__.py"
    stranger.models = stranger.metrics = stranger
    monkeypatch.setitem(sys.modules, "torchreid", stranger)
    with pytest.raises(MissingExtraError, match=r"/somewhere/.+ is not torchreid .+: it has no data, engine"):
        bridge.register()


def test_the_authors_own_layout_has_the_same_attributes(monkeypatch):
    """In 1.4.0 the parts are modules ``torchreid.data``, in the wheel ``torchreid.reid.data``: attributes agree."""
    real = import_torchreid()
    flat = types.ModuleType("torchreid")
    for part in ("data", "engine", "metrics", "models", "optim", "utils"):
        setattr(flat, part, getattr(real, part))
    monkeypatch.setitem(sys.modules, "torchreid", flat)
    assert bridge.register()
    assert TorchreidEncoder("osnet_x0_25").width == 128


def test_a_missing_torchreid_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchreid", None)
    with pytest.raises(MissingExtraError, match=r"run `pip install .cada_plugin\[torchreid\]"):
        bridge.register()


def test_weights_that_would_run_code_are_refused(tmp_path):
    """Neither torch's unrestricted reader nor torchreid's, which uses it, sees the file."""

    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "model.pth.tar-60"
    torch.save({"state_dict": Attack()}, path, pickle_protocol=2)
    with pytest.raises(CheckpointError, match=r"model.pth.tar-60 was refused|is not a checkpoint"):
        TorchreidEncoder("osnet_x0_25", weights=path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # the file is what it is said to be
    assert (tmp_path / "ran").exists()
