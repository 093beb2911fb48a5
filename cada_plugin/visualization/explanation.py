"""Pictures of explanations: for each phrase where the model looks, and what the match loses without the phrase."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cada_plugin.errors import ConfigError
from cada_plugin.files import replacing
from cada_plugin.portable.explanation import Explanation, Phrase
from cada_plugin.portable.pictures import load_person_image
from cada_plugin.visualization.gallery import FAINT, INK, MAT, PAPER, RIGHT, WRONG, wrapped

# All lengths are in pixels.
_CELL = (150, 300)  # (W, H) of a picture, about 1 : 2 as people are
_GAP, _MARGIN, _LINE = 16, 28, 23
_TEXT_SIZE, _TITLE_SIZE = 17, 26
_COLUMNS = 6  # phrases beside each other
_FADED = 0.12  # how much of the picture is left where the map is 0
_LEGEND = "lit: where the model looks for the phrase     without it: change of the match if the phrase is left out"
_JUDGED_LEGEND = "yes or no: is the phrase true of the picture?"


def spotlight(picture: Image.Image, map: np.ndarray) -> Image.Image:
    """The picture as it is where the map (rows, columns) is largest, and faded towards grey where it is small.

    Colours of the picture stay what they are, so that one sees whether the coat under the light is red. A map that is 0
    everywhere fades all of it.
    """
    largest = float(map.max())
    light = map / largest if largest > 0 else np.zeros_like(map)
    mask = Image.fromarray(np.round(255 * (_FADED + (1 - _FADED) * light)).astype(np.uint8))
    mask = mask.resize(picture.size, Image.Resampling.BILINEAR)
    return Image.composite(picture, Image.new("RGB", picture.size, MAT), mask)


def told_change(phrase: Phrase) -> str:
    """The change of a phrase in words: what its being left out does to the match logit."""
    return "the only phrase" if phrase.change is None else f"without it {signed(phrase.change)}"


def signed(number: float) -> str:
    """With its sign and two digits. A hyphen, because Pillow's own font has no minus sign."""
    return f"{number:+.2f}"


def draw_explanation(
    explanations: Sequence[Explanation], picture: str | os.PathLike | Image.Image, path: str | os.PathLike
) -> Path:
    """Draw explanations of one picture into a PNG: caption, match logit and probability, the picture, and for each
    phrase the picture lit where the map of the phrase is large.

    Below each phrase stands by how much the match logit changes without it. A fall is green, because the phrase speaks
    for the picture, and a rise is red. Where the model judges phrases, its verdict stands there too.

    Args:
        explanations: of one caption or several.
        picture: what was explained.
        path: PNG file to write. It appears complete or not at all.

    Raises:
        ConfigError: there is no explanation, or one has no maps.
        ImageError: the picture cannot be read.
    """
    if not explanations:
        raise ConfigError("there is no explanation to draw: give one at least")
    if any(one.word_maps is None for one in explanations):
        raise ConfigError(
            "an explanation without maps cannot be drawn, and ONNX graphs give none: explain with PyTorch "
            "(load_retriever of a config and a checkpoint, or of a folder of weights)"
        )
    if not isinstance(picture, Image.Image):
        picture = load_person_image(picture)
    picture = _fitted(picture.convert("RGB"))
    parts = [_drawn(one, picture) for one in explanations]
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    y = 0
    for part in parts:
        sheet.paste(part, (0, y))
        y += part.height
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        sheet.save(unfinished, format="PNG", optimize=True)
    return path


def _fitted(picture: Image.Image) -> Image.Image:
    ratio = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
    size = max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _drawn(explanation: Explanation, picture: Image.Image) -> Image.Image:
    """One caption with its phrases."""
    text, heading = ImageFont.load_default(_TEXT_SIZE), ImageFont.load_default(_TITLE_SIZE)
    columns = min(_COLUMNS, max(4, len(explanation.phrases)))
    width = 2 * _MARGIN + (columns + 1) * _CELL[0] + (columns + 1) * _GAP + _GAP
    title = wrapped(explanation.caption, heading, width - 2 * _MARGIN)
    names = [wrapped(phrase.text, text, _CELL[0]) for phrase in explanation.phrases]
    judged = any(phrase.verdict for phrase in explanation.phrases)
    lines = max([len(name) for name in names], default=1) + judged
    row_height = _CELL[1] + (lines + 1) * _LINE + 2 * _GAP
    rows = max(1, math.ceil(len(explanation.phrases) / columns))
    heading_line = round(_TITLE_SIZE * 1.3)
    top = _MARGIN + heading_line * len(title) + _GAP
    legend = [_LEGEND, _JUDGED_LEGEND] if judged else [_LEGEND]
    part = Image.new("RGB", (width, top + rows * row_height + len(legend) * _LINE + _GAP), PAPER)
    draw = ImageDraw.Draw(part)
    for number, line in enumerate(title):
        draw.text((_MARGIN, _MARGIN + number * heading_line), line, INK, heading)
    _paste(part, picture, _MARGIN, top)
    facts = [f"match {signed(explanation.match)}"]
    if explanation.probability is not None:
        facts.append(f"likelihood {explanation.probability:.0%}")
    below = _CELL[1] + _GAP // 2
    for number, fact in enumerate(facts):
        draw.text((_MARGIN, top + below + number * _LINE), fact, INK, text)
    for place, (phrase, name) in enumerate(zip(explanation.phrases, names, strict=True)):
        row, column = divmod(place, columns)
        x, y = _MARGIN + (column + 1) * (_CELL[0] + _GAP) + _GAP, top + row * row_height
        _paste(part, spotlight(picture, phrase.map), x, y)
        for number, line in enumerate(name):
            draw.text((x, y + below + number * _LINE), line, INK, text)
        told = y + below + len(name) * _LINE
        if phrase.verdict:
            colour = {"yes": RIGHT, "no": WRONG, "unsure": FAINT}[phrase.verdict]
            draw.text((x, told), f"{phrase.verdict}, {phrase.probability:.0%}", colour, text)
            told += _LINE
        colour = FAINT if phrase.change is None else RIGHT if phrase.change < 0 else WRONG
        draw.text((x, told), told_change(phrase), colour, text)
    for number, line in enumerate(legend):
        draw.text((_MARGIN, top + rows * row_height + number * _LINE), line, FAINT, text)
    return part


def _paste(part: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    part.paste(MAT, (x, y, x + _CELL[0], y + _CELL[1]))
    part.paste(picture, (x + (_CELL[0] - picture.width) // 2, y + (_CELL[1] - picture.height) // 2))
