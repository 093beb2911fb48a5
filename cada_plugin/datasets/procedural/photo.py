"""Takes the picture of a procedural person in one of the worlds: background, other people, obstacles, camera.

Pictures have 64 x 128 pixels (W x H); they are drawn at twice the size and averaged down.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from cada_plugin.datasets.procedural.canvas import BACKGROUND, LABEL_OF_PART, Canvas, Pen
from cada_plugin.datasets.procedural.palette import NONE, RGB, shade
from cada_plugin.datasets.procedural.people import Person, pick, sample_person
from cada_plugin.datasets.procedural.wearer import Wearer
from cada_plugin.datasets.procedural.worlds import Look, World

VIEWS = ("front", "back", "side")
WIDTH, HEIGHT = 64, 128
_W, _H = 2 * WIDTH, 2 * HEIGHT
_TALL = 230
"""Height of a figure in figure units, from the top of the hair to the soles."""
# Muted colours, so that no wall looks like a garment.
_WALLS: tuple[RGB, ...] = (
    (176, 178, 176),
    (158, 150, 138),
    (190, 180, 160),
    (140, 150, 158),
    (200, 202, 204),
    (120, 116, 112),
)
_FLOORS: tuple[RGB, ...] = ((120, 120, 118), (150, 146, 138), (96, 98, 100), (168, 164, 156))

VISIBLE_PIXELS = {"glasses": 4, "shoes": 12, "head": 12, "hair": 12}
"""A part is visible if at least so many pixels of the final picture show it (``VISIBLE_ELSE`` for the others)."""
VISIBLE_ELSE = 24
# Which part shows that a thing does not exist, and in which views it would be visible if it did.
_SHOWS_ABSENCE = {
    "hair": ("head", VIEWS),
    "pattern": ("upper", VIEWS),
    "inner": ("upper", ("front", "side")),
    "lower": ("upper", VIEWS),
    "bag": ("upper", VIEWS),
    "hat": ("head", VIEWS),
    "scarf": ("upper", VIEWS),
    "glasses": ("head", ("front", "side")),
    "held": ("upper", ("front", "side")),
}


@dataclass(frozen=True)
class Region:
    """Where a part of a person is in a picture.

    ``box`` is left, top, right, bottom in pixels, right and bottom exclusive: the smallest box around all ``pixels``
    that show the part. None if no pixel does.
    """

    box: tuple[int, int, int, int] | None
    pixels: int
    visible: bool


@dataclass(frozen=True)
class Photo:
    """A picture of one person, with the regions of the parts that this person has, and the parts whose absence it
    shows (the picture of a bare head shows that there is no hat)."""

    image: Image.Image
    regions: dict[str, Region]
    seen_absent: tuple[str, ...]

    @property
    def shown(self) -> set[str]:
        """The parts of which the picture tells something: those that are visible, or visibly absent."""
        return {part for part, region in self.regions.items() if region.visible} | {*self.seen_absent}


def take_photo(person: Person, world: World, rng: np.random.Generator, *, view: str, camera: str) -> Photo:
    """Draw a person as a camera of the world sees them, from this ``view`` (front, back, side)."""
    canvas = draw_scene(person, world, rng, view)
    picture = expose(canvas.picture.reduce(2), world.look, world.look.cameras[camera], rng)
    labels = np.asarray(canvas.labels)[::2, ::2]  # (128, 64)
    return Photo(picture, *locate(person, labels, view))


def draw_scene(person: Person, world: World, rng: np.random.Generator, view: str) -> Canvas:
    """The person in a street, at twice the final size, before the camera changes any colour."""
    look, canvas = world.look, Canvas(_W, _H)
    floor, horizon = _scenery(canvas, rng, look.scenery)
    scale = rng.uniform(*look.scale) * _H / _TALL
    x = _W / 2 + rng.uniform(*look.shift) * _W * _sign(rng)
    feet = rng.uniform(*look.feet) * _H
    if rng.random() < look.bystander:
        away = rng.uniform(0.45, 0.7) * scale
        _someone(canvas, world, rng, x + _sign(rng) * rng.uniform(36, 62), horizon + 12 + 70 * away, away)
    canvas.paint.ellipse((x - 34, feet - 9, x + 34, feet + 5), fill=shade(floor, 0.7))
    mirrored = view == "side" and rng.random() < 0.5
    Wearer(person, Pen(canvas, x, feet - 214 * scale, scale, mirrored), view, mirrored, rng).draw()
    if rng.random() < look.passer_by:
        near = scale * rng.uniform(1.0, 1.2)
        _someone(canvas, world, rng, x + _sign(rng) * rng.uniform(38, 60), feet + rng.uniform(4, 24), near)
    if rng.random() < look.obstacle:
        _obstacle(canvas, rng)
    return canvas


def locate(person: Person, labels: np.ndarray, view: str) -> tuple[dict[str, Region], tuple[str, ...]]:
    """The regions of a person's parts, from the part numbers (H, W) of a picture, and the parts seen to be absent."""
    regions = {}
    for part, number in LABEL_OF_PART.items():
        if part == "skin":
            continue
        rows, columns = np.nonzero(labels == number)
        count = len(rows)
        if count == 0 and not has_part(person, part):
            continue
        box = None
        if count:
            box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        regions[part] = Region(box, count, count >= VISIBLE_PIXELS.get(part, VISIBLE_ELSE))
    absent = tuple(
        part
        for part, (witness, views) in _SHOWS_ABSENCE.items()
        if part not in regions and view in views and regions[witness].visible
    )
    return regions, absent


def has_part(person: Person, part: str) -> bool:
    """Whether this person has the part, visible or not."""
    exists = {
        "hair": person.hair != "bald", "pattern": person.pattern != "plain", "inner": person.inner_type != NONE,
        "lower": person.lower_type != NONE, "bag": person.bag != NONE, "hat": person.hat != NONE,
        "scarf": person.scarf_colour != NONE, "glasses": person.glasses != NONE, "held": person.held != NONE,
    }  # fmt: skip
    return exists.get(part, True)


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _someone(canvas: Canvas, world: World, rng: np.random.Generator, x: float, feet: float, scale: float) -> None:
    """Draw somebody else, who belongs to no part."""
    other, view, mirrored = sample_person(rng, world), pick(rng, world.look.views), rng.random() < 0.5
    Wearer(other, Pen(canvas, x, feet - 214 * scale, scale, mirrored, labelled=False), view, mirrored, rng).draw()


def expose(image: Image.Image, look: Look, gains: tuple[float, float, float], rng: np.random.Generator) -> Image.Image:
    """Apply the effects of the camera: blur, light, contrast, colour cast, sensor noise."""
    radius = rng.uniform(*look.blur)
    if radius > 0.05:
        image = image.filter(ImageFilter.BoxBlur(float(radius)))
    pixels = np.asarray(image, dtype=np.float32)  # (128, 64, 3)
    cast = 1 + (np.asarray(gains) - 1) * look.cast + rng.uniform(-look.cast_noise, look.cast_noise, size=3)
    pixels = ((pixels - 128) * np.float32(rng.uniform(*look.contrast)) + 128) * np.float32(rng.uniform(*look.light))
    pixels = pixels * cast.astype(np.float32)
    noise = rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32)
    pixels += noise * np.float32(rng.uniform(*look.noise))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _scenery(canvas: Canvas, rng: np.random.Generator, probability: float) -> tuple[RGB, int]:
    """Draw the background; returns the colour of the ground, and the row of the horizon."""
    paint = canvas.paint
    wall, floor = _WALLS[int(rng.integers(len(_WALLS)))], _FLOORS[int(rng.integers(len(_FLOORS)))]
    horizon = int(_H * rng.uniform(0.56, 0.72))
    bands = 8
    for band in range(bands):  # a gradient, light at the top
        top, bottom = horizon * band // bands, horizon * (band + 1) // bands
        paint.rectangle((0, top, _W, bottom), fill=shade(wall, 1.3 - 0.3 * band / bands))
    paint.rectangle((0, horizon, _W, _H), fill=floor)
    if rng.random() >= probability:
        return floor, horizon
    kind = int(rng.integers(4))
    if kind == 0:  # building: windows between lines
        step = int(rng.integers(26, 44))
        for x in range(int(rng.integers(-20, 0)), _W, step):
            for y in range(int(rng.integers(-20, 4)), horizon - 20, step + 10):
                pane = (x, y, x + step * 0.6, y + step * 0.8)
                paint.rectangle(pane, fill=shade(wall, 0.72), outline=shade(wall, 1.3), width=2)
    elif kind == 1:  # pavement: converging joints and a kerb
        vanish = rng.uniform(0.2, 0.8) * _W
        for x in np.linspace(-_W, 2 * _W, 11):
            paint.line((vanish, horizon, float(x), _H), fill=shade(floor, 0.82), width=2)
        for y in (horizon + 14, horizon + 34, horizon + 64):
            paint.line((0, y, _W, y), fill=shade(floor, 0.82), width=2)
        paint.rectangle((0, horizon - 6, _W, horizon), fill=shade(floor, 1.3))
    elif kind == 2:  # foliage
        for _ in range(14):
            x, y, r = rng.uniform(0, _W), rng.uniform(0, horizon), rng.uniform(9, 26)
            green = (int(rng.integers(70, 110)), int(rng.integers(105, 140)), int(rng.integers(70, 95)))
            paint.ellipse((x - r, y - r, x + r, y + r), fill=green)
    else:  # shop front: vertical panels
        for x in np.sort(rng.uniform(0, _W, size=4)):
            panel = _WALLS[int(rng.integers(len(_WALLS)))]
            box = (float(x), 0, float(x) + 24, horizon)
            paint.rectangle(box, fill=shade(panel, 0.9), outline=shade(panel, 0.6), width=2)
    return floor, horizon


def _obstacle(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a pole, a bin or a railing before the person."""
    kind, marks = int(rng.integers(3)), []
    if kind == 0:
        x, w = rng.uniform(24, 104), rng.uniform(5, 9)
        marks = [((x, 0, x + w, _H), (92, 94, 96))]
    elif kind == 1:
        w, h = rng.uniform(30, 48), rng.uniform(44, 76)
        x = 0 if rng.random() < 0.5 else _W - w
        marks = [((x, _H - h, x + w, _H), (88, 96, 92))]
    else:
        y = rng.uniform(0.72, 0.84) * _H
        marks = [((0, y, _W, y + 6), (150, 152, 150)), ((0, y + 26, _W, y + 32), (150, 152, 150))]
        marks += [((x, y, x + 4, _H), (138, 140, 138)) for x in range(int(rng.integers(0, 20)), _W, 30)]
    for box, colour in marks:
        canvas.paint.rectangle(box, fill=colour, outline=shade(colour, 0.66))
        canvas.mark.rectangle(box, fill=BACKGROUND)
