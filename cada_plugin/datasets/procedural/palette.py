"""The values that attributes of procedural people can have, and the colours in which they are drawn.

``Person`` (see ``people``) has one value per slot, and ``NONE`` where the thing does not exist. A *part* is what the
renderer draws as one region: a garment, a bag, the hair.
"""

RGB = tuple[int, int, int]

NONE = "none"
SIDES = ("left", "right")
"""Always the person's own left and right, not those of the picture."""
PLAIN_COLOURS = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
FINE_COLOURS = (*PLAIN_COLOURS, "navy", "maroon", "beige", "olive", "teal", "lavender", "magenta")

PAINT: dict[str, RGB] = {
    "black": (28, 28, 32),
    "white": (246, 246, 244),
    "gray": (134, 136, 140),
    "red": (208, 26, 36),
    "orange": (246, 128, 22),
    "yellow": (250, 216, 40),
    "green": (34, 148, 64),
    "blue": (40, 92, 214),
    "purple": (116, 40, 160),
    "pink": (252, 158, 194),
    "brown": (118, 70, 36),
    "navy": (24, 36, 92),
    "maroon": (114, 18, 42),
    "beige": (216, 194, 152),
    "olive": (112, 112, 42),
    "teal": (22, 136, 142),
    "lavender": (184, 164, 226),
    "magenta": (206, 30, 132),
}
HAIR: dict[str, RGB] = {
    "black": (30, 26, 26),
    "brown": (104, 60, 32),
    "blonde": (232, 194, 98),
    "gray": (172, 172, 174),
    "red": (168, 72, 28),
}
SKIN: dict[str, RGB] = {"light": (243, 205, 176), "tan": (210, 160, 120), "dark": (132, 88, 60)}
DARK: RGB = (26, 26, 30)

PARTS = (
    "head", "skin", "hair", "upper", "pattern", "inner", "lower", "shoes", "bag", "hat", "scarf", "glasses", "held",
)  # fmt: skip
PART_OF_SLOT = {
    "hair": "hair", "hair_colour": "hair",
    "upper_type": "upper", "upper_colour": "upper", "sleeve": "upper",
    "pattern": "pattern", "pattern_colour": "pattern",
    "inner_type": "inner", "inner_colour": "inner",
    "lower_type": "lower", "lower_colour": "lower",
    "shoe_type": "shoes", "shoe_colour": "shoes",
    "bag": "bag", "bag_colour": "bag", "bag_side": "bag",
    "hat": "hat", "hat_colour": "hat",
    "scarf_colour": "scarf",
    "glasses": "glasses",
    "held": "held", "held_colour": "held", "held_side": "held",
}  # fmt: skip
"""The part that shows the value of a slot. The sex has none, because the whole figure shows it."""


def shade(colour: RGB, factor: float) -> RGB:
    """A darker colour for a factor below 1, and a lighter one, towards white, above 1."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)


def rim(colour: RGB) -> RGB:
    """The colour of an outline, which keeps a thing visible before another of the same colour."""
    return shade(colour, 0.72) if sum(colour) > 150 else shade(colour, 1.22)
