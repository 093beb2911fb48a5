"""Draws a procedural person's head and carried things onto the body of ``body``: hair, hat, glasses, bags, held things.

What a person has on the left is drawn on the person's left, so that a side can be described.
"""

from cada_plugin.datasets.procedural.body import FAR, Body
from cada_plugin.datasets.procedural.palette import DARK, NONE, PAINT, rim, shade


class Wearer(Body):
    """A complete person: a ``Body`` with head, bags and held things."""

    def draw(self) -> None:
        """Draw all parts, from the back to the front."""
        back, backpack = self.view == "back", self.p.bag == "backpack"
        bag_arm = self.arm_of_side.get(self.p.bag_side, 1)
        held_arm = self.arm_of_side.get(self.p.held_side, 1)
        if not back:
            self._hair_behind()
        if backpack and self.view == "front":
            self._backpack_behind()
        if self.side:
            if self.p.bag != NONE and not backpack and bag_arm == 0:
                self._bag(0)
            if held_arm == 0:
                self._held(0)
            self._arm(0)
            if backpack:
                self._backpack_side()
        elif self.p.held not in (NONE, "umbrella") and back:  # before the belly, hidden in part by the body
            self._held(held_arm)
        self._legs()
        self._torso()
        if backpack and not self.side:
            if back:
                self._scarf()
                self._arms()
                self._backpack_back()
                self._head()
            else:
                self._backpack_straps()
                self._scarf()
                self._arms()
                self._head()
        else:
            if backpack:
                self._backpack_strap_side()
            self._scarf()
            self._arms()
            self._head()
            if self.p.bag != NONE and not backpack and not (self.side and bag_arm == 0):
                self._bag(bag_arm)
        if self.p.held != NONE and not (self.side and held_arm == 0) and not (back and self.p.held != "umbrella"):
            self._held(held_arm)

    def _arms(self) -> None:
        if not self.side:
            self._arm(0)
        self._arm(1)

    # Head

    def _hair_behind(self) -> None:
        pen, length = self.pen, self.p.hair
        pen.part("hair")
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
        elif length == "bun":
            pen.oval(-14 if self.side else 0, 8 if self.side else 0, 9, 8, self.hair)

    def _head(self) -> None:
        bald = self.p.hair == "bald"
        if self.view == "back":
            self._head_from_behind(bald)
        elif self.side:
            self._head_from_the_side(bald)
        else:
            self._face(bald)
        self._glasses()
        self._hat()

    def _head_from_behind(self, bald: bool) -> None:
        pen, hair = self.pen, self.p.hair
        pen.part("head")
        pen.oval(0, 23, 14.5, 17, self.skin)
        if bald:
            return
        pen.part("hair")
        pen.oval(0, 21, 15.5, 17.5, self.hair)
        if hair == "long":
            pen.poly([(-15, 18), (15, 18), (19, 48), (17, 68), (-17, 68), (-19, 48)], self.hair)
        elif hair == "ponytail":
            pen.poly([(-4, 16), (4, 16), (9, 34), (8, 54), (0, 68), (-8, 54), (-9, 34)], self.hair)
            pen.oval(0, 16, 4, 3, DARK, edge=False)
        elif hair == "bun":
            pen.oval(0, 16, 10, 9, shade(self.hair, 0.85))

    def _head_from_the_side(self, bald: bool) -> None:
        pen = self.pen
        pen.part("head")
        pen.oval(0, 23, 14, 17, self.skin)
        pen.poly([(12, 22), (18, 29), (12, 30)], self.skin, edge=False)
        pen.oval(8, 22, 2, 2.6, DARK, edge=False)
        pen.line([(6, 32), (9, 34), (12, 33)], (170, 40, 50) if self.woman else shade(self.skin, 0.6), 2.4)
        if not bald:
            pen.part("hair")
            pen.cap(-1, 20, 15.5, 17.5, self.hair, 90, 330)
            pen.part("head")
            pen.oval(-1, 26, 3, 4, self.skin)

    def _face(self, bald: bool) -> None:
        pen = self.pen
        if not bald:
            pen.part("hair")
            pen.oval(0, 20, 16, 18, self.hair)
        pen.part("head")
        pen.oval(0, 25 if not bald else 23, 13, 14 if not bald else 17, self.skin)
        if not bald:
            pen.part("hair")
            pen.cap(0, 20, 14.5, 17, self.hair, 195, 345)
            pen.part("head")
        for x in (-5, 5):
            pen.oval(x, 24, 2, 2.6, DARK, edge=False)
        pen.line([(-4, 31.5), (0, 34), (4, 31.5)], (180, 40, 55) if self.woman else shade(self.skin, 0.6), 2.6)
        if self.p.hair == "long":
            pen.part("hair")
            pen.poly([(-15, 16), (-11, 16), (-13, 44), (-19, 60), (-20, 40)], self.hair)
            pen.poly([(15, 16), (11, 16), (13, 44), (19, 60), (20, 40)], self.hair)

    def _glasses(self) -> None:
        pen, kind = self.pen, self.p.glasses
        if kind == NONE or self.view == "back":
            return
        fill = DARK if kind == "sunglasses" else (222, 236, 246)
        pen.part("glasses")
        if self.side:
            pen.line([(-4, 21), (8, 22)], DARK, 2.5)
            pen.oval(9, 24, 5, 5, fill)
            pen.ring(9, 24, 5, 5, DARK)
            return
        pen.line([(-13, 22), (13, 22)], DARK, 2.5)
        for x in (-6, 6):
            pen.oval(x, 24, 5.8, 5.6, fill)
            pen.ring(x, 24, 5.8, 5.6, DARK)
            if kind == "glasses":
                pen.oval(x, 24, 1.6, 2, DARK, edge=False)

    def _hat(self) -> None:
        pen, kind, colour = self.pen, self.p.hat, self.paint["hat"]
        pen.part("hat")
        if kind == "cap":
            pen.cap(0, 15, 17, 17, colour)
            if self.side:
                pen.poly([(4, 11), (17, 11), (30, 16), (28, 19), (4, 17)], colour)
            elif self.view == "front":
                pen.oval(0, 16, 17, 4.5, shade(colour, 0.85))
            pen.oval(0, -2, 2.5, 2, rim(colour), edge=False)
        elif kind == "beanie":
            pen.cap(0, 14, 17, 19, colour)
            pen.poly([(-17, 9), (17, 9), (17, 16), (-17, 16)], shade(colour, 0.8))
            pen.oval(0, -7, 6, 6, shade(colour, 1.25))
        elif kind == "sun hat":
            pen.cap(0, 12, 16, 17, colour)
            pen.oval(0, 13, 30, 6, colour)
            pen.line([(-15, 8), (15, 8)], rim(colour), 4)
        elif kind == "helmet":
            pen.cap(0, 18, 19, 24, colour)
            for x in (-8, 0, 8):
                pen.line([(x * 0.5, -4), (x, 12)], rim(colour), 2.5)
            pen.line([(-18, 17), (18, 17)], DARK, 3)

    def _scarf(self) -> None:
        if self.p.scarf_colour == NONE:
            return
        pen, colour = self.pen, self.paint["scarf"]
        pen.part("scarf")
        if self.view == "front":
            pen.poly([(3, 46), (14, 46), (15, 84), (5, 84)], colour)
            pen.line([(5, 80), (15, 80)], rim(colour), 2)
        elif self.view == "back":
            pen.poly([(-14, 46), (-3, 46), (-4, 82), (-14, 82)], colour)
        else:
            pen.poly([(5, 46), (14, 46), (18, 80), (9, 82)], colour)
        pen.oval(0, 45, 17 if not self.side else 14, 7, colour)

    # Bags

    def _backpack_behind(self) -> None:
        self.pen.part("bag")
        w = self.outline[1][1] + 5
        self.pen.poly([(-w, 46), (w, 46), (w + 2, 100), (-w - 2, 100)], shade(self.paint["bag"], 0.9))

    def _backpack_straps(self) -> None:
        self.pen.part("bag")
        for x in (-16, 16):
            self.pen.poly([(x - 4, 46), (x + 4, 46), (x + 5, 98), (x - 3, 98)], self.paint["bag"])

    def _backpack_side(self) -> None:
        pen, colour = self.pen, self.paint["bag"]
        pen.part("bag")
        pen.poly([(-10, 50), (-28, 52), (-35, 64), (-35, 104), (-12, 106)], colour)
        pen.poly([(-35, 82), (-39, 84), (-39, 104), (-33, 104)], shade(colour, 0.85))

    def _backpack_strap_side(self) -> None:
        pen, colour = self.pen, self.paint["bag"]
        pen.part("bag")
        for width, paint in ((8, rim(colour)), (5, colour)):
            pen.line([(-6, 48), (7, 58), (6, 84), (-12, 100)], paint, width)

    def _backpack_back(self) -> None:
        pen, colour = self.pen, self.paint["bag"]
        pen.part("bag")
        pen.line([(-5, 50), (-5, 44), (5, 44), (5, 50)], rim(colour), 4)
        pen.poly([(-15, 50), (15, 50), (21, 60), (21, 106), (-21, 106), (-21, 60)], colour)
        pen.poly([(-15, 80), (15, 80), (15, 101), (-15, 101)], shade(colour, 0.88))
        pen.line([(-18, 68), (18, 68)], rim(colour), 3)

    def _bag(self, arm: int) -> None:
        """A bag that hangs on one side, that of ``arm``."""
        pen, kind = self.pen, self.p.bag
        far = FAR if self.side and arm == 0 else 1
        colour, outward = shade(self.paint["bag"], far), -1 if arm == 0 else 1
        pen.part("bag")
        if kind == "shoulder bag":
            if self.side:
                start, hip = (3, 46), -3 if arm else 6
            else:
                start, hip = (-outward * (self.outline[1][1] - 8), 48), outward * self._half(112)
            for width, paint in ((8, rim(colour)), (5, colour)):
                pen.line([start, (hip, 112)], paint, width)
            pen.poly([(hip - 15, 108), (hip + 15, 108), (hip + 16, 134), (hip - 16, 134)], colour)
            pen.poly([(hip - 15, 108), (hip + 15, 108), (hip + 12, 119), (hip - 12, 119)], shade(colour, 0.85))
        elif kind == "tote":
            x = (-4 if arm else 8) if self.side else outward * (self.outline[1][1] + 8)
            for dx in (-8, 8):
                pen.line([(x * 0.6, 52), (x + dx, 92)], rim(colour), 4)
            pen.poly([(x - 15, 90), (x + 15, 90), (x + 13, 132), (x - 13, 132)], colour)
        elif kind == "handbag":
            x, y = self.arms[arm][2]
            pen.ring(x, y + 9, 9, 11, rim(colour))
            pen.ring(x, y + 9, 8, 10, colour)
            pen.poly([(x - 12, y + 14), (x + 12, y + 14), (x + 17, y + 38), (x - 17, y + 38)], colour)
            pen.oval(x, y + 20, 2.5, 2.5, PAINT["yellow"], edge=False)
        elif kind == "suitcase":
            x, y = self.arms[arm][2]
            x += (6 if arm == 0 else -10) if self.side else outward * 8
            pen.line([(x - 7, y), (x + 7, y)], DARK, 4)
            for dx in (-7, 7):
                pen.line([(x + dx, y), (x + dx, 152)], (120, 122, 126), 2.5)
            pen.poly([(x - 16, 150), (x + 16, 150), (x + 16, 206), (x - 16, 206)], colour)
            for y in (164, 178, 192):
                pen.line([(x - 14, y), (x + 14, y)], rim(colour), 2.5)
            for dx in (-12, 12):
                pen.oval(x + dx, 209, 4, 4, DARK, edge=False)

    def _held(self, arm: int) -> None:
        pen, kind = self.pen, self.p.held
        far = FAR if self.side and arm == 0 else 1
        colour, (x, y) = shade(self.paint["held"], far), self.arms[arm][2]
        pen.part("held")
        if kind == "phone":
            pen.poly([(x - 5, y - 16), (x + 6, y - 16), (x + 6, y + 5), (x - 5, y + 5)], DARK, edge=False)
            pen.poly([(x - 3, y - 13), (x + 4, y - 13), (x + 4, y), (x - 3, y)], (150, 190, 220), edge=False)
        elif kind == "umbrella":
            pen.line([(x - 6, y - 10), (x - 4, y - 14), (x + 1, y - 13), (x + 1, y)], PAINT["brown"], 4)
            pen.poly([(x - 3, y), (x + 5, y), (x + 10, y + 16), (x + 3, y + 70), (x, y + 70), (x - 7, y + 16)], colour)
            pen.line([(x + 1.5, y + 68), (x + 1.5, y + 78)], DARK, 3)
        elif kind == "bottle":
            pen.poly([(x - 6, y - 14), (x + 6, y - 14), (x + 6, y + 18), (x - 6, y + 18)], colour)
            pen.poly([(x - 3, y - 22), (x + 3, y - 22), (x + 3, y - 14), (x - 3, y - 14)], PAINT["white"])
        elif kind == "book":
            pen.poly([(x - 11, y - 20), (x + 11, y - 20), (x + 11, y + 12), (x - 11, y + 12)], colour)
            pen.poly([(x + 9, y - 18), (x + 13, y - 18), (x + 13, y + 10), (x + 9, y + 10)], PAINT["white"])
        elif kind == "cup":
            pen.poly([(x - 9, y - 14), (x + 9, y - 14), (x + 6, y + 10), (x - 6, y + 10)], colour)
            pen.poly([(x - 10, y - 18), (x + 10, y - 18), (x + 10, y - 13), (x - 10, y - 13)], PAINT["white"])
        elif kind == "folder":
            pen.poly([(x - 17, y - 12), (x + 17, y - 12), (x + 17, y + 14), (x - 17, y + 14)], colour)
            pen.line([(x - 13, y - 6), (x + 5, y - 6)], rim(colour), 3)
        pen.part("skin")
        pen.oval(x, y, 5, 5, shade(self.skin, far))
