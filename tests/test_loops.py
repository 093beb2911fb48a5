"""Two-stage retrieval against a naive oracle, and what must not change its numbers."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import runner_factory as factory
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from mmengine.visualization import Visualizer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.collate import person_collate
from cada_plugin.engine import RankedGalleryHook, RetrievalTestLoop
from cada_plugin.engine.hooks import ranked_rows
from cada_plugin.engine.report import retrieval_table
from cada_plugin.errors import ConfigError, WorkerError, explain_lost_workers
from cada_plugin.evaluation import TextToImageRetrieval, rank_metrics
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.registry import MODELS, build_part
from cada_plugin.retrieval import match_shortlists
from cada_plugin.retrieval.rerank import _calls

GALLERY = 9


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    return Config.fromfile(factory.write_run(tmp_path_factory.mktemp("loops")))


@pytest.fixture(scope="module")
def model(config):
    """Untrained, but with weights so large that scores differ clearly."""
    torch.manual_seed(0)
    model = build_part(MODELS, config.model).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embeddings" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def dataset(config) -> ProceduralPEDES:
    cfg = config.test_dataloader.dataset
    return ProceduralPEDES(**{k: v for k, v in cfg.items() if k != "type"})


class StandInRunner:
    """The parts of a Runner that a loop uses."""

    def __init__(self, model: torch.nn.Module, work_dir: Path, cfg: dict) -> None:
        self.model, self.work_dir, self.cfg = model, str(work_dir), cfg
        self.logger = MMLogger.get_instance("loops")

    def call_hook(self, name: str, **kwargs: object) -> None:
        pass


@pytest.fixture
def evaluate(model, dataset, tmp_path):
    """``evaluate(rerank_topk=4, ...)``: metrics of the test split and the metric that holds the scores."""

    def run(
        rerank_topk: int = 4,
        batch_size: int = 4,
        data=dataset,
        metric: dict | None = None,
        loader: dict | None = None,
        **options,
    ):
        model_, cfg = options.pop("model", model), options.pop("cfg", {})
        dataloader = DataLoader(data, batch_size=batch_size, collate_fn=person_collate, **loader or {})
        evaluator = Evaluator([TextToImageRetrieval(**metric or {})])
        loop = RetrievalTestLoop(StandInRunner(model_, tmp_path, cfg), dataloader, evaluator, rerank_topk, **options)
        return loop.run(), evaluator.metrics[0]

    return run


def naive_scores(model, dataset, k: int, weight: float, hubs=lambda image: 0.0):
    """Cosines and final scores (Q, G), one query and one image at a time, and the person ids of both. ``hubs`` says
    what to subtract from the cosines of an image (1, D)."""
    items = [dataset[index] for index in range(len(dataset))]
    images, queries, query_ids, gallery_ids = [], [], [], []
    with torch.no_grad():
        for item in items:
            batch = model.data_preprocessor(person_collate([item]))
            images.append(model.encode_image(batch["inputs"]["images"]))
            gallery_ids.append(item["data_samples"].person_id)
            for ids in item["inputs"]["input_ids"]:
                queries.append(model.encode_text(ids[None], torch.ones(1, len(ids), dtype=torch.bool)))
                query_ids.append(item["data_samples"].person_id)
        cosine = torch.stack([torch.cat([query.embed @ image.embed.T for image in images], 1)[0] for query in queries])
        cosine = cosine - torch.tensor([[float(hubs(image.embed)) for image in images]])
        final = cosine - 100
        for row, query in enumerate(queries):
            for column in cosine[row].argsort(descending=True)[:k].tolist():
                memory = model.image_memory(images[column].tokens)
                logit = model.match(query, memory, torch.zeros(1, dtype=torch.long))
                final[row, column] = logit + weight * cosine[row, column]
    return cosine, final, query_ids, gallery_ids


@pytest.mark.parametrize(("k", "weight"), [(4, 1.0), (4, 0.0), (4, 20.0), (GALLERY, 1.0)])
def test_both_stages_agree_with_a_loop_over_single_pairs(evaluate, model, dataset, k, weight):
    metrics, metric = evaluate(rerank_topk=k, cosine_weight=weight)
    cosine, final, query_ids, gallery_ids = naive_scores(model, dataset, k, weight)
    torch.testing.assert_close(metric.result.cosine(0, 99), cosine)
    torch.testing.assert_close(metric.result.reranked(0, 99), final, rtol=1e-4, atol=1e-4)
    for prefix, scores in (("t2i_global", cosine), ("t2i", final)):
        for name, value in rank_metrics(scores, query_ids, gallery_ids, topk=(1, 5)).items():
            assert metrics[f"{prefix}/{name}"] == pytest.approx(value), (prefix, name)
    assert metrics["t2i/mAP"] != metrics["t2i_global/mAP"]


def test_hubness_among_the_training_captions_is_subtracted(evaluate, model, dataset, config, monkeypatch):
    monkeypatch.setattr("cada_plugin.datasets.base.verify_images", None)  # captions are read alone, and no picture
    metrics, metric = evaluate(cosine_weight=5.0, hubness={"weight": 3.0, "neighbours": 4}, cfg=config)
    train = {key: value for key, value in config.train_dataloader.dataset.items() if key != "type"}
    train_set = ProceduralPEDES(**train | {"pipeline": [], "verify_images": False})
    captions = [c for record in train_set.records for c in record["captions"]]
    assert len(captions) > 20
    with torch.no_grad():
        ids = [torch.tensor([model.tokenizer.encode(caption).input_ids]) for caption in captions]
        bank = torch.cat([model.encode_text(one, torch.ones_like(one, dtype=torch.bool)).embed for one in ids])

    def hubs(image):
        return 3.0 * sum(sorted((bank @ image[0]).tolist())[-4:]) / 4

    cosine, final, query_ids, gallery_ids = naive_scores(model, dataset, 4, 5.0, hubs)
    torch.testing.assert_close(metric.result.cosine(0, 99), cosine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metric.result.reranked(0, 99), final, rtol=1e-4, atol=1e-4)
    plain, _ = evaluate(cosine_weight=5.0)
    for prefix, scores in (("t2i_global", cosine), ("t2i", final)):
        assert metrics[f"{prefix}/mAP"] == pytest.approx(rank_metrics(scores, query_ids, gallery_ids, (1,))["mAP"])
        assert metrics[f"{prefix}/mAP"] != plain[f"{prefix}/mAP"]


FOREIGN = {"type": "ConcatDataset", "datasets": []}


@pytest.mark.parametrize(
    ("hubness", "cfg", "words"),
    [
        ({"weight": -1}, None, "hubness weight=-1: use a number from 0 to 10"),
        ({"weight": True}, None, "hubness weight=True"),
        ({"neighbours": 0}, None, "hubness neighbours=0: use an integer from 1"),
        ({"k": 3}, None, "hubness has no k: it takes weight and neighbours"),
        ({}, {}, "give the config a train_dataloader"),
        ({}, {"train_dataloader": {"dataset": FOREIGN}}, "is of type ConcatDataset: leave hubness out"),
    ],
)
def test_settings_of_hubness_that_cannot_be_used(evaluate, config, hubness, cfg, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(hubness=hubness, cfg=config if cfg is None else cfg)


def test_match_alone_is_the_shortlist_without_the_cosine(evaluate):
    metrics, _ = evaluate(cosine_weight=0.0)
    for name in ("R1", "R5", "R10", "mAP", "mINP"):
        assert metrics[f"t2i_match/{name}"] == metrics[f"t2i/{name}"]


def test_without_a_shortlist_there_is_one_stage(evaluate):
    metrics, _ = evaluate(rerank_topk=0)
    assert {n for n in metrics if "[" not in n} == {f"t2i_global/{n}" for n in ("R1", "R5", "R10", "mAP", "mINP")}


def test_a_model_that_cannot_match_has_one_stage(evaluate, config):
    dual = build_part(MODELS, {**config.model, "loss_atp": None, "loss_ara": None, "text_decoder": None})
    metrics, _ = evaluate(model=dual)
    assert {name.split("/")[0] for name in metrics if "/" in name} == {"t2i_global"}


def test_batch_size_changes_no_number(evaluate):
    reference, _ = evaluate(batch_size=9)
    for batch_size in (1, 4):
        assert evaluate(batch_size=batch_size)[0] == pytest.approx(reference, abs=1e-9)


def test_order_of_the_gallery_changes_no_number(evaluate, dataset):
    """Neither does the order of items in the loader: the metric sorts by sample index."""
    reference, _ = evaluate()
    shuffled, _ = evaluate(loader={"sampler": [3, 8, 1, 0, 2, 7, 5, 6, 4]})
    assert shuffled == pytest.approx(reference, abs=1e-9)
    renumbered, _ = evaluate(data=Renumbered(dataset, [3, 8, 1, 0, 2, 7, 5, 6, 4]))
    assert renumbered == pytest.approx(reference, abs=1e-9)


class Renumbered:
    """The same images in another order."""

    def __init__(self, dataset: ProceduralPEDES, order: list[int]) -> None:
        self.dataset, self.order = dataset, order

    def __len__(self) -> int:
        return len(self.order)

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> dict:
        item = self.dataset[self.order[index]]
        item["data_samples"].set_metainfo({"sample_index": index})
        return item


@pytest.mark.parametrize("sampler", [[0, 1, 2, 3], [0, 0, 1, 2, 3, 4, 5, 6, 7]], ids=["missing", "twice"])
def test_a_sampler_that_changes_the_gallery_is_refused(evaluate, sampler):
    with pytest.raises(ConfigError, match="each of the 9 items"):
        evaluate(loader={"sampler": sampler})


def test_a_shortlist_longer_than_the_gallery_is_all_of_it(evaluate, capfd):
    expected, _ = evaluate(rerank_topk=GALLERY)
    capfd.readouterr()
    metrics, metric = evaluate(rerank_topk=10)
    assert metrics == expected
    assert metric.result.shortlist.shape[1] == GALLERY
    output = "".join(capfd.readouterr())
    assert output.count("rerank_topk=10 exceeds the gallery (9 images)") == 1
    assert "re-ranked with k = 9" in output


class Dies:
    """A data set whose worker process is killed, as the system does when no memory is left."""

    test_mode = True

    def __init__(self, dataset: ProceduralPEDES, how: str) -> None:
        self.dataset, self.how = dataset, how

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        if index == 5 and self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 5 and self.how == "exits":
            os._exit(3)
        if index == 5:
            raise RuntimeError("an error of the data set itself")
        return self.dataset[index]


@pytest.mark.parametrize("how", ["killed", "exits"])
def test_a_worker_that_dies_says_what_to_do(evaluate, dataset, how):
    with pytest.raises(WorkerError, match=r"worker of test_dataloader is gone.*/dev/shm.*num_workers=0"):
        evaluate(data=Dies(dataset, how), loader={"num_workers": 1})


def test_other_errors_of_workers_stay_as_they_are(evaluate, dataset):
    with pytest.raises(RuntimeError, match="an error of the data set itself") as caught:
        evaluate(data=Dies(dataset, "raises"), loader={"num_workers": 1})
    assert not isinstance(caught.value, WorkerError)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that they are out of shared memory.",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
        "unable to open shared memory object </torch_7_8> in read-write mode: Too many open files (24)",
        "unable to write to file </torch_7_8>: No space left on device (28)",
    ],
)
def test_what_torch_says_of_lost_workers_is_recognised(message):
    with (
        pytest.raises(WorkerError, match=r"worker of train_dataloader is gone"),
        explain_lost_workers("train_dataloader"),
    ):
        raise RuntimeError(message)


def test_impossible_settings_are_refused_before_anything_runs(evaluate, config):
    with pytest.raises(ConfigError, match="rerank_topk=-1"):
        evaluate(rerank_topk=-1)
    with pytest.raises(ConfigError, match="drop_last"):
        evaluate(loader={"drop_last": True})
    with pytest.raises(ConfigError, match="test_mode"):
        evaluate(data=TensorDataset(torch.zeros(9)))


@pytest.mark.slow
def test_pairs_scored_at_once_change_no_score(evaluate, model, dataset):
    _, metric = evaluate(rerank_topk=GALLERY)
    batch = person_collate([dataset[index] for index in range(GALLERY)])
    inputs = model.data_preprocessor(batch)["inputs"]
    with torch.no_grad():
        images, texts = model(inputs, mode="predict")
    for limits in ((1, 1), (5, 9), (1000, 2), (1000, 1000)):
        shortlist = metric.result.shortlist
        logits = match_shortlists(model, texts, images.tokens, torch.arange(GALLERY), shortlist, *limits)
        torch.testing.assert_close(logits, metric.result.match_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("limits", "calls"), [((256, 32), 1), ((256, 4), 3), ((4, 32), 3)])
@torch.no_grad()
def test_images_of_one_query_share_calls_of_the_model(model, dataset, monkeypatch, limits, calls):
    images, texts = model(model.data_preprocessor(person_collate([dataset[i] for i in range(GALLERY)]))["inputs"])
    pairs, match = [], model.match
    monkeypatch.setattr(model, "match", lambda *args: pairs.append(len(args[2])) or match(*args))
    one = TextFeatures(*(field[:1] for field in texts))
    match_shortlists(model, one, images.tokens, torch.arange(GALLERY), torch.arange(GALLERY)[None], *limits)
    assert len(pairs) == calls
    assert sum(pairs) == GALLERY


@pytest.mark.parametrize(
    "asked", [[1] * 31 + [225], [1, 2, 4, 8, 16, 256], [3, 600], [30] * 9, [256, 256, 1000]], ids=str
)
def test_calls_are_balanced(asked):
    """A call pads all its images to the largest number of captions per image: images times that number is its cost."""
    images = torch.arange(len(asked)).repeat_interleave(torch.tensor(asked))
    sizes = _calls(images, 256, 32)
    assert sum(sizes) == len(images)
    for call in images.split(sizes):
        counts = torch.unique_consecutive(call, return_counts=True)[1]
        assert len(counts) * int(counts.max()) <= 256
        assert len(counts) <= 32


def test_images_of_other_processes_are_left_out(model, dataset):
    inputs = model.data_preprocessor(person_collate([dataset[0], dataset[1]]))["inputs"]
    with torch.no_grad():
        images, texts = model(inputs, mode="predict")
    shortlist = torch.tensor([[0, 1]]).expand(len(texts.embed), 2)
    logits = match_shortlists(model, texts, images.tokens[1:], torch.tensor([-1, 0]), shortlist)
    assert logits[:, 0].isnan().all()
    assert logits[:, 1].isfinite().all()


def test_torchreid_gives_the_same_numbers(evaluate):
    pytest.importorskip("torchreid")
    ours, _ = evaluate()
    theirs, _ = evaluate(metric={"ranker": "torchreid"})
    for name in theirs.keys() - {"t2i/R1_gain_p"}:
        assert theirs[name] == pytest.approx(ours[name], abs=1e-4), name
    assert {"t2i/R1", "t2i/R10", "t2i_global/mAP", "t2i_match/mINP"} <= theirs.keys()


def test_amp_runs_and_stays_close(evaluate):
    _, exact = evaluate()
    metrics, rounded = evaluate(amp=True)
    assert all(0 <= value <= 100 for value in metrics.values())
    torch.testing.assert_close(rounded.result.cosine(0, 99), exact.result.cosine(0, 99), rtol=0, atol=0.05)


@torch.no_grad()
def test_under_amp_tokens_wait_in_half_precision_and_lose_nothing(evaluate, model, dataset, monkeypatch):
    kept = []

    def spy(model, texts, tokens, *args, **kwargs):
        kept.append(tokens)
        return match_shortlists(model, texts, tokens, *args, **kwargs)

    monkeypatch.setattr("cada_plugin.retrieval.two_stage.match_shortlists", spy)
    _, metric = evaluate(amp=True, batch_size=GALLERY)
    with torch.autocast("cpu", torch.bfloat16):
        batch = person_collate([dataset[index] for index in range(GALLERY)])
        images, texts = model(model.data_preprocessor(batch)["inputs"], mode="predict")
        rows = torch.arange(GALLERY)
        expected = match_shortlists(model, texts, images.tokens.float(), rows, metric.result.shortlist)
    assert kept[0].dtype == torch.bfloat16
    assert torch.equal(metric.result.match_logits, expected)


def test_other_ks_are_measured_and_printed(evaluate):
    metrics, _ = evaluate(metric={"topk": (5,)})
    assert "t2i/R5" in metrics
    assert "t2i/R1" not in metrics
    assert "-" in retrieval_table(metrics, "caption").splitlines()[3]


def test_the_table_says_what_was_measured():
    values = {"R1": 50.0, "R5": 60.0, "R10": 70.0, "mAP": 40.0, "mINP": 30.0}
    metrics = {f"t2i_global/{k}": v for k, v in values.items()} | {f"t2i/{k}": v + 9 for k, v in values.items()}
    table = retrieval_table(metrics | {"t2i/R1_gain_p": 0.0123}, "a caption").splitlines()
    assert table[1] == "a caption"
    assert table[2].split() == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    assert table[3].split()[-5:] == ["50.00", "60.00", "70.00", "40.00", "30.00"]
    assert table[4].startswith("re-ranked")
    assert "+9.00" in table[5]
    assert "0.0123" in table[5]
    assert len(table) == 6


def test_the_hook_draws_the_ranked_gallery(evaluate, model, tmp_path):
    """Into the work dir, and to every backend of the visualizer."""
    metrics, metric = evaluate()
    runner = StandInRunner(model, tmp_path, {})
    runner.test_evaluator, runner.iter = Evaluator([metric]), 7
    runner._train_loop = BaseLoop.__new__(EpochBasedTrainLoop)  # it has trained
    backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
    runner.visualizer = Visualizer(name=str(tmp_path), vis_backends=backends, save_dir=str(tmp_path))
    RankedGalleryHook(num_queries=2, topk=3).after_test_epoch(runner, metrics)
    runner.visualizer.close()
    with Image.open(tmp_path / "ranked_gallery.png") as image:
        drawn = np.asarray(image.convert("RGB"))
    assert drawn.shape[0] > 400
    (local,) = tmp_path.rglob("vis_image/ranked_gallery_7.png")
    with Image.open(local) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), drawn)
    (events,) = tmp_path.rglob("events.out.tfevents*")
    accumulator = EventAccumulator(str(events), size_guidance={"images": 0})
    accumulator.Reload()
    (shown,) = accumulator.Images("ranked_gallery")
    assert shown.step == 7
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), drawn)


@pytest.mark.parametrize("k", [0, 2, GALLERY])
def test_drawn_scores_are_those_of_the_stage_that_ranked_the_image(evaluate, k):
    _, metric = evaluate(rerank_topk=k, cosine_weight=2.0)
    result = metric.result
    scores = result.reranked(0, 99) if k else result.cosine(0, 99)
    (row, *_) = rows = ranked_rows(result, num_queries=3, topk=5)
    assert len(rows) == 3
    assert len(row.hits) == 5
    query = result.captions.index(row.caption)
    best = scores[query].topk(5)
    assert [path for path, _, _ in row.hits] == [result.img_paths[i] for i in best.indices.tolist()]
    cosine = result.cosine(0, 99)[query]
    for rank, (_, _, shown) in enumerate(row.hits):
        index = int(best.indices[rank])
        if 0 < k <= rank:
            assert shown == f"cos {float(cosine[index]):.3f}"
        else:
            assert shown == pytest.approx(float(best.values[rank]), abs=1e-4)
