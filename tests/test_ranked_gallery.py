"""Pictures of ranked galleries."""

import os

import pytest
from PIL import Image

from cada_plugin.errors import ConfigError, ImageError
from cada_plugin.visualization import RankedQuery, draw_ranked_galleries
from cada_plugin.visualization.gallery import MAT, RIGHT, WRONG

BLUE = (20, 40, 220)


@pytest.fixture
def person(tmp_path):
    path = tmp_path / "person.png"
    Image.new("RGB", (40, 120), BLUE).save(path)  # 1 : 3, slimmer than the mat
    return path


def picture(rows, tmp_path, **options):
    path = draw_ranked_galleries(rows, tmp_path / "out" / "gallery.png", **options)
    with Image.open(path) as image:
        return image.convert("RGB")


def columns_of(image, colour):
    """Contiguous runs (first, last) of x at which ``colour`` forms a long vertical line: the sides of frames."""
    pixels = image.load()
    columns = [x for x in range(image.width) if sum(pixels[x, y] == colour for y in range(image.height)) > 100]
    runs = []
    for x in columns:
        if runs and runs[-1][1] == x - 1:
            runs[-1][1] = x
        else:
            runs.append([x, x])
    return runs


def test_right_person_is_framed_green_and_others_red(tmp_path, person):
    image = picture([RankedQuery("a man", 7, [(person, 8, 0.9), (person, 7, 0.8)])], tmp_path)
    red, green = columns_of(image, WRONG), columns_of(image, RIGHT)
    assert len(red) == len(green) == 2  # left and right side of one frame each
    assert red[1][1] < green[0][0]  # in the order of the ranks


def test_marks_tell_right_from_wrong_without_colour(tmp_path, person):
    def corner(person_id):
        image = picture([RankedQuery("a man", 7, [(person, person_id, 0.9)])], tmp_path)
        right = columns_of(image, RIGHT if person_id == 7 else WRONG)[1][1]
        patch = image.crop((right - 29, 30, right + 1, 75)).load()
        return {(x, y) for x in range(30) for y in range(45) if patch[x, y] == (255, 255, 255)}

    tick, cross = corner(7), corner(8)
    assert tick
    assert cross
    assert tick != cross


def test_aspect_is_kept(tmp_path, person):
    image = picture([RankedQuery("a man", 7, [(person, 8, 0.9)])], tmp_path)
    pixels = image.load()
    blue = [(x, y) for x in range(image.width) for y in range(image.height) if pixels[x, y] == BLUE]
    width = max(x for x, _ in blue) - min(x for x, _ in blue) + 1
    height = max(y for _, y in blue) - min(y for _, y in blue) + 1
    assert height == 224
    assert width == pytest.approx(224 / 3, abs=1)
    x, y = min(blue)
    assert pixels[x - 3, y + 50] == MAT


def test_size_grows_with_rows_columns_and_title(tmp_path, person):
    hit = (person, 7, 0.5)
    two = picture([RankedQuery("a man", 7, [hit] * 6)] * 2, tmp_path)
    assert picture([RankedQuery("a man", 7, [hit] * 6)] * 3, tmp_path).height > two.height + 224
    assert picture([RankedQuery("a man", 7, [hit] * 7)] * 2, tmp_path).width > two.width + 112
    assert picture([RankedQuery("a man", 7, [hit] * 6)] * 2, tmp_path, title="Stage 2").height > two.height
    assert picture([RankedQuery("a man", 7, [hit] * 6, truth=person)] * 2, tmp_path).width > two.width + 112
    assert picture([RankedQuery("a man", 7, [hit] * 6)] * 2, tmp_path, image_height=448).width == 2 * two.width


def test_topk_limits_the_images_and_short_rows_are_fine(tmp_path, person):
    rows = [RankedQuery("a man", 7, [(person, 7, 0.5)] * 9), RankedQuery("nobody", 1, [])]
    assert len(columns_of(picture(rows, tmp_path, topk=3), RIGHT)) == 6


def test_a_text_may_stand_in_place_of_a_score(tmp_path, person):
    pictures = [
        picture([RankedQuery("a man", 7, [(person, 7, score)])], tmp_path) for score in (0.25, "0.250", "cos 0.250")
    ]
    assert pictures[0] == pictures[1] != pictures[2]


def test_long_caption_makes_room_and_endless_words_break(tmp_path, person):
    hits = [(person, 7, 0.5)]
    short = picture([RankedQuery("a man", 7, hits)], tmp_path)
    assert picture([RankedQuery("a man in a coat " * 40, 7, hits)], tmp_path).height > short.height + 100
    endless = picture([RankedQuery("x" * 300, 7, hits)], tmp_path)
    frame = columns_of(endless, RIGHT)[0][0]
    pixels = endless.load()
    assert all(pixels[x, y] == (255, 255, 255) for x in range(330, frame) for y in range(35, 200))


def test_failure_leaves_the_old_picture_and_no_rubbish(tmp_path, person, monkeypatch):
    path = draw_ranked_galleries([RankedQuery("a man", 7, [(person, 7, 0.5)])], tmp_path / "gallery.png")
    before = path.read_bytes()

    def half_written(self, target, **_):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        draw_ranked_galleries([RankedQuery("a man", 7, [(person, 8, 0.5)])], path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["gallery.png", "person.png"]


def test_errors_name_the_cause(tmp_path, person):
    with pytest.raises(ImageError, match="missing"):
        draw_ranked_galleries([RankedQuery("a man", 7, [(tmp_path / "gone.png", 7, 0.5)])], tmp_path / "g.png")
    with pytest.raises(ConfigError, match="no row"):
        draw_ranked_galleries([], tmp_path / "g.png")
    with pytest.raises(ConfigError, match="topk=0"):
        draw_ranked_galleries([RankedQuery("a man", 7, [])], tmp_path / "g.png", topk=0)
    assert not (tmp_path / "g.png").exists()
