"""Collates items to a batch. Captions are padded to the longest one of the batch."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cada_plugin.datasets.transforms.text import SaidPhrase
from cada_plugin.errors import ConfigError
from cada_plugin.text.known_people import EncodedMeanings, KnownPerson

_PADDING = {
    "masked_ids": 0,
    "masked_positions": False,
    "phrase_index": -1,
    "false_ids": 0,
}


@FUNCTIONS.register_module()
def person_collate(items: list[dict], _scope_: str | None = None) -> dict:
    """Stack B items that ``PackPersonInputs`` has packed.

    Args:
        items: B items of the data set.
        _scope_: ignored. MMEngine adds it to every typed dict of a config whose ``_base_`` is ``package::config``, and
            passes it to the collate function as an argument.

    Returns:
        A dict with ``inputs`` and ``data_samples``, a list of B. The inputs are ``images`` (B, 3, H, W) uint8,
        ``input_ids`` (Q, T) long padded with 0, ``attention_mask`` (Q, T) bool, and in training also ``masked_ids``,
        ``masked_positions`` and ``phrase_index`` (B, T), ``false_ids`` (B, F), and those of :func:`judged_phrases`, as
        far as the pipeline makes them. Q is B in training; in evaluation it is the number of captions of all B images,
        image by image.

    Raises:
        ConfigError: the pipeline did not end with ``PackPersonInputs``.
    """
    parts = {"inputs", "data_samples"}
    if lacking := [item for item in items if not isinstance(item, dict) or not item.keys() >= parts]:
        found = ", ".join(map(str, lacking[0])) if isinstance(lacking[0], dict) else f"a {type(lacking[0]).__name__}"
        raise ConfigError(
            f"person_collate got items with {found}, and not inputs and data_samples: end the data set's pipeline with "
            "dict(type='PackPersonInputs'), with the prefix cada_plugin. in a data set of another package"
        )
    inputs = [item["inputs"] for item in items]
    captions = [ids for one in inputs for ids in one["input_ids"]]
    lengths = torch.tensor([len(ids) for ids in captions])
    batch: dict[str, Tensor] = {
        "images": torch.stack([one["image"] for one in inputs]),
        "input_ids": pad_sequence(captions, batch_first=True),
        "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }
    for key, value in _PADDING.items():
        if key in inputs[0]:
            batch[key] = pad_sequence([one[key] for one in inputs], batch_first=True, padding_value=value)
    if "said_phrases" in inputs[0]:
        batch |= judged_phrases([one["said_phrases"] for one in inputs], [one["known"] for one in inputs])
    return {"inputs": batch, "data_samples": [item["data_samples"] for item in items]}


def judged_phrases(said: Sequence[Sequence[SaidPhrase]], known: Sequence[KnownPerson]) -> dict[str, Tensor]:
    """The phrases of a batch, and of which of its images they are true.

    Args:
        said: for each of B images the phrases of its caption.
        known: for each of B images what is known of its person.

    Returns:
        ``said_ids`` (N, W) long, the word pieces of the N different phrases, padded with 0; and ``said_truths`` (B, N)
        int8, 1 where a phrase is true of the image, 0 where it is false and -1 where that is not known. See
        :meth:`KnownPerson.judge`. N is at least 1.
    """
    meanings = {phrase.pieces: phrase.meaning for of_image in said for phrase in of_image}
    if not meanings:
        return {
            "said_ids": torch.zeros(1, 1, dtype=torch.long),
            "said_truths": -torch.ones(len(said), 1, dtype=torch.int8),
        }
    phrases = EncodedMeanings.of(list(meanings.values()))
    truths = torch.from_numpy(np.stack([person.judge(phrases) for person in known]))
    pieces = [torch.tensor(one) for one in meanings]
    return {"said_ids": pad_sequence(pieces, batch_first=True), "said_truths": truths}
