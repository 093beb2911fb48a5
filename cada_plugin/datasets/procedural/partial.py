"""Captions of procedural people cut to a few of their phrases, and captions with one wrong phrase.

Both are made from what the annotation knows: where the phrases of a caption stand, and what they claim.

*Cut captions.* "A woman with long black hair is wearing a red coat. She carries a black backpack." becomes "a red
coat", or "a woman with a red coat and a black backpack". Phrases of things are counted. The sex is said before them in
half of all captions and is not counted, because alone it tells next to nothing. The choices for one, two and three
phrases are nested and made of the same captions, so that their numbers can be compared. What would say more than the
claims is removed: "her" and "his" become "the" where the sex is not said, and "open" goes where what is under the
garment is not said. An inner garment is kept only together with the outer one, because "a white shirt" alone is the
upper garment.

*Wrong phrases.* One word is replaced by another word of its kind that is false of the person: "a blue coat". The rest
of the caption stays true.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cada_plugin.datasets.base import TextPersonDataset
from cada_plugin.datasets.procedural.people import pick
from cada_plugin.datasets.procedural.vocabulary import Words
from cada_plugin.datasets.procedural.worlds import WORLDS, World
from cada_plugin.datasets.procedural.writer import PLURAL, Claims, claims_of_phrase
from cada_plugin.errors import AnnotationError

COUNTS = (1, 2, 3)
"""Numbers of phrases that captions are cut to."""
MOST = 1000
"""The most captions that are cut or falsified, so that their test takes no longer than that of the whole captions."""
SAID_SEX = 0.5
"""Probability that a cut caption says the sex of the person."""
_SEX = "sex"
# Hair is said as an adjective ("long black hair") or as a noun ("black hair in a bun"); neither can replace the other.
_HAIR_ADJECTIVES = ("short", "cropped", "long")


@dataclass(frozen=True)
class CutCaption:
    """The text of a few phrases, what they claim, and the person (id) whose caption they are from."""

    text: str
    claims: Claims
    person: int


@dataclass(frozen=True)
class WrongCaption:
    """A ``true`` caption of a person (id), and ``text``, its copy that says ``instead`` in place of ``word`` and is
    false in the attribute ``slot``."""

    true: str
    text: str
    person: int
    slot: str
    word: str
    instead: str


def is_procedural(arguments: dict) -> bool:
    """Whether the arguments of a data set are those of procedural people, whose annotation has claims and phrases."""
    return bool(arguments.get("build"))


def procedural_records(dataset: TextPersonDataset, split: str | None = None) -> tuple[list[dict], World]:
    """The annotation records of a split, by default the data set's own, in its order, and the world.

    Raises:
        AnnotationError: it is not the data set of procedural people.
    """
    split = split or dataset.split
    try:
        arguments = json.loads((Path(dataset.data_root) / "procedural.json").read_text(encoding="utf-8"))
        world = WORLDS[arguments["world"]]
        path = dataset.find_annotation(dataset.data_root, dataset.ann_file or None)
        records = [record for record in dataset.read_annotation(path).records if record["split"] == split]
        if any({"claims", "phrases", "attributes"} - record.keys() for record in records):
            raise KeyError("claims")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnnotationError(
            f"{dataset.data_root} has no annotation of what its captions claim: captions can be cut and falsified only "
            "for procedural people (ProceduralPEDES)"
        ) from error
    return records, world


def cut_captions(records: Sequence[dict], seed: int = 0, most: int = MOST) -> dict[int, list[CutCaption]]:
    """For each number of ``COUNTS`` the captions cut to so many phrases; the lists are parallel.

    At most ``most`` captions are used, drawn from those that have phrases enough.

    Raises:
        AnnotationError: no caption has phrases enough.
    """
    rng = np.random.default_rng((seed, 0))
    chosen = [
        (record, number)
        for record, number in _shuffled(records, rng)
        if len(_things(record["phrases"][number])) >= max(COUNTS)
    ][:most]
    if not chosen:
        raise AnnotationError(f"no caption has {max(COUNTS)} phrases, so none can be cut: use a larger split")
    result: dict[int, list[CutCaption]] = {count: [] for count in COUNTS}
    for record, number in chosen:
        phrases, caption = record["phrases"][number], record["captions"][number]
        things = _things(phrases)
        order = [things[k] for k in rng.permutation(len(things))]
        units = [phrase["unit"] for phrase in order]
        if "inner" in units and units.index("inner") < units.index("upper"):
            a, b = units.index("inner"), units.index("upper")
            order[a], order[b] = order[b], order[a]
        sex = [phrase for phrase in phrases if phrase["unit"] == _SEX][:1] if rng.random() < SAID_SEX else []
        for count in COUNTS:
            kept = sorted([*sex, *order[:count]], key=lambda phrase: phrase["start"])
            claims = record["claims"][number]
            claimed = {slot: v for p in kept for slot, v in claims_of_phrase(claims, p["unit"]).items()}
            result[count].append(CutCaption(_text_of(caption, kept), claimed, record["id"]))
    return result


def wrong_captions(records: Sequence[dict], world: World, seed: int = 0, most: int = MOST) -> list[WrongCaption]:
    """At most ``most`` captions with one wrong word each.

    The sex of the person is never changed, because pronouns would contradict it.

    Raises:
        AnnotationError: no caption has a word that can be replaced.
    """
    rng = np.random.default_rng((seed, 1))
    made: list[WrongCaption] = []
    for record, number in _shuffled(records, rng):
        if len(made) == most:
            break
        wrong = _falsified(record, number, world, rng)
        if wrong is not None:
            made.append(wrong)
    if not made:
        raise AnnotationError("no caption has a word that another of its kind can replace: use a larger split")
    return made


def relevance(records: Sequence[dict], claims: Sequence[Claims]) -> np.ndarray:
    """Which records (G) show a person of whom all claims of a query (Q) are true: (Q, G) bool, from the attributes."""
    values = {slot: np.array([record["attributes"][slot] for record in records]) for slot in records[0]["attributes"]}
    relevant = np.ones((len(claims), len(records)), dtype=bool)
    for row, claimed in zip(relevant, claims, strict=True):
        for slot, meant in claimed.items():
            row &= np.isin(values[slot], meant)
    return relevant


def _shuffled(records: Sequence[dict], rng: np.random.Generator) -> list[tuple[dict, int]]:
    """Every caption as its record and its number there, in random order."""
    captions = [(record, number) for record in records for number in range(len(record["captions"]))]
    return [captions[k] for k in rng.permutation(len(captions))]


def _things(phrases: Sequence[dict]) -> list[dict]:
    return [phrase for phrase in phrases if phrase["unit"] != _SEX]


def _text_of(caption: str, phrases: Sequence[dict]) -> str:
    """The text of some phrases of a caption, in their order: 'a woman with a red coat and a black backpack'."""
    units = {phrase["unit"] for phrase in phrases}
    texts = {phrase["unit"]: caption[phrase["start"] : phrase["stop"]] for phrase in phrases}
    if "inner" not in units and "upper" in units:
        texts["upper"] = re.sub(r"^an open ", "a ", texts["upper"])
    head = texts.pop(_SEX, None)
    things = list(texts.values())
    text = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    if head is None:
        text = re.sub(r"\b(his|her)\b", "the", text)
    else:
        text = f"a {head} with {text}"
    return _with_articles(text)


def _with_articles(text: str) -> str:
    return re.sub(r"\ban (?=[^aeiou])", "a ", re.sub(r"\ba (?=[aeiou])", "an ", text))


def _falsified(record: dict, number: int, world: World, rng: np.random.Generator) -> WrongCaption | None:
    caption, claims = record["captions"][number], record["claims"][number]
    phrases = _things(record["phrases"][number])
    for k in rng.permutation(len(phrases)):
        unit, start, stop = (phrases[k][key] for key in ("unit", "start", "stop"))
        said = claims_of_phrase(claims, unit)
        slots = list(said)
        for place in rng.permutation(len(slots)):
            slot, text = slots[place], caption[start:stop]
            found = _find_word(text, slot, said[slot], world.speech.words)
            if found is None:
                continue
            word, begin, words = found
            others = _replacements(word, record["attributes"][slot], words)
            if others:
                instead = pick(rng, others)
                changed = _with_articles(f"{text[:begin]}{instead}{text[begin + len(word) :]}")
                false = f"{caption[:start]}{changed}{caption[stop:]}"
                return WrongCaption(caption, false, record["id"], slot, word, instead)
    return None


def _find_word(text: str, slot: str, meant: Sequence[str], words: dict[str, Words]) -> tuple[str, int, Words] | None:
    """The word of a phrase that makes the claim, its place, and all words of its kind. None if it is there twice, as
    the same colour can be that of a garment and of its pattern."""
    kinds = [slot] if slot in words else [_kind_of(slot)]
    if slot == "pattern":
        kinds.append("pattern_noun")
    for kind in kinds:
        same = [word for word, (_, values) in words.get(kind, {}).items() if set(values) == set(meant)]
        for word in sorted(same, key=len, reverse=True):
            places = [match.start() for match in re.finditer(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]
            if places:
                return (word, places[0], words[kind]) if len(places) == 1 else None
    return None


def _kind_of(slot: str) -> str:
    """The kind of words of a slot that has none of its own."""
    if slot == "inner_type":
        return "upper_type"
    return "side" if slot.endswith("_side") else "colour"


def _replacements(word: str, value: str, words: Words) -> dict[str, float]:
    """The words, with their weights, that can stand where ``word`` does and are false of a person with this value."""

    def form(one: str) -> tuple[bool, bool]:
        return one in PLURAL, one in _HAIR_ADJECTIVES

    return {
        other: weight for other, (weight, values) in words.items() if value not in values and form(other) == form(word)
    }
