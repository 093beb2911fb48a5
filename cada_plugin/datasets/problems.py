"""The type of one finding about a copy of a data set, with a message for the user."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One finding about an annotation, its captions or its images.

    Attributes:
        kind: a short name for programs, such as ``missing_images``.
        message: what is wrong and what to do about it.
        count: how many records, images or captions are affected.
        is_note: True for information that needs no correction.
        indices: positions, in the annotation's list, of records that cannot be used.
    """

    kind: str
    message: str
    count: int = 1
    is_note: bool = False
    indices: tuple[int, ...] = ()
