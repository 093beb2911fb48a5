"""The ``cada`` command, and configs by name: what works from any folder."""

import csv
import json
import subprocess
import sys
import zipfile

import pytest
import runner_factory as factory
from mmengine.config import Config
from mmengine.hub import get_config as hub_config
from mmengine.hub import get_model as hub_model

import cada_plugin
from cada_plugin.cli.main import COMMANDS, main
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.engine.config import SHIPPED, find_config, override, read_config
from cada_plugin.errors import ConfigError, MissingExtraError, needs_extra

CONFIGS = factory.REPO / "configs"


def test_help_names_every_command_and_is_quick(capsys, monkeypatch):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    code = "import sys, cada_plugin.cli as c; c.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: cada {name}" in capsys.readouterr().out


def test_an_unknown_command_and_the_version(capsys):
    assert main(["trian"]) == 2
    assert "use one of train" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert cada_plugin.__version__ in capsys.readouterr().out
    assert main([]) == 2


@pytest.mark.parametrize(("name", "file"), [("cada_cuhk", "cada_cuhk.py"), ("clip_rstp", "baselines/clip_rstp.py")])
def test_a_config_is_found_by_name_and_by_path(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).resolve() == CONFIGS / file
    assert find_config(f"{name}.py").resolve() == CONFIGS / file
    assert find_config(CONFIGS / file) == CONFIGS / file
    (tmp_path / f"{name}.py").write_text("x = 1")
    assert read_config(f"{name}.py").x == 1  # a file that is there wins


def test_a_config_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no config file cada_chuk: .*did you mean cada_cuhk"):
        find_config("cada_chuk")


def test_the_top_level_of_the_package():
    assert {"cada_cuhk", "cada_procedural", "baselines/irra_icfg", "yacs/fastreid_cuhk.yml"} <= set(
        cada_plugin.list_models()
    )
    assert cada_plugin.get_config("irra_icfg").model.type == "IRRA"
    retriever = cada_plugin.load_retriever("cada_procedural")
    assert retriever.model.can_match


def test_a_dry_run_prints_the_config_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cada_procedural", "--dry-run", "--cfg-options", "train_cfg.max_epochs=7"]) == 0
    printed = Config.fromstring(capsys.readouterr().out, ".py")
    assert printed.train_cfg.max_epochs == 7
    assert main(["test", "yacs/fastreid_procedural.yml", "nothing.pth", "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_says_what_to_install():
    words = r"no_such_package is not installed: run `pip install 'cada_plugin\[x\]'"
    with pytest.raises(MissingExtraError, match=words), needs_extra("x"):
        import no_such_package  # noqa: F401


def test_mmengine_finds_our_configs_and_models(tmp_path):
    path = tmp_path / "host.py"
    path.write_text("_base_ = 'cada_plugin::cada_cuhk.py'\ntrain_cfg = dict(max_epochs=3)\n")
    config = Config.fromfile(path)
    assert config.train_cfg.max_epochs == 3
    assert config.model.type == "CADA"
    assert (
        hub_config("cada_plugin::cada_procedural.py").model.to_dict() == read_config("cada_procedural").model.to_dict()
    )
    assert type(hub_model("cada_plugin::cada_procedural.py")).__name__ == "CADA"


def test_a_config_on_top_of_an_installed_one_is_as_on_top_of_its_file(tmp_path):
    """MMEngine marks the types of such a base with its scope, and copies of a variable are in another file."""
    path = tmp_path / "host.py"
    path.write_text("_base_ = 'cada_plugin::cada_cuhk.py'\ndata_root = 'elsewhere'\n")
    ours = read_config(path)
    expected = read_config("cada_cuhk")
    override(expected, {"data_root": "elsewhere"})
    assert ours.train_dataloader.dataset.data_root == "elsewhere"
    assert ours.to_dict() == expected.to_dict()


@pytest.mark.slow
def test_own_pictures_need_no_code(tmp_path):
    people = tmp_path / "my_people"
    build_procedural(people, seed=1, identities={"train": 20, "val": 1, "test": 1}, images_per_identity=3)
    records = json.loads((people / "reid_raw.json").read_text())
    with (people / "annotations.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_path", "caption", "id"])
        rows.writerows([f"imgs/{r['file_path']}", caption, r["id"]] for r in records for caption in r["captions"])
    options = ("data_root=my_people", "train_cfg.max_epochs=1", "train_dataloader.batch_size=16")
    done = factory.tool("train", "cada_custom", "--cfg-options", *options, cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert "221 tensors loaded" in done.stderr
    assert "re-ranked: match logit + cosine" in done.stderr
    assert (tmp_path / "work_dirs/cada_custom/ranked_gallery.png").is_file()


def test_the_shipped_folder_is_that_of_the_checkout():
    assert SHIPPED.resolve() == CONFIGS


@pytest.mark.slow
def test_the_wheel_holds_what_an_installed_package_needs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(factory.REPO)]
    subprocess.run(command, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    configs = {f"cada_plugin/.mim/configs/{p.relative_to(CONFIGS).as_posix()}" for p in CONFIGS.rglob("*.py")}
    assert configs <= names
    wanted = {".mim/model-index.yml", ".mim/configs/metafile.yml", ".mim/tools/train.py"}
    wanted |= {f".mim/configs/grids/{name}.yml" for name in ("beyond", "procedural", "published")}
    wanted |= {"weights/web_start.safetensors", "weights/cada_procedural.safetensors"}
    wanted |= {"text/procedural_vocab.txt", "text/lexicon.json"}
    assert {f"cada_plugin/{name}" for name in wanted} <= names
