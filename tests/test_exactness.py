"""The same seed gives the same run, and a run that was killed and resumed ends as if nothing had happened."""

from functools import partial
from pathlib import Path

import pytest
import runner_factory as factory
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("exactness"))


@pytest.fixture(scope="module")
def reference(config) -> Path:
    """Work dir of a run that nothing interrupted."""
    return train(config, "reference")


@pytest.fixture(scope="module")
def other_seed(config) -> Path:
    return train(config, "other_seed", "--cfg-options", "randomness.seed=7")


def train(config: Path, name: str, *args: object, prepare=None, status: int = 0) -> Path:
    """Work dir of a run of tools/train.py, or of one more part of it."""
    work_dir = config.parent / name
    done = factory.tool("train", config, "--work-dir", work_dir, *args, cwd=config.parent, prepare=prepare)
    assert done.status == status, done.stderr
    return work_dir


def assert_same_run(one: Path, other: Path) -> None:
    assert factory.metrics(one) == factory.metrics(other)
    assert_same_weights(one / "epoch_3.pth", other / "epoch_3.pth")


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = factory.weights(one), factory.weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_same_seed_gives_the_same_numbers_whatever_the_workers(config, reference):
    again = train(config, "again", "--cfg-options", "train_dataloader.num_workers=0", *NOT_PERSISTENT)
    assert_same_run(again, reference)


def test_another_seed_gives_another_run(reference, other_seed):
    ours, theirs = factory.weights(reference / "epoch_3.pth"), factory.weights(other_seed / "epoch_3.pth")
    assert not torch.equal(ours["vision_proj.weight"], theirs["vision_proj.weight"])


NOT_PERSISTENT = ("train_dataloader.persistent_workers=False",)
NO_WORKERS = ("--cfg-options", "train_dataloader.num_workers=0", *NOT_PERSISTENT)


@pytest.mark.parametrize("workers", [(), NO_WORKERS], ids=["one_worker", "no_worker"])
def test_a_run_killed_in_mid_epoch_and_resumed_is_exact(config, reference, workers, request):
    name = request.node.callspec.id
    train(config, name, *workers, prepare=partial(factory.kill_before_iteration, 1, 3), status=-9)
    assert not (config.parent / name / "epoch_2.pth").exists()
    assert_same_run(train(config, name, "--resume", *workers), reference)


def test_resuming_a_given_checkpoint_goes_on_with_its_seed(config, other_seed):
    """Also where the command line of the second part forgets the seed of the first."""
    first = train(
        config,
        "first_part",
        "--cfg-options",
        "randomness.seed=7",
        prepare=partial(factory.kill_before_iteration, 2, 1),
        status=-9,
    )
    resumed = train(config, "second_part", "--resume", first / "epoch_2.pth")
    assert factory.metrics(resumed)[-2:] == factory.metrics(other_seed)[-2:]
    assert_same_weights(resumed / "epoch_3.pth", other_seed / "epoch_3.pth")


def test_a_run_killed_in_validation_makes_up_for_it(config, reference):
    train(config, "killed_in_validation", prepare=partial(factory.kill_in_validation, 3), status=-9)
    assert_same_run(train(config, "killed_in_validation", "--resume"), reference)


def test_a_run_killed_while_writing_a_checkpoint_resumes(config, reference):
    """Files 0 to 2 belong to epoch 1: its checkpoint, the best one, and again the checkpoint, which now knows it."""
    for number in (2, 3):
        name = f"killed_in_write_{number}"
        train(config, name, prepare=partial(factory.kill_in_write, number), status=-9)
        assert_same_run(train(config, name, "--resume"), reference)
