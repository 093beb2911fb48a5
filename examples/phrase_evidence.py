"""Whether the evidence of single phrases is right, on drawn people, of whom it is known what is true.

    python examples/phrase_evidence.py CONFIG CHECKPOINT [CAPTIONS] [CHOOSER]

takes the first captions of CAPTIONS (1,000) test images and, for each, the picture of another person that is first by
the cosine: a hard wrong pair. Some phrases of the caption are true of that person too. Then it does the same with the
picture of anybody else. The better a model is, the more alike are the people whom it takes for each other; so that
models are compared on the same pairs, the shipped weights of the config CHOOSER choose them. These kinds of evidence
for a phrase are compared, those that the model has:

- *judged*: the log-odds of the head for phrases, to which each is alone (``loss_phrases``);
- *calibrated*: the probability that is made of this and of how well the whole caption fits, if there is a calibration;
- *group*: the phrase within the caption, by the head for groups of tokens;
- *asked alone*: the match logit of the phrase as the whole sentence;
- *left out*: how much the match logit falls without the phrase;
- *predicted*: the log-likelihood of its word pieces where they are masked, by the attribute decoder of ARA;
- *what it is about*, for comparison: the share of true phrases among all that speak of the same attributes. It never
  looks at a picture.

Reported are the area under the curve for true against false phrases (0.5 is chance); the same within phrases that speak
of the same attributes, such as the colour and the kind of shoes, which only a picture can tell apart; and how often the
phrase with the least evidence is a false one, among captions that have true and false ones.

A last line tells which words the head for phrases sees: for each kind of word, how often it finds a phrase likelier to
be true of its own picture than a copy in which a word of this kind is replaced by one that excludes it.
"""

import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from cada_plugin.apis import Retriever, load_retriever
from cada_plugin.datasets import ProceduralPEDES
from cada_plugin.datasets.procedural.partial import procedural_records
from cada_plugin.datasets.procedural.writer import claims_of_phrase
from cada_plugin.engine.config import read_config
from cada_plugin.models.groupings import group_means
from cada_plugin.models.retriever import TextFeatures
from cada_plugin.portable.meanings import GROUP_OF
from cada_plugin.portable.phrases import without_words
from cada_plugin.progress import progress_bar
from cada_plugin.retrieval import EncodedImages
from cada_plugin.tables import markdown_table
from cada_plugin.text.opposites import Opposites


def phrase_claims(record: dict) -> list[dict]:
    """What each phrase of the first caption of a record says, attribute by attribute."""
    return [claims_of_phrase(record["claims"][0], phrase["unit"]) for phrase in record["phrases"][0]]


def phrase_truths(record: dict, other: dict) -> list[bool]:
    """Whether each phrase of the first caption of a record is true of another person."""
    return [
        all(other["attributes"][slot] in values for slot, values in claims.items()) for claims in phrase_claims(record)
    ]


def area_under_curve(scores: Sequence[float], true: Sequence[bool]) -> float:
    """How often a true one has the higher score than a false one; equal scores count half."""
    return area_within(scores, true, [0] * len(scores))


def area_within(scores: Sequence[float], true: Sequence[bool], about: Sequence) -> float:
    """The same over all pairs of a true and a false one that are about the same."""
    scores, true = np.asarray(scores), np.asarray(true)
    members: dict = {}
    for place, what in enumerate(about):
        members.setdefault(what, []).append(place)
    wins = pairs = 0.0
    for places in members.values():
        low, high = np.sort(scores[places][~true[places]]), scores[places][true[places]]
        wins += (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).sum() / 2
        pairs += len(low) * len(high)
    return float(wins / pairs)


def areas(scores: Sequence[float], true: Sequence[bool], about: Sequence[tuple], most: int = 6) -> dict[str, float]:
    """The area under the curve for each of the ``most`` frequent things that phrases are about."""
    scores, true = np.asarray(scores), np.asarray(true)
    found = {}
    for what, _ in Counter(about).most_common(most):
        same = np.array([one == what for one in about])
        if 0 < true[same].sum() < same.sum():
            found[" and ".join(what)] = area_under_curve(scores[same], true[same])
    return found


def shares(true: Sequence[bool], about: Sequence) -> list[float]:
    """For each phrase the share of true ones among those that are about the same."""
    found: dict = {}
    for is_true, what in zip(true, about, strict=True):
        found.setdefault(what, []).append(is_true)
    return [float(np.mean(found[what])) for what in about]


def least_is_false(scores: Sequence[float], true: Sequence[bool], lengths: Sequence[int]) -> float:
    """How often the phrase with the least score is a false one, among captions with true and false ones."""
    ends = np.cumsum(lengths)[:-1]
    each = zip(np.split(np.asarray(scores), ends), np.split(np.asarray(true), ends), strict=True)
    return float(np.mean([not true[values.argmin()] for values, true in each if true.any() and not true.all()]))


def evidence(retriever: Retriever, record: dict, tokens: torch.Tensor) -> dict[str, list[float]]:
    """Scores of the phrases of the first caption of a record for the tokens (1, S, C) of a picture."""
    model, tokenizer, caption = retriever.model, retriever.tokenizer, record["captions"][0]
    phrases, words = record["phrases"][0], tokenizer.split(caption)
    spans = [[len(tokenizer.split(caption[: p[end]])) for end in ("start", "stop")] for p in phrases]
    spans = [[start + (words[start] in ("a", "an")), stop] for start, stop in spans]  # as explanations have them
    encoded = tokenizer.encode(caption)
    place_of = {word: number for number, span in enumerate(spans) for word in range(*span)}
    index = torch.tensor([[place_of.get(word, -1) for word in encoded.word_index]])
    ids = torch.tensor([encoded.input_ids])
    texts = TextFeatures(torch.zeros(1, 0), ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        memory = model.image_memory(tokens)
        found: dict[str, list[float]] = {}
        if retriever.judges_phrases:
            found["judged"] = retriever.judge_phrases(encoded, spans, tokens)[:, 0].tolist()
            if retriever.calibration is not None and retriever.calibration.phrase_curve:
                found["calibrated"] = retriever.phrase_probabilities(encoded, spans, tokens)
        if model.itm_local_head is not None:
            means, _ = group_means(model.fuse(ids, texts.attention_mask, memory), index, len(phrases))
            logits = model.itm_local_head(means)[0]
            found["group"] = (logits[:, 1] - logits[:, 0]).tolist()
        alone = [" ".join(words[start:stop]) for start, stop in spans]
        without = [without_words(words, *span) for span in spans]
        asked = retriever.encode_text([caption, *alone, *without])
        matched = model.match(asked, memory, torch.zeros(len(asked.input_ids), dtype=torch.long))
        found["asked alone"] = matched[1 : 1 + len(spans)].tolist()
        found["left out"] = (matched[0] - matched[1 + len(spans) :]).tolist()
        if model.text_decoder is not None:
            found["predicted"] = log_likelihoods(retriever, ids, index, len(phrases), tokens).tolist()
    return found


def log_likelihoods(
    retriever: Retriever, ids: torch.Tensor, phrase_index: torch.Tensor, phrases: int, tokens: torch.Tensor
) -> torch.Tensor:
    """Log-likelihood (phrases,) of each phrase of a caption, given a picture and the rest of the caption."""
    decoder, masked = retriever.model.text_decoder, retriever.tokenizer.mask_id
    own = phrase_index == torch.arange(phrases)[:, None]  # (phrases, T)
    copies = ids.expand(phrases, -1)
    memory = decoder.bert.image_memory(tokens).select(torch.zeros(phrases, dtype=torch.long))
    logits = decoder(copies.masked_fill(own, masked), torch.ones_like(own), memory)  # (phrases, T, V)
    each = logits.log_softmax(-1).gather(-1, copies[..., None])[..., 0]
    return (each * own).sum(1)


def compare(retriever: Retriever, records: Sequence[dict], gallery: EncodedImages, wrong: Sequence[int]) -> str:
    """A table of the evidence for the first captions of the first records in pictures of ``wrong`` people."""
    true: list[bool] = []
    about: list[tuple] = []
    lengths: list[int] = []
    scores: dict[str, list[float]] = {}
    for record, other in zip(progress_bar(records[: len(wrong)], desc="captions"), wrong, strict=True):
        true += phrase_truths(record, records[other])
        about += [tuple(sorted(claims)) for claims in phrase_claims(record)]
        lengths.append(len(record["phrases"][0]))
        for kind, values in evidence(retriever, record, torch.as_tensor(gallery.tokens[other : other + 1])).items():
            scores.setdefault(kind, []).extend(values)
    scores["what it is about"] = shares(true, about)
    rows = [
        [
            kind,
            f"{area_under_curve(x, true):.3f}",
            f"{area_within(x, true, about):.3f}",
            f"{100 * least_is_false(x, true, lengths):.1f}",
        ]
        for kind, x in scores.items()
    ]
    mixed = [part for part in np.split(np.asarray(true), np.cumsum(lengths)[:-1]) if part.any() and not part.all()]
    rows.append(["chance", "0.500", "0.500", f"{100 * (1 - np.mean([part.mean() for part in mixed])):.1f}"])
    table = markdown_table(["evidence", "area under the curve", "about the same", "least is false, %"], rows)
    first = next(iter(scores))
    kinds = ", ".join(f"{kind} {area:.2f}" for kind, area in areas(scores[first], true, about).items())
    return f"{len(true):,} phrases, {100 * np.mean(true):.0f} % true of the wrong person\n{table}\n{first}: {kinds}\n"


def told_apart(retriever: Retriever, records: Sequence[dict], gallery: EncodedImages) -> dict[str, tuple[float, int]]:
    """For each kind of word: the share of phrases that are judged likelier to be true of their own picture than a copy
    with another word of this kind, and how many phrases that are. Each phrase of the first captions has one copy."""
    tokenizer = retriever.tokenizer
    opposites = Opposites(tokenizer.split(record["captions"][0]) for record in records)
    torch.manual_seed(0)
    found: dict[str, list[bool]] = {}
    for number, record in enumerate(progress_bar(records, desc="copies wrong in one word")):
        for phrase in record["phrases"][0]:
            words = tokenizer.split(record["captions"][0][phrase["start"] : phrase["stop"]])
            words = words[words[0] in ("a", "an") :]
            copy = opposites.falsify(words)
            if copy is None:
                continue
            differ = [word for word, other in zip(words, copy, strict=True) if word != other]
            changed = next(word for word in differ if word in GROUP_OF)  # and perhaps an article
            spans = [(0, len(words)), (len(words), 2 * len(words))]
            tokens = torch.as_tensor(gallery.tokens[number : number + 1])
            own, others = retriever.judge_phrases(tokenizer.encode(" ".join(words + copy)), spans, tokens)[:, 0]
            found.setdefault(GROUP_OF[changed][0], []).append(own > others)
    return {kind: (float(np.mean(right)), len(right)) for kind, right in sorted(found.items())}


def split_of(config: str, split: str) -> tuple[list[dict], list[str]]:
    """The records of a split of a config's procedural people, and the paths of their pictures."""
    loader = read_config(config).test_dataloader
    arguments = {key: x for key, x in loader.dataset.items() if key not in ("type", "pipeline")}
    dataset = ProceduralPEDES(**arguments | {"split": split})
    return procedural_records(dataset)[0], [record["img_path"] for record in dataset.records]


def main(config: str, checkpoint: str, captions: str = "1000", chooser: str | None = None) -> None:
    retriever = load_retriever(config, checkpoint)
    records, paths = split_of(config, "test")
    gallery = retriever.encode_image(paths)
    chosen_by, seen = retriever, gallery
    if chooser is not None:
        chosen_by = load_retriever(chooser)
        seen = chosen_by.encode_image(paths)
    for name, wrong in wrong_people(chosen_by, records, seen, int(captions)).items():
        print(
            f"{len(wrong):,} captions, wrong person {name}: {compare(retriever, records, gallery, wrong)}", flush=True
        )
    if retriever.judges_phrases:
        told = told_apart(retriever, records[: int(captions)], gallery)
        print("told from a copy: " + ", ".join(f"{kind} {100 * x:.0f} % of {n}" for kind, (x, n) in told.items()))


def wrong_people(
    retriever: Retriever, records: Sequence[dict], gallery: EncodedImages, captions: int
) -> dict[str, list[int]]:
    """For each of the first captions the picture of somebody else: the first by the cosine, and a random one."""
    embed = np.asarray(retriever.encode_text([record["captions"][0] for record in records[:captions]]).embed)
    people = np.array([record["id"] for record in records])
    others = people[: len(embed), None] != people  # (Q, G)
    random = np.random.default_rng(0).random(others.shape)
    scores = {"first by the cosine": embed @ np.asarray(gallery.embed).T, "random": random}
    return {name: np.where(others, of_pair, -np.inf).argmax(1).tolist() for name, of_pair in scores.items()}


if __name__ == "__main__":
    main(*sys.argv[1:5])
