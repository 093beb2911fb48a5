"""Colours and drawing primitives of the procedural pedestrians: PIL shapes in figure units.

In figure units, x is measured from the axis of the body, and y downwards from the top of the head (0) to the soles
(216). A ``Pen`` maps figure units to pixels.
"""

from PIL import ImageDraw

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

PAINT: dict[str, RGB] = {
    "black": (30, 30, 34),
    "white": (244, 244, 242),
    "gray": (134, 136, 140),
    "red": (206, 28, 38),
    "orange": (246, 128, 22),
    "yellow": (250, 216, 40),
    "green": (34, 142, 64),
    "blue": (36, 84, 204),
    "purple": (122, 44, 164),
    "pink": (252, 152, 190),
    "brown": (118, 70, 36),
}
HAIR: dict[str, RGB] = {
    "black": (30, 26, 26),
    "brown": (104, 60, 32),
    "blonde": (232, 194, 98),
    "gray": (172, 172, 174),
}
SKIN: dict[str, RGB] = {"light": (243, 205, 176), "tan": (210, 160, 120), "dark": (132, 88, 60)}
DARK: RGB = (26, 26, 30)


def shade(colour: RGB, factor: float) -> RGB:
    """A darker colour for a factor below 1, and a lighter one, towards white, above 1."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)


class Pen:
    """Draws in figure units. ``edge`` adds a rim, which keeps a thing visible before another of the same colour."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, scale: float) -> None:
        self.draw, self.x, self.y, self.scale = draw, x, y, scale

    def _map(self, points: Points) -> Points:
        return [(self.x + px * self.scale, self.y + py * self.scale) for px, py in points]

    def poly(self, points: Points, fill: RGB, edge: bool = True) -> None:
        mapped = self._map(points)
        self.draw.polygon(mapped, fill=fill)
        if edge:
            self.draw.line([*mapped, mapped[0]], fill=rim(fill), width=2)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB | None, edge: RGB | bool = True) -> None:
        (x0, y0), (x1, y1) = self._map([(x - rx, y - ry), (x + rx, y + ry)])
        outline = rim(fill) if edge is True else (edge or None)
        self.draw.ellipse((x0, y0, x1, y1), fill=fill, outline=outline, width=2)

    def pie(self, x: float, y: float, rx: float, ry: float, start: int, end: int, fill: RGB) -> None:
        """A segment of an oval, cut off by the chord between two angles in degrees clockwise from +x."""
        (x0, y0), (x1, y1) = self._map([(x - rx, y - ry), (x + rx, y + ry)])
        self.draw.chord((x0, y0, x1, y1), start, end, fill=fill, outline=rim(fill), width=2)

    def line(self, points: Points, fill: RGB, width: float = 2) -> None:
        self.draw.line(self._map(points), fill=fill, width=max(1, round(width * self.scale)), joint="curve")

    def limb(self, points: Points, width: float, fill: RGB) -> None:
        """A thick bent line with round ends and a rim."""
        for extra, colour in ((3, rim(fill)), (0, fill)):
            self.line(points, colour, width + extra)
            for x, y in points:
                self.oval(x, y, (width + extra) / 2, (width + extra) / 2, colour, edge=False)


def rim(colour: RGB) -> RGB:
    return shade(colour, 0.72) if sum(colour) > 150 else shade(colour, 1.22)
