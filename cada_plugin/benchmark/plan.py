"""Turns the request for a benchmark into a plan of its runs, with every check that is possible before training.

The folder of a benchmark::

    <out>/results.{json,csv,md}, accuracy.png, cost.png
    <out>/<config name>/<config name>.py      the config as it is run, overrides included
    <out>/<config name>-<variant>/...         the same for each variant of it
    <out>/<config name>/cross_<other>.py      the same with the test set of another config
    <out>/<config name>/cost/                 cost.json, cost.log, failure.json
    <out>/<config name>/seed0/                a work dir; "given" in place of "seed0" for a given checkpoint
        run.json, metrics.json, queries.npz, partial.json (procedural people), train.log, test.log, failure.json
        cross_<other>/                        its test on the other test set
    <out>/<config name>/start/                the test of the weights that its training starts from
    <out>/oracles.json                        the ceilings of procedural people, see ``oracles``
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from cada_plugin.benchmark.records import Records, read_records
from cada_plugin.benchmark.variants import Variant, check_variants
from cada_plugin.checkpoints.io import shipped_path
from cada_plugin.datasets.procedural.partial import is_procedural
from cada_plugin.engine.config import SETTINGS, override, settings_of
from cada_plugin.engine.start import prepare, use_amp
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.files import content_digest, replacing, writable_file, writable_folder
from cada_plugin.integrations.any_config import read_any_config


@dataclass(frozen=True)
class Run:
    """One training with its test, or only a test: of a ``given`` checkpoint (then ``seed`` is None), or of the
    checkpoint of another run with the same training, ``trained_as``. With ``partial``, it is also tested on short and
    on wrong captions, which only procedural people have.

    The children read ``config``, which is a copy, so that editing its source during a benchmark does not affect the
    later seeds.
    """

    row: str
    config: Path
    folder: Path
    seed: int | None
    given: Path | None = None
    trained_as: "Run | None" = None
    partial: bool = False

    @property
    def label(self) -> str:
        return self.row if self.seed is None else f"{self.row} seed {self.seed}"

    def records(self) -> Records:
        return read_records(self.folder, noted=True)


@dataclass(frozen=True)
class CrossTest:
    """A test of the checkpoint of ``run`` on the test set of another config, ``target``."""

    run: Run
    target: str
    config: Path
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.run.label} on {self.target}"

    def records(self) -> Records:
        return read_records(self.folder)


@dataclass(frozen=True)
class Row:
    """One row of the tables: a config or a variant of it. Its ``name`` is the stem of the config file, or
    ``<stem>-<variant>`` for a variant. ``start`` is the test of the weights that the config starts from; it has none if
    it starts from scratch, and a variant has none."""

    name: str
    source: str
    folder: Path
    test_set: dict
    runs: tuple[Run, ...]
    cross_tests: tuple[CrossTest, ...]
    start: Run | None = None

    @property
    def cost(self) -> Path:
        return self.folder / "cost"


@dataclass(frozen=True)
class Plan:
    """Everything that a benchmark runs. ``cross`` maps the name of each config of ``--cross`` to its test set;
    ``configs`` maps the files that the children read to their content."""

    out: Path
    rows: tuple[Row, ...]
    cross: dict[str, dict]
    configs: dict[Path, Config]
    command: str = "cada benchmark"

    def prepare(self) -> None:
        """Make the folders and write the configs.

        Raises:
            ConfigError: ``--out`` or a folder in it cannot be written to. This is checked before hours of training.
        """
        for name in ("results.json", "results.csv", "results.md", "accuracy.png", "cost.png"):
            writable_file(self.out / name, "--out")
        starts = [row.start for row in self.rows if row.start is not None]
        for folder in (run.folder for run in (*(run for row in self.rows for run in row.runs), *starts)):
            writable_folder(folder, "--out")
        for path, config in self.configs.items():
            writable_file(path, "--out")
            with replacing(path) as temporary:
                temporary.write_text(config.pretty_text, encoding="utf-8")


@dataclass(frozen=True)
class Request:
    """The request for a benchmark; see the arguments of ``cada benchmark``. ``vary`` holds variants of the configs,
    ``save`` is the file that the results are written to as well, and ``command`` the command line, which they name."""

    configs: Sequence[str]
    out: str
    seeds: Sequence[int] = ()
    jobs: int = 1
    test_only: Sequence[str] = ()
    cross: Sequence[str] = ()
    amp: bool = False
    options: dict = field(default_factory=dict)
    vary: Sequence[Variant] = ()
    save: str | None = None
    command: str = "cada benchmark"


def make_plan(request: Request) -> Plan:
    """The plan for a request. Nothing is written.

    Raises:
        ConfigError: the request is impossible, contradicts itself, or contradicts the results already in ``--out``.
        CheckpointError: a given checkpoint does not exist.
    """
    out = Path(request.out)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder")
    if request.jobs < 1:
        raise ConfigError(f"--jobs {request.jobs}: run 1 or more at once")
    check_variants(request.vary, [Path(source).stem for source in request.configs])
    _check_names(request.configs, "configs", "a row of the tables is named after its file, so rename one")
    _check_rows(request)
    _check_names(request.cross, "configs of --cross", "a test set is named after the file, so rename one")
    seeds = _check_seeds(request)
    cross = {Path(path).stem: _test_set(_load(path, "test"), path) for path in request.cross}

    rows: list[Row] = []
    configs: dict[Path, Config] = {}
    for number, source in enumerate(request.configs):
        versions = _read_versions(source, request)
        trained: list[tuple[Config, list[Run]]] = []
        for name, config in versions.items():
            folder = out / name
            own = folder / f"{name}.py"
            configs[own] = config
            test_set = _test_set(config, source)
            partial = is_procedural(test_set)
            if request.test_only:
                given = Path(request.test_only[number])
                runs = [Run(name, own, folder / "given", None, given, partial=partial)]
            elif alike := next((runs for other, runs in trained if _trains_alike(config, other)), None):
                runs = [
                    Run(name, own, folder / run.folder.name, run.seed, trained_as=run, partial=partial) for run in alike
                ]
            else:
                runs = [Run(name, own, folder / f"seed{seed}", seed, partial=partial) for seed in seeds]
                trained.append((config, runs))
            weights = _start_weights(config) if name == Path(source).stem else None
            start = weights and Run(f"{name}, start weights", own, folder / "start", None, weights, partial=partial)
            cross_tests = []
            for target, dataset in cross.items():
                if dataset != test_set:  # the config's own test set needs no second test
                    path = folder / f"cross_{target}.py"
                    configs[path] = _with_test_set(config, dataset)
                    cross_tests += [CrossTest(run, target, path, run.folder / f"cross_{target}") for run in runs]
            rows.append(Row(name, source, folder, test_set, tuple(runs), tuple(cross_tests), start))
    for path, config in configs.items():
        _check_same_config(path, config)
    for row in rows:
        _check_same_checkpoint(row.runs[0])
        if row.start is not None:
            _check_same_checkpoint(row.start)
    return Plan(out, tuple(rows), cross, configs, request.command)


def _start_weights(config: Config) -> Path | None:
    """The local file or folder of weights that training starts from, if the config names one that exists."""
    path = ((config.model if "model" in config else None) or {}).get("init_cfg") or {}
    path = path.get("checkpoint") if isinstance(path, dict) else None
    found = Path(shipped_path(path)) if isinstance(path, str) else None
    return found if found is not None and found.exists() else None


def checkpoint_note(path: Path) -> dict:
    """Where a checkpoint is, and a digest of its content, by which it is recognised when it has been moved, copied or
    installed again."""
    return {"checkpoint": str(path.resolve()), "digest": content_digest(path)}


def set_name(test_set: dict) -> str:
    """A name of a test set for titles."""
    return f"{str(test_set['type']).rpartition('.')[2]} {test_set.get('split', '')}".strip()


def _check_names(paths: list[str], what: str, advice: str) -> None:
    for name, times in Counter(Path(path).stem for path in paths).items():
        if times > 1:
            same = ", ".join(path for path in paths if Path(path).stem == name)
            raise ConfigError(f"{times} {what} have the name {name} ({same}): {advice}")


def _check_seeds(request: Request) -> list[int]:
    if request.test_only:
        if request.seeds:
            raise ConfigError("--seeds is for training and --test-only does not train: leave one of them out")
        if len(request.test_only) != len(request.configs):
            raise ConfigError(
                f"--test-only got {len(request.test_only)} checkpoints for {len(request.configs)} configs: "
                "give one for each config, in their order"
            )
        for path in request.test_only:
            if not Path(path).exists():
                raise CheckpointError(f"checkpoint {path} of --test-only does not exist (looked in {Path.cwd()})")
    seeds = request.seeds or [0]
    for seed, times in Counter(seeds).items():
        if times > 1:
            raise ConfigError(f"--seeds has {seed} {times} times: the same run again says nothing new")
        if seed < 0:
            raise ConfigError(f"--seeds {seed}: use 0 or more")
    return seeds


def _check_rows(request: Request) -> None:
    """Check that no two rows of the tables have the same name, whether from a config or a variant."""
    names = [Path(source).stem for source in request.configs]
    names += [variant.row(Path(source).stem) for source in request.configs for variant in _variants(source, request)]
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(
                f"{times} rows of the tables would have the name {name}, which is made of the names of config and "
                "variant: rename one of them"
            )


def _variants(source: str, request: Request) -> list[Variant]:
    return [variant for variant in request.vary if variant.config in (None, Path(source).stem)]


def _read_versions(source: str, request: Request) -> dict[str, Config]:
    """A config and its variants by the names of their rows.

    Raises:
        ConfigError: one of them cannot be run, or two of them have the same settings.
    """
    versions = {Path(source).stem: _read_row(source, request)}
    for variant in _variants(source, request):
        config = _read_row(source, request, variant)
        for name, other in versions.items():
            if settings_of(config) == settings_of(other):
                raise ConfigError(
                    f"--vary: the variant {variant.name} of {source} has the same settings as {name}, so it would be "
                    "the same run again: leave it out, or correct it"
                )
        versions[variant.row(Path(source).stem)] = config
    return versions


def _trains_alike(config: Config, other: Config) -> bool:
    """Whether two configs agree in all settings that affect training, so that one training serves both."""
    tested = {"test_cfg", "test_dataloader", "test_evaluator"}
    one, two = ({k: v for k, v in settings_of(some).items() if k not in tested} for some in (config, other))
    return one == two


def _load(source: str, *jobs: str, options: dict | None = None, variant: Variant | None = None) -> Config:
    """A config that was checked for ``jobs`` (train, test), without the settings that the command of a run adds."""
    config = read_any_config(source)
    _override(config, source, options or {}, variant)
    for job in jobs:
        prepare(config, job, source, work_dir="-")
        if not config[f"{job}_dataloader"]:
            raise ConfigError(f"{source} has {job}_dataloader=None, so there is nothing to {job}")
    config.pop("work_dir")
    config.pop("launcher")
    return config


def _override(config: Config, source: str, options: dict, variant: Variant | None) -> None:
    """Apply ``--cfg-options`` and a variant, which has priority. Options that set variables of the config are applied
    last, because an image size, for example, must reach the pipeline of a variant as well."""
    own = variant.options if variant else {}
    override(config, {key: value for key, value in options.items() if key.partition(".")[0] in SETTINGS})
    if variant:
        override(config, own, f"--vary {variant.name}: {source}:")
    override(
        config,
        {key: value for key, value in options.items() if key.partition(".")[0] not in SETTINGS and key not in own},
    )


def _read_row(source: str, request: Request, variant: Variant | None = None) -> Config:
    """A config with all changes from the command line."""
    jobs = ["test"] if request.test_only else ["train", "test"]
    config = _load(source, *jobs, options=request.options, variant=variant)
    if request.amp:
        config.merge_from_dict({"test_cfg.amp": True})
        if not request.test_only:
            use_amp(config)
    try:
        same = Config.fromstring(config.pretty_text, ".py").to_dict() == config.to_dict()
    except Exception:  # a config that holds objects can raise anything when its text is read back
        same = False
    if not same:
        raise ConfigError(
            f"{source} holds objects that cannot be written as text, but each run reads a copy of it: "
            "name them by strings, such as type='AdamW'"
        )
    return config


def _test_set(config: Config, source: str) -> dict:
    """The data set of the test split without its pipeline, which belongs to the model."""
    dataset = config.to_dict()["test_dataloader"]["dataset"]
    if "pipeline" not in dataset:
        raise ConfigError(f"{source}: test_dataloader.dataset has no pipeline; a wrapped data set cannot be compared")
    return {key: value for key, value in dataset.items() if key != "pipeline"}


def _with_test_set(config: Config, dataset: dict) -> Config:
    content = config.to_dict()
    content["test_dataloader"]["dataset"] = dataset | {"pipeline": content["test_dataloader"]["dataset"]["pipeline"]}
    return Config(content)


def _check_same_config(path: Path, config: Config) -> None:
    """Raise if the folder has results of a different config. A config without results yet may be changed."""
    folder, cross = path.parent, path.stem != path.parent.name
    made = [f"{path.stem}/metrics.json"] if cross else ["last_checkpoint", "metrics.json", "cost.json"]
    if not path.is_file() or not any(any(folder.glob(f"*/{name}")) for name in made):
        return
    try:
        made_with = Config.fromfile(path)
    except Exception as error:  # a config is a Python file: it can fail in any way
        raise ConfigError(
            f"{path}, by which the results beside it were made, cannot be read any more: choose another --out, or "
            f"delete {folder}"
        ) from error
    there, asked = (dict(_settings(some.to_dict())) for some in (made_with, config))
    absent = object()
    differing = sorted(key for key in {*there, *asked} if there.get(key, absent) != asked.get(key, absent))
    if differing:
        key = differing[0]
        others = f" (and {len(differing) - 1} more settings)" if len(differing) > 1 else ""
        raise ConfigError(
            f"{folder} holds results of another {path.name}: {key} is {there.get(key, 'not set')!r} there and "
            f"{asked.get(key, 'not set')!r} now{others}. Choose another --out, or delete "
            + (f"{folder}/*/{path.stem}" if cross else str(folder))
        )


def _settings(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """All settings by their full dotted names. An empty dict counts as a setting."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _check_same_checkpoint(run: Run) -> None:
    if run.given is None or not (records := run.records()).tested:
        return
    there, now = records.notes, checkpoint_note(run.given)
    if there.get("digest") != now["digest"]:
        same = there["checkpoint"] == now["checkpoint"]
        what = f"{now['checkpoint']} as it was before it changed" if same else there["checkpoint"]
        raise ConfigError(f"{run.folder} holds results of {what}: choose another --out, or delete that folder")
