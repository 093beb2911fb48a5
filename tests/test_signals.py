"""A training that is told to stop: it says once from where to go on, and nothing is lost."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runner_factory as factory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return factory.write_run(tmp_path_factory.mktemp("signals"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_says_once_from_where_to_go_on(config, number):
    work_dir = config.parent / f"signal_{number.name}"
    process, output = start(config, work_dir)
    factory.wait_for(lambda: (work_dir / "epoch_1.pth").exists(), process)
    process.send_signal(number)
    assert end_of(process, output) == 2
    lines = [line for line in output.read_text().splitlines() if "interrupted" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: interrupted")
    assert re.search(rf"--resume goes on from {work_dir}/epoch_\d+\.pth", lines[0])
    assert (f"interrupted by {number.name}" in lines[0]) == (number != signal.SIGINT)
    assert f'File "{factory.REPO}' not in output.read_text()  # nothing of ours has a traceback


def test_two_processes_say_it_once(config):
    work_dir = config.parent / "signal_two"
    process, output = start(config, work_dir, launcher=factory.TWO_PROCESSES, args=("--launcher", "pytorch"))
    factory.wait_for(lambda: (work_dir / "epoch_1.pth").exists(), process)
    process.send_signal(signal.SIGTERM)
    end_of(process, output)
    text = output.read_text()
    assert text.count("error: interrupted by SIGTERM: --resume goes on from") == 1


def test_a_signal_before_the_first_epoch(config):
    work_dir = config.parent / "signal_early"
    process, output = start(config, work_dir)
    factory.wait_for(lambda: "training:" in output.read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert end_of(process, output) == 2
    assert re.search("no epoch was finished|--resume goes on from", output.read_text())


def start(
    config: Path, work_dir: Path, launcher: tuple[str, ...] = (), args: tuple[str, ...] = ()
) -> tuple[subprocess.Popen, Path]:
    output = work_dir.with_suffix(".log")
    command = [
        sys.executable,
        *launcher,
        str(factory.REPO / "tools/train.py"),
        str(config),
        "--work-dir",
        str(work_dir),
    ]
    with output.open("w") as file:
        process = subprocess.Popen(
            [*command, *args, "--cfg-options", "train_cfg.max_epochs=2000"],
            cwd=config.parent,
            env={**os.environ, **factory.environment(config.parent), "PYTHONFAULTHANDLER": "1"},
            stdout=file,
            stderr=file,
        )
    _STARTED.append(process)
    return process, output


def end_of(process: subprocess.Popen, output: Path) -> int:
    """Exit status of a process that was told to stop. If it goes on, the test fails with what the process wrote and
    where each of its threads is."""
    try:
        return process.wait(120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
        process.wait()
        pytest.fail(f"it did not stop:\n{output.read_text()}")


_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_left_running():
    """A training whose test fails would go on for 2,000 epochs beside all other tests."""
    yield
    while _STARTED:
        _STARTED.pop().kill()


def test_a_signal_whose_exception_was_lost_ends_the_run_at_the_next_hook():
    code = (
        "import os, signal\n"
        "from cada_plugin.portable.interruption import interruptible, raise_if_interrupted\n"
        "with interruptible():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "    try:\n"
        "        raise_if_interrupted()\n"
        "    except KeyboardInterrupt as error:\n"
        "        print(error)\n"
        "raise_if_interrupted()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("interrupted", 0), done.stderr


def test_an_ignored_signal_stays_ignored():
    """``nohup`` starts a program with SIGHUP ignored."""
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from cada_plugin.portable.interruption import interruptible\n"
        "with interruptible():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr


def test_an_exception_that_python_drops_is_raised_again_and_not_printed():
    code = (
        "import os, signal\n"
        "from cada_plugin.portable.interruption import interruptible, raise_if_interrupted\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        for _ in range(1000): pass\n"
        "with interruptible():\n"
        "    Dying()\n"
        "    print('went on')\n"
        "    try:\n"
        "        raise_if_interrupted()\n"
        "    except KeyboardInterrupt as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["went on", "interrupted by SIGTERM"], done.stderr
    assert done.stderr == ""


def test_a_signal_leaves_no_queue_locked():
    """It comes when the main thread has just taken the lock of a queue to a worker, before the lock's block begins."""
    program = (
        "import multiprocessing, os, signal, threading\n"
        "from cada_plugin.portable.interruption import Interrupted, interruptible, raise_if_interrupted\n"
        "class Lock(threading.Condition):\n"
        "    def __enter__(self):\n"
        "        taken = super().__enter__()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return taken\n"
        "queue = multiprocessing.Queue()\n"
        "queue._notempty = Lock(threading.Lock())\n"
        "with interruptible():\n"
        "    try:\n"
        "        queue.put('work')\n"
        "        raise_if_interrupted()\n"
        "    except Interrupted as interrupted:\n"
        "        print(interrupted, queue._notempty.acquire(timeout=5), flush=True)\n"
        "os._exit(0)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr) == ("interrupted by SIGTERM True\n", "")
