"""A tiny run for tests: procedural people, a model of width 32, a text config, and the tools started on it.

``python_tool`` starts a real interpreter. ``tool`` forks one from a server that has imported everything already, which
saves the seconds of the imports; it is otherwise the same: own process, own working folder, output in files.
"""

import itertools
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend
from mmengine.runner import EpochBasedTrainLoop

from cada_plugin.checkpoints.io import read_weights
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.engine import RetrievalValLoop

REPO = Path(__file__).resolve().parents[1]
TOPK = 4  # re-ranked images: fewer than the 9 of the gallery

CONFIG = """
_base_ = ['{repo}/configs/_base_/datasets/procedural_pedes.py', '{repo}/configs/_base_/default_runtime.py']
data_root = '{data}'
build = dict(_delete_=True, seed=3, identities=dict(train=8, val=3, test=3), images_per_identity=3, twin_fraction=0.7)
__dataset = dict(data_root=data_root, build=build)
train_dataloader = dict(batch_size=8, dataset=__dataset)
val_dataloader = dict(batch_size=4, dataset=__dataset)
test_dataloader = dict(batch_size=4, dataset=__dataset)
val_cfg = dict(rerank_topk={topk})
test_cfg = dict(rerank_topk={topk})

__bert = dict(width=32, depth=2, heads=2, max_positions=64, dropout=0.1)
model = dict(
    type='CADA',
    tokenizer={{{{_base_.tokenizer}}}},
    data_preprocessor=dict(type='PersonDataPreprocessor', mean=(122.8, 116.7, 104.1), std=(68.5, 66.6, 70.3)),
    visual_encoder=dict(
        type='ViTEncoder', image_size={{{{_base_.image_size}}}}, patch_size=16, width=32, depth=1, heads=2, stem='conv',
        drop_path=0.1),
    text_encoder=dict(type='CrossModalBert', **__bert),
    text_decoder=dict(type='AttributeDecoder', causal=False, **__bert),
    embed_dim=16,
    loss_global=dict(type='GlobalAssociationLoss', scale=50.0),
    loss_atp=dict(type='MatchingLoss'),
    loss_ara=dict(type='MaskedAttributeLoss', weight=1.0),
    grouping=dict(type='TokenGroups', num_groups=2),
    negatives='sampled',
    negative_scale=(0.0, 20.0),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, begin=0, end=12, by_epoch=False)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
"""


def write_run(folder: Path) -> Path:
    """Draw the people and write the config; returns its path. Images have one, two or three captions."""
    data = folder / "people"
    identities = {"train": 8, "val": 3, "test": 3}
    build_procedural(data, seed=3, identities=identities, images_per_identity=3, twin_fraction=0.7)
    records = json.loads((data / "reid_raw.json").read_text())
    for number, record in enumerate(records):
        for key in ("captions", "processed_tokens", "slices", "claims", "phrases"):
            first, second = record[key]
            third = second + " Seen from afar." if key == "captions" else second
            record[key] = [first, second, third][: 1 + number % 3]
    (data / "reid_raw.json").write_text(json.dumps(records))
    config = folder / "tiny.py"
    config.write_text(CONFIG.format(repo=REPO, data=data, topk=TOPK))
    return config


def write_world(folder: Path) -> Path:
    """The same with more test people and two captions to every image, as drawn; returns the path of ``world.py``."""
    build = {"seed": 3, "identities": {"train": 8, "val": 3, "test": 6}, "images_per_identity": 2}
    build_procedural(folder / "world", **build)
    text = CONFIG.format(repo=REPO, data=folder / "world", topk=TOPK)
    lines = text.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("build = "))
    lines[place] = f"build = dict(_delete_=True, **{build!r})"
    config = folder / "world.py"
    config.write_text("\n".join(lines) + "\n")
    return config


@dataclass
class Outcome:
    """Exit status and output of a tool; a negative ``status`` is minus the signal that killed it."""

    status: int
    stdout: str
    stderr: str


def tool(name: str, *args: object, cwd: Path, prepare: Callable[[], None] | None = None, processes: int = 1) -> Outcome:
    """``python tools/<name>.py ARGS`` in ``cwd``, forked from a warm interpreter. ``prepare`` runs there first.

    Several ``processes`` find each other as those of torchrun do; the outcome is that of the first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["cada_plugin.cli.common", "cada_plugin.models", "cada_plugin.datasets", "matplotlib.pyplot"]
    )
    port = str(_free_port())
    started = []
    for rank in range(processes):
        group = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        env = {key: str(value) for key, value in group.items()} if processes > 1 else {}
        files = [cwd / f"{uuid.uuid4().hex}.{stream}" for stream in ("stdout", "stderr")]
        task = (name, [str(a) for a in args], cwd, env, prepare, files)
        started.append((context.Process(target=_run_tool, args=task), files))
        started[-1][0].start()
    for process, _ in started:
        process.join()
    process, files = started[0]
    return Outcome(process.exitcode, *(file.read_text() for file in files))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _run_tool(
    name: str, args: list[str], cwd: Path, env: dict, prepare: Callable[[], None] | None, files: list[Path]
) -> None:
    for file, descriptor in zip(files, (1, 2), strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    os.chdir(cwd)
    os.environ.update(environment(cwd) | env)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    sys.argv = [f"{name}.py", *args]
    runpy.run_path(str(REPO / "tools" / f"{name}.py"), run_name="__main__")


def python_tool(name: str, *args: object, cwd: Path, launcher: Sequence[str] = ()) -> Outcome:
    """The same with a fresh interpreter, as a user starts it; ``launcher`` are arguments of python before the tool."""
    command = [sys.executable, *launcher, str(REPO / "tools" / f"{name}.py"), *(str(a) for a in args)]
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment(cwd)}, capture_output=True, text=True, timeout=600
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
"""``launcher`` of :func:`python_tool`: torchrun with two processes on this machine."""


def environment(folder: Path) -> dict[str, str]:
    return {"CADA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}


# ---------------------------------------------------------------- what can happen to a run (``prepare`` of ``tool``)


def kill_before_iteration(epoch: int, iteration: int) -> None:
    """Send SIGKILL before an iteration of an epoch; epoch and iteration are counted from 0."""
    run_iter = EpochBasedTrainLoop.run_iter

    def run_or_die(self: EpochBasedTrainLoop, idx: int, batch: dict) -> None:
        if (self.epoch, idx) == (epoch, iteration):
            os.kill(os.getpid(), signal.SIGKILL)
        run_iter(self, idx, batch)

    EpochBasedTrainLoop.run_iter = run_or_die


def kill_in_validation(epoch: int) -> None:
    """Send SIGKILL at the start of the validation after this number of epochs."""
    run = RetrievalValLoop.run

    def run_or_die(self: RetrievalValLoop) -> dict:
        if self.runner.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self)

    RetrievalValLoop.run = run_or_die


def kill_in_write(number: int) -> None:
    """Send SIGKILL halfway through the ``number``-th file that MMEngine writes, counted from 0."""
    put = LocalBackend.put
    count = itertools.count()

    def put_or_die(self: LocalBackend, content: bytes, path: str) -> None:
        last = next(count) == number
        put(self, content[: len(content) // 2] if last else content, path)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    LocalBackend.put = put_or_die


# ---------------------------------------------------------------- what a run leaves behind


def scalars(work_dir: Path) -> list[dict]:
    """All scalars logged in training and validation, in order, those of resumed parts after those of the first part."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def metrics(work_dir: Path) -> list[dict]:
    """Metrics of the validations, then of the tests. A repeated validation with the same result counts once."""
    rows = scalars(work_dir) + [json.loads(file.read_text()) for file in sorted(work_dir.glob("*/*.json"))]
    rows = [{k: v for k, v in row.items() if "time" not in k} for row in rows if "t2i_global/R1" in row]
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_weights(checkpoint)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until a condition holds for a process that is still running."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended early"
        assert time.monotonic() < end
        time.sleep(0.1)
