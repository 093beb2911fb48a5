"""Property tests with damaged files. A benchmark reports a damaged file and repeats its run; a yacs file gives a config
or one of our errors."""

import json
import tempfile
from functools import partial
from pathlib import Path

import benchmark_factory as factory
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config

from cada_plugin.benchmark import charts, report
from cada_plugin.benchmark import run as benchmark
from cada_plugin.benchmark.charts import draw_accuracy, draw_cost
from cada_plugin.benchmark.plan import Plan
from cada_plugin.benchmark.report import collect, write_reports
from cada_plugin.errors import CADAError
from cada_plugin.integrations.yacs import STYLES, convert
from cada_plugin.integrations.yacs_table import ROWS

HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SOME = settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
MANY = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([10**400, "\0", "~x/y"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def mutated_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """Cut off, overwritten in places, or anything at all."""
    cut = st.integers(0, len(content)).map(lambda end: content[:end])
    edits = st.lists(st.tuples(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 255)), min_size=1, max_size=4)

    def overwrite(places: list[tuple[int, int]]) -> bytes:
        changed = bytearray(content)
        for place, byte in places:
            changed[place] = byte
        return bytes(changed)

    return cut | edits.map(overwrite) | st.binary(max_size=60)


def mutated_json(content: dict) -> st.SearchStrategy[bytes]:
    """Values replaced, keys left out or added, or other bytes."""
    changes = st.dictionaries(st.sampled_from(list(content)) | st.text(max_size=5), VALUES, min_size=1, max_size=3)
    gone = st.sets(st.sampled_from(list(content)), max_size=3)
    objects = st.builds(lambda new, old: {k: v for k, v in {**content, **new}.items() if k not in old}, changes, gone)
    return (objects | VALUES).map(lambda value: json.dumps(value).encode()) | mutated_bytes(
        json.dumps(content).encode()
    )


def arrays() -> st.SearchStrategy[np.ndarray]:
    numbers = st.lists(st.integers(-3, 3), max_size=factory.QUERIES)
    return st.builds(
        lambda values, kind, shape: np.array(values, int).astype(kind).reshape(shape),
        numbers.filter(lambda values: len(values) % 2 == 0),
        st.sampled_from(["i8", "u4", "f4", "U3", "?", "c8", "O"]),
        st.sampled_from([(-1,), (-1, 1), (2, -1)]),
    )


def queries_files() -> st.SearchStrategy[bytes]:
    def written(changes: dict) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            factory.write_queries(Path(folder) / "queries.npz", **changes)
            return (Path(folder) / "queries.npz").read_bytes()

    keys = st.sampled_from(["person_ids", "caption_crc32", "t2i/first_rank", "t2i_global/first_rank", "other"])
    return st.dictionaries(keys, arrays(), min_size=1, max_size=3).map(written) | mutated_bytes(written({}))


CONTENTS = {name: mutated_json(content) for name, content in factory.FILES.items()} | {"queries.npz": queries_files()}


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """A plan whose charts are drawn but not saved, and whose bootstrap uses few resamples."""
    monkeypatch.setattr(benchmark, "machine", lambda: factory.COST["machine"])
    monkeypatch.setattr(report, "paired_bootstrap", partial(report.paired_bootstrap, num_samples=20))
    monkeypatch.setattr(charts.Figure, "savefig", lambda self, path, **_: Path(path).write_text(""))
    return factory.write_benchmark(tmp_path / "out")


def check_benchmark(plan: Plan, file: str, limits: settings, examples: dict[str, int]) -> None:
    folder = plan.rows[0].cost if file == "cost.json" else plan.rows[0].runs[0].folder
    label = "cost of one" if file == "cost.json" else "one seed 0"

    @limits
    @given(content=CONTENTS[file])
    def check(content: bytes) -> None:
        (folder / file).write_bytes(content)
        finished = factory.done(plan)
        assert all(fine for name, fine in finished.items() if name != label)
        examples["whole" if finished[label] else "again"] += 1
        benchmark._name_damage(plan)
        results = collect(plan)
        write_reports(plan.out, results)
        json.loads((plan.out / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN has come through
        draw_accuracy(results, plan.out / "accuracy.png")
        draw_cost(results, plan.out / "cost.png")

    check()


@pytest.mark.slow
@pytest.mark.parametrize("file", CONTENTS)
def test_some_damaged_files(file, plan):
    check_benchmark(plan, file, SOME, {"whole": 0, "again": 0})


@pytest.mark.slow
@pytest.mark.parametrize("file", CONTENTS)
def test_many_damaged_files(file, plan):
    examples = {"whole": 0, "again": 0}
    check_benchmark(plan, file, MANY, examples)
    assert examples["again"] > 20


# ---------------------------------------------------------------- yacs

BASES = {
    "fastreid": {"MODEL.CADA.BASE_CONFIG": "base.py", "SEED": 1},
    "torchreid": {"cada.base_config": "base.py", "train.seed": 1},
}
NEAR_VALUES = (
    VALUES
    | st.sampled_from([0, 1, -1, 7, 0.0, 1e-3, "1", "0.5", "None", "[1, 2]", "('CUHKPEDES',)", "Adam", "SGD", "cosine"])
    | st.sampled_from([[384, 128], [1, 2], [2, 1], ["CUHKPEDES"], "MultiStepLR", "linear", "tokens", True, False])
)


GOOD = {
    int: st.integers(0, 60),
    float: st.floats(0, 1),
    bool: st.booleans(),
    str: st.sampled_from(["a", "x.pth", "Adam", "SGD", "cosine", "MultiStepLR", "constant", "tokens", "image"]),
    list: st.sampled_from([[384, 128], [1.0, 2.0], [5, 7], ["ProceduralPEDES"]]),
}


def yaml_files(style: str) -> st.SearchStrategy[bytes]:
    rows = st.sampled_from([row for row in ROWS[1:] if row.key(style)])
    keys = rows.flatmap(lambda row: st.tuples(st.just(row.key(style)), GOOD[row.kind]))
    values = rows.flatmap(lambda row: st.tuples(st.just(row.key(style)), NEAR_VALUES))
    names = rows.map(lambda row: row.key(style).lower()) | st.text(max_size=6) | st.just("_BASE_")
    strangers = st.tuples(names, NEAR_VALUES)
    trees = st.lists(keys, max_size=4) | st.lists(values, max_size=2) | st.lists(keys | strangers, max_size=3)
    trees = trees.map(lambda pairs: BASES[style] | dict(pairs))
    texts = trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode())
    odd = st.sampled_from(
        [b"a: &a [*a]", b"SEED: 2001-99-99", b"SEED: !!binary x", b"? [1]\n: 2", b"<<: 3", b"SEED: 0b", b"- " * 2000]
    )
    return texts | texts.flatmap(mutated_bytes) | odd


def check_yaml(style: str, folder: Path, limits: settings, examples: dict[str, int]) -> None:
    base = Config.fromfile(Path(__file__).parents[1] / "configs" / "cada_procedural.py")
    base.dump(folder / "base.py")

    @limits
    @given(content=yaml_files(style), ignore_unknown=st.booleans(), world_size=st.integers(1, 3))
    def check(content: bytes, ignore_unknown: bool, world_size: int) -> None:
        (folder / "run.yml").write_bytes(content)
        try:
            config, said = convert(folder / "run.yml", (), world_size, ignore_unknown)
        except CADAError:
            examples["refused"] += 1
            return
        examples["read"] += 1
        assert config.train_cfg.max_epochs >= 1
        assert config.train_dataloader.batch_size >= 1
        assert str(said)

    check()


@pytest.mark.parametrize("style", STYLES)
def test_some_yacs_files(style, tmp_path):
    check_yaml(style, tmp_path, SOME, {"read": 0, "refused": 0})


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_many_yacs_files(style, tmp_path):
    examples = {"read": 0, "refused": 0}
    check_yaml(style, tmp_path, MANY, examples)
    assert min(examples.values()) > 5, examples
