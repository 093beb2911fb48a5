"""Renders a pedestrian as seen by a surveillance camera: background, person, occlusion, blur, colour.

Images have 64 x 128 pixels (W x H); they are drawn at twice the size and averaged down. ``nuisance`` in [0, 1] scales
all variation that says nothing about the person, and that a retriever has to ignore.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from cada_plugin.datasets.procedural.attributes import Identity
from cada_plugin.datasets.procedural.pen import RGB, Pen, shade
from cada_plugin.datasets.procedural.things import Pedestrian

VIEWS = ("front", "back", "side")
CAMERAS = {"cam_a": (1.04, 1.0, 0.95), "cam_b": (0.95, 1.0, 1.05), "cam_c": (1.0, 1.03, 0.97)}
"""Image folders as in CUHK-PEDES, each with its colour cast: gains of red, green and blue at ``nuisance`` = 1."""

WIDTH, HEIGHT = 64, 128
_W, _H = 2 * WIDTH, 2 * HEIGHT
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


def render_person(
    identity: Identity,
    rng: np.random.Generator,
    nuisance: float = 0.5,
    *,
    view: str | None = None,
    camera: str | None = None,
) -> Image.Image:
    """An RGB image, 64 wide and 128 high. ``view`` (front, back, side) and ``camera`` are sampled if not given."""
    view = view or VIEWS[int(rng.integers(len(VIEWS)))]
    camera = camera or list(CAMERAS)[int(rng.integers(len(CAMERAS)))]
    canvas = Image.new("RGB", (_W, _H))
    draw = ImageDraw.Draw(canvas)
    floor = _scene(draw, rng, nuisance)

    scale = 1.06 + rng.uniform(-0.12, 0.06) * nuisance
    x = _W / 2 + rng.uniform(-14, 14) * nuisance
    foot = 0.96 * _H + rng.uniform(-9, 4) * nuisance
    draw.ellipse((x - 34, foot - 9, x + 34, foot + 5), fill=shade(floor, 0.7))
    Pedestrian(identity, Pen(draw, x, foot - 217 * scale, scale), view, rng).draw()
    if rng.random() < 0.3 * nuisance:
        _occlude(draw, rng)

    small = canvas.reduce(2)
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < nuisance:
        small = small.filter(ImageFilter.BoxBlur(float(rng.uniform(0, 0.9)) * nuisance))
    return _expose(small, rng, nuisance, np.asarray(CAMERAS[camera], dtype=np.float32))


def _expose(image: Image.Image, rng: np.random.Generator, nuisance: float, cast: np.ndarray) -> Image.Image:
    """Apply the effects of the camera: colour cast, brightness, contrast, sensor noise."""
    pixels = np.asarray(image, dtype=np.float32)  # (128, 64, 3)
    gain = 1 + (cast - 1 + rng.uniform(-0.06, 0.06, size=3)) * nuisance
    gain = gain * (1 + rng.uniform(-0.25, 0.12) * nuisance)
    contrast = 1 + rng.uniform(-0.2, 0.1) * nuisance
    pixels = (pixels - 128) * contrast + 128
    pixels = pixels * gain.astype(np.float32)
    pixels += rng.standard_normal((*pixels.shape[:2], 1), dtype=np.float32) * np.float32(9 * nuisance)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _scene(draw: ImageDraw.ImageDraw, rng: np.random.Generator, nuisance: float) -> RGB:
    """Draw the background; returns the colour of the ground under the person."""
    wall = _WALLS[int(rng.integers(len(_WALLS)))]
    floor = _FLOORS[int(rng.integers(len(_FLOORS)))]
    horizon = int(_H * (0.62 + rng.uniform(-0.12, 0.2) * nuisance))
    bands = 8
    for band in range(bands):  # a gradient, light at the top
        top, bottom = horizon * band // bands, horizon * (band + 1) // bands
        draw.rectangle((0, top, _W, bottom), fill=shade(wall, 1.3 - 0.3 * band / bands))
    draw.rectangle((0, horizon, _W, _H), fill=floor)
    if rng.random() > nuisance * 1.6:
        return floor
    kind = int(rng.integers(4))
    if kind == 0:  # building: windows between lines
        step = int(rng.integers(26, 44))
        for x in range(int(rng.integers(-20, 0)), _W, step):
            for y in range(int(rng.integers(-20, 4)), horizon - 20, step + 10):
                draw.rectangle(
                    (x, y, x + step * 0.6, y + step * 0.8), fill=shade(wall, 0.72), outline=shade(wall, 1.3), width=2
                )
    elif kind == 1:  # pavement: converging joints and a kerb
        vanish = rng.uniform(0.2, 0.8) * _W
        for x in np.linspace(-_W, 2 * _W, 11):
            draw.line((vanish, horizon, float(x), _H), fill=shade(floor, 0.82), width=2)
        for y in (horizon + 14, horizon + 34, horizon + 64):
            draw.line((0, y, _W, y), fill=shade(floor, 0.82), width=2)
        draw.rectangle((0, horizon - 6, _W, horizon), fill=shade(floor, 1.3))
    elif kind == 2:  # foliage
        for _ in range(14):
            x, y, r = rng.uniform(0, _W), rng.uniform(0, horizon), rng.uniform(9, 26)
            green = (int(rng.integers(70, 110)), int(rng.integers(105, 140)), int(rng.integers(70, 95)))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=green)
    else:  # shop front: vertical panels
        for x in np.sort(rng.uniform(0, _W, size=4)):
            panel = _WALLS[int(rng.integers(len(_WALLS)))]
            draw.rectangle(
                (float(x), 0, float(x) + 24, horizon), fill=shade(panel, 0.9), outline=shade(panel, 0.6), width=2
            )
    return floor


def _occlude(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw a pole, which may be in front of the person, or a bin at the left or right border."""
    if rng.random() < 0.5:
        x, w = float(rng.choice((rng.uniform(4, 40), rng.uniform(88, 122)))), rng.uniform(4, 8)
        draw.rectangle((x, 0, x + w, _H), fill=(92, 94, 96), outline=(60, 62, 64))
    else:
        w, h = rng.uniform(24, 40), rng.uniform(40, 70)
        x = 0 if rng.random() < 0.5 else _W - w
        draw.rectangle((x, _H - h, x + w, _H), fill=(88, 96, 92), outline=(54, 60, 58), width=3)
