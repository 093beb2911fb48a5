"""What is known of pictures comes from their names and from tables."""

import pytest

from cada_plugin.cli.main import main
from cada_plugin.errors import ConfigError
from cada_plugin.gallery import Facts, Filter, Gallery, NamePattern, Query, read_facts


@pytest.mark.slow
def test_what_is_known_comes_from_names_and_tables(crops, tmp_path, capsys):
    for number, path in enumerate(sorted(crops.iterdir())[:8]):
        path.rename(crops / f"gate{number % 2}_2026112509{number:02}00 x.jpg")
    table = tmp_path / "facts.csv"
    table.write_text("path,camera,time,colour\ngate1_20261125090100 x.jpg,north,1970-01-01T00:01,red; 'dark'\n")
    pattern = "{camera}_{time:%Y%m%d%H%M%S}"
    place = str(tmp_path / "gallery")
    assert main(["index", str(crops), "--gallery", place, "--name-pattern", pattern, "--csv", str(table)]) == 0
    rows = {row.path: row for row in Gallery.open(place).store.rows()}
    first, table_row = rows["gate0_20261125090000 x.jpg"], rows["gate1_20261125090100 x.jpg"]
    assert (first.camera, first.time) == ("gate0", 1795597200.0)
    assert (table_row.camera, table_row.time, dict(table_row.columns)) == ("north", 60.0, {"colour": "red; 'dark'"})
    assert "without camera, time and person (not in the CSV, no name that fits the pattern): 52 images" in (
        capsys.readouterr().out
    )
    hits = Gallery.open(place).search(Query(["a man"], only=Filter(cameras=["gate0"]), topk=60))
    assert len(hits) == 4
    table.write_text("path,camera\ngate1_20261125090100 x.jpg,south\n")  # read again, and the pattern is kept
    assert main(["index", "--gallery", place, "--csv", str(table)]) == 0
    again = {row.path: row.camera for row in Gallery.open(place).store.rows()}
    assert (again["gate0_20261125090000 x.jpg"], again["gate1_20261125090100 x.jpg"]) == ("gate0", "south")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("{cam}", "is not understood"), ("{time}", "is not understood"), ("plain", "has no"), ("{camera}{camera}", "not")],
)
def test_patterns_that_say_nothing_are_refused(pattern, message):
    with pytest.raises(ConfigError, match=message):
        NamePattern(pattern)


def test_names_are_read_if_they_fit_the_pattern():
    read = NamePattern("{camera}-{person}_{any}").read
    assert read("a/b/c3-p17_x.jpg") == Facts(camera="c3", person="p17")
    assert read("other.jpg") is None
    assert NamePattern("{camera}_c{time:%H%M}").read("a_c9999.jpg") is None  # no time of day


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera\nx\n", "no column path"),
        ("path,time\na,noon\n", "line 2: 'noon' is no time"),
        ("path,time\na,1764061800000\n", "line 2: '1764061800000' is no time"),  # milliseconds
        ("path,time\na,20261125093000\n", "is no time"),
        ("path,time\na,20261125\n", "is no time"),  # neither a date nor a second of 1970
        ("path,time\na,nan\n", "is no time"),
        ("path\na\na\n", "twice"),
    ],
)
def test_tables_that_cannot_be_used_name_the_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_facts(tmp_path / "t.csv")


def test_a_table_of_no_pictures_is_one(tmp_path):
    (tmp_path / "t.csv").write_text("path,camera\n")
    assert read_facts(tmp_path / "t.csv") == {}
