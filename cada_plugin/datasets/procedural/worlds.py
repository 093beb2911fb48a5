"""The two worlds in which procedural people are drawn and described: where start weights come from, and their target.

BLIP's weights come from pictures and captions of the web, and are fine-tuned on crops of surveillance cameras whose
captions use other words. The worlds differ in the same way:

- ``web``: large clean figures, mostly from the front, few kinds of things, plain colours, short loose captions.
- ``camera``: all views, low light, colour casts, blur, other people in the way, finer colours and garments, open
  garments over others, long captions with sides and with words that the captions of the web never use.

Nobody lives in both: a person's pool follows from the attributes.
"""

from dataclasses import dataclass

import numpy as np

from cada_plugin.datasets.procedural.palette import NONE, PLAIN_COLOURS
from cada_plugin.datasets.procedural.vocabulary import CAMERA_WORDS, WEB_WORDS, Words

Range = tuple[float, float]
Weights = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures of a world look. Probabilities and shares are in [0, 1]; ranges are sampled uniformly."""

    views: Weights
    """Shares of the views ``front``, ``back`` and ``side``."""
    scale: Range
    """Height of a figure of average size, as a share of the picture's height."""
    shift: Range
    """Distance of the person's axis from the middle, as a share of the picture's width, on either side."""
    feet: Range
    """Where the feet are, as a share of the picture's height; beyond 1 the picture cuts them off."""
    scenery: float
    """Probability of a background with buildings, trees or shop fronts."""
    bystander: float
    """Probability of somebody else behind the person."""
    passer_by: float
    """Probability of somebody else who covers the person in part."""
    obstacle: float
    """Probability of a pole, bin or trolley in front."""
    light: Range
    """Factor on the brightness."""
    contrast: Range
    cast: float
    """Strength of the camera's own colour cast."""
    cast_noise: float
    """Largest random change of the gain of a colour channel."""
    blur: Range
    """Radius in pixels of the final picture."""
    noise: Range
    """Standard deviation of the noise of the sensor, of 255."""
    cameras: dict[str, tuple[float, float, float]]
    """Folder of each camera, with its gains of red, green and blue at a ``cast`` of 1."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """How captions of a world are written. See ``writer``."""

    things: tuple[int, int]
    """Inclusive range of the number of things that a caption describes, besides the sex of the person."""
    weights: Weights
    """How readily each kind of thing is mentioned."""
    colour_said: float
    """Probability that the colour of a mentioned thing is said."""
    side_said: float
    """Probability that the side of a mentioned bag or held thing is said."""
    hidden: float
    """Factor on the weight of a thing that the picture does not show."""
    sentences: bool
    """Sentences with verbs; otherwise one phrase, as in the alternative text of a picture."""
    words: dict[str, Words]
    """For each kind of slot its words, see ``vocabulary``."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One of the worlds; see the module."""

    name: str
    pool: int
    values: dict[str, dict]
    """Weights of the values of each slot; a pair of weights is for women and for men."""
    palettes: tuple[tuple[str, ...], ...]
    """Colours that are worn together. Each person has one of these palettes, so that many people share their set of
    colours, and retrieval depends on *which* thing has which colour."""
    palette_share: float
    """Probability that the colour of a thing is from the person's palette."""
    open_share: float
    """Probability that a garment that can be open is."""
    scarf_share: float
    twin_kinds: Weights
    look: Look
    speech: Speech

    def known(self, slot: str) -> tuple[str, ...]:
        """The values of a slot that occur in this world."""
        if slot in self.values:
            return tuple(self.values[slot])
        return tuple(self.values["colour"]) if slot.endswith("_colour") else ("plain", "striped", "checked", "dotted")


def _palettes(count: int, weights: Weights) -> tuple[tuple[str, ...], ...]:
    """``count`` palettes of three colours, which are the same in every process."""
    rng, names = np.random.default_rng(0), list(weights)
    shares = np.array(list(weights.values())) / sum(weights.values())
    return tuple(tuple(names[k] for k in rng.choice(len(names), size=3, replace=False, p=shares)) for _ in range(count))


_WEB_COLOURS = dict.fromkeys(PLAIN_COLOURS, 1.0)
_CAMERA_COLOURS = {
    "black": 1.5, "white": 1.3, "gray": 1.3, "red": 1, "orange": 0.7, "yellow": 0.7, "green": 1, "blue": 1.1,
    "purple": 0.8, "pink": 0.8, "brown": 1, "navy": 1.2, "maroon": 1, "beige": 1.1, "olive": 1, "teal": 0.9,
    "lavender": 0.8, "magenta": 0.7,
}  # fmt: skip

WEB = World(
    name="web",
    pool=0,
    values={
        "colour": _WEB_COLOURS,
        "hair": {"short": (1, 3), "long": (2, 0.5), "ponytail": (1, 0), "bald": (0, 0.6)},
        "hair_colour": {"black": 1, "brown": 1, "blonde": 1, "gray": 0.6},
        "upper_type": {
            "t-shirt": (2, 2), "shirt": (2, 2), "sweater": (1.5, 1.5), "hoodie": (1.5, 1.5), "jacket": (1.5, 1.5),
            "coat": (1.5, 1.5), "dress": (2, 0),
        },
        "inner_type": {"t-shirt": 1, "shirt": 1},
        "lower_type": {"trousers": (3, 3), "jeans": (2, 2), "shorts": (1.5, 2), "skirt": (2, 0)},
        "shoe_type": {"sneakers": (2, 2), "boots": (1, 1)},
        "bag": {NONE: (3, 4), "backpack": (2, 2), "handbag": (2, 0.5)},
        "hat": {NONE: 5, "cap": 1.5, "beanie": 1.5, "sun hat": 1},
        "glasses": {NONE: 6, "glasses": 2, "sunglasses": 1.5},
        "held": {NONE: 6, "phone": 1, "umbrella": 1, "book": 1},
    },
    palettes=_palettes(60, _WEB_COLOURS),
    palette_share=0.6,
    open_share=0,
    scarf_share=0,
    twin_kinds={"swapped": 1, "changed": 1},
    look=Look(
        views={"front": 0.7, "back": 0.15, "side": 0.15},
        scale=(0.84, 0.95),
        shift=(0, 0.07),
        feet=(0.93, 0.99),
        scenery=0.5,
        bystander=0,
        passer_by=0,
        obstacle=0,
        light=(0.85, 1.08),
        contrast=(0.9, 1.05),
        cast=0,
        cast_noise=0.05,
        blur=(0, 0.4),
        noise=(0, 4),
        cameras={"web": (1, 1, 1)},
    ),
    speech=Speech(
        things=(2, 5),
        weights={"upper": 30, "lower": 10, "hair": 2, "pattern": 3, "bag": 4, "hat": 5, "shoes": 1, "held": 2,
                 "glasses": 2},
        colour_said=0.85,
        side_said=0,
        hidden=0.1,
        sentences=False,
        words=WEB_WORDS,
    ),
)  # fmt: skip

CAMERA = World(
    name="camera",
    pool=1,
    values={
        "colour": _CAMERA_COLOURS,
        "hair": {"short": (1, 3), "long": (2, 0.5), "ponytail": (1, 0.1), "bun": (1, 0.1), "bald": (0, 0.6)},
        "hair_colour": {"black": 1.2, "brown": 1.2, "blonde": 1, "gray": 0.7, "red": 0.6},
        "upper_type": {
            "t-shirt": (1, 1), "shirt": (1, 1), "sweater": (1, 1), "hoodie": (1, 1.2), "jacket": (1.6, 1.6),
            "coat": (1.6, 1.6), "dress": (1.8, 0), "polo": (0.7, 1.2), "cardigan": (1.6, 1), "blazer": (1.3, 1.6),
            "vest": (0.9, 0.9),
        },
        "inner_type": {"t-shirt": 1, "shirt": 1, "sweater": 1},
        "lower_type": {
            "trousers": (2, 3), "jeans": (2, 2), "shorts": (1.2, 2), "skirt": (2, 0), "leggings": (1.6, 0.1),
            "joggers": (1, 1.5),
        },
        "shoe_type": {"sneakers": (2, 2), "boots": (1.5, 1), "loafers": (1, 1), "sandals": (1, 0.6)},
        "bag": {
            NONE: (1.8, 3), "backpack": (2, 2.6), "shoulder bag": (1.6, 1.6), "handbag": (1.6, 0.3), "tote": (1.6, 0.5),
            "suitcase": (0.9, 1.1),
        },
        "hat": {NONE: 4.5, "cap": 1.4, "beanie": 1.3, "sun hat": 0.9, "helmet": 0.9},
        "glasses": {NONE: 6, "glasses": 2, "sunglasses": 1.5},
        "held": {NONE: 4, "phone": 1, "umbrella": 1.2, "bottle": 1, "book": 1, "cup": 1, "folder": 1},
    },
    palettes=_palettes(40, _CAMERA_COLOURS),
    palette_share=0.85,
    open_share=0.65,
    scarf_share=0.2,
    twin_kinds={"swapped": 0.5, "mirrored": 0.15, "changed": 0.35},
    look=Look(
        views={"front": 0.42, "back": 0.3, "side": 0.28},
        scale=(0.76, 0.93),
        shift=(0, 0.1),
        feet=(0.9, 1.02),
        scenery=0.8,
        bystander=0.3,
        passer_by=0.3,
        obstacle=0.25,
        light=(0.65, 1.08),
        contrast=(0.8, 1.05),
        cast=1,
        cast_noise=0.06,
        blur=(0, 0.9),
        noise=(2, 8),
        cameras={
            "daylight": (1.0, 1.0, 1.0),
            "lamp": (1.16, 1.0, 0.78),
            "neon": (0.88, 1.0, 1.14),
            "hall": (0.94, 1.07, 0.92),
        },
    ),
    speech=Speech(
        things=(4, 7),
        weights={"upper": 30, "lower": 18, "hair": 3, "pattern": 6, "inner": 12, "bag": 8, "hat": 5, "scarf": 5,
                 "shoes": 3.5, "held": 4.5, "glasses": 1.6, "sleeve": 0.8},
        colour_said=0.93,
        side_said=0.6,
        hidden=0.25,
        sentences=True,
        words=CAMERA_WORDS,
    ),
)  # fmt: skip

WORLDS = {world.name: world for world in (WEB, CAMERA)}
