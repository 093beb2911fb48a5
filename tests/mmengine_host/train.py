"""Train by a config, as any MMEngine project does."""

import sys

import my_reid  # noqa: F401 - registers its classes
from mmengine.config import Config
from mmengine.runner import Runner

if __name__ == "__main__":
    config = Config.fromfile(sys.argv[1])
    if len(sys.argv) > 2:
        config.work_dir = sys.argv[2]
    runner = Runner.from_cfg(config)
    runner.train()
    runner.test()
