"""Pictures of ranked galleries: each caption with its retrieved images, in green and red frames as in torchreid.
torchreid's own ``visualize_ranked_results`` cannot serve, because its query is an image and not a caption.
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cada_plugin.errors import ConfigError
from cada_plugin.portable.pictures import load_person_image

RIGHT, WRONG = (22, 143, 78), (208, 48, 48)
INK, FAINT, PAPER, MAT = (28, 30, 34), (112, 117, 124), (255, 255, 255), (236, 238, 241)

# All lengths are in pixels of the finished picture for image_height = 224, and are scaled for other heights.
_HEIGHT = 224
_FRAME, _GAP, _MARGIN, _CAPTION_WIDTH, _FOOT, _MARK = 6, 14, 28, 300, 30, 15
_LEGEND_WIDTH = 720
_TEXT_SIZE, _TITLE_SIZE = 17, 26


@dataclass(frozen=True)
class RankedQuery:
    """One query and its retrieved images.

    ``hits`` are (image path, person id, score), best first; the score is a number, or a text to show in its place. The
    place of a hit whose path is None stays empty.
    ``truth`` is the image that the caption was written for. If any row has one, an extra first column without a rank
    shows it.
    """

    caption: str
    query_person_id: int | None
    hits: Sequence[tuple[str | os.PathLike | None, int, float | str]]
    truth: str | os.PathLike | None = None


def draw_ranked_galleries(
    rows: Sequence[RankedQuery],
    path: str | os.PathLike,
    topk: int = 8,
    title: str = "",
    image_height: int = _HEIGHT,
) -> Path:
    """Draw all rows into one PNG: caption on the left, its best images on the right, best first.

    Images of the right person have a green frame and a tick, all others a red frame and a cross, so that colour-blind
    readers can distinguish them as well. Rank and score are below each image. Images keep their aspect ratio and are
    placed on a grey background of 2 : 1 (height to width).

    Args:
        path: PNG file to write. It is replaced atomically, so that no reader sees half a picture.
        topk: images per row; rows may have fewer.
        title: a heading such as "Stage 2, k = 32: R@1 61.2". "" draws none.
        image_height: height of an image in pixels; everything else is scaled with it.

    Returns:
        ``path``.

    Raises:
        ConfigError: there is no row, or ``topk`` or ``image_height`` is too small.
        ImageError: an image cannot be read.
    """
    if not rows:
        raise ConfigError("there is no row to draw: give at least one query with its hits")
    if topk < 1 or image_height < 96:
        raise ConfigError(f"topk={topk}, image_height={image_height}: at least 1 image per row, 96 pixels high")
    picture = _Picture(rows, topk, title, image_height / _HEIGHT).image
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        picture.save(temporary, format="PNG", compress_level=3)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The lines of a text in a column of ``width`` pixels."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for letter in word:  # a word that is wider than the column (an URL, Chinese) breaks anywhere
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


class _Picture:
    """Lays out and draws the whole picture; ``image`` is the result."""

    def __init__(self, rows: Sequence[RankedQuery], topk: int, title: str, scale: float) -> None:
        self.scale = scale
        self.text, self.heading = self._font(_TEXT_SIZE), self._font(_TITLE_SIZE)
        self.frame, self.gap, self.margin, self.foot = (self._px(v) for v in (_FRAME, _GAP, _MARGIN, _FOOT))
        inner = self._px(_HEIGHT)
        self.cell = (inner // 2 + 2 * self.frame, inner + 2 * self.frame)  # (W, H) of a framed image
        self.caption_width = self._px(_CAPTION_WIDTH)
        self.line = int(self._px(_TEXT_SIZE) * 1.35)
        self.has_truth = any(row.truth is not None for row in rows)
        columns = min(topk, max(1, *(len(row.hits) for row in rows)))
        first = self.margin + self.caption_width + 2 * self.gap
        self.hits_x = first + (self.cell[0] + 3 * self.gap if self.has_truth else 0)
        self.truth_x = first
        width = self.hits_x + columns * (self.cell[0] + self.gap) - self.gap + self.margin
        width = max(width, self._px(_LEGEND_WIDTH))
        heading = wrapped(title, self.heading, width - 2 * self.margin) if title else []
        heading_line = int(self._px(_TITLE_SIZE) * 1.3)
        captions = [wrapped(row.caption, self.text, self.caption_width) for row in rows]
        # a long caption is not cut but makes its row higher
        heights = [max(self.cell[1] + self.foot, self.line * (len(lines) + 1)) + 2 * self.gap for lines in captions]
        top = self.margin + (heading_line * len(heading) + self.gap if heading else 0)
        bottom = top + sum(heights)
        self.image = Image.new("RGB", (width, bottom + 2 * self.gap + self.margin), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        for number, line in enumerate(heading):
            self.draw.text((self.margin, self.margin + number * heading_line), line, INK, self.heading)
        y = top
        for row, lines, height in zip(rows, captions, heights, strict=True):
            self.draw.line((self.margin, y, width - self.margin, y), MAT, self._px(2))
            self._row(row, lines, y + self.gap, columns)
            y += height
        if any(row.query_person_id is not None for row in rows):
            self._legend(bottom + self.gap)

    def _px(self, length: float) -> int:
        return max(1, round(length * self.scale))

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.load_default(self._px(size))

    def _row(self, row: RankedQuery, lines: list[str], y: int, columns: int) -> None:
        for number, line in enumerate(lines):
            self.draw.text((self.margin, y + number * self.line), line, INK, self.text)
        known = row.query_person_id is not None
        if known:
            self.draw.text((self.margin, y + len(lines) * self.line), f"person {row.query_person_id}", FAINT, self.text)
        if row.truth is not None:
            self._framed(row.truth, self.truth_x, y, FAINT)
            self._beneath("described", "", self.truth_x, y)
        for rank, (path, person_id, score) in enumerate(row.hits[:columns]):
            x = self.hits_x + rank * (self.cell[0] + self.gap)
            right = person_id == row.query_person_id
            self._framed(path, x, y, (RIGHT if right else WRONG) if known else FAINT)
            if known:
                radius = self._px(_MARK)
                self._mark(x + self.cell[0] - radius, y + radius, radius, right)
            self._beneath(str(rank + 1), score if isinstance(score, str) else f"{score:.3f}", x, y)

    def _framed(self, path: str | os.PathLike | None, x: int, y: int, colour: tuple[int, int, int]) -> None:
        width, height = self.cell
        self.draw.rectangle((x, y, x + width - 1, y + height - 1), colour)
        inner = (width - 2 * self.frame, height - 2 * self.frame)
        self.draw.rectangle(
            (x + self.frame, y + self.frame, x + width - self.frame - 1, y + height - self.frame - 1), MAT
        )
        if path is None:
            return
        person = load_person_image(path)
        ratio = min(inner[0] / person.width, inner[1] / person.height)
        size = (max(1, round(person.width * ratio)), max(1, round(person.height * ratio)))
        person = person.resize(size, Image.Resampling.LANCZOS)
        self.image.paste(person, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))

    def _beneath(self, left: str, right: str, x: int, y: int) -> None:
        base = y + self.cell[1] + self._px(6)
        self.draw.text((x + self.frame, base), left, INK, self.text)
        self.draw.text((x + self.cell[0] - self.frame, base), right, FAINT, self.text, anchor="ra")

    def _mark(self, x: int, y: int, radius: int, right: bool) -> None:
        """Draw a white tick or cross on a disc around (x, y). It is no text, because few fonts have these signs."""
        # drawn at four times the size and then reduced, because ImageDraw has no anti-aliasing
        r = radius * 4
        disc = Image.new("RGBA", (2 * r, 2 * r), (0, 0, 0, 0))
        pen = ImageDraw.Draw(disc)
        pen.ellipse((0, 0, 2 * r - 1, 2 * r - 1), (*(RIGHT if right else WRONG), 255))
        if right:
            strokes = [((-0.48, 0.02), (-0.14, 0.38), (0.5, -0.36))]
        else:
            strokes = [((-0.36, -0.36), (0.36, 0.36)), ((-0.36, 0.36), (0.36, -0.36))]
        for stroke in strokes:
            points = [(r + a * r, r + b * r) for a, b in stroke]
            pen.line(points, (255, 255, 255, 255), max(1, round(0.22 * r)), joint="curve")
        disc = disc.resize((2 * radius, 2 * radius), Image.Resampling.LANCZOS)
        self.image.paste(disc, (x - radius, y - radius), disc)

    def _legend(self, y: int) -> None:
        radius, x = self._px(_MARK * 0.6), self.margin
        entries = [
            (True, "the described person"),
            (False, "another person"),
            (None, "below each image: rank and score"),
        ]
        for right, words in entries:
            if right is not None:
                self._mark(x + radius, y + self._px(_TEXT_SIZE) // 2 + self._px(2), radius, right)
                x += 2 * radius + self._px(8)
            self.draw.text((x, y), words, FAINT, self.text)
            x += round(self.text.getlength(words)) + 2 * self.gap
