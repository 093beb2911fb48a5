"""The subprocesses of a benchmark: their failures, their lock on the folder, their share of the machine."""

import contextlib
import os
import threading
import time

import pytest
import torch
from benchmark_factory import wait_until_free

from cada_plugin.benchmark import jobs
from cada_plugin.errors import ConfigError


def test_a_killed_child_is_a_failure_with_its_log(tmp_path):
    with jobs.sole_user(tmp_path) as lock, jobs.Children(1, lock) as children:
        with pytest.raises(jobs.JobError, match=r"killed by SIGKILL \(out of memory\?\)"):
            children.call(["sh", "-c", "kill -9 $$"], tmp_path / "log")
        with pytest.raises(jobs.JobError, match=r"^the last word$") as caught:
            children.call(["sh", "-c", "echo error: the last word; echo bye; exit 3"], tmp_path / "log")
        assert caught.value.log == tmp_path / "log"
        raised = "training:  60%|####      | 339/562 [05:42<03:44,  1.01s/it]"
        with pytest.raises(jobs.JobError, match=r"^ValueError: no loss$"):  # and not the bar that an exception leaves
            children.call(["sh", "-c", f"echo 'ValueError: no loss'; echo '{raised}'; exit 1"], tmp_path / "log")
        with pytest.raises(jobs.JobError, match="exit status 4 without a word"):  # what was said before is not its
            children.call(["sh", "-c", "exit 4"], tmp_path / "log")


def test_a_folder_has_one_user_as_long_as_a_child_lives(tmp_path):
    log = tmp_path / "log"

    def call() -> None:
        with contextlib.suppress(Exception):  # that it was stopped
            children.call(["sh", "-c", "sleep 60 & echo alive; sleep 60"], log)

    with jobs.sole_user(tmp_path) as lock:
        children = jobs.Children(1, lock)
        caller = threading.Thread(target=call)
        caller.start()
        while not (log.exists() and "alive" in log.read_text()):  # the log is there before the child is
            time.sleep(0.01)
        in_use = f"in use by the benchmark of process {os.getpid()}"
        with pytest.raises(ConfigError, match=in_use), jobs.sole_user(tmp_path):
            pass
    with pytest.raises(ConfigError, match="left behind"), jobs.sole_user(tmp_path):
        pass
    children.__exit__()
    caller.join()
    wait_until_free(tmp_path)  # not even the child's own child is left


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        (0, None, ["2", "2", "2"]),
        (1, None, ["", "", ""]),
        (2, None, ["0", "1", "0"]),
        (2, "GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"]),
    ],
)
def test_jobs_share_the_machine(tmp_path, monkeypatch, devices, visible, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    variable = "CUDA_VISIBLE_DEVICES" if devices else "OMP_NUM_THREADS"
    given = [environment.get(variable, "") for environment in jobs._environments(3)]
    assert given == expected


def test_the_progress_of_a_training_is_read_from_its_log(tmp_path):
    log = tmp_path / "train.log"
    assert jobs._fraction(log) == 0
    log.write_text("training:   5%|| 3/60\rtraining:  42%|#### | 25/60 [00:10<00:14]\nencoding val split:  90%|")
    assert jobs._fraction(log) == 0.42
    with log.open("a") as file:  # the bar is written twice a minute, and more is logged meanwhile
        file.write("Epoch(train) [1][50/60] lr: 1.0e-04 loss: 1.5\n" * 500)
    assert jobs._fraction(log) == 0.42
