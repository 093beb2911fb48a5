"""Clean state for every test, and factories of tiny models and batches."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported: no test waits for a network
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # threads of Milvus Lite would print into the output of other tests
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel: more threads would only wait for each other

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from checkpoint_factory import shake
from gallery_factory import copy_crops, draw_people
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.collate import person_collate
from cada_plugin.datasets.transforms import EncodeCaptions, MaskAttributes, PackPersonInputs, TagAttributes
from cada_plugin.models import CADA
from cada_plugin.registry import MODELS

# nohup starts a program with SIGHUP ignored, and a shell one in the background with SIGINT: children would inherit
# that, and the runs that tests send these signals to would go on
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOKENIZER = {"type": "CaptionTokenizer", "vocab": "procedural", "max_length": 24}
BERT = {"width": 16, "depth": 2, "heads": 2, "max_positions": 32, "dropout": 0.0}
VISION = {"type": "ViTEncoder", "image_size": (32, 16), "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
CAPTIONS = (
    "a man wearing a red jacket and blue jeans",
    "the woman has long brown hair and a black and white striped dress",
    "a person with a green backpack",
    "a boy in a yellow t-shirt, gray shorts and white sneakers holding a red umbrella",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files with the most slow tests first. Otherwise one worker is left with them when the other is done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out for want of a browser: ``-q`` shows no reasons."""
    reasons = {report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])}
    for reason in sorted(reason for reason in reasons if "chromium" in reason):
        terminalreporter.write_line(reason)


@pytest.fixture(autouse=True)
def clean_state(tmp_path, monkeypatch):
    """Remove MMEngine's global instances, which are kept by name, so that a test does not see those of another."""
    monkeypatch.setenv("CADA_CACHE", str(tmp_path / "cada_cache"))
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()
    for manager in (DefaultScope, MMLogger, MessageHub, Visualizer):
        manager._instance_dict.clear()


def groups(kind: str, number: int | None) -> dict:
    """Config of a grouping of ATP by its short name."""
    return {"type": {"position": "PositionGroups", "tokens": "TokenGroups", "phrases": "PhraseGroups"}[kind]} | {
        "num_groups": number
    }


def build_tiny(seed: int = 0, **changes: object) -> CADA:
    cfg = {
        "type": "CADA",
        "visual_encoder": VISION,
        "text_encoder": {"type": "CrossModalBert", **BERT},
        "text_decoder": {"type": "AttributeDecoder", **BERT},
        "tokenizer": TOKENIZER,
        "embed_dim": 8,
        "loss_global": {"type": "GlobalAssociationLoss"},
        "loss_atp": {"type": "MatchingLoss"},
        "loss_ara": {"type": "MaskedAttributeLoss"},
    }
    return shake(MODELS.build(cfg | changes), seed).train()


def build_batch(
    person_ids: Sequence[int] = (1, 2, 3, 3), captions: Sequence[str] = CAPTIONS, seed: int = 0, mask: bool = True
) -> dict:
    """A training batch as the loader makes it, with normalised images: ``model.loss(**batch)``."""
    steps = [EncodeCaptions(TOKENIZER), TagAttributes({"type": "LexiconTagger"}, TOKENIZER)]
    steps += [MaskAttributes(TOKENIZER, probability=0.6)] if mask else []
    generator = torch.Generator().manual_seed(seed)
    items = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for index, (person, caption) in enumerate(zip(person_ids, captions, strict=True)):
            item = {"caption": caption, "person_id": person, "label": person, "image_id": index, "sample_index": index}
            item |= {"img_path": "", "camera_id": None}
            item["image"] = torch.randn(3, 32, 16, generator=generator)
            for step in [*steps, PackPersonInputs()]:
                item = step(item)
            items.append(item)
    return person_collate(items)


@pytest.fixture
def tiny_model() -> Callable[..., CADA]:
    """``tiny_model(negatives="sampled", ...)``: a small seeded CADA with all losses, arguments replaced as given."""
    return build_tiny


@pytest.fixture
def tiny_batch() -> Callable[..., dict]:
    return build_batch


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> ProceduralPEDES:
    """Twenty drawn people, as ``draw_people`` makes them."""
    return draw_people(tmp_path_factory.mktemp("drawn") / "people")


@pytest.fixture
def crops(people, tmp_path) -> Path:
    """A folder with a copy of their pictures."""
    return copy_crops(people, tmp_path / "crops")


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    """The shipped weights of ``cada_procedural``."""
    return load_retriever("cada_procedural")
