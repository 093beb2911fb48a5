"""Whether explanations of a model are faithful, measured on drawn people, of whom it is known what is where.

    python examples/explain_faithfulness.py FOLDER CONFIG CHECKPOINT [PEOPLE]

draws PEOPLE (60) test people and a third as many validation people of the camera world into FOLDER, with three pictures
each. It chooses the layer of the maps on the validation split by the pointing game, and reports on the test split, in
FOLDER/faithfulness.json too:

- *pointing*: the share of phrases whose hottest patch has its centre in the box of a part that the phrase describes;
  only parts that the picture shows count.
- *deletion*, *insertion*: patches are hidden, or shown on an empty picture, hottest first: the area under the curve of
  the match logit. This is about the map of the whole caption, the mean over its words.
- *support deletion*, *support insertion*: the same for the map of each phrase, with what the phrase contributes: the
  match logit of the caption minus that of the caption without the phrase. Only here can the map of another phrase
  be compared: for the logit of the whole caption, the maps of all phrases in another order have the same mean.
- *wrong phrase*: one phrase of the caption is replaced by a false one. How often does leaving out that phrase raise the
  logit most? Compared with the phrase of the weakest map, that of the weakest attention, and a random one.

p-values are of a paired bootstrap over people. docs/explain.md has the figures.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.datasets.procedural.palette import PART_OF_SLOT
from cada_plugin.datasets.procedural.writer import claims_of_phrase
from cada_plugin.evaluation.faithfulness import (
    area,
    centres_in,
    compare,
    conclusion,
    hiding_steps,
    hottest_first,
    with_hidden,
)
from cada_plugin.files import write_json
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.explanation import patch_grid
from cada_plugin.portable.phrases import without_words
from cada_plugin.retrieval import token_maps, word_means
from cada_plugin.tables import markdown_table

PICTURES = 3  # of each person
STEPS = 8  # of a curve: with 32 patches, four are hidden at a time
FILL = (123, 117, 104)  # colour of hidden patches: the one that training pads with, so that the model has seen it
HIGHER_IS_BETTER = {
    "pointing": True,
    "deletion": False,
    "insertion": True,
    "support deletion": False,
    "support insertion": True,
}
Scores = dict[str, list[float]]


class Described:
    """A picture with its first caption: what the annotation knows of both, and what a model sees in them.

    ``spans`` are the phrases, in words of the caption that the model reads; ``boxes`` those of the visible parts that
    each describes.
    """

    def __init__(self, retriever: Retriever, folder: Path, record: dict) -> None:
        self.retriever, self.record, self.caption = retriever, record, record["captions"][0]
        self.picture = np.asarray(Image.open(folder / "imgs" / record["file_path"]).convert("RGB"))
        self.encoded = retriever.encode_image(self.picture)
        self.phrases = record["phrases"][0]
        self.spans = [self.span(self.caption, phrase["start"], phrase["stop"]) for phrase in self.phrases]
        self.boxes = [self._boxes(phrase["unit"]) for phrase in self.phrases]

    def span(self, caption: str, start: int, stop: int) -> tuple[int, int]:
        """A place in the caption, in letters, as one in words."""
        return tuple(len(self.retriever.tokenizer.split(caption[:place])) for place in (start, stop))

    def _boxes(self, unit: str) -> list[list[int]]:
        slots = claims_of_phrase(self.record["claims"][0], unit)
        parts = sorted({PART_OF_SLOT[slot] for slot in slots if slot in PART_OF_SLOT})
        regions = [self.record["regions"][part] for part in parts if part in self.record["regions"]]
        return [region["box"] for region in regions if region["visible"]]

    def word_maps(self, caption: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Attention times gradient, and attention alone: each (words, rows, columns)."""
        encoded = self.retriever.tokenizer.encode(caption)
        ids = torch.tensor([encoded.input_ids])
        texts = TextFeatures(torch.zeros(1, 0), ids, torch.ones_like(ids, dtype=torch.bool))
        found = token_maps(self.retriever.model, texts, self.encoded.tokens, layer)
        grid = patch_grid(found.evidence.shape[1], self.picture.shape[:2])
        both = (word_means(one, encoded.word_index, len(encoded.words)) for one in (found.evidence, found.attention))
        return tuple(one.view(-1, *grid).numpy() for one in both)

    def changes(self, caption: str, spans: Iterable[tuple[int, int]]) -> np.ndarray:
        """The change of the match logit when each of the phrases is left out of the caption."""
        words = self.retriever.tokenizer.split(caption)
        texts = self.retriever.encode_text([caption, *(without_words(words, *span) for span in spans)])
        logits = self.retriever.match(texts, self.encoded)[:, 0].numpy()
        return logits[1:] - logits[0]


def of_phrases(word_maps: np.ndarray, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.stack([word_maps[start:stop].mean(0) for start, stop in spans])


def kinds_of_maps(one: Described, layer: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Maps (phrases, rows, columns) of every kind. The map of another phrase is that of the next one."""
    ours, attention = (of_phrases(maps, one.spans) for maps in one.word_maps(one.caption, layer))
    other = np.roll(ours, 1, axis=0)
    return {"map": ours, "random": rng.random(ours.shape), "other phrase": other, "attention": attention}


def pointing(people: list[Described], layer: int) -> tuple[Scores, list[int], list[str]]:
    """Of each phrase with a visible part: whether each kind of map points at it; its person; its unit."""
    rng = np.random.default_rng(0)
    scores: Scores = {"best possible": []}
    groups, units = [], []
    for one in people:
        maps = kinds_of_maps(one, layer, rng)
        for place, (boxes, phrase) in enumerate(zip(one.boxes, one.phrases, strict=True)):
            if not boxes:
                continue
            inside = centres_in(boxes, maps["map"].shape[1:], one.picture.shape[:2])
            for name, of_kind in maps.items():
                scores.setdefault(name, []).append(float(inside[hottest_first(of_kind[place], rng)[0]]))
            scores["best possible"].append(float(inside.any()))
            groups.append(one.record["id"])
            units.append(phrase["unit"])
    return scores, groups, units


def curves(people: list[Described], layer: int) -> dict[str, tuple[dict[str, Scores], list[int]]]:
    """Areas of deletion and insertion: of whole captions, and of the support of each phrase; with their people."""
    rng = np.random.default_rng(0)
    whole: dict[str, Scores] = {"deletion": {}, "insertion": {}}
    support: dict[str, Scores] = {"support deletion": {}, "support insertion": {}}
    of_captions, of_phrases_ = [], []
    for one in people:
        words = one.retriever.tokenizer.split(one.caption)
        without = [without_words(words, *span) for span in one.spans]
        texts = one.retriever.encode_text([one.caption, *without])
        evidence, attention = (maps.mean(0) for maps in one.word_maps(one.caption, layer))
        whole_text = TextFeatures(*(field[:1] for field in texts))
        for name, map in {"map": evidence, "random": rng.random(evidence.shape), "attention": attention}.items():
            logits = hidden_logits(one, whole_text, map, rng)  # (2, K + 1, 1)
            for measure, curve in zip(whole, logits[..., 0], strict=True):
                whole[measure].setdefault(name, []).append(area(curve))
        of_captions.append(one.record["id"])
        maps = kinds_of_maps(one, layer, rng)
        for place in range(len(one.spans)):
            pair = TextFeatures(*(field[[0, place + 1]] for field in texts))
            for name, of_kind in maps.items():
                logits = hidden_logits(one, pair, of_kind[place], rng)
                for measure, curve in zip(support, logits[..., 0] - logits[..., 1], strict=True):
                    support[measure].setdefault(name, []).append(area(curve))
            of_phrases_.append(one.record["id"])
    return {name: (scores, of_captions) for name, scores in whole.items()} | {
        name: (scores, of_phrases_) for name, scores in support.items()
    }


def hidden_logits(one: Described, texts: TextFeatures, map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Match logits (2, K + 1, texts) while patches are hidden, and while they are shown, hottest first."""
    hidden = hiding_steps(hottest_first(map, rng), STEPS)
    pictures = [with_hidden(one.picture, some, map.shape, FILL) for some in (*hidden, *~hidden)]
    logits = one.retriever.match(texts, one.retriever.encode_image(pictures)).numpy()
    return logits.T.reshape(2, STEPS + 1, -1)


def wrong_phrases(people: list[Described], layer: int) -> tuple[Scores, list[int]]:
    """Whether the phrase that was replaced by a false one is found, in one caption of each picture."""
    rng = np.random.default_rng(0)
    known: dict[str, list[tuple[str, dict]]] = {}  # phrases of all captions by their unit, with what they claim
    for one in people:
        record = one.record
        for caption, claims, phrases in zip(record["captions"], record["claims"], record["phrases"], strict=True):
            for phrase in phrases:
                said = caption[phrase["start"] : phrase["stop"]]
                known.setdefault(phrase["unit"], []).append((said, claims_of_phrase(claims, phrase["unit"])))
    scores: Scores = {}
    groups = []
    for one in people:
        attributes = one.record["attributes"]
        false = []
        for place, (phrase, boxes) in enumerate(zip(one.phrases, one.boxes, strict=True)):
            if boxes or phrase["unit"] == "sex":  # the picture shows that it is false
                for said, claims in known[phrase["unit"]]:
                    if any(attributes[slot] not in values for slot, values in claims.items()):
                        false.append((place, said))
        if not false or len(one.phrases) < 2:
            continue
        wrong = int(rng.choice(sorted({place for place, _ in false})))
        options = [said for place, said in false if place == wrong]
        said = options[int(rng.integers(len(options)))]
        replaced, longer = one.phrases[wrong], 0
        caption, spans = one.caption[: replaced["start"]] + said + one.caption[replaced["stop"] :], []
        for place, phrase in enumerate(one.phrases):
            start = phrase["start"] + longer
            longer += (len(said) - (replaced["stop"] - replaced["start"])) if place == wrong else 0
            spans.append(one.span(caption, start, phrase["stop"] + longer))
        evidence, attention = (of_phrases(maps, spans).max((1, 2)) for maps in one.word_maps(caption, layer))
        guesses = {
            "leaving out": one.changes(caption, spans),
            "weakest map": -evidence,
            "weakest attention": -attention,
            "random": rng.random(len(spans)),
        }
        for name, guess in guesses.items():
            scores.setdefault(name, []).append(float(guess.argmax() == wrong))
        groups.append(one.record["id"])
    return scores, groups


def measure(folder: Path, config: str, checkpoint: str | None, people: int = 60) -> dict:
    """All figures, and what they say."""
    data = folder / "people"
    numbers = {"val": max(people // 3, 2), "test": people}
    build_procedural(data, seed=5, identities=numbers, images_per_identity=PICTURES, world="camera")
    retriever = load_retriever(config, checkpoint)
    splits: dict[str, list[Described]] = {"val": [], "test": []}
    for record in json.loads((data / "reid_raw.json").read_text(encoding="utf-8")):
        splits[record["split"]].append(Described(retriever, data, record))
    layers = len(retriever.model.text_encoder.encoder.layer) - 1
    by_layer = [float(np.mean(pointing(splits["val"], layer)[0]["map"])) for layer in range(layers)]
    layer = int(np.argmax(by_layer))

    test = splits["test"]
    scores, groups, units = pointing(test, layer)
    best = scores.pop("best possible")
    maps = {"pointing": compare(scores, True, np.array(groups))}
    for name, (areas, people_of) in curves(test, layer).items():
        maps[name] = compare(areas, HIGHER_IS_BETTER[name], np.array(people_of))
    found, people_of = wrong_phrases(test, layer)
    leaving_out = {"wrong phrase": compare(found, True, np.array(people_of), ours="leaving out")}
    by_unit = {
        unit: {
            "phrases": units.count(unit),
            "best possible": float(np.mean([b for b, u in zip(best, units, strict=True) if u == unit])),
            **{k: float(np.mean([s for s, u in zip(v, units, strict=True) if u == unit])) for k, v in scores.items()},
        }
        for unit in sorted(set(units))
    }
    return {
        "model": retriever.fingerprint(),
        "pictures": len(test),
        "phrases": len(groups),
        "layer": layer,
        "pointing of each layer on val": by_layer,
        "best possible pointing": float(np.mean(best)),
        "pointing by unit": by_unit,
        "maps": maps,
        "leaving out": leaving_out,
        "conclusions": [conclusion("The maps", maps), conclusion("The changes of left-out phrases", leaving_out)],
    }


def main() -> None:
    folder, config, checkpoint = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    figures = measure(folder, config, checkpoint, int(sys.argv[4]) if len(sys.argv) > 4 else 60)
    write_json(folder / "faithfulness.json", figures)
    rows = [
        [measure, name, f"{one['mean']:.3f}", *([f"{one['gain']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]",
         f"{one['p']:.4f}"] if "p" in one else ["", ""])]
        for measure, kinds in {**figures["maps"], **figures["leaving out"]}.items()
        for name, one in kinds.items()
    ]  # fmt: skip
    by_layer = ", ".join(f"{share:.3f}" for share in figures["pointing of each layer on val"])
    print(f"layer {figures['layer']} of the maps, chosen on validation (pointing of each layer: {by_layer})")
    print(f"{figures['pictures']} pictures, {figures['phrases']} phrases of visible parts")
    print(f"best possible pointing: {figures['best possible pointing']:.3f}\n")
    print(markdown_table(["measure", "explanation", "mean", "ours is better by [95%]", "p"], rows))
    print("\n" + "\n".join(figures["conclusions"]))


if __name__ == "__main__":
    main()
