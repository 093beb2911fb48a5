"""Drawing primitives of the procedural people. A ``Pen`` draws each shape twice: in colour, and as the number of the
part that it belongs to. Where a part is in a picture, and what of it is covered, is then counted and not computed.

In figure units, x is measured from the axis of the body, and y downwards from the top of the head (0) to the soles
(216). A ``Pen`` maps figure units to pixels.
"""

from PIL import Image, ImageDraw

from cada_plugin.datasets.procedural.palette import PARTS, RGB, rim

Points = list[tuple[float, float]]
BACKGROUND = 0
LABEL_OF_PART = {part: number for number, part in enumerate(PARTS, start=1)}


class Canvas:
    """A picture in colour, ``picture``, and the number of the part at each of its pixels, ``labels``."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height), BACKGROUND)
        self.width, self.height = width, height
        self.paint, self.mark = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)


class Pen:
    """Draws in figure units.

    Args:
        x, y: pixel of the axis of the body, and of the top of the head.
        scale: pixels per figure unit.
        mirrored: draw with left and right of the picture exchanged.
        labelled: False draws somebody else, who covers the person and is no part.
    """

    def __init__(
        self, canvas: Canvas, x: float, y: float, scale: float, mirrored: bool = False, labelled: bool = True
    ) -> None:
        self.canvas, self.x, self.y, self.scale = canvas, x, y, scale
        self.direction, self.labelled = -1 if mirrored else 1, labelled
        self.label = BACKGROUND

    def part(self, name: str) -> None:
        """Everything drawn from now on belongs to this part."""
        self.label = LABEL_OF_PART[name] if self.labelled else BACKGROUND

    def _map(self, points: Points) -> Points:
        step = self.scale * self.direction
        return [(self.x + px * step, self.y + py * self.scale) for px, py in points]

    def _box(self, x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        x, y = self.x + x * self.scale * self.direction, self.y + y * self.scale
        return (x - rx * self.scale, y - ry * self.scale, x + rx * self.scale, y + ry * self.scale)

    def poly(self, points: Points, fill: RGB, edge: bool = True) -> None:
        mapped = self._map(points)
        self.canvas.paint.polygon(mapped, fill=fill)
        self.canvas.mark.polygon(mapped, fill=self.label)
        if edge:
            outline = [*mapped, mapped[0]]
            self.canvas.paint.line(outline, fill=rim(fill), width=2)
            self.canvas.mark.line(outline, fill=self.label, width=2)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB, edge: bool = True) -> None:
        box = self._box(x, y, rx, ry)
        self.canvas.paint.ellipse(box, fill=fill, outline=rim(fill) if edge else None, width=2)
        self.canvas.mark.ellipse(box, fill=self.label)

    def ring(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """The outline of an oval, two units thick."""
        box, width = self._box(x, y, rx, ry), max(2, round(2 * self.scale))
        self.canvas.paint.ellipse(box, outline=colour, width=width)
        self.canvas.mark.ellipse(box, outline=self.label, width=width)

    def cap(self, x: float, y: float, rx: float, ry: float, fill: RGB, start: int = 180, end: int = 360) -> None:
        """A segment of an oval, cut off by the chord between two angles in degrees clockwise from +x."""
        if self.direction < 0:
            start, end = 180 - end, 180 - start
        box = self._box(x, y, rx, ry)
        self.canvas.paint.chord(box, start, end, fill=fill, outline=rim(fill), width=2)
        self.canvas.mark.chord(box, start, end, fill=self.label)

    def line(self, points: Points, fill: RGB, width: float = 2) -> None:
        mapped, pixels = self._map(points), max(1, round(width * self.scale))
        self.canvas.paint.line(mapped, fill=fill, width=pixels, joint="curve")
        self.canvas.mark.line(mapped, fill=self.label, width=pixels, joint="curve")

    def limb(self, points: Points, width: float, fill: RGB) -> None:
        """A thick bent line with round ends and a rim."""
        for extra, colour in ((3, rim(fill)), (0, fill)):
            self.line(points, colour, width + extra)
            for x, y in (points[0], points[-1]):
                self.oval(x, y, (width + extra) / 2, (width + extra) / 2, colour, edge=False)
