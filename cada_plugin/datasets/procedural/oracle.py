"""Readers that miss nothing: the ceiling of every model on procedural people, from their annotation alone.

An oracle knows exactly what each caption claims. The *reader* also knows all attributes of every person in the gallery,
so it misses only what the captions do not say. The *viewer* is told no more than each picture shows. What a picture
hides it weighs by how common it is, which is the best that anyone can do who sees perfectly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cada_plugin.datasets.procedural.palette import PART_OF_SLOT
from cada_plugin.datasets.procedural.people import DESCRIBABLE
from cada_plugin.errors import AnnotationError

FALSE_CLAIM = -50.0
"""Score of a claim that is known to be false; that of a true one is 0, and of an open one the logarithm of its
frequency."""
_JITTER = 1e-6  # equal scores are ordered at random, as a person's place in the gallery must not matter


class Oracle:
    """Scores of the captions of a split against its pictures.

    Args:
        records: the annotation records of one split of procedural people, in their order.
        visible_only: True for the viewer, False for the reader.
        population: records whose people tell how common a value is, such as those of the training split; by default
            ``records``. Only the viewer needs them.

    Attributes:
        query_ids: (Q,) person ids of the captions; those of one picture are neighbours.
        gallery_ids: (G,) person ids of the pictures.

    Raises:
        AnnotationError: the records have no claims, so they are not those of procedural people.
    """

    def __init__(
        self, records: Sequence[dict], visible_only: bool = False, population: Sequence[dict] | None = None
    ) -> None:
        if not records or any("claims" not in record for record in records):
            raise AnnotationError(
                "an oracle needs annotation records with 'claims', which procedural people have "
                "(build=dict(world=...)); these have none"
            )
        self.claims = [claims for record in records for claims in record["claims"]]
        self.gallery_ids = torch.tensor([record["id"] for record in records])
        self.query_ids = torch.tensor([record["id"] for record in records for _ in record["claims"]])
        self._values = {slot: np.array([record["attributes"][slot] for record in records]) for slot in DESCRIBABLE}
        self._open = {slot: np.zeros(len(records), dtype=bool) for slot in DESCRIBABLE}
        if visible_only:
            shown = [shown_parts(record) for record in records]
            for slot, part in PART_OF_SLOT.items():
                self._open[slot] = np.array([part not in parts for parts in shown])
        people = {record["id"]: record["attributes"] for record in (population or records)}.values()
        self._common = {slot: np.array([person[slot] for person in people]) for slot in DESCRIBABLE}
        self._points: dict[tuple, np.ndarray] = {}  # many captions make the same claim

    def scores(self, start: int, stop: int) -> Tensor:
        """Scores (n, G), fp64, of the captions [start, stop)."""
        return torch.from_numpy(np.stack([self._score(number) for number in range(start, min(stop, len(self.claims)))]))

    def _score(self, number: int) -> np.ndarray:
        score = np.random.default_rng(number).random(len(self.gallery_ids)) * _JITTER
        for slot, meant in self.claims[number].items():
            claim = slot, *meant
            if claim not in self._points:
                true = np.isin(self._values[slot], meant)
                share = np.isin(self._common[slot], meant).mean()
                known = np.where(true, 0.0, FALSE_CLAIM)
                self._points[claim] = np.where(self._open[slot], np.log(max(share, 1e-6)), known)
            score += self._points[claim]
        return score


def shown_parts(record: dict) -> set[str]:
    """The parts of which a picture tells something: those that are visible, or visibly absent."""
    return {part for part, region in record["regions"].items() if region["visible"]} | {*record["seen_absent"]}
