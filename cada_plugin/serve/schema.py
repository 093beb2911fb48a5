"""Requests and answers of the JSON API. A request says what :class:`cada_plugin.gallery.Query` says, under the same
names; hits carry the names of ONVIF's FindImagebyNL where it has one (uri, time, likelihood)."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from cada_plugin.errors import ConfigError, needs_extra
from cada_plugin.gallery import Filter, GalleryHit, Query
from cada_plugin.gallery.facts import parse_time, utc
from cada_plugin.portable.explanation import Explanation

with needs_extra("serve"):
    from pydantic import BaseModel, ConfigDict, Field

MAX_PICTURES = 4
"""Uploaded pictures of one search."""
_MAX_HITS = 2000  # that can be scrolled to; after so many, another sentence helps more
ROW_ID = r"^[0-9a-f]{32}$"

RowId = Annotated[str, Field(pattern=ROW_ID, description="`id` of a hit")]
Sentence = Annotated[str, Field(min_length=1, max_length=2000)]
Sentences = Annotated[list[Sentence], Field(max_length=16)]
Values = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=500)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class SearchRequest(BaseModel):
    """A search. It needs a sentence, or a picture or image to be like."""

    model_config = ConfigDict(extra="forbid")

    sentences: Sentences = Field([], description="descriptions of the person")
    combine: Literal["and", "or"] = Field("and", description="all sentences together, or the best of them")
    without: Sentences = Field([], description='what the person must not have, such as "a hat"')
    like: list[RowId] = Field([], max_length=8, description="images of the gallery that the person looks like")
    cameras: Values = Field([], description="only of these cameras")
    after: str | Number | None = Field(None, description="not before this time: ISO 8601 (UTC) or seconds since 1970")
    before: str | Number | None = Field(None, description="before this time")
    where: dict[str, Values] = Field({}, description="allowed values by the name of a column")
    min_score: Number | None = Field(None, ge=0, le=1, description="least likelihood; needs a calibrated model")
    min_cosine: Number | None = Field(None, description="least stage-1 score")
    per_person: bool = Field(False, description="the best image of each person or track")
    topk: int = Field(48, ge=1, le=200, description="number of hits in this answer")
    offset: int = Field(0, ge=0, le=_MAX_HITS - 1, description="leave out so many hits: the next page")
    right: list[RowId] = Field([], max_length=200, description="hits that were marked right; they leave the list")
    wrong: list[RowId] = Field([], max_length=200, description="hits that were marked wrong; they leave the list")
    stage: Literal["first", "final"] = Field("final", description="first: by embeddings alone; final: re-ranked")

    @property
    def last(self) -> int:
        """Number of hits up to the end of the page that is asked for."""
        return min(self.offset + self.topk, _MAX_HITS)

    def query(self, pictures: Sequence[Image.Image | str]) -> Query:
        """The search, with decoded pictures or paths to be like.

        It asks for one hit more than the page has, so that the answer can say whether there are more.

        Raises:
            ConfigError: the search is impossible.
        """
        return Query(
            self.sentences,
            like=pictures,
            without=self.without,
            combine=self.combine,
            only=Filter(self.cameras, _seconds(self.after, "after"), _seconds(self.before, "before"), self.where),
            topk=self.last + 1,
            min_score=self.min_score,
            min_cosine=self.min_cosine,
            per_person=self.per_person,
            right=self.right,
            wrong=self.wrong,
            rerank=self.stage == "final",
        )


class HitAnswer(BaseModel):
    """One image found."""

    rank: int = Field(description="from 1")
    id: str
    uri: str = Field(description="of the image as JPEG")
    thumbnail_uri: str
    time: str | None = Field(description="when it was taken: ISO 8601, UTC")
    likelihood: float | None = Field(description="probability that it shows the person; null if not calibrated")
    cosine: float = Field(description="stage-1 score")
    match: float | None = Field(description="match logit of stage 2; null where it did not take part")
    camera: str
    person: str
    columns: dict[str, str]
    path: str = Field(description="within the folder that was indexed")


class SearchAnswer(BaseModel):
    """A page of hits, best first."""

    hits: list[HitAnswer]
    stage: Literal["first", "final"]
    more: bool = Field(description="whether a larger offset gives further hits")


class ExplainRequest(BaseModel):
    """Why was this image found by these sentences?"""

    model_config = ConfigDict(extra="forbid")

    id: RowId
    sentences: Sentences = Field(min_length=1, description="of the search")
    combine: Literal["and", "or"] = Field("and", description="of the search")

    def query(self) -> Query:
        return Query(self.sentences, combine=self.combine)


class PhraseAnswer(BaseModel):
    """One attribute phrase of a caption."""

    text: str
    change: float | None = Field(
        description="of the match logit if the phrase is left out: negative for a phrase that speaks for the image; "
        "null for the only phrase"
    )
    map: list[list[float]] | None = Field(
        description="rows of numbers from 0 to 1 over the whole image: where the model looks for the phrase; null for "
        "models in ONNX"
    )
    likelihood: float | None = Field(
        description="probability that the phrase is true of the image; null for models that judge no phrases"
    )
    verdict: Literal["yes", "no", "unsure"] | None = Field(description="what the likelihood says: above 2/3, below 1/3")


class CaptionAnswer(BaseModel):
    """A caption that was matched with the image."""

    caption: str
    match: float = Field(description="match logit")
    likelihood: float | None = Field(description="probability that the image shows the person; null if not calibrated")
    phrases: list[PhraseAnswer]


class ExplainAnswer(BaseModel):
    """One explanation for each caption that stage 2 matches: one in all but for "or" and for long sentences."""

    captions: list[CaptionAnswer]


class GalleryAnswer(BaseModel):
    """What can be searched, and by what."""

    images: int
    cameras: list[str]
    columns: dict[str, list[str]] = Field(description="values of those columns that have few of them")
    model: str = Field(description="class, image size and digest of the weights")
    calibrated: bool = Field(description="whether hits have a likelihood")
    reranks: bool = Field(description="whether the final stage differs from the first one")
    explains: bool = Field(description="whether /api/explain answers: the model has a match head")


class Reason(BaseModel):
    """Why a request was refused."""

    detail: str


def hit_answer(hit: GalleryHit) -> HitAnswer:
    row = hit.row
    return HitAnswer(
        rank=hit.rank,
        id=row.id,
        uri=f"/api/images/{row.id}",
        thumbnail_uri=f"/api/thumbnails/{row.id}",
        time=_iso(row.time),
        likelihood=hit.score,
        cosine=hit.cosine,
        match=hit.match,
        camera=row.camera,
        person=row.person,
        columns=dict(row.columns),
        path=row.path,
    )


def caption_answer(explanation: Explanation) -> CaptionAnswer:
    return CaptionAnswer(
        caption=explanation.caption,
        match=explanation.match,
        likelihood=explanation.probability,
        phrases=[
            PhraseAnswer(
                text=one.text,
                change=one.change,
                map=None if one.map is None else _up_to_one(one.map),
                likelihood=one.probability,
                verdict=one.verdict,
            )
            for one in explanation.phrases
        ],
    )


def _up_to_one(map: np.ndarray) -> list[list[float]]:
    """The map divided by its largest number, in four digits."""
    return (map / max(float(map.max()), 1e-30)).round(4).tolist()


def _iso(seconds: float | None) -> str | None:
    time = utc(seconds)
    return None if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(time: str | float | None, name: str) -> float | None:
    if time is None or time == "":
        return None
    seconds = parse_time(str(time), name)
    if not math.isfinite(seconds):
        raise ConfigError(f"{name}: {time!r} is no time: write 2026-11-25T09:30 or seconds since 1970")
    return seconds
