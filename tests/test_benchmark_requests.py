"""Requests to ``cada benchmark``: what is wrong with one is found before any work; what a plan makes of a good one."""

from pathlib import Path

import pytest
import runner_factory as factory
from benchmark_factory import write_configs
from mmengine.config import Config

from cada_plugin.benchmark import plan
from cada_plugin.benchmark import run as benchmark
from cada_plugin.benchmark.variants import Variant, read_grid
from cada_plugin.cli import main
from cada_plugin.integrations.yacs import to_mmengine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_configs(tmp_path_factory.mktemp("benchmark"))


def bad(*arguments: object, words: tuple[str, ...]) -> object:
    return pytest.param(arguments, words, id="-".join(words[0].split()[:4]))


BAD = [
    bad("tiny.py", "deep/tiny.py", words=("2 configs have the name tiny", "deep/tiny.py", "rename one")),
    bad("tiny.py", "--seeds", 0, 1, 0, words=("--seeds has 0 2 times",)),
    bad("tiny.py", "--seeds", -1, words=("--seeds -1", "0 or more")),
    bad("tiny.py", "nowhere.py", words=("no config file nowhere.py",)),
    bad("tiny.py", "syntax.py", words=("syntax.py cannot be read as a config",)),
    bad("tiny.py", "object.py", words=("object.py holds objects that cannot be written as text",)),
    bad("untested.py", words=("untested.py has test_dataloader=None",)),
    bad("tiny.py", "stage1.py", "--test-only", "tiny.py", words=("--test-only got 1 checkpoints for 2 configs",)),
    bad("tiny.py", "--test-only", "nowhere.pth", words=("checkpoint nowhere.pth of --test-only does not exist",)),
    bad("tiny.py", "--test-only", "tiny.py", "--seeds", 0, words=("--seeds is for training", "leave one")),
    bad("tiny.py", "--cross", "untested.py", words=("untested.py has test_dataloader=None",)),
    bad("tiny.py", "--cross", "nowhere.py", words=("no config file nowhere.py",)),
    bad("tiny.py", "--cross", "other.py", "deep/other.py", words=("2 configs of --cross have the name other",)),
    bad("tiny.py", "--jobs", 0, words=("--jobs 0: run 1 or more",)),
    bad("tiny.py", "--vary", "k: test_cfg.a=1", "k: test_cfg.a=2", words=("2 variants have the name k", "rename")),
    bad("tiny.py", "--vary", "k:", words=("variant k changes nothing", "'k: test_cfg.rerank_topk=8'")),
    bad("tiny.py", "--vary", "a b: test_cfg.a=1", words=("'a b' cannot be the name", "letters, digits, _ and -")),
    bad("tiny.py", "--vary", "other/b: test_cfg.a=1", words=("'other/b' varies other, which is not among", "(tiny)")),
    bad("tiny.py", "--vary", ": test_cfg.a=1", words=("'' cannot be the name of a variant",)),
    bad("tiny.py", "--vary", "k: test_cfg", words=("'k: test_cfg': expected KEY=VALUE pairs, got 'test_cfg'",)),
    bad("tiny.py", "--vary", "k: test_cfg.a='1", words=("No closing quotation", "'NAME: KEY=VALUE KEY=VALUE ...'")),
    bad("tiny.py", "--vary", "k: test_cfg.a=(1,2", words=("Imbalanced brackets", "'NAME: KEY=VALUE KEY=VALUE ...'")),
    bad("tiny.py", "--vary", "k: rerank_topk=1", words=("--vary k: tiny.py: rerank_topk would change", "test_cfg.re")),
    bad("tiny.py", "--vary", "k: model.type.x=1", words=("--vary k: tiny.py: model.type.x: ", "path of a setting")),
    bad(
        "tiny.py", "--vary", "k: test_cfg.rerank_topk=4", words=("variant k of tiny.py has the same settings as tiny,",)
    ),
    bad(
        "tiny.py",
        "--vary",
        "k: test_cfg.a=4",
        "l: test_cfg.a=4",
        words=("l of tiny.py has the same settings as tiny-k",),
    ),
    bad("tiny.py", "tiny-k.py", "--vary", "k: test_cfg.a=4", words=("2 rows of the tables would have the name",)),
    bad(
        "tiny.py",
        "--vary",
        "k8 test_cfg.a=4",
        words=("--vary k8 test_cfg.a=4: no grid file", "written 'NAME: KEY=VALUE ...'"),
    ),
    bad("tiny.py", "--vary", "nowhere.yml", words=("no grid file nowhere.yml", "such as my_grid.yml or grids/proc")),
    bad("tiny.py", "--vary", "grids/procedual", words=("did you mean grids/procedural or",)),
    bad("tiny.py", "--vary", "tiny.py", words=("tiny.py is no grid of variants: give a YAML file",)),
    bad("tiny.py", "--vary", "odd.yml", "twice.yml", words=("odd.yml is not valid YAML",)),
    bad("tiny.py", "--vary", "twice.yml", words=("twice.yml is not valid YAML: the key k is given twice",)),
    bad("tiny.py", "--vary", "list.yml", words=("list.yml is no grid of variants", "'test_cfg.rerank_topk: 8'")),
    bad("tiny.py", "--vary", "flat.yml", words=("flat.yml: test_cfg.rerank_topk has no settings",)),
    bad("tiny.py", "--vary", "number.yml", words=("the name 8 of a variant is no text: put it in quotes",)),
    bad("tiny.py", "--vary", "binary.yml", words=("binary.yml is not valid YAML",)),
]


GRIDS = {
    "odd": b"k8: {test_cfg.rerank_topk: 8",
    "twice": b"k: {test_cfg.a: 1}\nk: {test_cfg.a: 2}",
    "list": b"- test_cfg.a",
    "flat": b"test_cfg.rerank_topk: 8",
    "number": b"8: {test_cfg.rerank_topk: 8}",
    "binary": b"\xff\xfe\x00",
}


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_a_bad_request_ends_before_any_work(folder, capfd, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "tiny.py").write_text("")
    (folder / "syntax.py").write_text("model = dict(")
    (folder / "object.py").write_text(f"_base_ = ['{folder / 'tiny.py'}']\nrule = dict(of=lambda score: score)\n")
    (folder / "untested.py").write_text(f"_base_ = ['{folder / 'tiny.py'}']\ntest_dataloader = None\n")
    (folder / "tiny-k.py").write_text(f"_base_ = ['{folder / 'tiny.py'}']\n")
    for name, text in GRIDS.items():
        (folder / f"{name}.yml").write_bytes(text)
    assert main(["benchmark", *map(str, arguments), "--out", "nothing"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert not (folder / "nothing").exists()


def test_an_out_that_is_a_file_is_refused(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["benchmark", "tiny.py", "--out", "tiny.py"]) == 2
    assert "--out tiny.py is a file" in capfd.readouterr().err


@pytest.mark.parametrize("out", ["tiny.py/results", "/proc/results"])
def test_a_folder_that_cannot_be_written_is_found_before_the_work(folder, capfd, monkeypatch, out):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(benchmark, "run_all", lambda *_: pytest.fail("the work has begun"))
    assert main(["benchmark", "tiny.py", "--out", out]) == 2
    message = capfd.readouterr().err
    assert message.startswith(f"error: --out cannot be written to {out}")
    assert "Traceback" not in message


def test_every_run_reads_a_copy_with_the_overrides(folder, tmp_path):
    """Runs read copies that include bf16 and overrides; a YAML file is copied as the MMEngine config it stands for."""
    yaml = factory.REPO / "configs" / "yacs" / "torchreid_procedural.yml"
    request = plan.Request(
        configs=[str(folder / "tiny.py"), str(yaml)],
        out=str(tmp_path / "out"),
        seeds=[3],
        amp=True,
        options={"train_cfg.max_epochs": 7},
    )
    plan.make_plan(request).prepare()
    copies = [Config.fromfile(tmp_path / "out" / name / f"{name}.py") for name in ("tiny", "torchreid_procedural")]
    for copy in copies:
        assert (copy.optim_wrapper.type, copy.test_cfg.amp, copy.train_cfg.max_epochs) == (
            "cada_plugin.BF16OptimWrapper",
            True,
            7,
        )
    assert copies[0].test_dataloader.dataset.data_root == str(folder / "people")
    assert copies[1].model == to_mmengine(yaml).model


def test_a_variant_of_one_config_leaves_the_others_alone(folder):
    vary = [Variant("tiny/k2", {"test_cfg.rerank_topk": 2}), Variant("k3", {"test_cfg.rerank_topk": 3})]
    sources = [str(folder / name) for name in ("tiny.py", "other.py")]
    made = plan.make_plan(plan.Request(sources, str(folder / "no"), vary=vary))
    assert [row.name for row in made.rows] == ["tiny", "tiny-k2", "tiny-k3", "other", "other-k3"]


def test_what_a_command_line_overrides_reaches_variants(tmp_path):
    """Overridden variables also reach what the variant adds; where both set the same value, the variant wins."""
    request = plan.Request(
        ["cada_procedural"],
        str(tmp_path / "out"),
        options={"image_size": (64, 32), "test_cfg.rerank_topk": 5},
        vary=[one for one in read_grid("grids/procedural") if one.row("x") in ("x-mask_random", "x-k8")],
    )
    configs = {path.stem: config for path, config in plan.make_plan(request).configs.items()}
    pipeline = configs["cada_procedural-mask_random"].train_dataloader.dataset.pipeline
    assert [tuple(step.size) for step in pipeline if "size" in step] == [(64, 32)] * 2
    assert [config.test_cfg.rerank_topk for config in configs.values()] == [5, 5, 8]
