"""Fit the probabilities of a model's scores on its validation split, so that `cada search --min-score 0.5` means
something.

cada calibrate cada_procedural work_dirs/cada_procedural/epoch_2.pth

This writes epoch_2.calibration.json beside the checkpoint, where `cada index` and `load_retriever` look for it, and the
picture epoch_2.reliability.png: what probability was stated, and how often it was right. --check-test adds the test
split to the picture, whose people the fit has not seen. Of a model that judges phrases, the probability that a single
phrase is true is fitted too.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config

from cada_plugin.apis import Retriever, load_uncalibrated
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.cli.common import add_common_arguments, add_yaml_arguments, read_job
from cada_plugin.cli.running import run_command
from cada_plugin.engine.start import evaluate_split
from cada_plugin.errors import ConfigError
from cada_plugin.evaluation.calibration import (
    Calibration,
    JudgedPhrases,
    calibrate,
    calibration_path,
    reliability,
    scored_pairs,
)
from cada_plugin.evaluation.result import RetrievalResult
from cada_plugin.files import writable_file
from cada_plugin.portable.meanings import Meaning, phrase_meaning
from cada_plugin.portable.phrases import lexicon_tags, whole_phrase_spans
from cada_plugin.portable.stages import FINAL, STAGE_ONE
from cada_plugin.progress import progress_bar
from cada_plugin.text import EncodedCaption
from cada_plugin.text.known_people import EncodedMeanings, known_people
from cada_plugin.visualization import draw_reliability

_MOST_CAPTIONS, _LOOKALIKES = 1000, 4  # whose phrases are judged, each on so many pictures
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
    retriever, _ = load_uncalibrated(config, args.checkpoint)  # an old calibration may be unreadable
    result = evaluate_split(config, args.checkpoint, "val", args.amp)
    phrases = _judged_phrases(retriever, result, "val")
    about = _about(config, result)
    calibration = calibrate(result, retriever.fingerprint(), about, phrases, retriever.phrase_weight)
    curves = _curves(calibration, result, phrases, "validation")
    if args.check_test:
        tested = evaluate_split(config, args.checkpoint, "test", args.amp)
        curves |= _curves(calibration, tested, _judged_phrases(retriever, tested, "test"), "test")
    calibration.save(target)
    draw_reliability(curves, f"{Path(args.config).stem}: how far a score can be trusted", picture)
    for name, curve in curves.items():
        print(f"{name}: mean difference of stated and true probability {curve['error']:.3f}")
    print(f"written: {target}, {picture}")


def _about(config: Config, result: RetrievalResult) -> str:
    name = config.val_dataloader.dataset.get("type", "validation split")
    return f"{name}, {len(result.captions):,} queries, {len(result.gallery_ids):,} images, {time.strftime('%Y-%m-%d')}"


def _curves(
    calibration: Calibration, result: RetrievalResult, phrases: JudgedPhrases | None, split: str
) -> dict[str, dict]:
    curves = {
        f"{_NAMES[stage]}, {split} ({len(result.gallery_ids):,} images)": reliability(
            calibration.probability(stage, scores, len(result.gallery_ids)), right
        )
        for stage, (scores, right) in scored_pairs(result).items()
    }
    if phrases is not None:
        name = f"phrases, {split} ({len(phrases.true):,})"
        curves[name] = reliability(calibration.phrase_probability(phrases.features), phrases.true)
    return curves


def _judged_phrases(retriever: Retriever, result: RetrievalResult, split: str) -> JudgedPhrases | None:
    """The phrases of captions, judged on the first pictures of other people by the cosine, as far as the captions of
    these people tell whether they are true. As many true as false ones are left, a random part of the larger kind. None
    if the model judges no phrases, or if there is only one kind."""
    if not retriever.judges_phrases:
        return None
    encoded = [retriever.tokenizer.encode(caption) for caption in result.captions]
    said = [_phrases(caption) for caption in encoded]
    of_people: dict[int, list[list[Meaning]]] = {}
    for person, phrases in zip(result.query_ids.tolist(), said, strict=True):
        of_people.setdefault(person, []).append([meaning for _, meaning in phrases])
    known = known_people(of_people)
    meanings = [EncodedMeanings.of([meaning for _, meaning in phrases]) for phrases in said]
    shown: dict[int, list[int]] = {}  # for each picture the captions that are judged on it
    for query in range(min(len(said), _MOST_CAPTIONS)):
        own = (result.gallery_ids == result.query_ids[query]).to(result.text_embed.device)
        cosine = result.cosine(query, query + 1)[0].masked_fill(own, -math.inf)
        for image in cosine.topk(min(_LOOKALIKES, len(own) - int(own.sum()))).indices.tolist():
            shown.setdefault(image, []).append(query)
    features: list[np.ndarray] = []
    true: list[bool] = []
    for image, queries in progress_bar(sorted(shown.items()), desc="judging phrases", delay=2, leave=False):
        person = known.get(int(result.gallery_ids[image]))
        if person is None:  # without captions
            continue
        tokens = retriever.encode_image([result.img_paths[image]]).tokens
        for query in queries:
            truths = person.judge(meanings[query])
            if (truths >= 0).any():
                spans = [span for span, _ in said[query]]
                features.append(retriever.judge_phrases(encoded[query], spans, tokens)[truths >= 0])
                true += (truths[truths >= 0] == 1).tolist()
    kinds = np.flatnonzero(true), np.flatnonzero(~np.array(true, dtype=bool))
    fewest = min(map(len, kinds))
    if not fewest:
        missing = "false" if any(true) else "true"
        print(f"phrases of the {split} split are not calibrated: none is known to be {missing}", file=sys.stderr)
        return None
    kept = np.concatenate([np.random.default_rng(0).permutation(kind)[:fewest] for kind in kinds])
    return JudgedPhrases(np.concatenate(features)[kept], np.array(true)[kept])


def _phrases(encoded: EncodedCaption) -> list[tuple[tuple[int, int], Meaning]]:
    """Spans of words and meanings of the phrases of a caption that the model reads."""
    words = encoded.read_words
    return [
        ((start, stop), phrase_meaning(words[start:stop]))
        for start, stop in whole_phrase_spans(words, lexicon_tags(words))
    ]
