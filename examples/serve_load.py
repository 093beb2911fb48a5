"""How `cada serve` holds under load: many clients at once search a gallery of many images.

python examples/serve_load.py FOLDER [--rows 100000] [--clients 50] [--seconds 120] [--pause 0] [--browser]

FOLDER is that of `cada demo`. Its crops are entered again and again, each time with noise on their embeddings, until
there are enough rows. Every client searches as the page does: the first stage, then the final one, then 12 thumbnails.
``--browser`` measures the page itself before, in a Chromium: from Enter until images are there, 30 sentences.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

from cada_plugin.gallery import Gallery
from cada_plugin.gallery.index import row_id


def enlarge(small: Gallery, place: Path, rows: int) -> None:
    """A gallery of so many rows, of the pictures of a small one."""
    meta = small.store.meta()
    large = Gallery.create(place, small.root, meta["config"], meta["checkpoint"])
    known = list(small.store.rows())
    _, embed = small.store.get([row.id for row in known])
    rng = np.random.default_rng(0)
    for copy in range(-(-rows // len(known))):
        some = known[: rows - copy * len(known)]
        noisy = embed[: len(some)] + 0.2 * rng.standard_normal((len(some), embed.shape[1])) / embed.shape[1] ** 0.5
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        copies = [replace(row, id=row_id(f"{copy} {row.path}"), person=f"{row.person}-{copy}") for row in some]
        large.store.add(copies, noisy)
    large.store.compact()
    large.store.set_meta(large.store.meta() | {"tokens": meta["tokens"]})
    (place / "tokens").symlink_to((Path(small.place) / "tokens").resolve())


def memory_mb(process: int) -> float:
    """Resident memory of a process, in MB."""
    words = Path(f"/proc/{process}/status").read_text().split()
    return int(words[words.index("VmRSS:") + 1]) / 1024


class Client(threading.Thread):
    """Searches until the time is over, and notes how long each answer took."""

    def __init__(self, number: int, address: str, sentences: list[str], end: float, pause: float) -> None:
        super().__init__(daemon=True)
        self.times: dict[str, list[float]] = {"first": [], "final": [], "thumbnail": []}
        self.errors: list[str] = []
        self._address, self._sentences, self._end, self._pause = address, sentences, end, pause
        self._random = random.Random(number)

    def run(self) -> None:
        time.sleep(self._random.random() * min(self._pause, 10))
        with httpx.Client(base_url=self._address, timeout=60) as client:
            while time.monotonic() < self._end:
                sentence = self._random.choice(self._sentences)
                hits = []
                for stage in ("first", "final"):
                    hits = self._timed(stage, client, "POST", "/api/search", {"sentences": [sentence], "stage": stage})
                for hit in hits[:12]:
                    self._timed("thumbnail", client, "GET", hit["thumbnail_uri"])
                time.sleep(self._pause * (0.5 + self._random.random()))

    def _timed(self, what: str, client: httpx.Client, method: str, path: str, body: dict | None = None) -> list:
        begin = time.perf_counter()
        try:
            answer = client.request(method, path, json=body)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            self.errors.append(f"{what}: {error!r}")
            return []
        self.times[what].append(time.perf_counter() - begin)
        return answer.json()["hits"] if body else []


SEARCH_ON_THE_PAGE = """async (sentence) => {
  const status = document.getElementById("status");
  const reached = (there) => new Promise((done) => {
    const look = () => there() ? done(performance.now()) : setTimeout(look, 2);
    look();
  });
  const pictures = () => [...document.querySelectorAll(".hit img")].slice(0, 12);
  const loaded = () => pictures().length === 12 && pictures().every((one) => one.complete && one.naturalWidth);
  document.querySelectorAll(".hit").forEach((one) => one.remove());
  document.querySelector("#sentences input").value = sentence;
  const begin = performance.now();
  document.getElementById("search").requestSubmit();
  const answered = reached(() => document.querySelector(".hit"));
  const seen = reached(loaded);
  const final = reached(() => /^Best of/.test(status.textContent));
  return [await answered - begin, await seen - begin, await final - begin];
}"""


def browse(address: str, sentences: list[str], searches: int = 30) -> None:
    """Print how long the page takes until the first results stand there, until 12 of them are visible, and until they
    are re-ranked."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(address)
        page.wait_for_function("() => document.getElementById('status').textContent")
        times = [page.evaluate(SEARCH_ON_THE_PAGE, sentence) for sentence in sentences[: searches + 1]][1:]
    for what, each in zip(("first results", "12 pictures", "re-ranked"), zip(*times, strict=True), strict=True):
        each = sorted(each)
        print(f"page: {what:13} p50 {each[len(each) // 2]:5.0f} ms, longest {each[-1]:5.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pause", type=float, default=0, help="mean seconds between the searches of a client")
    parser.add_argument("--browser", action="store_true", help="measure the page as well, in a Chromium")
    args = parser.parse_args()
    records = json.loads((args.folder / "people/reid_raw.json").read_text(encoding="utf-8"))
    sentences = [record["captions"][0] for record in records]
    with tempfile.TemporaryDirectory() as place:
        enlarge(Gallery.open(args.folder / "gallery"), Path(place) / "gallery", args.rows)
        command = [sys.executable, "-m", "cada_plugin", "serve", f"{place}/gallery", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            address = server.stdout.readline().split()[-1]
            if args.browser:
                browse(address, sentences)
            for alone, seconds, clients in ((True, 5, 1), (False, args.seconds, args.clients)):
                end = time.monotonic() + seconds
                pause = 0 if alone else args.pause
                running = [Client(number, address, sentences, end, pause) for number in range(clients)]
                for client in running:
                    client.start()
                memory = []
                while any(client.is_alive() for client in running):
                    memory.append(memory_mb(server.pid))
                    time.sleep(1)
                report(running, memory, seconds)
            server.terminate()


def report(clients: list[Client], memory: list[float], seconds: float) -> None:
    errors = [error for client in clients for error in client.errors]
    sixth = max(len(memory) // 6, 1)
    medians = [statistics.median(memory[start : start + sixth]) for start in range(0, sixth * 6, sixth)[: len(memory)]]
    print(f"{len(clients)} clients, {seconds:g} s: {len(errors)} errors{''.join(f'; {e}' for e in errors[:3])}")
    print(f"memory of the server, medians of sixths of the time: {', '.join(f'{one:.0f}' for one in medians)} MB")
    for what in ("first", "final", "thumbnail"):
        times = sorted(1000 * t for client in clients for t in client.times[what])
        if times:
            p50, p95 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.95))
            print(
                f"{what:10} {len(times):6} answers, p50 {p50:6.0f} ms, p95 {p95:6.0f} ms, longest {times[-1]:6.0f} ms"
            )


if __name__ == "__main__":
    main()
