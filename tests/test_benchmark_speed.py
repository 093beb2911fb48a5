"""``cada speed``: what it counts, compares and prints. No test depends on measured times."""

import json
import os
import signal
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cada_plugin import get_config
from cada_plugin.benchmark.resources import count_flop
from cada_plugin.benchmark.speed import curves, gpu, inputs, whole
from cada_plugin.benchmark.speed import measure as measuring
from cada_plugin.benchmark.speed import work as works
from cada_plugin.benchmark.speed.inputs import build_model, caption_words, random_captions, training_batch
from cada_plugin.benchmark.speed.measure import Side, Work, interleave, measure, peak_memory
from cada_plugin.cli import main
from cada_plugin.errors import CADAError
from cada_plugin.retrieval.rerank import match_shortlists

REPO = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
MB = 2**20

# ---------------------------------------------------------------- the tool


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measuring, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(measuring, "_MATRIX_SIDE", {"cpu": 64})
    for module in (measuring, curves):  # processes are started where they are looked at
        monkeypatch.setattr(module, "peak_memory", lambda *_: 7 * MB)


def run(*arguments: object) -> int:
    return main(["speed", *(str(argument) for argument in arguments)])


def results(folder: Path, work: str, *arguments: object) -> list[dict] | dict:
    """What the tool writes; ``--size tiny`` where it has a size."""
    size = () if work == "rank" else ("--size", "tiny")
    assert run(work, "--device", "cpu", *size, *arguments, "--json", folder / "out.json") == 0
    content = json.loads((folder / "out.json").read_text())
    assert content["work"] == work
    assert content["machine"]["threads"] == torch.get_num_threads()
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    return content["results"]


def cells(shown: str, side: str) -> list[str]:
    (line,) = (line for line in shown.splitlines() if line.startswith(f"| {side} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_train(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(measuring, "peak_memory", peak_memory)
    (result,) = results(tmp_path, "train", "--batch-size", 4, "--rounds", 2)
    ours, plain = result["sides"]["ours"], result["sides"]["reference"]
    for side in (ours, plain):
        assert side["amount"] == 4
        assert len(side["seconds"]) == result["rounds"] == 2
        assert side["per_second"] == pytest.approx(4 / statistics.mean(side["seconds"]))  # the median of two
        assert side["flop_per_s"] == pytest.approx(side["flop"] * side["per_second"] / 4)
        assert side["of_matrix_rate"] == pytest.approx(side["flop_per_s"] / result["matrix_flop_per_s"]["float32"])
        assert side["peak_memory_mb"] > 10
    assert ours["flop"] < plain["flop"]
    rounds = [b / a for a, b in zip(ours["seconds"], plain["seconds"], strict=True)]
    assert result["ratios"]["reference"]["rounds"] == pytest.approx(rounds)
    assert result["ratios"]["reference"]["max"] == pytest.approx(max(rounds))
    assert result["difference"] < 1e-4
    shown = capfd.readouterr().out
    assert "batch 4, grouping tokens, captions of 23." in shown
    assert cells(shown, "ours")[1] == "float32"
    assert len(cells(shown, "side")) == 8
    assert f"{statistics.median(rounds):.2f} [{min(rounds):.2f}, {max(rounds):.2f}] in 2 rounds" in shown


@pytest.mark.slow
def test_train_with_the_released_grouping_in_bf16(tmp_path, capfd):
    arguments = ("--batch-size", 2, "--rounds", 1, "--grouping", "position", "--amp")
    (result,) = results(tmp_path, "train", *arguments)
    assert " where both compute in float32" in capfd.readouterr().out  # and not of what was timed
    assert {name: side["dtype"] for name, side in result["sides"].items()} == {
        "ours": "bfloat16",
        "reference": "float32",
    }
    assert result["matrix_flop_per_s"].keys() == {"bfloat16", "float32"}
    both = works.train("tiny", 2, "tokens", "cpu", "both", "reference")
    assert {side.dtype for side in both.sides.values()} == {torch.bfloat16}


def test_encode(tmp_path):
    images, captions = results(tmp_path, "encode", "--batch-size", 4, "--rounds", 1)
    assert images["sides"].keys() == {"ours"}
    assert images["ratios"] == {}
    assert captions["sides"].keys() == {"ours", "reference"}
    assert captions["difference"] < 1e-4
    assert captions["sides"]["ours"]["flop"] < captions["sides"]["reference"]["flop"]


def test_rerank_scores_as_many_pairs_as_captions_share_images(tmp_path):
    (result,) = results(tmp_path, "rerank", "--k", 6, "--sharing", 5, "--images", 2, "--rounds", 1)
    ours, plain = result["sides"]["ours"], result["sides"]["reference"]
    assert (ours["amount"], plain["amount"]) == (10, 12)  # whole shortlists
    assert result["difference"] < 1e-4
    ratio = (plain["seconds"][0] / 12) / (ours["seconds"][0] / 10)
    assert result["ratios"]["reference"]["median"] == pytest.approx(ratio)


def test_rerank_against_the_decoder_of_transformers(tmp_path):
    (result,) = results(tmp_path, "rerank", "--k", 4, "--sharing", 5, "--images", 2, "--rounds", 1, "--against", "blip")
    sides = result["sides"]
    assert sides.keys() == {"ours", "reference", "blip"}
    assert sides["blip"]["flop"] == sides["reference"]["flop"] > sides["ours"]["flop"]
    assert result["ratios"].keys() == {"reference", "blip"}
    assert result["difference"] < 1e-4  # of both other sides


@pytest.mark.slow
def test_rerank_notices_other_scores(tmp_path, monkeypatch, capfd):
    def wrong(*args: object, **kwargs: object) -> torch.Tensor:
        return match_shortlists(*args, **kwargs).roll(1, 0)

    monkeypatch.setattr("cada_plugin.benchmark.speed.work.match_shortlists", wrong)
    assert (
        run("rerank", "--device", "cpu", "--size", "tiny", "--k", 4, "--sharing", 4, "--images", 4, "--rounds", 1) == 2
    )
    assert "the sides differ by" in capfd.readouterr().err


def test_rank(tmp_path, capfd):
    arguments = ("--items", 300, "--torchreid-size", 100, "--rounds", 1)
    large, small = results(tmp_path, "rank", *arguments)
    assert small["sides"].keys() == {"ours", "torchreid"}
    assert small["difference"] < 1e-3
    assert small["sides"]["ours"]["flop"] is None
    assert small["sides"]["torchreid"]["peak_memory_mb"] == 7
    assert (large["sides"].keys(), large["sides"]["ours"]["amount"]) == ({"ours"}, 300)
    assert len(cells(capfd.readouterr().out, "torchreid")) == 5
    (whole,) = results(tmp_path, "rank", "--items", 100, "--torchreid-size", 100, "--rounds", 1)
    assert (whole["sides"].keys(), whole["title"]) == (small["sides"].keys(), small["title"])
    (alone,) = results(tmp_path, "rank", *arguments, "--against", "none")
    assert (alone["sides"].keys(), alone["title"]) == ({"ours"}, large["title"])


@pytest.mark.slow
def test_load(tmp_path, capfd):
    result = results(tmp_path, "load", "--images", 24, "--workers", 0, 1, "--rounds", 1, "--batch-size", 2)
    rates = {number: found["images_per_s"] for number, found in result["workers"].items()}
    assert rates == {n: pytest.approx(48 / result["workers"][n]["seconds"][0]) for n in ("0", "1")}
    need = result["training"]["images_per_s"]
    assert need == pytest.approx(2 / result["training"]["seconds"][0])
    assert "JPEG crops of 250x90" in result["title"]
    shown = capfd.readouterr().out
    assert "8 workers, each as fast as here" in shown
    assert f"{need / rates['1']:.2g} would do" in shown


def test_evaluate(tmp_path, capfd):
    result = results(tmp_path, "evaluate", "--queries", 25, "--gallery", 10, "--k", 4)
    seconds = result["seconds"]
    assert seconds["all"] == pytest.approx(seconds["encode"] + seconds["match"] + seconds["metrics"])
    assert min(seconds.values()) > 0
    assert result["peak_memory_mb"].keys() == {"host"}
    assert cells(capfd.readouterr().out, "match") == ["match", f"{seconds['match']:.1f}"]


@pytest.mark.slow
def test_curves(tmp_path, monkeypatch):
    for name, value in {
        "SHORTLISTS": (2, 4),
        "RERANK_K": 2,
        "RERANK_GALLERIES": (4, 6),
        "RERANK_COMPARED": 4,
        "METRIC_GALLERIES": (40, 60),
        "METRIC_COMPARED": 40,
        "CAPTION_WORDS": (8, 12),
        "BATCH_SIZES": (2,),
        "_METRIC_QUERIES": 20,
        "_MEMORY_QUERIES": (20, 30),
        "_BATCH": 2,
        "_STEPS": 1,
        "EVALUATIONS": (20, 30),
    }.items():
        monkeypatch.setattr(curves, name, value)
    assert run("curves", "--device", "cpu", "--rounds", 1, "--out", tmp_path / "curves") == 0
    panels = json.loads((tmp_path / "curves" / "curves.json").read_text())["results"]
    assert [len(panel["series"]["ours"]["x"]) for panel in panels if "ours" in panel["series"]] == [2, 2, 2, 2, 1, 2, 2]
    assert panels[3]["series"]["ours, 30 captions"]["y"] == [7, 7]
    by_title = {panel["title"]: panel["series"] for panel in panels}
    assert by_title["re-ranking against gallery size"]["reference"]["x"] == [4]
    assert by_title["metrics: time against gallery size"]["torchreid"]["x"] == [40]
    assert by_title["training on several processes"]["in proportion"]["x"] == [1, 2]
    assert min(by_title["two-stage evaluation: memory"]["ours"]["y"]) > 0
    picture = np.asarray(Image.open(tmp_path / "curves" / "curves.png").convert("L"), float)
    assert picture.shape[1] > 1000
    assert picture.std() > 10  # something is drawn


def test_all_rows_for_a_gpu_are_written_as_they_are_done(tmp_path, monkeypatch, capfd):
    """One row really runs, on the CPU and in this process; one fails, one takes too long, the last has no time left."""
    rows = {
        "a small step": ("train", "--batch-size", "2", "--rounds", "1", "--against", "none"),
        "an impossible one": ("train", "--batch-size", "1"),
        "a long one": ("evaluate",),
        "the last": ("encode",),
    }
    monkeypatch.setattr(gpu, "ROWS", rows)
    clock = iter((0.0, 1.0, 200.0, 300.0, 601.0))
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    limits = []

    def run_row(command: list[str], seconds: float) -> tuple[int, str]:
        limits.append(seconds)
        if "evaluate" in command:
            return 124, "so far"
        status, shown = main(command[3:]), capfd.readouterr()
        return status, shown.out + shown.err

    failed = gpu.measure_rows(tmp_path, "cpu", "tiny", 10, run_row)
    assert failed == ["an impossible one", "a long one", "the last"]
    assert limits == [599, 400, 300]
    assert json.loads((tmp_path / "1_train.json").read_text())["results"][0]["sides"].keys() == {"ours"}
    report = (tmp_path / "README.md").read_text()
    assert (
        "## A small step\n\n`cada speed train --batch-size 2 --rounds 1 --against none --size tiny --device cpu`"
        in report
    )
    assert "| ours |" in report
    assert "Not measured: exit status 2" in report
    assert "use 2 or more" in report
    assert report.count("Not measured: the limit of 10 minutes ended it") == 2


def test_a_row_has_a_process_of_its_own_which_ends_in_time():
    assert gpu.run_command([sys.executable, "-c", "print('done'); raise SystemExit(3)"], 60) == (3, "done\n")
    endless = "import time; print('begun', flush=True); time.sleep(60)"
    assert gpu.run_command([sys.executable, "-c", endless], 2) == (124, "begun\n")


def test_rows_that_were_not_measured_end_the_command_with_an_error(tmp_path, monkeypatch, capfd):
    def nothing(folder: Path, *_: object) -> list[str]:
        (folder / "README.md").write_text("the report")
        return ["re-ranking, bf16"]

    monkeypatch.setattr("cada_plugin.cli.speed.measure_rows", nothing)
    assert run("gpu", "--device", "cpu", "--out", tmp_path / "new") == 2
    shown = capfd.readouterr()
    assert "the report" in shown.out
    assert "not measured: re-ranking, bf16" in shown.err


def test_every_row_for_a_gpu_is_a_command(monkeypatch, tmp_path):
    parsed = []
    monkeypatch.setattr("cada_plugin.cli.speed.run_command", lambda _, args: parsed.append(args) or 0)
    for arguments in gpu.ROWS.values():
        assert run(*arguments, "--size", "tiny", "--device", "cpu", "--json", tmp_path / "x.json") == 0
    assert [args.work for args in parsed] == [arguments[0] for arguments in gpu.ROWS.values()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--device", "cuda"), "torch finds no GPU here, use --device cpu"),
        (("train", "--device", "gpu"), "--device gpu: use cpu or cuda"),
        (("train", "--batch-size", 1), "--batch-size 1: matching needs a wrong partner"),
        (("rerank", "--k", 2, "--images", 3), "--images 3 exceeds --k 2"),
        (("rank", "--items", 9), "R@10 needs 10 or more"),
        (("load", "--workers", -1), "--workers -1: use 0 or more"),
        (("evaluate", "--size", "tiny", "--queries", 9, "--gallery", 10), "--gallery 10 exceeds --queries 9"),
        (("evaluate", "--size", "tiny", "--queries", 9, "--gallery", 9, "--k", 10), "--k 10 exceeds the gallery"),
    ],
)
def test_impossible_requests(arguments, words, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("curves", "--out", "/proc/curves"), "--out cannot be written to /proc/curves"),
        (("rank", "--json", "/proc/results/rank.json"), "--json cannot be written to /proc/results"),
        (("rank", "--json", "/"), "--json / is a folder"),
    ],
)
def test_what_cannot_be_written_is_found_before_measuring(arguments, words, capfd, monkeypatch):
    for work in ("measure", "measure_curves"):
        monkeypatch.setattr(f"cada_plugin.cli.speed.{work}", lambda *_: pytest.fail("measured already"))
    assert run(*arguments) == 2
    assert capfd.readouterr().err.startswith(f"error: {words}")


@pytest.mark.parametrize("arguments", [("train", "--rounds", 0), ("rank", "--amp"), ("load", "--against", "none"), ()])
def test_unknown_options(arguments, capfd):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert "usage:" in capfd.readouterr().err


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("count", [8, 16, 1000])
def test_captions_are_as_long_as_those_of_cuhk_pedes(count):
    words = caption_words(count)
    assert words.float().mean() == pytest.approx(23.5, abs=0.3)
    assert words.min() >= 12
    assert words.max() <= 60
    assert len(words) == count
    if count == 1000:
        assert words.max() == 60
        assert words.float().std() == pytest.approx(8.5, abs=0.5)


def test_random_captions_and_batches_are_what_the_loader_makes():
    model = build_model("tiny")
    words = torch.tensor([12, 60, 25])
    ids, mask = random_captions(words, model.tokenizer)
    assert mask.sum(1).tolist() == [15, 64, 29]  # 1.08 pieces a word, [CLS], [SEP]; cut at max_length
    start, end = model.tokenizer.encode("").input_ids
    assert (ids[:, 0] == start).all()
    assert [int(row[real][-1]) for row, real in zip(ids, mask, strict=True)] == [end] * 3
    special = torch.tensor(model.tokenizer._tokenizer.all_special_ids)
    assert torch.isin(ids, special).sum() == 6 + (~mask).sum()  # [CLS], [SEP] and padding
    inputs, samples = training_batch(model, caption_words(64))
    masked = inputs["masked_positions"]
    assert len({sample.person_id for sample in samples}) == 64
    assert (masked & ~inputs["attention_mask"]).sum() == 0
    assert not masked[:, 0].any()
    assert (inputs["input_ids"][masked] != end).all()
    assert masked.sum() / inputs["attention_mask"].sum() == pytest.approx(0.17, abs=0.03)
    assert (inputs["masked_ids"] == inputs["input_ids"])[~masked].all()
    assert (inputs["masked_ids"][masked] == model.tokenizer.mask_id).all()


def test_the_vocabulary_of_size_base_is_as_large_as_blips(tmp_path):
    path = inputs.write_vocabulary(tmp_path)
    words = path.read_text().splitlines()
    assert len(set(words)) == len(words) == 30_522
    cfg = get_config(inputs.CONFIGS["base"]).model
    assert (cfg.text_encoder.width, cfg.text_encoder.depth, cfg.text_encoder.dropout) == (768, 12, 0.1)


def test_jpeg_crops(tmp_path):
    kilobytes = inputs.write_people(tmp_path, 5)
    image = Image.open(tmp_path / "3.jpg")
    assert (image.format, image.size) == ("JPEG", (90, 250))
    assert 5 < kilobytes < 15
    assert kilobytes == pytest.approx(sum(path.stat().st_size for path in tmp_path.glob("*.jpg")) / 5000)


def test_every_image_of_an_evaluation_has_a_caption():
    gallery = whole._Gallery(build_model("tiny"), queries=23, gallery=10)
    counts = [len(gallery[i]["inputs"]["input_ids"]) for i in range(len(gallery))]
    assert (len(counts), sum(counts), min(counts), max(counts)) == (10, 23, 2, 3)


# ---------------------------------------------------------------- measuring


def test_flop_of_a_linear_layer_with_its_backward_pass():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    assert count_flop(lambda: layer(x).sum().backward()) == 2 * (2 * 3 * 5 * 7)  # forward, gradient of the weight
    x.requires_grad_()
    assert count_flop(lambda: layer(x).sum().backward()) == 3 * (2 * 3 * 5 * 7)


def test_flop_of_the_text_encoder_are_those_of_its_real_tokens():
    model = build_model("tiny").eval()
    ids, mask = random_captions(caption_words(6), model.tokenizer)
    lengths = mask.sum(1).tolist()
    P, N, C, D = len(lengths), sum(lengths), model.text_encoder.width, 128
    linear = 2 * C * C  # of one token
    attention = 2 * 2 * C  # of one asking and one asked token: scores and sum
    # query, key, value, output; feed-forward four times as wide
    whole = N * (4 + 8) * linear + sum(length**2 for length in lengths) * attention
    last = 2 * N * linear + P * (2 + 8) * linear + N * attention  # key and value of all, the rest of [CLS] alone
    depth = len(model.text_encoder.encoder.layer)
    with torch.no_grad():
        counted = count_flop(lambda: model.encode_text(ids, mask))
    assert counted == (depth - 1) * whole + last + 2 * P * C * D


def test_sides_are_timed_in_turn():
    order = []
    times = interleave({name: partial(order.append, name) for name in "ab"}, 3, CPU)
    assert "".join(order[-6:]) == "ababab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_short_actions_are_repeated_until_a_timing_is_long_enough(monkeypatch):
    monkeypatch.setattr(measuring, "_LEAST_SECONDS", 0.02)
    calls = []
    (seconds,) = interleave({"a": partial(calls.append, None)}, 1, CPU)["a"]
    assert len(calls) > 1000
    assert seconds < 0.001  # of one


def holding(megabytes: int, times: int = 1) -> Callable[[], None]:
    def action() -> None:
        for _ in range(times):
            torch.ones(megabytes * MB // 4)

    return action


def allocations() -> Work:
    torch.ones(300 * MB // 4)  # a peak before the first call is not of the call
    sides = {
        "ours": Side(holding(64), 1),
        "other": Side(holding(40, times=9), 1),
        "dies": Side(lambda: os.kill(os.getpid(), signal.SIGKILL), 1),
    }
    return Work("allocations", "calls", CPU, sides, counted=False)


@pytest.mark.slow
def test_peak_memory_is_what_a_side_holds_at_once():
    """Read from Linux's /proc; unknown elsewhere."""
    linux = Path("/proc/self/clear_refs").exists()
    for side, held in {"ours": 64, "other": 40}.items():
        used = peak_memory(allocations, side)
        assert used == (pytest.approx(held * MB, abs=8 * MB) if linux else None)


def test_a_process_that_ends_while_its_memory_is_measured_is_named():
    with pytest.raises(CADAError, match=r"the process that measured the memory of dies was ended: out of memory\?"):
        peak_memory(allocations, "dies")


def different() -> Work:
    return Work("numbers", "calls", CPU, {"ours": Side(list, 1)}, difference=lambda: float("nan"), counted=False)


def test_results_that_differ_are_not_compared():
    with pytest.raises(CADAError, match="numbers: the sides differ by nan"):
        measure(different, 1)


def two_speeds() -> Work:
    return Work("sums", "rows", CPU, {"ours": Side(list, 4), "other": Side(list, 2)}, counted=False)


def test_ratios_are_of_the_time_for_one_unit(monkeypatch):
    monkeypatch.setattr(measuring, "peak_memory", lambda *_: None)
    monkeypatch.setattr(measuring, "interleave", lambda *_: {"ours": [2.0, 4.0, 2.0], "other": [3.0, 3.0, 5.0]})
    result = measure(two_speeds, 3)
    assert result["ratios"]["other"] == {"median": 3.0, "min": 1.5, "max": 5.0, "rounds": [3.0, 1.5, 5.0]}
    assert result["sides"]["ours"]["per_second"] == 2.0
    assert result["sides"]["ours"]["peak_memory_mb"] is None
