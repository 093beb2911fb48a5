"""Draws the clothed body of a procedural person in three views: pose, legs, shoes, garments, arms.

Coordinates are the figure units of ``canvas``. In the side view the person faces +x, and the pen mirrors the others.
``wearer`` adds the head and everything that is carried.
"""

import numpy as np

from cada_plugin.datasets.procedural.canvas import Pen
from cada_plugin.datasets.procedural.palette import DARK, HAIR, NONE, PAINT, RGB, SKIN, rim, shade
from cada_plugin.datasets.procedural.people import Person

Point = tuple[float, float]
_LONG = ("coat", "dress")
_PAINTED = ("upper", "pattern", "inner", "lower", "shoe", "bag", "hat", "scarf", "held")
FAR = 0.8
"""Brightness of the limbs on the far side of a person seen from the side."""


class Body:
    """The body of one person in one pose.

    Args:
        mirrored: whether the pen mirrors the picture; decides which hand is the left one in a side view.
    """

    def __init__(self, person: Person, pen: Pen, view: str, mirrored: bool, rng: np.random.Generator) -> None:
        self.p, self.pen, self.view = person, pen, view
        self.side, self.woman = view == "side", person.sex == "woman"
        if self.side:  # who faces the right edge of the picture shows the right arm
            self.arm_of_side = {"left": 1, "right": 0} if mirrored else {"left": 0, "right": 1}
        else:
            self.arm_of_side = {"left": 1, "right": 0} if view == "front" else {"left": 0, "right": 1}
        # Brightness varies between pictures, but so little that a colour keeps its name.
        light = rng.uniform(0.92, 1.06, size=len(_PAINTED))
        self.paint: dict[str, RGB] = {
            name: shade(PAINT.get(getattr(person, f"{name}_colour"), DARK), f)
            for name, f in zip(_PAINTED, light, strict=True)
        }
        self.skin = SKIN[person.skin]
        self.hair = HAIR.get(person.hair_colour, self.skin)
        self.hem = {"coat": 140, "dress": 160, "vest": 118, "blazer": 126}.get(person.upper_type, 122)
        self.outline = self._outline()
        self._pose(rng)

    def _outline(self) -> list[tuple[float, float]]:
        """Pairs of a height and half the width of the torso there."""
        kind, long_cut = self.p.upper_type, self.p.upper_type in _LONG
        if self.side:
            flare = 24 if kind == "dress" else 18
            return [(46, 9), (52, 14), (80, 15), (104, 15), (self.hem, flare if long_cut else 16)]
        shoulder, waist, hip = (23, 17, 22) if self.woman else (27, 23, 22)
        loose = 3 if kind in ("coat", "jacket", "hoodie", "sweater") else 0
        flare = 33 if kind == "dress" else hip + 5
        return [(45, 10), (50, shoulder), (94, waist + loose), (self.hem, flare if long_cut else hip + loose)]

    def _pose(self, rng: np.random.Generator) -> None:
        a, b, lift = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 7)
        self.legs: list[list[Point]]
        self.arms: list[list[Point]]
        if self.side:
            stride, swing = 8 + 18 * a, 8 + 12 * b
            self.legs = [
                [(-2, 116), (-stride * 0.25, 160), (-stride - 4, 204 - lift * 0.5)],
                [(2, 116), (stride * 0.7 + 3, 158), (stride, 206)],
            ]
            self.arms = [[(0, 56), (7, 84), (swing + 12, 106)], [(-1, 56), (-7, 86), (-swing * 0.5, 112)]]
        else:
            spread, s, out = 9 + 5 * a, self.outline[1][1], 5 + 7 * b
            self.legs = [
                [(-10, 116), (-11, 160), (-spread, 206 - lift)],
                [(10, 116), (11, 160), (spread, 206)],
            ]
            self.arms = [
                [(-s + 3, 56), (-s - out * 0.7, 84), (-s - out * 0.8, 112)],
                [(s - 3, 56), (s + out * 0.8, 84), (s + out, 112)],
            ]
        if self.p.held != NONE:
            self._raise_arm(self.arm_of_side[self.p.held_side])

    def _raise_arm(self, arm: int) -> None:
        """Bend the arm that holds something: a phone to the ear, the others before the belly; an umbrella hangs."""
        shoulder, elbow, _ = self.arms[arm]
        outward = -1 if arm == 0 else 1
        if self.p.held == "phone":
            hand = (14, 30) if self.side else (outward * 21, 30)
            elbow = (16, 72) if self.side else (elbow[0] + outward * 8, 72)
        elif self.p.held == "umbrella":
            return
        elif self.side:
            elbow, hand = ((2, 86), (27, 86))
        else:
            hand = (elbow[0] + outward * 6, 98)
        self.arms[arm] = [shoulder, elbow, hand]

    def _half(self, y: float) -> float:
        """Half the width of the torso at height ``y``."""
        ys, widths = zip(*self.outline, strict=True)
        return float(np.interp(y, ys, widths))

    # Legs and feet

    def _legs(self) -> None:
        pen, kind = self.pen, self.p.lower_type
        for number, (hip, knee, foot) in enumerate(self.legs):
            far = FAR if self.side and number == 0 else 1
            cloth, skin, ankle = shade(self.paint["lower"], far), shade(self.skin, far), (foot[0], foot[1] - 8)
            if kind in ("trousers", "jeans", "joggers", "leggings"):
                self._shoe(foot, far)
                pen.part("lower")
                pen.limb([hip, knee, ankle], {"leggings": 12, "joggers": 21}.get(kind, 18), cloth)
                seam = shade(cloth, 1.2) if sum(cloth) < 600 else shade(cloth, 0.8)
                if kind == "jeans":
                    pen.line([hip, knee, ankle], seam, 3)
                    pen.line([(foot[0] - 9, foot[1] - 5), (foot[0] + 9, foot[1] - 5)], seam, 6)
                elif kind == "joggers":
                    shift = 0 if self.side else (-6 if number == 0 else 6)
                    pen.line([(x + shift, y) for x, y in (hip, knee, ankle)], PAINT["white"], 3)
                    pen.line([(foot[0] - 7, foot[1] - 6), (foot[0] + 7, foot[1] - 6)], shade(cloth, 0.7), 5)
            else:
                pen.part("skin")
                pen.limb([hip, knee, (foot[0], foot[1] - 3)], 12, skin)
                self._shoe(foot, far)
                if kind == "shorts":
                    t = 0.86
                    end = (hip[0] + (knee[0] - hip[0]) * t, hip[1] + (knee[1] - hip[1]) * t)
                    pen.part("lower")
                    pen.limb([hip, end], 22, cloth)
        if kind == "skirt":
            w, flare, cloth = *((15, 24) if self.side else (20, 31)), self.paint["lower"]
            pen.part("lower")
            pen.poly([(-w, 108), (w, 108), (flare, 164), (-flare, 164)], cloth)
            for x in (-0.35, 0.35):
                pen.line([(x * w, 124), (x * flare, 162)], rim(cloth), 2)

    def _shoe(self, foot: Point, far: float) -> None:
        pen, (x, y), kind = self.pen, foot, self.p.shoe_type
        colour, toe = shade(self.paint["shoe"], far), 6 if self.side else 0
        wide = 13 if self.side else 10
        pen.part("skin")
        if kind == "sandals":
            pen.oval(x + toe, y + 3, wide - 1, 6, shade(self.skin, far))
        pen.part("shoes")
        if kind == "boots":
            pen.poly([(x - 10, y - 26), (x + 10, y - 26), (x + 10, y + 4), (x - 10, y + 4)], colour)
        if kind == "sandals":
            pen.line([(x + toe - wide, y + 8), (x + toe + wide, y + 8)], colour, 6)
            pen.line([(x + toe - wide + 3, y), (x + toe + wide - 3, y)], colour, 5)
            return
        pen.oval(x + toe, y + 4, wide, 7, colour)
        if kind == "sneakers":
            sole = PAINT["white"] if sum(colour) < 640 else PAINT["gray"]
            pen.line([(x + toe - 10, y + 10), (x + toe + 10, y + 10)], sole, 4)
        elif kind == "loafers":
            pen.oval(x + toe * 0.4, y, 5, 3, shade(self.skin, far), edge=False)

    # Garments of the upper body

    def _torso(self) -> None:
        p, pen, colour = self.p, self.pen, self.paint["upper"]
        pen.part("skin")
        pen.limb([(0, 38), (0, 46)], 11, shade(self.skin, 0.9))
        right = [(w, y) for y, w in self.outline]
        pen.part("upper")
        pen.poly(right + [(-x, y) for x, y in reversed(right)], colour)
        self._pattern()
        if p.inner_type != NONE and self.view != "back":
            self._inner()
        pen.part("upper")
        details = {
            "jacket": self._jacket, "coat": self._coat, "shirt": self._collar, "polo": self._collar,
            "hoodie": self._hood, "sweater": self._knit, "cardigan": self._knit, "dress": self._belt,
            "blazer": self._lapels, "vest": self._quilt,
        }  # fmt: skip
        if p.upper_type in details:
            details[p.upper_type]()

    def _pattern(self) -> None:
        p, pen = self.p, self.pen
        if p.pattern == "plain":
            return
        colour = self.paint["pattern"]
        pen.part("pattern")
        if p.pattern in ("striped", "checked"):
            for y in np.arange(58, self.hem - 3, 14):
                a, b = self._half(y) - 1, self._half(y + 5) - 1
                pen.poly([(-a, y), (a, y), (b, y + 6), (-b, y + 6)], colour, edge=False)
        if p.pattern == "checked":
            for f in (-0.66, 0, 0.66):
                pen.line([(f * self._half(y), y) for y in (50, 94, self.hem)], colour, 6)
        if p.pattern == "dotted":
            for row, y in enumerate(np.arange(58, self.hem - 4, 12)):
                for f in (-0.66, 0, 0.66) if row % 2 else (-0.33, 0.33):
                    pen.oval(f * self._half(y), y, 4.5, 4.5, colour, edge=False)

    def _inner(self) -> None:
        """What an open garment leaves visible of the one under it."""
        pen, colour, hem = self.pen, self.paint["inner"], 120
        pen.part("inner")
        if self.side:
            pen.poly([(9, 47), (self._half(60), 56), (self._half(90), 92), (self._half(110), hem), (7, hem)], colour)
        else:
            pen.poly([(-8, 46), (8, 46), (11, 80), (13, hem), (-13, hem), (-11, 80)], colour)
            if self.p.inner_type == "shirt":
                pen.poly([(-8, 44), (0, 54), (-10, 55)], shade(colour, 1.3))
                pen.poly([(8, 44), (0, 54), (10, 55)], shade(colour, 1.3))
                pen.line([(0, 56), (0, hem)], rim(colour), 2)
            elif self.p.inner_type == "sweater":
                pen.oval(0, 45, 10, 5, shade(colour, 0.8))
                for y in range(62, hem, 10):
                    pen.line([(-9, y), (9, y)], rim(colour), 2)
            else:
                pen.part("skin")
                pen.oval(0, 47, 7, 4, self.skin, edge=False)

    @property
    def _closed_front(self) -> bool:
        return self.view == "front" and self.p.inner_type == NONE

    def _jacket(self) -> None:
        pen, colour, w = self.pen, self.paint["upper"], self._half(self.hem)
        if self._closed_front:
            pen.line([(0, 46), (0, self.hem)], rim(colour), 3)
        if self.view == "front":
            pen.poly([(-10, 44), (-6, 58), (-15, 57)], shade(colour, 1.2))
            pen.poly([(10, 44), (6, 58), (15, 57)], shade(colour, 1.2))
        for a, b in ((-w, -13), (13, w)) if self.view == "front" and not self._closed_front else ((-w, w),):
            pen.poly([(a, self.hem - 8), (b, self.hem - 8), (b, self.hem), (a, self.hem)], rim(colour), edge=False)

    def _coat(self) -> None:
        pen, dark = self.pen, rim(self.paint["upper"])
        if self._closed_front:
            pen.line([(0, 46), (0, self.hem)], dark, 3)
            for y in (72, 90, 108):
                pen.oval(5, y, 2.5, 2.5, dark, edge=False)
        elif self.view != "front":
            pen.line([(-self._half(102), 102), (self._half(102), 102)], dark, 5)
        self._open_edge()

    def _open_edge(self) -> None:
        """Below the hem of the inner garment, an open long one shows its opening as a dark line."""
        if self.view == "front" and self.p.inner_type != NONE:
            for x in (-13, 13):
                self.pen.line([(x * 0.7, 47), (x, 120), (x, self.hem)], rim(self.paint["upper"]), 3)

    def _collar(self) -> None:
        pen, colour = self.pen, self.paint["upper"]
        if self.view == "front":
            pen.poly([(-9, 43), (0, 54), (-11, 56)], shade(colour, 1.3))
            pen.poly([(9, 43), (0, 54), (11, 56)], shade(colour, 1.3))
            pen.line([(0, 56), (0, self.hem if self.p.upper_type == "shirt" else 76)], rim(colour), 2.5)
        if self.p.upper_type == "polo":
            y = self.hem - 3
            pen.line([(-self._half(y), y), (self._half(y), y)], rim(colour), 4)

    def _hood(self) -> None:
        pen, dark = self.pen, shade(self.paint["upper"], 0.85)
        if self.view == "front":
            pen.poly([(-11, 100), (11, 100), (15, 116), (-15, 116)], dark)
            for x in (-4, 4):
                pen.line([(x, 52), (x, 68)], PAINT["white"] if sum(dark) < 500 else PAINT["gray"], 2)
            pen.oval(0, 46, 17, 6, dark)
        elif self.side:
            pen.oval(-10, 50, 10, 9, dark)
        else:
            pen.oval(0, 54, 17, 12, dark)

    def _knit(self) -> None:
        pen, dark = self.pen, rim(self.paint["upper"])
        y = self.hem - 4
        if self.p.upper_type == "sweater":
            pen.line([(-self._half(y), y), (self._half(y), y)], dark, 5)
            pen.oval(0, 45, 12, 4, shade(self.paint["upper"], 0.85))
            return
        if self._closed_front:
            pen.line([(-9, 46), (0, 66), (0, self.hem)], dark, 3)
            pen.line([(9, 46), (0, 66)], dark, 3)
        if self.view == "front":
            for y in (76, 90, 104):
                pen.oval(5 if self._closed_front else 16, y, 2.2, 2.2, PAINT["white"], edge=False)
        self._open_edge()

    def _belt(self) -> None:
        self.pen.line([(-self._half(98), 98), (self._half(98), 98)], rim(self.paint["upper"]), 4)

    def _lapels(self) -> None:
        pen, colour = self.pen, self.paint["upper"]
        if self._closed_front:
            pen.line([(0, 80), (0, self.hem)], rim(colour), 3)
        if self.view == "front":
            x = 2 if self._closed_front else 9
            pen.poly([(-9, 44), (-x, 84), (-18, 62)], shade(colour, 1.18))
            pen.poly([(9, 44), (x, 84), (18, 62)], shade(colour, 1.18))
        elif self.view == "back":
            pen.line([(0, 100), (0, self.hem)], rim(colour), 3)

    def _quilt(self) -> None:
        pen, colour = self.pen, self.paint["upper"]
        for y in range(62, self.hem, 12):
            half = self._half(y) - 1
            spans = ((-half, -13), (13, half)) if self.view == "front" and not self._closed_front else ((-half, half),)
            for a, b in spans:
                pen.line([(a, y), (b, y)], rim(colour), 2.5)

    def _arm(self, number: int) -> None:
        p, pen = self.p, self.pen
        shoulder, elbow, hand = self.arms[number]
        far = FAR if self.side and number == 0 else 1
        sleeve, part = p.sleeve, "upper"
        colour = shade(self.paint["upper"], far)
        pen.part("skin")
        pen.limb([shoulder, elbow, hand], 10, shade(self.skin, far))
        pen.oval(*hand, 6.5, 6.5, shade(self.skin, far))
        if p.upper_type == "vest" and p.inner_type != NONE:  # the sleeves are those of the garment under it
            part, sleeve = "inner", "short" if p.inner_type == "t-shirt" else "long"
            colour = shade(self.paint["inner"], far)
        if sleeve == "sleeveless":
            return
        pen.part(part)
        if sleeve == "short":
            end = (shoulder[0] * 0.3 + elbow[0] * 0.7, shoulder[1] * 0.3 + elbow[1] * 0.7)
            pen.limb([shoulder, end], 15, colour)
            bars = (0.55,)
        else:
            wrist = (elbow[0] * 0.2 + hand[0] * 0.8, elbow[1] * 0.2 + hand[1] * 0.8)
            pen.limb([shoulder, elbow, wrist], 14, colour)
            bars = (0.35, 0.8)
        if part == "upper" and p.pattern in ("striped", "checked"):
            pen.part("pattern")
            for t in bars:
                x, y = shoulder[0] + (elbow[0] - shoulder[0]) * t, shoulder[1] + (elbow[1] - shoulder[1]) * t
                pen.line([(x - 6, y), (x + 6, y)], shade(self.paint["pattern"], far), 6)
