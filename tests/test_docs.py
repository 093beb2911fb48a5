"""What the documentation tells its readers to write and to type runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from mmengine.config import Config
from mmengine.runner import Runner
from nbclient import NotebookClient
from runner_factory import REPO, tool, write_run

from cada_plugin.cli.main import COMMANDS, main
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.engine.config import read_config

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FEW = {"train": 6, "val": 2, "test": 5}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_is_one_page():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page):
    """Sub-commands of ``cada``, tools and shipped configs that a page names in its shell lines."""
    text = page.read_text(encoding="utf-8")
    shell = re.findall(r"```(?:bash|text)\n(.*?)```", text, re.DOTALL)
    for line in "\n".join(shell).splitlines():
        for command in re.findall(r"(?:^|[ &])cada ([a-z-]+)", line):
            assert command in COMMANDS, line
        for path in re.findall(r"(?:tools|configs)/[\w/]+\.(?:py|yml)", line):
            assert (REPO / path).is_file(), line
        for name in re.findall(r"(?:train|test|benchmark|cost) ((?:cada|blip|clip|irra|rde)_\w+)(?: |$)", line):
            assert read_config(name)


@pytest.mark.slow
def test_the_mmengine_config_trains_and_tests_with_mmengine_alone(tmp_path, monkeypatch):
    (block,) = blocks("hosts/mmengine.md", "python")
    monkeypatch.chdir(tmp_path)
    config = Config.fromstring(block, ".py")
    runner = Runner.from_cfg(config)
    runner.train()
    metrics = runner.test()
    assert 0 < metrics["t2i/R1"] <= 100
    assert (tmp_path / "work_dirs/host/epoch_1.pth").is_file()


@pytest.mark.slow
def test_the_torchreid_lines_run(tmp_path, monkeypatch):
    lines, _ = blocks("hosts/torchreid.md", "python")
    config = tmp_path / "few_people.py"
    config.write_text(f"_base_ = ['{REPO / 'configs/cada_procedural.py'}']\nbuild = dict(identities={FEW})\n")
    monkeypatch.setattr(ProceduralPEDES, "CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    assert names["datamanager"].num_train_pids == FEW["train"]


def test_the_yacs_tree_is_read(capsys):
    (block,) = blocks("hosts/yacs.md", "python")
    names: dict = {}
    exec(block, names)
    assert (names["config"].model.grouping.type, names["config"].test_cfg.rerank_topk) == ("TokenGroups", 64)
    assert "rerank_topk: 64" in capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A working folder in which the commands' configs are found, on a data set that a test can afford."""
    write_run(tmp_path)
    shipped = REPO / "configs/yacs/fastreid_procedural.yml"
    (tmp_path / "configs/yacs").mkdir(parents=True)
    text = shipped.read_text()
    assert "MODEL:\n  CADA:\n" in text
    text = text.replace("MODEL:\n  CADA:\n", f"MODEL:\n  CADA:\n    BASE_CONFIG: {tmp_path / 'tiny.py'}\n")
    text = text.replace("IMS_PER_BATCH: 64", "IMS_PER_BATCH: 8").replace("RERANK_TOPK: 32", "RERANK_TOPK: 4")
    text = text.replace("  ROOT_DIR: data\n", "").replace("WARMUP_ITERS: 50", "WARMUP_ITERS: 2")
    (tmp_path / "configs/yacs/fastreid_procedural.yml").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_the_yacs_commands_train_and_test(checkout):
    (block,) = blocks("hosts/yacs.md", "bash")
    for line in block.strip().splitlines():
        python, script, *arguments = shlex.split(line)
        assert python == "python"
        done = tool(Path(script).stem, *arguments, cwd=checkout)
        assert done.status == 0, done.stderr
    assert (checkout / "runs/x/epoch_1.pth").is_file()


@pytest.mark.slow
def test_the_model_of_the_page_trains_tests_and_is_benchmarked(tmp_path):
    """In 50 lines, outside of the package, with the command line alone."""
    model, config = blocks("write-a-model.md", "python")
    assert len((model + config).strip().splitlines()) <= 50
    (tmp_path / "my_model.py").write_text(model)
    (tmp_path / "my_config.py").write_text(config)
    small = ["--cfg-options", "build.identities.train=20", "build.identities.val=4", "build.identities.test=8"]
    small += ["train_cfg.max_epochs=1", "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPO)])}
    (commands,) = blocks("write-a-model.md", "bash")
    for line in commands.strip().splitlines():
        cada, *arguments = shlex.split(line)
        assert cada == "cada"
        if "benchmark" in arguments:
            arguments.remove("clip_procedural")  # another row says nothing about this page, and takes its time
        command = [sys.executable, "-m", "cada_plugin", *arguments, *small]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "work_dirs/my_config/ranked_gallery.png").is_file()
    table = (tmp_path / "compared/results.md").read_text()
    assert "| my_config |" in table


def test_the_config_for_own_photographs_reads_them(tmp_path, monkeypatch):
    (block,) = blocks("own-data.md", "python")
    (tmp_path / "mine.py").write_text(block)
    config = read_config(tmp_path / "mine.py")
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        assert (dataset.type, dataset.data_root, dataset.split) == ("CustomPEDES", "my_people", split)
    assert config.model.init_cfg.checkpoint == read_config("cada_cuhk").model.init_cfg.checkpoint


def test_the_pages_on_own_pictures_find_them(tmp_path, monkeypatch, capsys):
    kept, feedback, block = blocks("own-pictures.md", "python")
    build = {"seed": 7, "identities": {"train": 2, "val": 2, "test": 3}, "images_per_identity": 2}
    build_procedural(tmp_path / "people", **build)
    (tmp_path / "people/imgs").rename(tmp_path / "my_photos")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    assert len(names["gallery"]) == 14
    assert "\n5 my_photos/" in capsys.readouterr().out
    facts = ["--name-pattern", "{camera}_"]
    for number, path in enumerate(sorted((tmp_path / "my_photos").rglob("*.jpg"))):
        path.rename(path.with_name(f"gate{number % 5}_{path.name}"))
    assert main(["index", "my_photos", "--gallery", "gallery", *facts]) == 0
    capsys.readouterr()
    exec(kept, names)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(" gate3 " in line for line in lines)
    exec(feedback, names)
    assert {hit.path for hit in names["rest"]}.isdisjoint(hit.path for hit in names["hits"])
    assert names["rest"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(REPO / "examples/search.ipynb", 4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "re-ranked  R1" in printed
    assert (tmp_path / "few_people.safetensors").is_file()


@pytest.mark.parametrize("file", sorted((REPO / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_forms_and_workflows_are_readable(file):
    assert yaml.safe_load(file.read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation():
    """``mkdocs build --strict``, which CI runs, also checks links and anchors."""
    text = (REPO / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if str(page.relative_to(DOCS)) not in text]
    assert missing == []
