"""Fit the probabilities of a model's scores on its validation split, so that `cada search --min-score 0.5` means
something.

cada calibrate cada_procedural work_dirs/cada_procedural/epoch_2.pth

This writes epoch_2.calibration.json beside the checkpoint, where `cada index` and `load_retriever` look for it, and the
picture epoch_2.reliability.png: what probability was stated, and how often it was right. --check-test adds the test
split to the picture, whose people the fit has not seen.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.datasets import TextPersonDataset
from cada_plugin.engine.start import evaluate_split
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.calibration import Calibration, calibrate, calibration_path, reliability, scored_pairs
from cada_plugin.evaluation.result import RetrievalResult
from cada_plugin.files import writable_file
from cada_plugin.portable.phrases import lexicon_tags, phrase_spans
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.progress import progress_bar
from cada_plugin.registry import DATASETS
from cada_plugin.text.opposites import Opposites
from cada_plugin.visualization import draw_reliability

_MOST_CAPTIONS = 1000  # whose phrases are judged
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
    retriever = load_retriever(config, args.checkpoint)
    result = evaluate_split(config, args.checkpoint, "val", args.amp)
    phrases = _judged_phrases(retriever, config, "val")
    about = _about(config, result)
    calibration = calibrate(result, retriever.fingerprint(), about, phrases, retriever.phrase_weight)
    curves = _curves(calibration, result, phrases, "validation")
    if args.check_test:
        tested = evaluate_split(config, args.checkpoint, "test", args.amp)
        curves |= _curves(calibration, tested, _judged_phrases(retriever, config, "test"), "test")
    calibration.save(target)
    draw_reliability(curves, f"{Path(args.config).stem}: how far a score can be trusted", picture)
    for name, curve in curves.items():
        print(f"{name}: mean difference of stated and true probability {curve['error']:.3f}")
    print(f"written: {target}, {picture}")


def _about(config: Config, result: RetrievalResult) -> str:
    name = config.val_dataloader.dataset.get("type", "validation split")
    return f"{name}, {len(result.captions):,} queries, {len(result.gallery_ids):,} images, {time.strftime('%Y-%m-%d')}"


def _curves(
    calibration: Calibration, result: RetrievalResult, phrases: tuple[np.ndarray, np.ndarray] | None, split: str
) -> dict[str, dict]:
    curves = {
        f"{_NAMES[stage]}, {split} ({len(result.gallery_ids):,} images)": reliability(
            calibration.probability(stage, scores, len(result.gallery_ids)), right
        )
        for stage, (scores, right) in scored_pairs(result).items()
    }
    if phrases is not None:
        log_odds, true = phrases
        name = f"phrases, {split} ({len(true):,})"
        curves[name] = reliability(calibration.phrase_probability(log_odds), true)
    return curves


def _judged_phrases(retriever: Retriever, config: Config, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The log-odds of phrases of a split with its pictures, and which of them are true: one caption of each picture,
    each phrase once as it is and once made false. None if the model judges no phrases, or no phrase has an opposite."""
    if not retriever.judges_phrases:
        return None
    dataset = DATASETS.build({**config[f"{split}_dataloader"].dataset, "pipeline": []})
    if not isinstance(dataset, TextPersonDataset):
        raise ConfigError(
            f"the phrases of a {type(dataset).__name__} cannot be calibrated: calibrate on a data set of the plugin"
        )
    records = dataset.records[:_MOST_CAPTIONS]
    encoded = [retriever.tokenizer.encode(record["captions"][0]) for record in records]
    opposites = Opposites(one.words for one in encoded)
    torch.manual_seed(0)
    log_odds: list[float] = []
    true: list[bool] = []
    for record, one in zip(progress_bar(records, desc="judging phrases", delay=2, leave=False), encoded, strict=True):
        words = one.words[: max(one.word_index) + 1]  # those that have a token
        spans = phrase_spans(lexicon_tags(words))
        false_words, changed = opposites.falsify_spans(words, spans)
        falsified = [span for span, is_false in zip(spans, changed, strict=True) if is_false]
        other = retriever.tokenizer.encode(" ".join(false_words))
        if not falsified or max(other.word_index) + 1 != len(words):  # cut, or split into other words
            continue
        tokens = retriever.encode_image([record["img_path"]]).tokens
        for text, is_true in ((one, True), (other, False)):
            log_odds += retriever.phrase_log_odds(text, falsified, tokens).tolist()
            true += [is_true] * len(falsified)
    if not true:
        print(f"phrases of the {split} split are not calibrated: none of them has an opposite", file=sys.stderr)
        return None
    return np.array(log_odds), np.array(true)
