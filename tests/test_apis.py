"""The retriever that programs outside a Runner use."""

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from cada_plugin.apis import load_retriever
from cada_plugin.checkpoints import write_weights
from cada_plugin.errors import CheckpointError, ConfigError, ImageError
from cada_plugin.registry import MODELS, build_part

TOKENIZER = {"type": "CaptionTokenizer", "vocab": "procedural", "max_length": 24}
BERT = {"width": 32, "depth": 2, "heads": 2, "max_positions": 24}


def config(**model: object) -> Config:
    return Config(
        {
            "model": {
                "type": "CADA",
                "tokenizer": TOKENIZER,
                "visual_encoder": {
                    "type": "ViTEncoder",
                    "image_size": (32, 16),
                    "patch_size": 8,
                    "width": 32,
                    "depth": 1,
                    "heads": 2,
                },
                "text_encoder": {"type": "CrossModalBert", **BERT},
                "embed_dim": 16,
                "loss_atp": {"type": "MatchingLoss"},
                "grouping": "tokens",
                "data_preprocessor": {"type": "PersonDataPreprocessor", "mean": (120,) * 3, "std": (60,) * 3},
                **model,
            },
            "test_dataloader": {
                "dataset": {
                    "pipeline": [
                        {"type": "LoadPersonImage"},
                        {"type": "torchvision/Resize", "size": (32, 16)},
                        {"type": "EncodeCaptions", "tokenizer": TOKENIZER},
                        {"type": "PackPersonInputs"},
                    ]
                }
            },
            "test_cfg": {"type": "RetrievalTestLoop", "rerank_topk": 3, "cosine_weight": 2.0},
        }
    )


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    write_weights(build_part(MODELS, config().model).state_dict(), path)
    return path


@pytest.fixture
def images(tmp_path) -> list:
    paths = []
    for i, colour in enumerate(["red", "green", "blue", "white", "black", "orange"]):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (20, 40), colour).save(paths[-1])
    return paths


@pytest.fixture
def retriever(weights):
    return load_retriever(config(), weights)


def test_paths_and_pil_images_give_the_same_features(retriever, images):
    from_paths = retriever.encode_image(images, batch_size=4)
    from_pil = retriever.encode_image([Image.open(path) for path in images])
    torch.testing.assert_close(from_paths.embed, from_pil.embed)
    torch.testing.assert_close(from_paths.embed.norm(dim=1), torch.ones(len(images)))
    assert from_paths.tokens.shape == (6, 1 + 8, 32)


def test_a_pil_image_of_another_mode_is_converted(retriever):
    grey = Image.new("L", (20, 40), 128)
    same = Image.new("RGB", (20, 40), (128, 128, 128))
    torch.testing.assert_close(retriever.encode_image(grey).embed, retriever.encode_image(same).embed)


def test_text_features_do_not_depend_on_the_company(retriever):
    long = "a tall man with a red coat and blue jeans and white shoes"
    alone = retriever.encode_text("a woman in a red coat").embed
    together = retriever.encode_text(["a woman in a red coat", long]).embed
    torch.testing.assert_close(alone[0], together[0])


def test_match_of_all_pairs_agrees_with_chosen_pairs(retriever, images):
    texts, gallery = retriever.encode_text(["a man", "a woman in a red coat"]), retriever.encode_image(images)
    everything = retriever.match(texts, gallery)
    assert everything.shape == (2, 6)
    pairs = torch.tensor([[1, 5], [0, 2], [1, 0]])
    torch.testing.assert_close(retriever.match(texts, gallery, pairs), everything[pairs[:, 0], pairs[:, 1]])


def test_search_orders_the_shortlist_by_the_final_score(retriever, images):
    gallery = retriever.encode_image(images)
    caption = "a woman in a red coat"
    texts = retriever.encode_text(caption)
    cosine = (texts.embed @ gallery.embed.T)[0]
    logits = retriever.match(texts, gallery)[0]
    shortlist = cosine.topk(3).indices
    expected = shortlist[(logits + 2.0 * cosine)[shortlist].argsort(descending=True)].tolist()
    beyond = [i for i in cosine.argsort(descending=True).tolist() if i not in expected]
    assert [hit.index for hit in retriever.search(caption, gallery)[0]] == expected + beyond


def test_search_without_a_match_head_is_the_cosine_order(tmp_path, weights, images):
    plain = load_retriever(config(loss_atp=None), weights)
    gallery = plain.encode_image(images)
    cosine = (plain.encode_text("a man").embed @ gallery.embed.T)[0]
    assert [hit.index for hit in plain.search("a man", gallery, topk=4)[0]] == cosine.topk(4).indices.tolist()
    with pytest.raises(ConfigError, match="without matching"):
        plain.match(plain.encode_text("a man"), gallery)


def test_search_under_autocast_keeps_similarities_in_full_precision(retriever, images):
    gallery = retriever.encode_image(images)
    with torch.autocast("cpu", torch.bfloat16):
        hits = retriever.search("a woman in a red coat", gallery)[0]
        embed = retriever.encode_text("a woman in a red coat").embed
    cosine = (embed @ gallery.embed.T)[0]
    assert [hit.cosine for hit in hits] == [float(cosine[hit.index]) for hit in hits]


def test_bad_input_is_named(retriever, tmp_path):
    with pytest.raises(ImageError, match=r"nobody\.jpg"):
        retriever.encode_image(tmp_path / "nobody.jpg")
    with pytest.raises(ConfigError, match="at least one"):
        retriever.encode_image([])
    with pytest.raises(ConfigError, match="non-empty"):
        retriever.encode_text(["a man", "  "])


def test_loading_needs_a_config_and_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.py"):
        load_retriever(tmp_path / "nowhere.py")
    with pytest.raises(ConfigError, match="needs weights"):
        load_retriever(config())
    with pytest.raises(CheckpointError, match="does not exist"):
        load_retriever(config(), tmp_path / "absent.pth")
