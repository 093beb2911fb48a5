"""tools/train.py and tools/test.py as a user meets them: flags, files, a calm console, errors that say what to do."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import runner_factory as factory
import torch


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("tools"))


@pytest.fixture(scope="module")
def first_run(config) -> factory.Outcome:
    """A run of one epoch in a fresh interpreter, in the default work dir."""
    options = ("--launcher", "none", "--cfg-options", "train_cfg.max_epochs=1")
    return factory.python_tool("train", config, *options, cwd=config.parent)


@pytest.fixture(scope="module")
def trained(config, first_run) -> Path:
    """Its work dir."""
    assert first_run.status == 0, first_run.stderr
    return config.parent / "work_dirs" / "tiny"


def run(
    config: Path, *args: object, tool: str = "train", options: tuple[str, ...] = ()
) -> tuple[factory.Outcome, Path]:
    """A tool on the tiny run for one epoch; its outcome and its work dir."""
    number = len(list(config.parent.glob("run*")))
    work_dir = config.parent / f"run{number}"
    work_dir.mkdir()
    overrides = ("--cfg-options", "train_cfg.max_epochs=1", *options)
    return factory.tool(tool, config, *args, "--work-dir", work_dir, *overrides, cwd=config.parent), work_dir


def variant(config: Path, text: str) -> Path:
    """A config that changes the tiny one."""
    path = config.with_name(f"variant{len(list(config.parent.glob('variant*')))}.py")
    path.write_text(f"_base_ = ['{config}']\n{text}\n")
    return path


# ---------------------------------------------------------------- what a good run looks like


@pytest.mark.parametrize(("end", "told"), [(1, ()), (3, ("training has 1 epochs", "param_scheduler.0.end and"))])
def test_a_schedule_of_another_length_is_told(config, end, told):
    cosine = f"dict(type='CosineAnnealingLR', T_max={end}, end={end}, by_epoch=True, convert_to_iter_based=True)"
    outcome, _ = run(variant(config, f"param_scheduler = [{cosine}]"))
    assert outcome.status == 0, outcome.stderr
    assert ("the schedule of its learning rate" in outcome.stderr) == bool(told)
    assert all(words in outcome.stderr for words in told)


@pytest.mark.slow
def test_the_console_is_calm(first_run, trained):
    assert first_run.stdout == ""
    assert [line for line in first_run.stderr.splitlines() if "warn" in line.lower()] == []
    assert "re-ranked: match logit + cosine" in first_run.stderr
    assert re.search(r"training: +\d+%\|.*\| \d/6 \[\d\d:\d\d<", first_run.stderr)  # a bar with the time left
    assert "custom_hooks" not in first_run.stderr  # the whole config is in the log file
    assert "custom_hooks" in next(trained.glob("*/*.log")).read_text()


@pytest.mark.slow
def test_training_leaves_checkpoints_metrics_and_the_ranked_gallery(trained):
    assert {"epoch_1.pth", "last_checkpoint", "ranked_gallery.png", "tiny.py"} <= {p.name for p in trained.iterdir()}
    validated, tested = factory.metrics(trained)
    assert validated != tested
    assert not list(trained.glob(".*unfinished"))


@pytest.mark.slow
def test_testing_writes_the_metrics(config, trained):
    out = config.parent / "deep" / "metrics.json"
    outcome, work_dir = run(config, trained / "epoch_1.pth", "--out", out, tool="test")
    assert outcome.status == 0, outcome.stderr
    metrics = json.loads(out.read_text())
    assert {"t2i_global/R1", "t2i/R1", "t2i_match/R1", "t2i/mAP", "t2i/mINP", "t2i/R1[twins]"} <= metrics.keys()
    assert metrics == factory.metrics(trained)[-1]
    assert (work_dir / "ranked_gallery.png").exists()


@pytest.mark.slow
def test_amp_trains_and_tests_in_bf16(config):
    outcome, work_dir = run(config, "--amp")
    assert outcome.status == 0, outcome.stderr
    losses = [row["loss"] for row in factory.scalars(work_dir) if "loss" in row]
    assert losses
    assert all(map(math.isfinite, losses))
    assert "BF16OptimWrapper" in next(work_dir.glob("*/*.log")).read_text()
    assert run(config, work_dir / "epoch_1.pth", "--amp", tool="test")[0].status == 0


@pytest.mark.slow
def test_auto_scale_lr_follows_the_batch_size(config, trained):
    outcome, work_dir = run(config, "--auto-scale-lr", options=("auto_scale_lr.base_batch_size=4",))
    assert outcome.status == 0, outcome.stderr
    scaled, plain = (factory.scalars(folder)[0]["lr"] for folder in (work_dir, trained))
    assert scaled == pytest.approx(2 * plain)


@pytest.mark.slow
def test_resume_in_an_empty_work_dir_starts_with_the_weights_of_the_config(config, trained):
    """As a queued job is written that is started again until it is done."""
    outcome, work_dir = run(config, "--resume", options=(f"load_from={trained / 'epoch_1.pth'}",))
    assert outcome.status == 0, outcome.stderr
    assert f"{trained / 'epoch_1.pth'}: 171 tensors loaded" in outcome.stderr
    assert (work_dir / "epoch_1.pth").exists()


@pytest.mark.slow
def test_resume_finds_the_last_checkpoint_of_a_moved_work_dir(config, trained):
    moved = config.parent / "moved"
    shutil.copytree(trained, moved)
    (moved / "last_checkpoint").write_text("/where/it/was/trained/epoch_1.pth")
    outcome = factory.tool("train", config, "--work-dir", moved, "--resume", cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
    assert "resumed epoch: 1" in outcome.stderr


@pytest.mark.slow
def test_resuming_executes_nothing_of_a_checkpoint(config, trained):
    state = torch.load(trained / "epoch_1.pth", weights_only=False)
    state["meta"]["config"] = f"open({str(config.parent / 'executed')!r}, 'w')"
    torch.save(state, config.parent / "foreign.pth")
    outcome, _ = run(config, "--resume", config.parent / "foreign.pth")
    assert outcome.status == 0, outcome.stderr
    assert not (config.parent / "executed").exists()


@pytest.mark.slow
def test_without_validation_the_last_epoch_is_tested(config):
    nothing = variant(config, "val_dataloader = None\nval_evaluator = None\nval_cfg = None")
    outcome, work_dir = run(nothing)
    assert outcome.status == 0, outcome.stderr
    assert "save_best=t2i/R1 is left out: there is no validation split" in outcome.stderr
    assert "testing the last epoch" in outcome.stderr
    assert len(factory.metrics(work_dir)) == 1


@pytest.mark.slow
def test_where_validation_does_not_rerank_stage_one_chooses_the_best_epoch(config):
    outcome, work_dir = run(variant(config, "val_cfg = dict(rerank_topk=0)"))
    assert outcome.status == 0, outcome.stderr
    said = "save_best=t2i/R1: validation does not re-rank, so t2i_global/R1 chooses the best epoch"
    assert outcome.stderr.count(said) == 1
    assert "testing the best epoch on the validation split" in outcome.stderr
    assert (work_dir / "best_t2i_global_R1_epoch_1.pth").exists()


# ---------------------------------------------------------------- errors


def assert_error(outcome: factory.Outcome, *words: str) -> None:
    """One message for a person, at the end, and exit status 2."""
    assert outcome.status == 2, outcome.stderr
    assert "Traceback" not in outcome.stderr
    message = outcome.stderr[outcome.stderr.index("error: ") :]
    for word in words:
        assert word in message, message


def assert_not_started(work_dir: Path) -> None:
    assert not list(work_dir.glob("*.pth"))
    assert factory.scalars(work_dir) == []


@pytest.mark.parametrize("tool", ["train", "test"])
def test_a_config_that_is_not_there(config, tool):
    arguments = ["nowhere.py"] if tool == "train" else ["nowhere.py", "checkpoint.pth"]
    assert_error(factory.tool(tool, *arguments, cwd=config.parent), "no config file nowhere.py")


WRONG = {
    "syntax": ("model = dict(", ["cannot be read as a config"]),
    "base": ("_base_ = ['nothing.py']", ["cannot be read as a config", "nothing.py"]),
    "model type": ("model = dict(type='NoSuchModel')", ["NoSuchModel is not in the cada_plugin::model registry"]),
    "argument": ("model = dict(visual_encoder=dict(widht=1))", ["unexpected keyword argument 'widht'"]),
    "option": ("model = dict(grouping=dict(num_groups=None))", ["TokenGroups num_groups=None"]),
    "optimizer": ("optim_wrapper = dict(optimizer=dict(type='Adma'))", ["Adma is not in the optimizer registry"]),
    "scheduler": ("param_scheduler = [dict(type='Nothing')]", ["Nothing is not in"]),
    "hook": ("custom_hooks = [dict(type='NoHook')]", ["NoHook is not in"]),
    "transform": ("test_dataloader = dict(dataset=dict(pipeline=[dict(type='NoStep')]))", ["NoStep is not in"]),
    "split": ("test_dataloader = dict(dataset=dict(split='tset'))", ["split 'tset'", "train, val, test"]),
    "mode": ("val_dataloader = dict(dataset=dict(test_mode=False))", ["val_dataloader.dataset needs test_mode=True"]),
    "best": (
        "val_cfg = dict(rerank_topk=0)\ndefault_hooks = dict(checkpoint=dict(save_best='t2i_match/R1'))",
        ["save_best='t2i_match/R1' is not measured", "t2i_global/R1"],
    ),
    "ranker": ("test_evaluator = dict(ranker='mine')", ["ranker='mine'"]),
    "data root": (
        "test_dataloader = dict(dataset=dict(_delete_=True, type='CUHKPEDES', data_root='nowhere', split='test'))",
        ["nowhere is not a folder"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_config_ends_before_the_first_step(config, name):
    text, words = WRONG[name]
    path = variant(config, text)
    if name == "base":
        path.write_text(text)
    outcome, work_dir = run(path)
    assert_error(outcome, *words)
    assert_not_started(work_dir)


def spoil_annotation(root: Path) -> list[str]:
    records = json.loads((root / "reid_raw.json").read_text())
    records[-1]["captions"] = "a word and no list"
    (root / "reid_raw.json").write_text(json.dumps(records))
    return ["captions", f"record {len(records) - 1}"]


def remove_image(root: Path) -> list[str]:
    image = root / "imgs" / json.loads((root / "reid_raw.json").read_text())[-1]["file_path"]
    image.unlink()
    return ["1 of 9 images cannot be used", str(image), "missing"]


def truncate_image(root: Path) -> list[str]:
    image = root / "imgs" / json.loads((root / "reid_raw.json").read_text())[-1]["file_path"]
    image.write_bytes(image.read_bytes()[:-300])
    return ["1 of 9 images cannot be used", str(image), "truncated"]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [spoil_annotation, remove_image, truncate_image])
def test_a_defect_of_the_test_split_ends_before_the_first_step(config, spoil):
    root = config.parent / spoil.__name__
    shutil.copytree(config.parent / "people", root)
    words = spoil(root)
    outcome, work_dir = run(config, options=(f"test_dataloader.dataset.data_root={root}",))
    assert_error(outcome, *words)
    assert_not_started(work_dir)


@pytest.mark.slow
def test_an_image_that_vanishes_in_training_is_named_without_a_traceback(config):
    root = config.parent / "vanishing"
    shutil.copytree(config.parent / "people", root)
    (root / "imgs" / json.loads((root / "reid_raw.json").read_text())[0]["file_path"]).unlink()
    options = (f"train_dataloader.dataset.data_root={root}", "train_dataloader.dataset.verify_images=False")
    assert_error(run(config, options=options)[0], "error: " + str(root), "the file is missing")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "is empty"), (b"no checkpoint", "is not a checkpoint")],
    ids=["missing", "empty", "text"],
)
def test_a_checkpoint_that_is_none(config, content, words):
    path = config.parent / f"bad_{words.replace(' ', '_')}.pth"
    if content is not None:
        path.write_bytes(content)
    assert_error(run(config, path, tool="test")[0], path.name, words)
    outcome, work_dir = run(config, "--resume", path)
    assert_error(outcome, "cannot resume", path.name, words)
    assert_not_started(work_dir)


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_passed_over_and_named(config, trained):
    work_dir = config.parent / "damaged"
    shutil.copytree(trained, work_dir)
    (work_dir / "epoch_2.pth").write_bytes((work_dir / "epoch_1.pth").read_bytes()[:10_000])
    (work_dir / "last_checkpoint").write_text(str(work_dir / "epoch_2.pth"))
    explicit = ("--resume", work_dir / "epoch_2.pth")
    outcome = factory.tool("train", config, "--work-dir", work_dir, *explicit, cwd=config.parent)
    assert_error(outcome, "cannot resume", "epoch_2.pth", "damaged", f"--resume {work_dir / 'epoch_1.pth'}")
    outcome = factory.tool("train", config, "--work-dir", work_dir, "--resume", cwd=config.parent)
    assert outcome.status == 0, outcome.stderr
    assert f"not resumed from: {work_dir / 'epoch_2.pth'}" in outcome.stderr
    assert f"resuming from {work_dir / 'epoch_1.pth'}" in outcome.stderr
    assert "resumed epoch: 1" in outcome.stderr


@pytest.mark.slow
def test_weights_alone_cannot_be_resumed(config, trained):
    best = next(trained.glob("best_*.pth"))
    outcome, work_dir = run(config, "--resume", best)
    assert_error(outcome, "cannot resume", "no training state", "load_from")
    assert_not_started(work_dir)


def test_flags_that_need_something_else(config):
    assert_error(run(config, "--auto-scale-lr")[0], "auto_scale_lr=dict(base_batch_size=...)")
    assert_error(run(config, "--launcher", "pytorch")[0], "torchrun --nproc-per-node")
    if not torch.cuda.is_available():
        assert_error(run(config, "--launcher", "slurm")[0], "slurm without a GPU needs torchrun")
    outcome = factory.tool("train", config, "--cfg-options", "train_cfg.max_epochs", cwd=config.parent)
    assert_error(outcome, "KEY=VALUE")
