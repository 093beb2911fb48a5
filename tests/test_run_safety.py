"""What can go wrong around a training: other people's folders, divergence, signals, full disks. No checkpoint is lost,
no other file is touched, and the reported metrics are those of the checkpoint that is kept."""

import errno
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import runner_factory as factory
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.runner import EpochBasedTrainLoop

from cada_plugin.checkpoints.io import read_checkpoint, read_weights
from cada_plugin.checkpoints.training_state import clean, not_finite
from cada_plugin.engine import CalmRunner
from cada_plugin.engine.resume import Place, last_checkpoint
from cada_plugin.engine.start import process_rank
from cada_plugin.errors import ConfigError

NO_VALIDATION = ("val_dataloader=None", "val_cfg=None", "val_evaluator=None")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("safety"))


@pytest.fixture(scope="module")
def trained(config) -> Path:
    """The work dir of a run of two epochs."""
    outcome, work_dir = train(config, epochs=2)
    assert outcome.status == 0, outcome.stderr
    return work_dir


_numbers = itertools.count()


def train(
    config: Path, *args: object, work_dir: Path | None = None, epochs: int = 3, options: tuple = (), **kwargs: object
) -> tuple[factory.Outcome, Path]:
    work_dir = work_dir or config.parent / f"run{next(_numbers)}"
    overrides = ("--cfg-options", f"train_cfg.max_epochs={epochs}", *options)
    outcome = factory.tool("train", config, "--work-dir", work_dir, *args, *overrides, cwd=config.parent, **kwargs)
    return outcome, work_dir


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "/" not in str(p.relative_to(folder))
    }


def always_better(first: float = 1e6) -> None:
    """Every validation is better than any before."""
    from cada_plugin.engine import RetrievalValLoop

    scores, run = itertools.count(first), RetrievalValLoop.run

    def improved(self: RetrievalValLoop) -> dict:
        evaluate = self.evaluator.evaluate
        self.evaluator.evaluate = lambda size: evaluate(size) | {"t2i/R1": float(next(scores))}
        return run(self)

    RetrievalValLoop.run = improved


# ---------------------------------------------------------------- other folders


@pytest.mark.slow
def test_resuming_another_runs_checkpoint_leaves_its_folder_alone(config, trained):
    before = files(trained)
    outcome, work_dir = train(config, "--resume", trained / "epoch_2.pth", epochs=4, prepare=always_better)
    assert outcome.status == 0, outcome.stderr
    assert files(trained) == before
    best = list(work_dir.glob("best_*.pth"))
    assert len(best) == 1
    assert f"testing the best epoch on the validation split ({best[0]})" in outcome.stderr


@pytest.mark.slow
def test_a_checkpoint_that_names_a_folder_removes_nothing(config, trained):
    precious = config.parent / "precious"
    (precious / "inside").mkdir(parents=True)
    (precious / "inside/file").write_text("x")
    state = torch.load(trained / "epoch_2.pth", weights_only=True)
    state["message_hub"]["runtime_info"]["best_ckpt"] = str(precious)
    state["message_hub"]["runtime_info"]["keep_ckpt_ids"] = ["../precious", "/"]
    torch.save(state, config.parent / "hostile.pth")
    outcome, _ = train(config, "--resume", config.parent / "hostile.pth", prepare=always_better)
    assert outcome.status == 0, outcome.stderr
    assert (precious / "inside/file").read_text() == "x"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_folder_elsewhere_uses_its_own_best_checkpoint(config, trained, how):
    origin, work_dir = config.parent / f"origin_{how}", config.parent / f"elsewhere_{how}"
    shutil.copytree(trained, origin)
    state = torch.load(origin / "epoch_2.pth", weights_only=True)
    best = next(origin.glob("best_*.pth")).name
    state["message_hub"]["runtime_info"]["best_ckpt"] = str(origin / best)
    torch.save(state, origin / "epoch_2.pth")
    (shutil.move if how == "moved" else shutil.copytree)(origin, work_dir)
    if how == "copied":  # a test of this file would not go unnoticed
        (origin / best).write_bytes(b"of another folder")
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2)
    assert outcome.status == 0, outcome.stderr
    assert f"testing the best epoch on the validation split ({work_dir / best})" in outcome.stderr


@pytest.mark.parametrize(
    "path",
    ["/a/best_x.pth", "C:\\runs\\best_x.pth", "best_x.pth", "\\\\host\\share\\best_x.pth", "../best_x.pth"],
)
def test_of_a_best_checkpoint_only_the_name_is_kept(path):
    hub = {"runtime_info": {"best_ckpt": path, "best_ckpt_t2i/R1": path, "last_ckpt": path}, "log_scalars": {}}
    info = clean({"message_hub": {**hub, "resumed_keys": {"best_ckpt": True}}})["message_hub"]["runtime_info"]
    assert info == {"saved_best_ckpt": "best_x.pth", "saved_best_ckpt_t2i/R1": "best_x.pth"}


@pytest.mark.parametrize("name", ["thesis.docx", "/etc/best_x/x.pth", "", "..", "best_/../x.pth"])
def test_a_best_checkpoint_of_another_name_is_none(name):
    hub = {"runtime_info": {"best_ckpt": name}, "log_scalars": {}, "resumed_keys": {}}
    assert "saved_best_ckpt" not in clean({"message_hub": hub})["message_hub"]["runtime_info"]


def test_what_only_we_write_is_not_taken_from_a_file():
    info = {"saved_best_ckpt": "/abs/victim.pth", "saved_keep_ckpt_ids": [1], "keep_ckpt_ids": [3, 3, -1]}
    hub = {"runtime_info": info, "log_scalars": {}, "resumed_keys": {"x": 5}}
    assert clean({"message_hub": hub})["message_hub"] == {"runtime_info": {}, "log_scalars": {}, "resumed_keys": {}}


@pytest.mark.slow
def test_resuming_elsewhere_removes_no_epochs_of_that_place(config, trained):
    work_dir = config.parent / "others_epochs"
    work_dir.mkdir()
    (work_dir / "epoch_1.pth").write_bytes(b"of somebody else")
    (work_dir / "epoch_99.pth").mkdir()
    state = torch.load(trained / "epoch_2.pth", weights_only=True)
    state["message_hub"]["runtime_info"]["keep_ckpt_ids"] = [1, 99] * 50
    torch.save(state, config.parent / "keep.pth")
    outcome, _ = train(config, "--resume", config.parent / "keep.pth", work_dir=work_dir, epochs=3)
    assert outcome.status == 0, outcome.stderr
    assert (work_dir / "epoch_1.pth").read_bytes() == b"of somebody else"
    assert (work_dir / "epoch_99.pth").is_dir()


@pytest.mark.slow
def test_links_in_a_work_dir_are_not_written_through(config, trained):
    work_dir, outside = config.parent / "links", config.parent / "outside"
    shutil.copytree(trained, work_dir)
    outside.write_text("precious")
    (work_dir / "last_checkpoint").unlink()
    for name in ("last_checkpoint", ".epoch_3.pth.unfinished"):
        (work_dir / name).symlink_to(outside)
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=3)
    assert outcome.status == 0, outcome.stderr
    assert outside.read_text() == "precious"
    (work_dir / ".lock").unlink()
    (work_dir / ".lock").symlink_to(outside)
    outcome, _ = train(config, work_dir=work_dir)
    assert outcome.status == 2
    assert outside.read_text() == "precious"


@pytest.mark.slow
def test_checkpoints_in_another_folder_are_found_again(config):
    out = config.parent / "checkpoints"
    options = (f"default_hooks.checkpoint.out_dir={out}", "default_hooks.checkpoint.filename_tmpl=ck_{}.pth")
    outcome, work_dir = train(config, epochs=1, options=options)
    assert outcome.status == 0, outcome.stderr
    assert (out / work_dir.name / "ck_1.pth").is_file()
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2, options=options)
    assert "resumed epoch: 1" in outcome.stderr
    (work_dir / "last_checkpoint").unlink()
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2, options=options)
    assert "resumed epoch: 2" in outcome.stderr


@pytest.mark.slow
def test_an_outdated_best_checkpoint_goes_also_in_a_relative_work_dir(config):
    for epochs in (1, 3):
        outcome, _ = train(config, "--resume", work_dir=Path("relative"), epochs=epochs, prepare=always_better)
        assert outcome.status == 0, outcome.stderr
    best = [path.name for path in (config.parent / "relative").glob("best_*.pth")]
    assert best == ["best_t2i_R1_epoch_3.pth"]


@pytest.mark.parametrize(
    ("work_dir", "out_dir", "folder"),
    [("w", "w", "w/w"), ("p/w", "{}/p/w", "p/w"), ("w", "x", "x/w"), ("w", None, "w")],
)
def test_the_folder_of_the_checkpoints_is_the_hooks(tmp_path, monkeypatch, work_dir, out_dir, folder):
    monkeypatch.chdir(tmp_path)
    hook = {"out_dir": out_dir and out_dir.format(tmp_path), "filename_tmpl": "e_{:02d}.pt"}
    place = Place.of(Config({"work_dir": work_dir, "default_hooks": {"checkpoint": hook}}))
    assert place.folder == tmp_path / folder
    place.folder.mkdir(parents=True)
    for name in ("e_03.pt", "e_12.pt", "e_x.pt", "best_e_20.pt"):
        (place.folder / name).touch()
    assert [path.name for path in place.numbered()] == ["e_12.pt", "e_03.pt"]


@pytest.mark.slow
def test_other_schedules_are_left_as_they_were(config):
    """A run whose weight decay has a schedule, stopped and resumed, ends like an uninterrupted one."""
    path = config.with_name("decay.py")
    path.write_text(
        f"_base_ = ['{config}']\nparam_scheduler = [dict(type='LinearParamScheduler', param_name='weight_decay', "
        "start_factor=0.1, begin=0, end=12, by_epoch=False)]\n"
    )
    whole, one = train(path, epochs=2)
    assert whole.status == 0, whole.stderr
    killed, two = train(path, epochs=2, prepare=functools.partial(factory.kill_before_iteration, 1, 1))
    assert killed.status == -signal.SIGKILL
    outcome, _ = train(path, "--resume", work_dir=two, epochs=2)
    assert "the config's settings replace" not in outcome.stderr
    first, second = (read_checkpoint(folder / "epoch_2.pth") for folder in (one, two))
    assert first["optimizer"]["param_groups"] == second["optimizer"]["param_groups"]
    assert all(torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])


@pytest.mark.slow
def test_resuming_without_a_schedule_follows_the_learning_rate_too(config):
    options = ("param_scheduler=None",)
    _, work_dir = train(config, epochs=1, options=options)
    slower = (*options, "optim_wrapper.optimizer.lr=1e-5")
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2, options=slower)
    assert "lr 0.001 -> 1e-05" in outcome.stderr, outcome.stderr
    assert read_checkpoint(work_dir / "epoch_2.pth")["optimizer"]["param_groups"][0]["lr"] == 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["shape", "key", "type"])
def test_an_optimizer_state_that_does_not_fit_is_said_at_once(config, trained, spoil):
    state = torch.load(trained / "epoch_2.pth", weights_only=True)
    if spoil == "shape":
        state["optimizer"]["state"][0]["exp_avg"] = torch.ones(3, 3, 3)
    elif spoil == "key":
        del state["optimizer"]["param_groups"][0]["betas"]
    else:
        state["optimizer"]["param_groups"][0]["lr"] = "x"
    torch.save(state, config.parent / f"misfit_{spoil}.pth")
    outcome, _ = train(config, "--resume", config.parent / f"misfit_{spoil}.pth")
    assert outcome.status == 2
    assert "its training state does not fit this config" in outcome.stderr


def test_of_several_processes_one_holds_the_folder(monkeypatch):
    assert process_rank("none") == 0
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert (process_rank("slurm"), process_rank("pytorch")) == (1, 0)
    monkeypatch.setenv("RANK", "3")
    assert process_rank("slurm") == 3


@pytest.mark.slow
def test_resuming_follows_the_learning_rate_of_the_config(config, trained):
    work_dir = config.parent / "slower"
    shutil.copytree(trained, work_dir)
    options = ("optim_wrapper.optimizer.lr=1e-5", "optim_wrapper.optimizer.weight_decay=0.3")
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=3, options=options)
    assert outcome.status == 0, outcome.stderr
    assert "the config's settings replace those of the checkpoint" in outcome.stderr
    assert "weight_decay 0.01 -> 0.3" in outcome.stderr
    state = read_checkpoint(work_dir / "epoch_3.pth")
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(1e-5)
    assert state["param_schedulers"][0]["base_values"] == [1e-5]


@pytest.mark.slow
def test_two_trainings_in_one_folder(config):
    work_dir = config.parent / "shared"
    command = [sys.executable, str(factory.REPO / "tools/train.py"), str(config), "--work-dir", str(work_dir)]
    env = {**os.environ, **factory.environment(config.parent)}
    first = subprocess.Popen(
        [*command, "--cfg-options", "train_cfg.max_epochs=500"],
        cwd=config.parent,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        factory.wait_for(lambda: (work_dir / "epoch_1.pth").exists(), first)
        outcome, _ = train(config, work_dir=work_dir)
        assert outcome.status == 2
        assert f"{work_dir} is in use by a training (process {first.pid}" in outcome.stderr
        assert "--work-dir" in outcome.stderr
    finally:
        first.kill()
        first.wait()
    outcome, _ = train(config, work_dir=work_dir, epochs=1)  # the lock of a killed run blocks nobody
    assert outcome.status == 0, outcome.stderr


# ---------------------------------------------------------------- numbers that diverge


def diverge(epoch: int, iteration: int, after: bool) -> None:
    """A weight becomes NaN before or after a training iteration; both are counted from 0."""
    run_iter = EpochBasedTrainLoop.run_iter

    def run(self: EpochBasedTrainLoop, idx: int, batch: dict) -> None:
        spoil = (self.epoch, idx) == (epoch, iteration)
        if spoil and not after:
            self.runner.model.itm_head.weight.data[0, 0] = float("nan")
        if spoil and after:
            step = self.runner.optim_wrapper.update_params
            self.runner.optim_wrapper.update_params = lambda loss: (
                step(loss),
                self.runner.model.itm_head.weight.data[0, 0].fill_(float("inf")),
            )
        run_iter(self, idx, batch)

    EpochBasedTrainLoop.run_iter = run


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), NO_VALIDATION], ids=["validation", "no validation"])
@pytest.mark.parametrize("after", [False, True], ids=["loss", "weights"])
def test_a_training_that_diverges_leaves_what_was_good(config, options, after):
    prepare = functools.partial(diverge, 1, 5 if after else 2, after)
    outcome, work_dir = train(config, options=options, prepare=prepare)
    assert outcome.status == 2
    assert "Traceback" not in outcome.stderr
    message = outcome.stderr[outcome.stderr.index("error: training stopped in iteration") :]
    assert ("loss nan" in message and "loss_atp nan" in message) != after
    assert "learning rate of 0.00" in message
    assert f"{work_dir / 'epoch_1.pth'} is the last good one" in message
    assert "clip_grad" in message
    kept = sorted(work_dir.glob("*.pth"))
    assert [p.name for p in kept if p.name.startswith("epoch")] == ["epoch_1.pth"]
    assert all(not_finite(read_weights(path)) == [] for path in kept)
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2, options=options)
    assert outcome.status == 0, outcome.stderr
    assert "resumed epoch: 1" in outcome.stderr


@pytest.mark.slow
def test_resume_passes_over_a_checkpoint_that_is_not_finite(config, trained):
    work_dir = config.parent / "poisoned"
    shutil.copytree(trained, work_dir)
    state = torch.load(work_dir / "epoch_2.pth", weights_only=True)
    state["state_dict"]["itm_head.weight"][0] = float("nan")
    torch.save(state, work_dir / "epoch_2.pth")
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2)
    assert outcome.status == 0, outcome.stderr
    assert re.search(r"not resumed from: .*epoch_2\.pth holds numbers that are NaN", outcome.stderr)
    assert f"resuming from {work_dir / 'epoch_1.pth'}" in outcome.stderr
    assert not_finite(read_weights(work_dir / "epoch_2.pth")) == []


@pytest.mark.slow
@pytest.mark.parametrize("note", [b"", b"\xff\xfe\x00", None, b"nothing.pth", b"a\0b"], ids=repr)
def test_resume_without_a_good_note_goes_on_from_the_newest(config, trained, note):
    work_dir = config.parent / f"note{abs(hash(note))}"
    shutil.copytree(trained, work_dir)
    (work_dir / "last_checkpoint").unlink()
    if note is not None:
        (work_dir / "last_checkpoint").write_bytes(note)
    assert last_checkpoint(work_dir) == work_dir / "epoch_2.pth"
    outcome, _ = train(config, "--resume", work_dir=work_dir, epochs=2)
    assert outcome.status == 0, outcome.stderr
    assert "last_checkpoint is missing or names no checkpoint" in outcome.stderr
    assert "resumed epoch: 2" in outcome.stderr


@pytest.mark.slow
def test_resume_never_starts_afresh_over_checkpoints_that_are_all_bad(config, trained):
    work_dir = config.parent / "all_bad"
    shutil.copytree(trained, work_dir)
    for path in work_dir.glob("epoch_*.pth"):
        path.write_bytes(b"no checkpoint")
    outcome, _ = train(config, "--resume", work_dir=work_dir)
    assert outcome.status == 2
    assert "none of the 2 checkpoints" in outcome.stderr
    assert (work_dir / "epoch_1.pth").read_bytes() == b"no checkpoint"


def infinite_moment() -> None:
    """Simulate a gradient so large that Adam's second moment becomes infinite, while weights and losses stay finite."""
    run_iter = EpochBasedTrainLoop.run_iter

    def run(self: EpochBasedTrainLoop, idx: int, batch: dict) -> None:
        run_iter(self, idx, batch)
        if (self.epoch, idx) == (1, 1):
            next(iter(self.runner.optim_wrapper.optimizer.state.values()))["exp_avg_sq"][0] = float("inf")

    EpochBasedTrainLoop.run_iter = run


@pytest.mark.slow
def test_the_state_of_the_optimizer_is_looked_at_too(config):
    outcome, work_dir = train(config, prepare=infinite_moment)
    assert outcome.status == 2
    assert "optimizer.state" in outcome.stderr
    assert f"{work_dir / 'epoch_1.pth'} is the last good one" in outcome.stderr
    assert [p.name for p in work_dir.glob("epoch_*.pth")] == ["epoch_1.pth"]


@pytest.mark.slow
def test_a_divergence_that_breaks_the_model_first_is_still_called_one(config):
    options = ("optim_wrapper.optimizer.lr=1e5", "param_scheduler.0.start_factor=1.0", "optim_wrapper.clip_grad=None")
    outcome, _ = train(config, options=options)
    assert outcome.status == 2
    assert "training stopped in iteration" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# ---------------------------------------------------------------- disks


def full_disk(number: int) -> None:
    """The ``number``-th file, counted from 0, finds no room after its first half."""
    put, count = LocalBackend.put, itertools.count()

    def put_or_fail(self: LocalBackend, content: bytes, path: str) -> None:
        full = next(count) >= number
        put(self, content[: len(content) // 2] if full else content, path)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    LocalBackend.put = put_or_fail


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2])
def test_a_full_disk_names_the_file_and_leaves_the_one_before_it(config, keep):
    options = (*NO_VALIDATION, f"default_hooks.checkpoint.max_keep_ckpts={keep}")
    outcome, work_dir = train(config, options=options, prepare=functools.partial(full_disk, 1))
    assert outcome.status == 2
    assert "Traceback" not in outcome.stderr
    assert re.search(
        r"error: the checkpoint .*epoch_2\.pth cannot be written: No space left on device; \d", outcome.stderr
    )
    assert re.search(r"epoch_1\.pth, written before it, is whole \([\d.]+ MB\)", outcome.stderr)
    assert sorted(p.name for p in work_dir.iterdir() if p.suffix == ".pth" or "unfinished" in p.name) == ["epoch_1.pth"]
    outcome, _ = train(config, "--resume", work_dir=work_dir, options=options)
    assert outcome.status == 0, outcome.stderr
    left = sorted(p.name for p in work_dir.glob("epoch_*.pth"))
    assert left == ["epoch_2.pth", "epoch_3.pth"][2 - keep :]


@pytest.mark.slow
def test_the_best_checkpoint_survives_a_full_disk(config):
    """Of each epoch: its checkpoint, the best one, its checkpoint again. The fifth file is the second best."""
    prepare = _both(always_better, functools.partial(full_disk, 4))
    outcome, work_dir = train(config, prepare=prepare)
    assert outcome.status == 2
    assert "best_t2i_R1_epoch_2.pth cannot be written" in outcome.stderr
    assert [p.name for p in work_dir.glob("best_*.pth")] == ["best_t2i_R1_epoch_1.pth"]


def _both(*parts: object) -> object:
    return functools.partial(_run_all, parts)


def _run_all(parts: tuple) -> None:
    for part in parts:
        part()


def test_a_folder_that_cannot_be_written_ends_before_the_work(config):
    (config.parent / "a_file").write_text("")
    outcome, _ = train(config, work_dir=config.parent / "a_file/run")
    assert outcome.status == 2
    assert "cannot be written to" in outcome.stderr
    assert "training:" not in outcome.stderr


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--out", "--queries"])
def test_results_that_cannot_be_written_end_before_the_work(config, trained, flag):
    (config.parent / "no_folder").write_text("")
    args = (trained / "epoch_2.pth", "--work-dir", config.parent / "unused", flag, config.parent / "no_folder/results")
    outcome = factory.tool("test", config, *args, cwd=config.parent)
    assert outcome.status == 2
    assert f"{flag} cannot be written to {config.parent / 'no_folder'}" in outcome.stderr
    assert not (config.parent / "unused").exists()


# ---------------------------------------------------------------- the test after training


@pytest.mark.slow
def test_the_test_after_training_is_that_of_the_file(config):
    """EMAHook keeps other weights than the model's and saves them; a hook of one's own may do anything at test time."""
    path = config.with_name("ema.py")
    path.write_text(
        f"_base_ = ['{config}']\n"
        "custom_hooks = [dict(type='EpochSeedHook'), dict(type='ProgressHook'), dict(type='RankedGalleryHook'),\n"
        "                dict(type='mmengine.EMAHook', ema_type='ExponentialMovingAverage', momentum=0.2)]\n"
    )
    outcome, work_dir = train(path, options=NO_VALIDATION)
    assert outcome.status == 0, outcome.stderr
    assert "testing the last epoch" in outcome.stderr
    out = work_dir / "again.json"
    last = work_dir / "epoch_3.pth"
    tested = factory.tool("test", path, last, "--work-dir", work_dir / "test", "--out", out, cwd=config.parent)
    assert tested.status == 0, tested.stderr
    assert factory.metrics(work_dir)[-1] == json.loads(out.read_text())
    raw, averaged = (read_checkpoint(last)[key] for key in ("ema_state_dict", "state_dict"))
    assert any(not torch.equal(raw[f"module.{name}"], averaged[name]) for name in averaged if f"module.{name}" in raw)


@pytest.mark.slow
def test_new_checkpoints_need_no_list_of_allowed_names(trained):
    code = f"import torch; print(torch.load({str(trained / 'epoch_2.pth')!r}, weights_only=True)['meta']['epoch'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_pipeline_without_the_packing_step_is_named(config, split):
    path = config.with_name(f"unpacked_{split}.py")
    loader = f"{split}_dataloader"
    text = f"_base_ = ['{config}']\n{loader} = dict(dataset=dict(pipeline=[dict(type='LoadPersonImage')]))\n"
    path.write_text(text)
    outcome, _ = train(path, epochs=1)
    assert outcome.status == 2
    assert "end the data set's pipeline with dict(type='PackPersonInputs')" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("setting", [True, {"mode": "max-autotune"}])
def test_compiling_is_refused_with_the_reason(setting):
    runner = SimpleNamespace(cfg={"compile": setting})
    with pytest.raises(ConfigError, match="shapes change with every batch"):
        CalmRunner.build_model(runner, {})
