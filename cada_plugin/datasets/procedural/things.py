"""Draws a pedestrian's head and carried things onto the body of ``figure``: hair, hat, glasses, bags, held things."""

from cada_plugin.datasets.procedural.attributes import NONE
from cada_plugin.datasets.procedural.figure import Figure
from cada_plugin.datasets.procedural.pen import DARK, PAINT, rim, shade


class Pedestrian(Figure):
    """A complete pedestrian: a ``Figure`` with head, bags and held things."""

    def draw(self) -> None:
        """Draw all parts, from the back to the front."""
        side, back = self.side, self.view == "back"
        if not back:
            self._hair_behind()
        if self.view == "front" and self.i.bag == "backpack":
            self._backpack_behind()
        if side:
            self._arm(0)
            self._held()
            if self.i.bag == "backpack":
                self._backpack_side()
        self._legs()
        self._torso()
        if side:
            self._head()
            self._arm(1)
            self._bags()
        else:
            self._arm(0)
            self._arm(1)
            if back and self.i.bag == "backpack":
                self._head()
                self._bags()
            else:
                self._bags()
                self._head()
            self._held()

    def _hair_behind(self) -> None:
        pen, length = self.pen, self.i.hair_length
        if length == "long":
            if self.side:
                pen.poly([(2, 6), (-16, 12), (-20, 40), (-20, 66), (-4, 66), (2, 40)], self.hair)
            else:
                pen.poly([(-15, 12), (15, 12), (20, 44), (21, 66), (-21, 66), (-20, 44)], self.hair)
        elif length == "ponytail":
            if self.side:
                pen.poly([(-10, 14), (-24, 18), (-28, 44), (-22, 56), (-18, 40), (-12, 26)], self.hair)
            else:
                pen.poly([(10, 14), (20, 16), (26, 38), (22, 54), (17, 38), (12, 26)], self.hair)

    def _head(self) -> None:
        pen, i = self.pen, self.i
        bald = i.hair_length == "bald"
        if self.view == "back":
            pen.oval(0, 23, 14.5, 17, self.skin)
            if not bald:
                pen.oval(0, 21, 15.5, 17.5, self.hair)
            if i.hair_length == "long":
                pen.poly([(-15, 18), (15, 18), (19, 48), (17, 68), (-17, 68), (-19, 48)], self.hair)
            elif i.hair_length == "ponytail":
                pen.poly([(-4, 16), (4, 16), (9, 34), (8, 54), (0, 68), (-8, 54), (-9, 34)], self.hair)
                pen.oval(0, 16, 4, 3, DARK, edge=False)
        elif self.side:
            pen.oval(0, 23, 14, 17, self.skin)
            pen.poly([(12, 22), (18, 29), (12, 30)], self.skin, edge=False)
            pen.oval(8, 22, 2, 2.6, DARK, edge=False)
            pen.line([(6, 32), (9, 34), (12, 33)], (170, 40, 50) if self.woman else shade(self.skin, 0.6), 2.4)
            if not bald:
                pen.pie(-1, 20, 15.5, 17.5, 90, 330, self.hair)
                pen.oval(-1, 26, 3, 4, self.skin)
        else:
            if not bald:
                pen.oval(0, 20, 16, 18, self.hair)
            pen.oval(0, 25 if not bald else 23, 13, 14 if not bald else 17, self.skin)
            if not bald:
                pen.pie(0, 20, 14.5, 17, 195, 345, self.hair)
            for x in (-5, 5):
                pen.oval(x, 24, 2, 2.6, DARK, edge=False)
            pen.line([(-4, 31.5), (0, 34), (4, 31.5)], (180, 40, 55) if self.woman else shade(self.skin, 0.6), 2.6)
            if i.hair_length == "long":
                pen.poly([(-15, 16), (-11, 16), (-13, 44), (-19, 60), (-20, 40)], self.hair)
                pen.poly([(15, 16), (11, 16), (13, 44), (19, 60), (20, 40)], self.hair)
        self._glasses()
        self._hat()

    def _glasses(self) -> None:
        pen, kind = self.pen, self.i.glasses
        if kind == NONE or self.view == "back":
            return
        fill = DARK if kind == "sunglasses" else (222, 236, 246)
        if self.side:
            pen.line([(-4, 21), (8, 22)], DARK, 2.5)
            pen.oval(9, 24, 5, 5, fill, edge=DARK)
            if kind == "glasses":
                pen.oval(10, 24, 1.5, 2, DARK, edge=False)
            return
        pen.line([(-13, 22), (13, 22)], DARK, 2.5)
        for x in (-6, 6):
            pen.oval(x, 24, 5.6, 5.4, fill, edge=DARK)
            if kind == "glasses":
                pen.oval(x, 24, 1.6, 2, DARK, edge=False)

    def _hat(self) -> None:
        pen, kind, colour = self.pen, self.i.hat, self.paint["hat_colour"]
        if kind == "cap":
            pen.pie(0, 15, 17, 17, 180, 360, colour)
            if self.side:
                pen.poly([(4, 11), (17, 11), (30, 16), (28, 19), (4, 17)], colour)
            elif self.view == "front":
                pen.oval(0, 16, 17, 4.5, shade(colour, 0.85))
            else:
                pen.pie(0, 17, 7, 6, 180, 360, self.hair)
            pen.oval(0, -2, 2.5, 2, rim(colour), edge=False)
        elif kind == "beanie":
            pen.pie(0, 14, 17, 19, 180, 360, colour)
            pen.poly([(-17, 9), (17, 9), (17, 16), (-17, 16)], shade(colour, 0.8))
            pen.oval(0, -7, 6, 6, shade(colour, 1.25))
        elif kind == "sun hat":
            pen.pie(0, 12, 16, 17, 180, 360, colour)
            pen.oval(0, 13, 30, 6, colour)
            pen.line([(-15, 8), (15, 8)], rim(colour), 4)

    # Bags

    def _backpack_behind(self) -> None:
        w = self.outline[1][1] + 4
        self.pen.poly([(-w, 46), (w, 46), (w + 2, 100), (-w - 2, 100)], shade(self.paint["bag_colour"], 0.9))

    def _backpack_side(self) -> None:
        colour = self.paint["bag_colour"]
        self.pen.poly([(-10, 50), (-28, 52), (-35, 64), (-35, 104), (-12, 106)], colour)
        self.pen.poly([(-35, 82), (-39, 84), (-39, 104), (-33, 104)], shade(colour, 0.85))

    def _bags(self) -> None:
        pen, bag, colour = self.pen, self.i.bag, self.paint["bag_colour"]
        if bag == "backpack":
            if self.view == "front":
                for x in (-15, 15):
                    pen.poly([(x - 4, 46), (x + 4, 46), (x + 5, 98), (x - 3, 98)], colour)
            elif self.side:
                pen.line([(-6, 48), (7, 58), (6, 84), (-12, 100)], rim(colour), 8)
                pen.line([(-6, 48), (7, 58), (6, 84), (-12, 100)], colour, 5)
            else:
                pen.line([(-5, 50), (-5, 44), (5, 44), (5, 50)], rim(colour), 4)
                pen.poly([(-15, 50), (15, 50), (21, 60), (21, 106), (-21, 106), (-21, 60)], colour)
                pen.poly([(-15, 80), (15, 80), (15, 101), (-15, 101)], shade(colour, 0.88))
                pen.line([(-18, 68), (18, 68)], rim(colour), 3)
        elif bag == "shoulder bag":
            hip = -2 if self.side else -self._half(112)
            start = (3, 46) if self.side else (self.outline[1][1] - 8, 48)
            for width, paint in ((8, rim(colour)), (5, colour)):
                pen.line([start, (hip - 2, 112)], paint, width)
            pen.poly([(hip - 17, 108), (hip + 11, 108), (hip + 12, 134), (hip - 18, 134)], colour)
            pen.poly([(hip - 17, 108), (hip + 11, 108), (hip + 8, 120), (hip - 14, 120)], shade(colour, 0.85))
        elif bag == "handbag":
            x, y = self.arms[1 if self.side else 0][2]
            pen.oval(x, y + 9, 9, 11, None, edge=rim(colour))
            pen.oval(x, y + 9, 8, 10, None, edge=colour)
            pen.poly([(x - 12, y + 14), (x + 12, y + 14), (x + 17, y + 38), (x - 17, y + 38)], colour)
            pen.oval(x, y + 20, 2.5, 2.5, PAINT["yellow"], edge=False)

    def _held(self) -> None:
        pen, kind, colour = self.pen, self.i.held, self.paint["held_colour"]
        if kind == NONE:
            return
        x, y = self.arms[0 if self.side else 1][2]
        if kind == "phone":
            pen.poly([(x - 4, y - 15), (x + 5, y - 15), (x + 5, y + 4), (x - 4, y + 4)], DARK, edge=False)
            pen.poly([(x - 2, y - 12), (x + 3, y - 12), (x + 3, y), (x - 2, y)], (150, 190, 220), edge=False)
        elif kind == "umbrella":
            pen.line([(x - 6, y - 10), (x - 4, y - 14), (x + 1, y - 13), (x + 1, y)], PAINT["brown"], 4)
            pen.poly([(x - 2, y), (x + 4, y), (x + 9, y + 16), (x + 3, y + 70), (x, y + 70), (x - 6, y + 16)], colour)
            pen.line([(x + 1.5, y + 68), (x + 1.5, y + 78)], DARK, 3)
        elif kind == "bottle":
            pen.poly([(x - 6, y - 12), (x + 6, y - 12), (x + 6, y + 18), (x - 6, y + 18)], colour)
            pen.poly([(x - 3, y - 20), (x + 3, y - 20), (x + 3, y - 12), (x - 3, y - 12)], PAINT["white"])
            pen.line([(x - 5, y + 2), (x + 5, y + 2)], PAINT["white"] if sum(colour) < 640 else PAINT["gray"], 5)
        elif kind == "book":
            pen.poly([(x - 8, y - 20), (x + 14, y - 20), (x + 14, y + 12), (x - 8, y + 12)], colour)
            pen.poly([(x + 11, y - 18), (x + 15, y - 18), (x + 15, y + 10), (x + 11, y + 10)], PAINT["white"])
        pen.oval(x, y, 5, 5, self.skin)
