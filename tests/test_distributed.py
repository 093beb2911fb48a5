"""Two processes give the metrics and the gradients of one."""

import json
import multiprocessing
from functools import partial
from pathlib import Path

import pytest
import runner_factory as factory
import torch
import torch.distributed

pytestmark = pytest.mark.slow

GROUPINGS = {"position": 2, "tokens": 3, "phrases": None}
LOSSES = ("loss_global", "loss_atp", "loss_ara")
LAUNCHER = ("--launcher", "pytorch")


# ---------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """By grouping: losses and gradients of each loss, of one process with a batch and of two with half of it each."""
    from conftest import build_batch, build_tiny, groups

    folder = tmp_path_factory.mktemp("gradients")
    batch = build_batch(seed=1)
    halves = [half_batch(batch, slice(0, 2)), half_batch(batch, slice(2, 4))]
    lengths = [half["inputs"]["input_ids"].shape[1] for half in halves]
    masked = [int(half["inputs"]["masked_positions"].sum()) for half in halves]
    assert lengths[0] != lengths[1]
    assert masked[0] != masked[1]
    models = {g: build_tiny(grouping=groups(g, n)).train() for g, n in GROUPINGS.items()}
    torch.save((models, halves), folder / "input.pt")
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=average_gradients, args=(folder, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    alone = {grouping: losses_and_gradients(model, batch) for grouping, model in models.items()}
    for process in processes:
        process.join()
    return alone, torch.load(folder / "output.pt")


def half_batch(batch: dict, rows: slice) -> dict:
    """Some pairs of a batch, their captions padded no further than to their own longest."""
    inputs = {key: value[rows] for key, value in batch["inputs"].items()}
    length = int(inputs["attention_mask"].sum(1).max())
    inputs = {key: value if key == "images" else value[:, :length] for key, value in inputs.items()}
    return {"inputs": inputs, "data_samples": batch["data_samples"][rows]}


def losses_and_gradients(model: torch.nn.Module, batch: dict) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name in LOSSES:
        model.zero_grad()
        loss = model.loss(**batch)[name]
        loss.backward()
        found[name] = {"": loss.detach()} | {
            key: torch.zeros_like(p) if p.grad is None else p.grad.clone() for key, p in model.named_parameters()
        }
    return found


def average_gradients(folder: Path, rank: int) -> None:
    """One of the two processes: what data parallelism makes of its half."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    models, halves = torch.load(folder / "input.pt", weights_only=False)
    found = {grouping: losses_and_gradients(model, halves[rank]) for grouping, model in models.items()}
    for grouping in found.values():
        for values in grouping.values():
            for value in values.values():
                torch.distributed.all_reduce(value)
                value /= 2
    if rank == 0:
        torch.save(found, folder / "output.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_two_processes_have_the_gradients_of_one(gradients, grouping, name):
    alone, together = (found[grouping][name] for found in gradients)
    assert alone.keys() == together.keys()
    assert sum(value.abs().sum() > 0 for value in alone.values()) > 10
    for key, value in alone.items():
        torch.testing.assert_close(
            together[key], value, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
        )


# ---------------------------------------------------------------- tools


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("distributed"))


def train_two(config: Path, name: str, *args: object, prepare=None, status: int = 0) -> Path:
    work_dir = config.parent / name
    options = ("--work-dir", work_dir, *LAUNCHER, *args)
    done = factory.tool("train", config, *options, cwd=config.parent, prepare=prepare, processes=2)
    assert done.status == status, done.stderr
    return work_dir


@pytest.fixture(scope="module")
def trained(config) -> Path:
    """Work dir of a run of two processes."""
    return train_two(config, "two")


def test_training_with_two_processes_ends_with_a_test(trained):
    validations, tested = factory.metrics(trained)[:-1], factory.metrics(trained)[-1]
    assert validations
    assert "t2i/R1" in tested
    assert (trained / "ranked_gallery.png").exists()
    losses = [row["loss"] for row in factory.scalars(trained) if "loss" in row]
    assert len(losses) == 3
    assert all(torch.tensor(losses).isfinite())


def test_two_processes_killed_and_resumed_are_exact(config, trained):
    train_two(config, "killed", prepare=partial(factory.kill_before_iteration, 1, 1), status=-9)
    resumed = train_two(config, "killed", "--resume")
    assert factory.metrics(resumed) == factory.metrics(trained)
    ours, theirs = factory.weights(resumed / "epoch_3.pth"), factory.weights(trained / "epoch_3.pth")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def measure(config: Path, name: str, checkpoint: Path, *args: object) -> dict[str, float]:
    """What tools/test.py writes, in one process."""
    out = config.parent / f"{name}.json"
    options = ("--work-dir", config.parent / name, "--out", out, *args)
    done = factory.tool("test", config, checkpoint, *options, cwd=config.parent)
    assert done.status == 0, done.stderr
    return json.loads(out.read_text())


def test_torchrun_with_two_processes_measures_what_one_does(config, trained):
    """A gallery of 9 images does not split evenly, and images have one to three captions: nothing counts twice."""
    checkpoint, out = next(trained.glob("best_*.pth")), config.parent / "two.json"
    hubness = ("--cfg-options", "test_cfg.hubness.weight=2.0", "test_cfg.hubness.neighbours=4")
    options = (checkpoint, "--work-dir", config.parent / "t2", "--out", out, *LAUNCHER, *hubness)
    done = factory.python_tool("test", config, *options, cwd=config.parent, launcher=factory.TWO_PROCESSES)
    assert done.status == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "warn" in line.lower()] == []
    one, plain = measure(config, "one", checkpoint, *hubness), measure(config, "plain", checkpoint)
    assert json.loads(out.read_text()) == pytest.approx(one, abs=1e-3)
    assert factory.metrics(trained)[-1] == pytest.approx(plain, abs=1e-3)
    assert one != plain
    assert (config.parent / "t2" / "ranked_gallery.png").exists()
    assert not (config.parent / ".dist_test").exists()


def test_the_checkpoint_is_what_two_processes_validated(config, trained):
    """Batch norm's running statistics are those of all processes, not of the one that writes the file."""
    validated = next(row for row in factory.metrics(trained) if row.get("step") == 3)
    measured = measure(config, "val", trained / "epoch_3.pth", "--cfg-options", "test_dataloader.dataset.split=val")
    assert {key: validated[key] for key in measured} == pytest.approx(measured, abs=1e-3)
