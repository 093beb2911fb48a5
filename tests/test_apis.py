"""The retriever that programs outside a Runner use."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from PIL import Image, ImageOps

from cada_plugin.apis import EncodedImages, load_retriever
from cada_plugin.checkpoints import write_weights
from cada_plugin.errors import CheckpointError, ConfigError, GalleryError, ImageError
from cada_plugin.models import CADA, ImageFeatures
from cada_plugin.registry import MODELS, TRANSFORMS, build_part

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
                "grouping": {"type": "TokenGroups", "num_groups": 2},
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


def test_every_kind_of_input_gives_the_same_features(retriever, images):
    reference = retriever.encode_image(images)
    pil = [Image.open(path).convert("RGB") for path in images]
    arrays = [np.asarray(image) for image in pil]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for inputs in (pil, arrays, tensors, np.stack(arrays), torch.stack(tensors), (str(path) for path in images)):
        assert torch.equal(retriever.encode_image(inputs).embed, reference.embed)
    for one in (images[2], str(images[2]), pil[2], arrays[2], tensors[2]):
        torch.testing.assert_close(retriever.encode_image(one).embed[0], reference.embed[2])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 16), np.uint8),
        np.zeros((3, 8, 16), np.uint8),
        np.zeros((8, 16, 3)),
        torch.zeros(8, 16, 3, dtype=torch.uint8),
        torch.zeros(3, 8, 16),
        7,
        None,
        [b"bytes"],
        {"image": 1},
    ],
)
def test_other_inputs_are_named(retriever, wrong):
    with pytest.raises(ImageError, match=r"image 0|missing"):
        retriever.encode_image(wrong)


def test_orientation_is_applied_to_pil_images_too(retriever, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    image.save(tmp_path / "a.jpg", exif=exif)
    from_pil = retriever.encode_image(Image.open(tmp_path / "a.jpg"))
    assert torch.equal(from_pil.embed, retriever.encode_image(tmp_path / "a.jpg").embed)
    assert not torch.allclose(from_pil.embed, retriever.encode_image(image).embed, atol=1e-3)


def test_the_gallery_remembers_paths(retriever, images):
    gallery = retriever.encode_image([images[0], Image.open(images[1]), str(images[2])], batch_size=2)
    assert gallery.paths == (str(images[0]), None, str(images[2]))
    for hit in retriever.search("a man", gallery)[0]:
        assert hit.path == gallery.paths[hit.index]


def test_a_folder_stands_for_its_images(retriever, images, tmp_path):
    folder = images[0].parent
    (folder / "sub").mkdir()
    images[5] = images[5].rename(folder / "sub/5.png")
    gallery = retriever.encode_image(folder)
    assert gallery.paths == tuple(map(str, images))
    assert torch.equal(gallery.embed, retriever.encode_image(images).embed)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no image file"):
        retriever.encode_image(tmp_path / "empty")


def test_all_bad_images_of_a_folder_are_named_at_once(retriever, images):
    for path in (images[0], images[4]):
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="2 of 6 images") as caught:
        retriever.encode_image(images[0].parent, batch_size=2)
    assert all(str(path) in str(caught.value) for path in (images[0], images[4]))


def test_galleries_joined_and_saved_are_searched_as_one(retriever, images, tmp_path):
    whole = retriever.encode_image(images)
    joined = retriever.encode_image(images[:2]) + retriever.encode_image(images[2:])
    loaded = EncodedImages.load(joined.save(tmp_path / "people.safetensors"))
    texts = retriever.encode_text("a man")
    torch.testing.assert_close(retriever.match(texts, loaded), retriever.match(texts, whole))
    found = [[hit.path for hit in retriever.search("a man", gallery)[0]] for gallery in (whole, joined, loaded)]
    assert found[0] == found[1] == found[2]


def test_a_gallery_of_another_model_is_refused(retriever):
    with pytest.raises(GalleryError, match=r"of 17 numbers.*embeddings of 16"):
        retriever.search("a man", EncodedImages(torch.ones(3, 17), None))
    with pytest.raises(GalleryError, match="one image at least"):
        retriever.search("a man", EncodedImages(torch.ones(0, 16), None))


def test_plain_features_are_searched_too(retriever, images):
    gallery = retriever.encode_image(images)
    hits = retriever.search("a man", ImageFeatures(gallery.embed, gallery.tokens))[0]
    assert [hit._replace(path=None) for hit in retriever.search("a man", gallery)[0]] == hits


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


def test_hits_tell_both_scores_and_no_artificial_one(retriever, images):
    gallery = retriever.encode_image(images)
    captions = ["a woman in a red coat", "a man"]
    texts = retriever.encode_text(captions)
    cosine, logits = texts.embed @ gallery.embed.T, retriever.match(texts, gallery)
    for query, hits in enumerate(retriever.search(captions, gallery)):
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5, 6]
        assert sorted(hit.index for hit in hits) == list(range(6))
        for hit in hits:
            assert hit.cosine == pytest.approx(float(cosine[query, hit.index]))
            shortlisted = hit.rank <= 3
            assert hit.match == (pytest.approx(float(logits[query, hit.index]), abs=1e-5) if shortlisted else None)
        assert all(abs(number) < 50 for hit in hits for number in (hit.cosine, hit.match or 0))


def test_a_shortlist_longer_than_the_gallery_is_all_of_it(weights, images, caplog):
    retriever = load_retriever(config(), weights)
    gallery = retriever.encode_image(images)
    retriever.rerank_topk = 6
    expected = retriever.search("a man", gallery)
    retriever.rerank_topk = 99
    caplog.clear()
    assert retriever.search("a man", gallery) == retriever.search("a man", gallery) == expected
    assert caplog.text.count("rerank_topk=99 exceeds the gallery (6 images)") == 1


def test_search_without_a_match_head_is_the_cosine_order(tmp_path, weights, images):
    plain = load_retriever(config(loss_atp=None), weights)
    gallery = plain.encode_image(images)
    cosine = (plain.encode_text("a man").embed @ gallery.embed.T)[0]
    hits = plain.search("a man", gallery, topk=4)[0]
    assert [hit.index for hit in hits] == cosine.topk(4).indices.tolist()
    assert [hit.match for hit in hits] == [None] * 4
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
    with pytest.raises(ConfigError, match="topk=0"):
        retriever.search("a man", EncodedImages(torch.ones(3, 16), None), topk=0)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("...!!", r"'\.\.\.!!' has no word"),
        ("\u200b", "has no word"),
        ("a \ud800 coat", "half a character"),
        (b"a man", "needs sentences"),
        ([7], "needs sentences"),
    ],
)
def test_sentences_that_say_nothing_are_named(retriever, images, caption, words):
    gallery = retriever.encode_image(images)
    with pytest.raises(ConfigError, match=words):
        retriever.search(["a man", caption] if isinstance(caption, str) else caption, gallery)


class Negative:
    """A user's own transform."""

    def __call__(self, item: dict) -> dict:
        return {**item, "image": 255 - item["image"]}


class NeedsMore:
    def __call__(self, item: dict) -> dict:
        return {**item, "image": item["mask"]}


class NotATensor:
    def __call__(self, item: dict) -> dict:
        return {**item, "image": item["image"].numpy()}


@pytest.fixture
def own_transforms():
    parts = (Negative, NeedsMore, NotATensor)
    for registry in (TRANSFORMS, MMENGINE_TRANSFORMS):
        for part in parts:
            registry.register_module(name=f"Own{part.__name__}{registry is TRANSFORMS:d}", module=part)
    yield
    for registry in (TRANSFORMS, MMENGINE_TRANSFORMS):
        for part in parts:
            del registry._module_dict[f"Own{part.__name__}{registry is TRANSFORMS:d}"]


def with_step(step: object) -> Config:
    cfg = config()
    cfg.test_dataloader.dataset.pipeline.insert(2, step)
    return cfg


@pytest.mark.parametrize(
    "name", ["OwnNegative1", "OwnNegative0", "cada_plugin.OwnNegative1", "mmengine.OwnNegative0", Negative]
)
def test_own_image_transforms_of_the_pipeline_are_applied(own_transforms, retriever, weights, images, name):
    negative = load_retriever(with_step({"type": name}), weights)
    assert [type(step) for step in negative.image_transforms[1:]] == [Negative]
    inverted = [ImageOps.invert(Image.open(path)) for path in images]
    torch.testing.assert_close(negative.encode_image(images).embed, retriever.encode_image(inverted).embed)


def test_every_step_that_is_no_image_step_is_left_out(weights):
    steps = ["EncodeCaptions", "TagAttributes", "MaskAttributes", "MaskTokens", "LoadPersonImage", "PackPersonInputs"]
    cfg = config()
    pipeline = [{"type": name} for name in steps] + [{"type": f"cada_plugin.{name}"} for name in steps]
    cfg.test_dataloader.dataset.pipeline = [{"type": "cada_plugin.torchvision/Resize", "size": (32, 16)}, *pipeline]
    assert len(load_retriever(cfg, weights).image_transforms) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OwnNeedsMore1", "OwnNeedsMore1.*cannot be used on an image alone .*mask"),
        ("OwnNotATensor1", "OwnNotATensor1.*makes no image tensor"),
        ("NoSuchStep", "NoSuchStep.*cannot be used on an image alone .*registry"),
    ],
)
def test_a_step_that_cannot_be_used_is_named(own_transforms, weights, name, words):
    with pytest.raises(ConfigError, match=words):
        load_retriever(with_step({"type": name}), weights)


def test_a_config_without_a_test_pipeline_is_named(weights):
    cfg = config()
    cfg.test_dataloader = None
    with pytest.raises(ConfigError, match=r"no test_dataloader\.dataset\.pipeline"):
        load_retriever(cfg, weights)


def test_a_pipeline_that_makes_images_of_different_sizes_is_named(weights, tmp_path):
    cfg = config()
    del cfg.test_dataloader.dataset.pipeline[1]
    with pytest.raises(ConfigError, match="set the pipeline's resize"):
        load_retriever(cfg, weights)
    retriever = load_retriever(config(), weights)
    retriever.image_transforms = []
    with pytest.raises(ConfigError, match="different sizes"):
        retriever.encode_image([Image.new("RGB", (16, 32)), Image.new("RGB", (20, 40))])


def test_a_model_that_breaks_the_contract_is_named_when_it_is_loaded(weights, monkeypatch):
    monkeypatch.setattr(CADA, "encode_image", lambda self, images: self.visual_encoder(images)[:, 0])
    with pytest.raises(ConfigError, match=r"CADA\.encode_image returned a Tensor"):
        load_retriever(config(), weights)


def test_loading_needs_a_config_and_weights(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.py"):
        load_retriever(tmp_path / "nowhere.py")
    with pytest.raises(ConfigError, match="needs weights"):
        load_retriever(config())
    with pytest.raises(CheckpointError, match="does not exist"):
        load_retriever(config(), tmp_path / "absent.pth")
