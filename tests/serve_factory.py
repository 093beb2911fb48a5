"""A small gallery of drawn people with cameras, times and a column, and a server of it in a process' thread."""

import csv
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from cada_plugin.datasets.procedural import build_procedural
from cada_plugin.gallery import Gallery
from cada_plugin.serve import create_app
from cada_plugin.serve.running import listen

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
"""A camera whose name would run a script if it reached the page as HTML."""


def build_gallery(folder: Path, people: int = 20) -> Gallery:
    """A gallery of three crops of each person, which person ``n`` passes in the n-th minute of 25 November 2026."""
    build_procedural(folder / "people", seed=9, identities={"test": people}, images_per_identity=3)
    shutil.move(folder / "people/imgs", folder / "crops")
    records = json.loads((folder / "people/reid_raw.json").read_text())
    with open(folder / "facts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "camera", "time", "person", "floor"])
        for number, record in enumerate(records):
            camera = HOSTILE if number == 0 else f"cam_{'abc'[number % 3]}"
            time = f"2026-11-25T08:{number // 3:02}"
            writer.writerow([record["file_path"], camera, time, number // 3, "upper" if number % 2 else "lower"])
    gallery = Gallery.create(folder / "gallery", folder / "crops", "cada_procedural", tokens="int8")
    gallery.remember_facts(table=folder / "facts.csv")
    gallery.index(progress=False)
    return gallery


@contextmanager
def running(gallery: Gallery, token: str | None = None) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    with listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(create_app(gallery, token), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
