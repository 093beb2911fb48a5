"""What can be wrong with a copy of a data set, said for a person."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One finding about an annotation, its captions or its images.

    Attributes:
        kind: a short name for programs, such as ``missing_images``.
        message: what is wrong and what to do about it.
        count: how many records, images or captions are concerned.
        is_note: worth knowing, but nothing that has to be mended.
        indices: places in the annotation's list of the records that cannot be used.
    """

    kind: str
    message: str
    count: int = 1
    is_note: bool = False
    indices: tuple[int, ...] = ()
