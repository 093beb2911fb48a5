"""Fit the probabilities of a model's scores on its validation split, so that `cada search --min-score 0.5` means
something.

cada calibrate cada_procedural work_dirs/cada_procedural/epoch_2.pth

This writes epoch_2.calibration.json beside the checkpoint, where `cada index` and `load_retriever` look for it, and the
picture epoch_2.reliability.png: what probability was stated, and how often it was right. --check-test adds the test
split to the picture, whose people the fit has not seen.
"""

import argparse
import time
from pathlib import Path

from mmengine.config import Config

from cada_plugin.apis import load_retriever
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import evaluate_split
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.calibration import Calibration, calibrate, calibration_path, reliability, scored_pairs
from cada_plugin.evaluation.result import RetrievalResult
from cada_plugin.files import writable_file
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.visualization import draw_reliability

_NAMES = {STAGE_ONE: "stage 1", FINAL: "re-ranked"}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "cada calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("checkpoint", help="the weights to calibrate")
    parser.add_argument("--check-test", action="store_true", help="show the test split in the picture as well")
    add_yaml_arguments(parser)
    return run_command(_run, parser.parse_intermixed_args(argv))


def _run(args: argparse.Namespace) -> None:
    config = read_job(args, "test")
    if args.dry_run:
        print(config.pretty_text)
        return
    if args.launcher != "none":
        raise ConfigError(f"--launcher {args.launcher}: calibration runs in one process, leave it out")
    target = calibration_path(Path(shipped_path(args.checkpoint)))
    picture = target.with_name(target.name.replace(".calibration.json", ".reliability.png"))
    writable_file(target, "the calibration")
    fingerprint = load_retriever(config, args.checkpoint).fingerprint()
    result = evaluate_split(config, args.checkpoint, "val", args.amp)
    calibration = calibrate(result, fingerprint, _about(config, result))
    curves = _curves(calibration, result, "validation")
    if args.check_test:
        curves |= _curves(calibration, evaluate_split(config, args.checkpoint, "test", args.amp), "test")
    calibration.save(target)
    draw_reliability(curves, f"{Path(args.config).stem}: how far a score can be trusted", picture)
    for name, curve in curves.items():
        print(f"{name}: mean difference of stated and true probability {curve['error']:.3f}")
    print(f"written: {target}, {picture}")


def _about(config: Config, result: RetrievalResult) -> str:
    name = config.val_dataloader.dataset.get("type", "validation split")
    return f"{name}, {len(result.captions):,} queries, {len(result.gallery_ids):,} images, {time.strftime('%Y-%m-%d')}"


def _curves(calibration: Calibration, result: RetrievalResult, split: str) -> dict[str, dict]:
    return {
        f"{_NAMES[stage]}, {split} ({len(result.gallery_ids):,} images)": reliability(
            calibration.probability(stage, scores, len(result.gallery_ids)), right
        )
        for stage, (scores, right) in scored_pairs(result).items()
    }
