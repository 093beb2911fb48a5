"""What is known of a picture beside its pixels: camera, time and person, from its name or from a CSV."""

import csv
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from cada_plugin.errors import ConfigError

_FIELDS = ("camera", "time", "person")
_PLACE = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


@dataclass(frozen=True)
class Facts:
    """Of one picture; "" and None where nothing is known."""

    camera: str = ""
    person: str = ""
    time: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


class NamePattern:
    """Facts from file names: ``{camera}_{time:%Y%m%d%H%M%S}`` reads ``gate3_20261125093000.jpg``.

    Places are ``{camera}``, ``{person}``, ``{time:FORMAT}`` with a format of ``strptime``, and ``{any}``, which
    stands for anything. The pattern describes the beginning of the name without its folder. Times without a zone are
    UTC.

    Raises:
        ConfigError: the pattern has an unknown place, one twice, or a time without a format.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern, self.time_format = pattern, None
        parts, last, seen = [], 0, set()
        for place in _PLACE.finditer(pattern):
            name, form = place.groups()
            if name not in (*_FIELDS, "any") or (name in seen and name != "any") or (name == "time") != bool(form):
                raise ConfigError(
                    f"--name-pattern {pattern!r}: {place.group()} is not understood: use {{camera}}, {{person}}, "
                    "{any} and {time:%Y%m%d%H%M%S}, each once ({any} as often as you like)"
                )
            seen.add(name)
            self.time_format = form or self.time_format
            parts += [re.escape(pattern[last : place.start()]), ".+?" if name == "any" else f"(?P<{name}>.+?)"]
            last = place.end()
        if not seen & set(_FIELDS):
            raise ConfigError(f"--name-pattern {pattern!r} has no {{camera}}, {{person}} or {{time:...}}")
        tail = re.escape(pattern[last:])
        # a last place is as long as it can be up to the next character that is no letter, digit or sign of a name
        self._regex = re.compile("".join(parts) + (tail or r"(?=[^\w+-]|$)"))

    def read(self, path: str) -> Facts | None:
        """The facts of a path; None if its name does not fit the pattern."""
        found = self._regex.match(path.rpartition("/")[2])
        if found is None:
            return None
        values = found.groupdict()
        time = None
        if self.time_format:
            try:
                time = _seconds(datetime.strptime(values.pop("time"), self.time_format))
            except ValueError:
                return None
        return Facts(time=time, **values)


def read_facts(path: Path) -> dict[str, Facts]:
    """Facts by path from a CSV with the column ``path`` (or ``file_path``). The columns ``camera``, ``person`` and
    ``time`` (ISO 8601 or seconds since 1970) are known; other columns are kept as text.

    Raises:
        ConfigError: the file cannot be read, has no column of paths, a path twice, or a time that is none.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"--csv {path} cannot be read: {error}") from error
    key = next((name for name in ("path", "file_path") if name in columns), None)
    if key is None:
        raise ConfigError(
            f"--csv {path} has no column path: its first line names the columns, such as path,camera,time"
        )
    facts: dict[str, Facts] = {}
    for number, row in enumerate(rows, 2):
        values = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
        name = values.pop(key).replace("\\", "/")
        if name in facts:
            raise ConfigError(f"--csv {path}, line {number}: {name} is listed twice")
        time = values.pop("time", "")
        facts[name] = Facts(
            values.pop("camera", ""),
            values.pop("person", ""),
            parse_time(time, f"--csv {path}, line {number}") if time else None,
            {name: value for name, value in values.items() if value},
        )
    return facts


def facts_reader(pattern: str | None, table: str | os.PathLike | None) -> Callable[[str], Facts | None]:
    """What tells the facts of the picture at a path: a table of them first, and then its name.

    Raises:
        ConfigError: one of them cannot be used.
    """
    by_path = read_facts(Path(table)) if table else {}
    by_name = NamePattern(pattern).read if pattern else by_path.get
    return lambda path: by_path.get(path) or by_name(path)


def parse_time(text: str, where: str) -> float:
    """Seconds since 1970 of an ISO 8601 time (UTC where it names no zone) or of a number of seconds.

    Raises:
        ConfigError: it is neither, or could be both: eight digits are taken for neither a date nor seconds.
    """
    advice = "write 2026-11-25T09:30 or seconds since 1970"
    try:
        seconds = float(text)
    except ValueError:
        try:
            return _seconds(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            raise ConfigError(f"{where}: {text!r} is no time: {advice}") from None
    if re.fullmatch(r"\d{8}", text) or utc(seconds) is None:
        raise ConfigError(f"{where}: {text!r} is no time, as so many seconds after 1970 is no likely year: {advice}")
    return seconds


def utc(seconds: float | None) -> datetime | None:
    """The time in UTC; None for None, and for a number that no calendar has."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
