"""A host project of MMEngine, as one would write it, runs in its own process with and without our parts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cada_plugin.checkpoints.io import read_checkpoint
from cada_plugin.datasets.procedural import build_procedural

HOST = Path(__file__).parent / "mmengine_host"


@pytest.fixture
def host(tmp_path) -> Path:
    """A copy of the project with eight captions of four pictures for its own data set."""
    folder = tmp_path / "host"
    shutil.copytree(HOST, folder)
    build_procedural(folder / "pictures", seed=1, identities={"train": 2, "val": 1, "test": 1}, images_per_identity=2)
    records = json.loads((folder / "pictures/reid_raw.json").read_text())
    rows = [
        f"imgs/{record['file_path']};{record['id']};{caption}"
        for record in records
        if record["split"] == "train"
        for caption in record["captions"]
    ]
    assert len(rows) == 8
    (folder / "pictures/people.txt").write_text("\n".join(rows))
    return folder


def run_host(host: Path, config: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "train.py", str(config)],
        cwd=host,
        env={**os.environ, "CADA_CACHE": str(host / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "stages"),
    [("host_data_plugin_model", ["t2i_global", "t2i"]), ("plugin_data_host_model", ["t2i_global"])],
)
def test_host_project_trains_two_steps_and_tests(host, config, stages):
    done = run_host(host, host / "configs" / f"{config}.py")
    assert done.returncode == 0, done.stderr
    work_dir = host / "work_dirs" / config
    assert read_checkpoint(work_dir / "epoch_1.pth")["meta"]["iter"] == 2
    metrics = [json.loads(file.read_text()) for file in work_dir.glob("*/*.json")]
    assert len(metrics) == 1
    assert all(0 <= metrics[0][f"{stage}/R1"] <= 100 for stage in stages)
    assert ("t2i/R1" in metrics[0]) == ("t2i" in stages)


def test_host_project_holds_nothing_of_ours():
    ours = {path.name for path in (HOST.parents[1] / "cada_plugin").rglob("*.py")}
    ours -= {"__init__.py", "registry.py", "train.py"}  # what every such project has
    theirs = [path for path in HOST.rglob("*.py") if path.name in ours]
    assert not theirs


@pytest.mark.slow
def test_host_project_resumes_without_running_or_removing_what_a_checkpoint_names(host):
    """MMEngine's Runner executes ``meta['config']`` and removes ``best_ckpt``; the plugin's reader hands it neither."""
    precious = host / "precious"
    (precious / "inside").mkdir(parents=True)
    config = host / "configs/host_data_plugin_model.py"
    saving = "default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='t2i/R1', rule='greater'))\n"
    validation = "val_dataloader = test_dataloader\nval_evaluator = test_evaluator\n"
    validation += "val_cfg = dict(type='cada_plugin.RetrievalValLoop', rerank_topk=2)\n"
    config.write_text(config.read_text() + saving + validation)
    assert run_host(host, config).returncode == 0
    checkpoint = host / "work_dirs/host_data_plugin_model/epoch_1.pth"
    state = torch.load(checkpoint, weights_only=False)  # ours
    state["meta"]["config"] = f"open({str(host / 'executed')!r}, 'w')"
    state["message_hub"]["runtime_info"] |= {"best_ckpt": str(precious), "best_score": -1.0}
    state["message_hub"]["resumed_keys"] |= {"best_ckpt": True, "best_score": True}
    torch.save(state, checkpoint)
    resumed = config.with_name("resumed.py")
    resumed.write_text(
        f"_base_ = ['{config.name}']\nload_from = '{checkpoint}'\nresume = True\n"
        "train_cfg = dict(max_epochs=2)\nwork_dir = 'work_dirs/resumed'\n"
    )
    done = run_host(host, resumed)
    assert done.returncode == 0, done.stderr
    assert "resumed epoch: 1" in done.stdout + done.stderr
    assert list((host / "work_dirs/resumed").glob("best_*.pth"))
    assert not (host / "executed").exists()
    assert (precious / "inside").is_dir()
