"""Writes procedural pedestrians to disk in CUHK-PEDES' own layout, so that its data set class can read them.

The files are ``reid_raw.json`` (a list of records), ``imgs/<camera>/<person>_<image>.jpg``, and ``procedural.json``
with the arguments and the version of the generator that made the folder.
"""

import fcntl
import glob
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cada_plugin.datasets.procedural.record import SPLITS, write_people
from cada_plugin.datasets.procedural.worlds import WORLDS
from cada_plugin.errors import ConfigError

VERSION = 5
"""Increased whenever the same arguments would give other pixels or other captions."""


def build_procedural(
    root: str | Path,
    *,
    seed: int,
    identities: dict[str, int],
    images_per_identity: int = 3,
    captions_per_image: int = 2,
    twin_fraction: float = 0.4,
    world: str = "camera",
) -> None:
    """Draw the people of every split and write them to ``root``. The same arguments write the same bytes.

    ``identities`` maps a split (train, val, test) to a number of people; ids run from 1, train first. ``twin_fraction``
    in [0, 1] is the share of people who have a near-twin. ``world`` is 'web' or 'camera' (see ``worlds``); no person is
    in both, whatever the seeds.

    ``root`` is complete or absent, because files are written to a hidden sibling folder that is renamed at the end.
    Unfinished folders of killed processes are removed. A ``root`` that was made with the same arguments is not touched.
    Raises ConfigError for a ``root`` made with other arguments, for a folder that is something else, and for invalid
    arguments.
    """
    root = Path(root).expanduser().absolute()
    arguments = {
        "seed": seed,
        "identities": {split: int(identities[split]) for split in SPLITS if split in identities},
        "images_per_identity": images_per_identity,
        "captions_per_image": captions_per_image,
        "twin_fraction": twin_fraction,
        "world": world,
        "version": VERSION,
    }
    _check_arguments(identities, arguments)
    _remove_leftovers(root)
    if _is_built(root, arguments):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.parent / f".{root.name}.{uuid.uuid4().hex[:8]}.partial"
    with _marked_as_in_use(partial):
        try:
            write_people(partial, arguments)
            (partial / "procedural.json").write_text(json.dumps(arguments, indent=2), encoding="utf-8")
            try:
                partial.rename(root)
            except OSError:
                # Another process of the same job may have finished first. Its folder is identical to ours.
                if not _is_built(root, arguments):
                    raise
        finally:
            # This removes our own unfinished folder; after a successful rename there is none.
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _marked_as_in_use(partial: Path) -> Iterator[None]:
    """Hold a lock file beside ``partial``, made before that folder. The system releases the lock when this process
    ends, even if it is killed."""
    lock = _lock_of(partial)
    with open(lock, "w") as file:
        with suppress(OSError):  # on a file system without locks, leftovers are never removed
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _remove_leftovers(root: Path) -> None:
    """Remove unfinished folders beside ``root`` whose process was killed. Those of running processes are locked."""
    for partial in root.parent.glob(f".{glob.escape(root.name)}.*.partial"):
        with suppress(OSError), open(_lock_of(partial), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(partial, ignore_errors=True)
            _lock_of(partial).unlink(missing_ok=True)


def _lock_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.lock")


def _check_arguments(identities: dict[str, int], arguments: dict) -> None:
    unknown = sorted(set(identities) - set(SPLITS))
    if unknown or not identities:
        raise ConfigError(f"identities={identities!r}: expected numbers of people for some of {', '.join(SPLITS)}")
    if min(identities.values()) < 0 or sum(identities.values()) == 0:
        raise ConfigError(f"identities={identities!r}: expected numbers of at least 0, not all of them 0")
    for name, least in (("seed", 0), ("images_per_identity", 1), ("captions_per_image", 1)):
        if arguments[name] < least:
            raise ConfigError(f"{name}={arguments[name]} is too small: it must be at least {least}")
    if not 0 <= arguments["twin_fraction"] <= 1:
        raise ConfigError(f"twin_fraction={arguments['twin_fraction']} is outside [0, 1]")
    if arguments["world"] not in WORLDS:
        raise ConfigError(
            f"world={arguments['world']!r} is not a world of procedural people: use one of {', '.join(WORLDS)}"
        )


def _is_built(root: Path, arguments: dict) -> bool:
    """Whether ``root`` holds exactly this set already. ConfigError where it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "Delete the folder yourself if nobody needs it, or choose another data_root"
    try:
        built = json.loads((root / "procedural.json").read_text(encoding="utf-8"))
        differing = [k for k in sorted({*built, *arguments}) if built.get(k) != arguments.get(k)]
    except (OSError, ValueError, TypeError):
        raise ConfigError(
            f"{root} exists but has no readable procedural.json, so it is not a folder of procedural pedestrians, and "
            f"nothing is overwritten. {advice}."
        ) from None
    if differing:
        lines = "; ".join(f"{k}: there {built.get(k)!r}, asked for {arguments.get(k)!r}" for k in differing)
        raise ConfigError(f"{root} holds procedural pedestrians made with other arguments ({lines}). {advice}.")
    return True
