"""Draws the clothed body of a pedestrian in three views: pose, legs, shoes, torso, arms, patterns.

Coordinates are the figure units of ``pen``. In the side view the person faces +x. ``things`` adds the head and
everything that is carried.
"""

import numpy as np

from cada_plugin.datasets.procedural.attributes import Identity
from cada_plugin.datasets.procedural.pen import DARK, HAIR, PAINT, SKIN, Pen, rim, shade


class Figure:
    """The body of one person in one pose."""

    def __init__(self, identity: Identity, pen: Pen, view: str, rng: np.random.Generator) -> None:
        self.i, self.pen, self.view = identity, pen, view
        self.side, self.woman = view == "side", identity.sex == "woman"
        # Brightness varies between images, but so little that a colour keeps its name.
        light = rng.uniform(0.9, 1.08, size=6)
        names = ("upper_colour", "lower_colour", "shoe_colour", "bag_colour", "hat_colour", "held_colour")
        self.paint = {n: shade(PAINT.get(getattr(identity, n), DARK), f) for n, f in zip(names, light, strict=True)}
        self.upper, self.lower = self.paint["upper_colour"], self.paint["lower_colour"]
        self.skin = SKIN[identity.skin]
        self.hair = HAIR.get(identity.hair_colour, self.skin)
        long_cut = identity.upper_type in ("coat", "dress")
        self.hem = 156 if long_cut else 122
        if self.side:
            flare = 22 if identity.upper_type == "dress" else 17
            self.outline = [(46, 9), (52, 14), (80, 15), (104, 15), (self.hem, flare if long_cut else 16)]
        else:
            shoulder, waist, hip = (23, 18, 22) if self.woman else (27, 23, 22)
            loose = 3 if identity.upper_type in ("coat", "jacket", "hoodie", "sweater") else 0
            flare = 32 if identity.upper_type == "dress" else hip + 4
            self.outline = [
                (45, 10),
                (50, shoulder),
                (94, waist + loose),
                (self.hem, flare if long_cut else hip + loose),
            ]
        self._pose(rng)

    def _pose(self, rng: np.random.Generator) -> None:
        a, b, lift = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 7)
        if self.side:
            stride = 8 + 18 * a
            self.legs = [
                [(-2, 116), (-stride * 0.25, 160), (-stride - 4, 204 - lift * 0.5)],
                [(2, 116), (stride * 0.7 + 3, 158), (stride, 206)],
            ]
            swing = 8 + 12 * b
            self.arms = [[(0, 56), (7, 84), (swing + 12, 106)], [(-1, 56), (-7, 86), (-swing * 0.5, 112)]]
        else:
            spread = 9 + 5 * a
            self.legs = [
                [(-10, 116), (-11, 160), (-spread, 206 - lift)],
                [(10, 116), (11, 160), (spread, 206)],
            ]
            s = self.outline[1][1]
            out = 5 + 7 * b
            self.arms = [
                [(-s + 3, 56), (-s - out * 0.7, 84), (-s - out * 0.8, 112)],
                [(s - 3, 56), (s + out * 0.8, 84), (s + out, 112)],
            ]
        if self.i.held == "phone":
            shoulder, elbow = self.arms[-1 if not self.side else 0][:2]
            raised = (15, 30) if self.side else (20, 32)
            arm = [shoulder, (elbow[0] + 7, 74), raised]
            self.arms[0 if self.side else 1] = arm
        elif self.i.held == "book":
            if self.side:
                self.arms[0] = [(0, 56), (4, 86), (26, 84)]
            else:
                shoulder, elbow, _ = self.arms[1]
                self.arms[1] = [shoulder, elbow, (elbow[0] + 6, 104)]

    def _legs(self) -> None:
        i, pen = self.i, self.pen
        for number, (hip, knee, foot) in enumerate(self.legs):
            far = 0.82 if self.side and number == 0 else 1
            cloth, skin = shade(self.lower, far), shade(self.skin, far)
            if i.lower_type in ("trousers", "jeans"):
                self._shoe(foot, far)
                pen.limb([hip, knee, (foot[0], foot[1] - 8)], 18, cloth)
                if i.lower_type == "jeans":
                    seam = shade(cloth, 1.25) if sum(cloth) < 600 else shade(cloth, 0.8)
                    pen.line([hip, knee, (foot[0], foot[1] - 8)], seam, 3)
                    pen.line([(foot[0] - 9, foot[1] - 5), (foot[0] + 9, foot[1] - 5)], seam, 5)
            else:
                pen.limb([hip, knee, (foot[0], foot[1] - 3)], 12, skin)
                self._shoe(foot, far)
                if i.lower_type == "shorts":
                    t = 0.82
                    end = (hip[0] + (knee[0] - hip[0]) * t, hip[1] + (knee[1] - hip[1]) * t)
                    pen.limb([hip, end], 21, cloth)
        if i.lower_type == "skirt":
            w, flare = (15, 24) if self.side else (20, 31)
            pen.poly([(-w, 108), (w, 108), (flare, 158), (-flare, 158)], self.lower)
            for x in (-0.35, 0.35):
                pen.line([(x * w, 124), (x * flare, 156)], rim(self.lower), 2)

    def _shoe(self, foot: tuple[float, float], far: float) -> None:
        pen, (x, y), kind = self.pen, foot, self.i.shoe_type
        colour = shade(self.paint["shoe_colour"], far)
        toe = 6 if self.side else 0
        if kind == "boots":
            pen.poly([(x - 9, y - 22), (x + 9, y - 22), (x + 9, y + 4), (x - 9, y + 4)], colour)
        pen.oval(x + toe, y + 4, 13 if self.side else 10, 7, colour)
        if kind == "sneakers":
            sole = PAINT["white"] if sum(colour) < 640 else PAINT["gray"]
            pen.line([(x + toe - 10, y + 10), (x + toe + 10, y + 10)], sole, 4)

    def _half(self, y: float) -> float:
        """Half the width of the torso at height ``y``."""
        ys, widths = zip(*self.outline, strict=True)
        return float(np.interp(y, ys, widths))

    def _torso(self) -> None:
        i, pen, colour = self.i, self.pen, self.upper
        pen.limb([(0, 38), (0, 46)], 11, shade(self.skin, 0.9))
        right = [(w, y) for y, w in self.outline]
        pen.poly(right + [(-x, y) for x, y in reversed(right)], colour)
        self._pattern()
        front, dark = self.view == "front", rim(colour)
        if i.upper_type in ("jacket", "coat"):
            if front:
                pen.line([(0, 46), (0, self.hem)], dark, 3)
                pen.poly([(-10, 44), (0, 60), (-14, 58)], shade(colour, 1.2))
                pen.poly([(10, 44), (0, 60), (14, 58)], shade(colour, 1.2))
            if i.upper_type == "jacket":
                w = self._half(self.hem)
                pen.poly([(-w, self.hem - 8), (w, self.hem - 8), (w, self.hem), (-w, self.hem)], dark, edge=False)
            elif front:
                for y in (72, 90, 108):
                    pen.oval(5, y, 2.5, 2.5, dark, edge=False)
            else:
                w = self._half(102)
                pen.line([(-w, 102), (w, 102)], dark, 5)
        elif i.upper_type == "shirt" and front:
            pen.poly([(-9, 43), (0, 54), (-11, 56)], shade(colour, 1.3))
            pen.poly([(9, 43), (0, 54), (11, 56)], shade(colour, 1.3))
            pen.line([(0, 56), (0, self.hem)], dark, 2)
        elif i.upper_type == "hoodie":
            if front:
                pen.poly([(-11, 100), (11, 100), (15, 116), (-15, 116)], shade(colour, 0.85))
                pen.line([(-4, 52), (-4, 68)], PAINT["white"] if sum(colour) < 600 else PAINT["gray"], 2)
                pen.line([(4, 52), (4, 68)], PAINT["white"] if sum(colour) < 600 else PAINT["gray"], 2)
                pen.oval(0, 46, 17, 6, shade(colour, 0.85))
            elif self.side:
                pen.oval(-10, 50, 10, 9, shade(colour, 0.85))
            else:
                pen.oval(0, 54, 17, 12, shade(colour, 0.85))
        elif i.upper_type == "sweater":
            w = self._half(self.hem)
            pen.line([(-w, self.hem - 4), (w, self.hem - 4)], dark, 5)
            pen.oval(0, 45, 12, 4, shade(colour, 0.85))
        elif i.upper_type == "dress":
            w = self._half(98)
            pen.line([(-w, 98), (w, 98)], dark, 4)

    def _pattern(self) -> None:
        i, pen = self.i, self.pen
        if i.upper_pattern == "plain":
            return
        colour = PAINT[i.pattern_colour]
        if i.upper_pattern in ("striped", "checked"):
            for y in np.arange(58, self.hem - 3, 14):
                a, b = self._half(y) - 1, self._half(y + 5) - 1
                pen.poly([(-a, y), (a, y), (b, y + 6), (-b, y + 6)], colour, edge=False)
        if i.upper_pattern == "checked":
            for f in (-0.66, 0, 0.66):
                pen.line([(f * self._half(y), y) for y in (50, 94, self.hem)], colour, 6)
        if i.upper_pattern == "dotted":
            for row, y in enumerate(np.arange(58, self.hem - 4, 12)):
                for f in (-0.66, 0, 0.66) if row % 2 else (-0.33, 0.33):
                    pen.oval(f * self._half(y), y, 4, 4, colour, edge=False)

    def _arm(self, number: int) -> None:
        i, pen = self.i, self.pen
        shoulder, elbow, hand = self.arms[number]
        far = 0.82 if self.side and number == 0 else 1
        colour = shade(self.upper, far)
        pen.limb([shoulder, elbow, hand], 10, shade(self.skin, far))
        pen.oval(*hand, 6.5, 6.5, shade(self.skin, far))
        if i.sleeve == "short":
            pen.limb([shoulder, (shoulder[0] * 0.3 + elbow[0] * 0.7, shoulder[1] * 0.3 + elbow[1] * 0.7)], 15, colour)
            bars = (0.55,)
        else:
            wrist = (elbow[0] * 0.2 + hand[0] * 0.8, elbow[1] * 0.2 + hand[1] * 0.8)
            pen.limb([shoulder, elbow, wrist], 14, colour)
            bars = (0.35, 0.8)
        if i.upper_pattern in ("striped", "checked"):
            for t in bars:
                x, y = shoulder[0] + (elbow[0] - shoulder[0]) * t, shoulder[1] + (elbow[1] - shoulder[1]) * t
                pen.line([(x - 6, y), (x + 6, y)], shade(PAINT[i.pattern_colour], far), 6)
