"""The JSON API finds what the gallery finds, shows nothing but pictures of the gallery, and refuses with a reason."""

import concurrent.futures
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from serve_factory import HOSTILE, build_gallery, running

from cada_plugin.cli import demo
from cada_plugin.cli.main import main
from cada_plugin.gallery import Filter, Gallery, Query
from cada_plugin.serve import api as api_module
from cada_plugin.serve import create_app
from cada_plugin.serve.guard import MAX_BODY, MAX_UPLOAD
from cada_plugin.serve.running import listen

pytestmark = pytest.mark.slow
SENTENCE = "a woman in a red coat with a black backpack"
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Gallery:
    return build_gallery(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def client(gallery) -> TestClient:
    return TestClient(create_app(gallery), base_url="http://127.0.0.1:8000")


def jpeg(size: tuple[int, int] = (64, 128), color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "JPEG")
    return file.getvalue()


def found(client: TestClient, **query: object) -> list[dict]:
    answer = client.post("/api/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def ids(hits: list) -> list[str]:
    return [hit["id"] if isinstance(hit, dict) else hit.row.id for hit in hits]


def test_a_search_is_that_of_the_gallery(client, gallery):
    hits = found(client, sentences=[SENTENCE], topk=20)
    wanted = gallery.search(SENTENCE, topk=20)
    assert ids(hits) == ids(wanted)
    assert [hit["likelihood"] for hit in hits] == pytest.approx([hit.score for hit in wanted])
    assert [hit["match"] for hit in hits] == pytest.approx([hit.match for hit in wanted])
    first = found(client, sentences=[SENTENCE], topk=20, stage="first")
    assert ids(first) == ids(gallery.search(Query([SENTENCE], topk=20, rerank=False)))
    assert {hit["match"] for hit in first} == {None}
    assert ids(first) != ids(hits)


def test_pages_are_parts_of_one_list(client):
    whole = found(client, sentences=[SENTENCE], topk=60)
    pages = [client.post("/api/search", json={"sentences": [SENTENCE], "topk": 25, "offset": o}) for o in (0, 25, 50)]
    assert [hit for page in pages for hit in page.json()["hits"]] == whole
    assert [page.json()["more"] for page in pages] == [True, True, False]
    assert [hit["rank"] for hit in whole] == list(range(1, 61))


def test_every_field_of_a_query_counts(client, gallery):
    some = ids(gallery.search(SENTENCE))
    queries = [
        ({"combine": "or", "sentences": [SENTENCE, "a man in blue"]}, {"combine": "or"}),
        ({"without": ["a hat"]}, {"without": ["a hat"]}),
        ({"cameras": ["cam_b"]}, {"only": Filter(["cam_b"])}),
        ({"after": "2026-11-25T08:05", "before": "2026-11-25T08:10"}, {"only": Filter((), 1795593900, 1795594200)}),
        ({"after": 1795593900}, {"only": Filter((), 1795593900)}),
        ({"where": {"floor": ["upper"]}}, {"only": Filter(columns={"floor": ["upper"]})}),
        ({"min_score": 0.05}, {"min_score": 0.05}),
        ({"min_cosine": 0.8}, {"min_cosine": 0.8}),
        ({"per_person": True}, {"per_person": True}),
        ({"right": some[:1], "wrong": some[1:3]}, {"right": some[:1], "wrong": some[1:3]}),
        ({"wrong": some[:2]}, {"wrong": some[:2]}),
    ]
    plain = ids(gallery.search(SENTENCE, topk=30))
    for request, options in queries:
        sentences = request.pop("sentences", [SENTENCE])
        wanted = ids(gallery.search(Query(sentences, topk=30, **options)))
        assert ids(found(client, sentences=sentences, topk=30, **request)) == wanted, request
        assert wanted != plain, request


def test_images_are_searched_for_by_id_and_by_upload(client, gallery):
    row = next(gallery.store.rows())
    path = gallery.root / row.path
    wanted = ids(gallery.search(Query(like=[path])))
    assert ids(found(client, like=[row.id], topk=10)) == wanted
    files = [("picture", ("../../etc/passwd", path.read_bytes(), "text/html"))]
    answer = client.post("/api/search-by-picture", files=files, data={"query": json.dumps({"topk": 10})})
    assert answer.status_code == 200, answer.text
    assert ids(answer.json()["hits"]) == wanted
    both = json.dumps({"topk": 10, "sentences": [SENTENCE]})
    answer = client.post("/api/search-by-picture", files=files, data={"query": both})
    assert ids(answer.json()["hits"]) == ids(gallery.search(Query([SENTENCE], like=[path])))


def test_what_is_told_of_the_gallery_and_of_a_hit(client, gallery):
    about = client.get("/api/gallery").json()
    assert (about["images"], about["calibrated"], about["reranks"]) == (60, True, True)
    assert about["cameras"] == sorted([HOSTILE, "cam_a", "cam_b", "cam_c"])
    assert about["columns"] == {"floor": ["lower", "upper"]}
    assert about["model"] == gallery.retriever.fingerprint()
    hit = found(client, sentences=[SENTENCE], where={"person": ["7"]}, cameras=["cam_b"])[0]
    assert (hit["camera"], hit["person"], hit["time"]) == ("cam_b", "7", "2026-11-25T08:07:00Z")
    for uri in (hit["uri"], hit["thumbnail_uri"]):
        answer = client.get(uri)
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (64, 128)


def test_an_explanation_is_that_of_the_gallery(client, gallery):
    hit = gallery.search(SENTENCE)[0]
    (wanted,) = gallery.explain(SENTENCE, hit.row.id)
    assert client.get("/api/gallery").json()["explains"] is True
    answer = client.post("/api/explain", json={"id": hit.row.id, "sentences": [SENTENCE]})
    (told,) = answer.json()["captions"]
    assert (told["caption"], told["likelihood"]) == (SENTENCE, pytest.approx(wanted.probability))
    assert told["match"] == pytest.approx(hit.match, abs=1e-4)
    assert [phrase["text"] for phrase in told["phrases"]] == ["woman", "red coat", "black backpack"]
    for phrase, expected in zip(told["phrases"], wanted.phrases, strict=True):
        assert phrase["change"] == pytest.approx(expected.change)
        np.testing.assert_allclose(phrase["map"], expected.map / expected.map.max(), atol=1e-4)
        assert (phrase["likelihood"], phrase["verdict"]) == (None, None)  # the shipped weights judge no phrases
    both = {"id": hit.row.id, "sentences": ["a man", "a red coat"]}
    for how, count in (("and", 1), ("or", 2)):
        assert len(client.post("/api/explain", json={**both, "combine": how}).json()["captions"]) == count


def test_judged_phrases_are_told(client, gallery, monkeypatch):
    monkeypatch.setattr(type(gallery.retriever), "judges_phrases", True)
    monkeypatch.setattr(gallery.retriever, "judge_phrases", lambda *_: [[3.0], [-3.0], [0.1]])
    known = {"id": gallery.search(SENTENCE)[0].row.id, "sentences": [SENTENCE]}
    (told,) = client.post("/api/explain", json=known).json()["captions"]
    assert [phrase["verdict"] for phrase in told["phrases"]] == ["yes", "no", "unsure"]
    assert [phrase["likelihood"] for phrase in told["phrases"]] == pytest.approx([0.9526, 0.0474, 0.525], abs=1e-3)


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        ({"sentences": []}, 422, "sentences"),
        ({"sentences": ["!!"]}, 400, "has no word that the model reads"),
        ({"id": "0" * 32}, 404, "has no image"),
        ({"id": "../../etc/passwd"}, 422, "id"),
        ({"without": ["a hat"]}, 422, "without"),
    ],
)
def test_impossible_explanations_are_refused_with_a_reason(client, gallery, asked, status, reason):
    known = {"id": gallery.search(SENTENCE)[0].row.id, "sentences": [SENTENCE]}
    answer = client.post("/api/explain", json={**known, **asked})
    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text


def test_openapi_documents_what_the_server_does(client):
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/api/search",
        "/api/search-by-picture",
        "/api/explain",
        "/api/gallery",
        "/api/images/{id}",
        "/api/thumbnails/{id}",
        "/api/login",
    }
    assert set(api["components"]["schemas"]["SearchRequest"]["properties"]) >= {
        "sentences",
        "without",
        "right",
        "stage",
    }
    assert client.get("/api.html").status_code == 200


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({}, "needs a sentence, or a picture"),
        ({"sentences": [""]}, "sentences.0"),
        ({"sentences": ["!!"]}, "has no word that the model reads"),
        ({"sentences": ["\ud800 a man"]}, "sentences.0"),
        ({"sentences": ["a man"] * 17}, "at most 16"),
        ({"sentences": ["a man"], "combine": "xor"}, "'and' or 'or'"),
        ({"sentences": ["a man"], "topk": 0}, "topk"),
        ({"sentences": ["a man"], "topk": 10**9}, "topk"),
        ({"sentences": ["a man"], "min_score": 2}, "min_score"),
        ({"sentences": ["a man"], "min_score": 0.5, "without": ["a hat"]}, "calibrated for sentences alone"),
        ({"sentences": ["a man"], "after": "yesterday"}, "is no time"),
        ({"sentences": ["a man"], "before": "inf"}, "is no time"),
        ({"sentences": ["a man"], "cameras": "cam_a"}, "cameras"),
        ({"sentences": ["a man"], "hubness": 1}, "hubness"),
        ({"like": ["../../etc/passwd"]}, "like.0"),
    ],
)
def test_impossible_searches_are_refused_with_a_reason(client, query, reason):
    body = json.dumps(query)  # as httpx cannot send half a character
    answer = client.post("/api/search", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert reason in answer.json()["detail"]


def test_a_body_that_is_no_json_and_ids_that_are_not_there(client):
    headers = {"Content-Type": "application/json"}
    for body in (b"{", b"[]", b"\xff\xfe", b'{"sentences": ["a man"], "min_score": NaN}'):
        answer = client.post("/api/search", content=body, headers=headers)
        assert answer.status_code in (400, 422), body
        assert answer.json()["detail"]
    for field in ("like", "right", "wrong"):
        answer = client.post("/api/search", json={"sentences": ["a man"], field: ["0" * 32]})
        assert (answer.status_code, "has no image" in answer.json()["detail"]) == (404, True), field


# ---------------------------------------------------------------- uploads


def test_uploads_are_bounded_and_decoded_with_care(client):
    def sent(*contents: bytes) -> tuple[int, str]:
        files = [("picture", ("a.jpg", content, "image/jpeg")) for content in contents]
        answer = client.post("/api/search-by-picture", files=files)
        return answer.status_code, answer.json().get("detail", "")

    whole = jpeg()
    damaged = jpeg((400, 400))[:-400]
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for content, reason in [
        (damaged, "truncated or damaged"),
        (b"no picture", "not an image"),
        (b"", "empty"),
        (script, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ]:
        status, told = sent(content)
        assert status == 400, content
        assert reason in told
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")  # 3 kB, and 75 MB when it is decoded
    status, told = sent(file.getvalue())
    assert (status, "too many" in told) == (400, True)
    assert sent(whole)[0] == 200
    assert sent(*[whole] * 5)[0] == 422
    assert client.post("/api/search-by-picture", data={"query": "{}"}).status_code == 422
    files = [("picture", ("a.jpg", whole, "image/jpeg"))]
    answer = client.post("/api/search-by-picture", files=files, data={"query": '{"topk": "many"}'})
    assert (answer.status_code, "topk" in answer.json()["detail"]) == (422, True)


def test_bodies_are_bounded_whether_or_not_their_length_is_told(client):
    answer = client.post("/api/search-by-picture", files=[("picture", ("a.jpg", b"0" * (MAX_UPLOAD + 1)))])
    assert (answer.status_code, "at most 16 MB" in answer.json()["detail"]) == (413, True)
    assert client.post("/api/search", content=b" " * (MAX_BODY + 1)).status_code == 413

    def chunks(begin: bytes) -> Iterator[bytes]:
        yield begin
        for _ in range(MAX_UPLOAD // 2**20 + 2):
            yield b" " * 2**20

    part = b'--b\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'
    for path, kind, begin in [
        ("/api/search", "application/json", b"{"),
        ("/api/search-by-picture", "multipart/form-data; boundary=b", part),
    ]:
        answer = client.post(path, content=chunks(begin), headers={"Content-Type": kind})
        assert (answer.status_code, "too large" in answer.json()["detail"]) == (413, True), path
    for length in ("-1", "1e3", "x"):
        assert client.post("/api/search", content=b"{}", headers={"Content-Length": length}).status_code == 413


# ---------------------------------------------------------------- nothing else of the disk


@pytest.mark.parametrize("kind", ["images", "thumbnails"])
@pytest.mark.parametrize(
    "id",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%252f..%252fetc%252fpasswd",
        "..%5c..%5cetc%5cpasswd",
        "%00",
        "%c0%ae%c0%ae%2fetc%2fpasswd",
        "/etc/passwd",
        "file:%2f%2f%2fetc%2fpasswd",
        "0" * 32,
        "0" * 32 + "%0a",
        "' OR '1'='1",
        "cam_a/00001_0.jpg",
    ],
)
def test_nothing_is_read_by_a_path(client, kind, id):
    answer = client.get(f"/api/{kind}/{id}")
    assert answer.status_code in (404, 422)
    assert b"root:" not in answer.content


def test_paths_beside_the_static_files(client):
    for path in ("/../setup.py", "/..%2fapi.py", "/static/app.js", "/%2e%2e/guard.py", "/.git/config"):
        assert client.get(path).status_code in (404, 422), path


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    gallery = build_gallery(tmp_path, people=2)
    client = TestClient(create_app(gallery), base_url="http://localhost")
    rows = sorted(gallery.store.rows(), key=lambda row: row.path)
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    outside, inside, gone, damaged = (gallery.root / row.path for row in rows[:4])
    for path, target in ((outside, tmp_path / "secret.jpg"), (inside, gallery.root / rows[4].path)):
        path.unlink()
        path.symlink_to(target)
    gone.unlink()
    damaged.write_bytes(b"root:x:0:0")
    statuses = [client.get(f"/api/images/{row.id}").status_code for row in rows]
    assert statuses == [404, 200, 404, 404, 200, 200]
    for row in rows[:1] + rows[2:4]:
        answer = client.get(f"/api/thumbnails/{row.id}")
        assert answer.status_code == 404
        assert str(tmp_path) not in answer.text
    assert client.post("/api/search", json={"like": [rows[0].id]}).status_code == 404
    assert client.post("/api/search", json={"like": [rows[3].id]}).status_code == 400


# ---------------------------------------------------------------- who may ask


def test_a_token_opens_the_api_as_a_header_or_a_cookie(gallery):
    client = TestClient(create_app(gallery, TOKEN), base_url="http://gallery.example:8000")
    row = next(gallery.store.rows())
    paths = ["/api/gallery", f"/api/images/{row.id}", f"/api/thumbnails/{row.id}"]
    for path in paths:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer \xe9".encode("latin-1")},
            {"Cookie": "cada_token=wrong"},
            {"Cookie": "cada_token=; =;;"},
        ):
            assert client.get(path, headers=headers).status_code == 401, (path, headers)
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post("/api/search", json={"sentences": ["a man"]}).status_code == 401
    assert client.get("/").status_code == 200  # the page asks for the token
    assert client.post("/api/login", json={"token": "wrong"}).status_code == 401
    answer = client.post("/api/login", json={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert [client.get(path).status_code for path in paths] == [200] * 3


def test_without_a_token_only_this_machine_is_answered(gallery, client):
    for host in ("evil.example", "127.0.0.1.evil.example:8000", "192.168.0.7:8000", ""):
        answer = client.get("/api/gallery", headers={"Host": host})
        assert answer.status_code == 421, host
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"):
        assert client.get("/api/gallery", headers={"Host": host}).status_code == 200, host
    for site in ("cross-site", "same-site"):
        assert client.get("/api/gallery", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert client.get("/api/gallery", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_every_answer_has_the_headers_that_keep_scripts_out(client, gallery):
    row = next(gallery.store.rows())
    for path in ("/", "/app.js", "/api/gallery", f"/api/images/{row.id}", "/api/images/x", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    static = Path(api_module.__file__).parent / "static"
    for file in static.iterdir():
        text = file.read_text(encoding="utf-8")
        for unsafe in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "https://",
            " style=",
        ):
            assert unsafe not in text, (file.name, unsafe)


# ---------------------------------------------------------------- many clients


def test_a_slow_search_does_not_stop_the_others_and_one_that_nobody_waits_for_is_dropped(gallery, monkeypatch):
    goes_on, started = threading.Event(), []
    search = gallery.search

    def slow(query: Query) -> list:
        started.append(query.sentences[0])
        if query.sentences[0] == "a slow man":
            goes_on.wait(60)
        return search(query)

    monkeypatch.setattr(gallery, "search", slow)

    def ask(address: str, sentence: str, stage: str, timeout: float = 60) -> int:
        body = json.dumps({"sentences": [sentence], "stage": stage}).encode()
        request = urllib.request.Request(f"{address}/api/search", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status

    with running(gallery) as address, concurrent.futures.ThreadPoolExecutor(12) as threads:
        slow_ones = [threads.submit(ask, address, "a slow man", "final") for _ in range(8)]
        while "a slow man" not in started:
            time.sleep(0.01)
        assert ask(address, "a man", "first") == 200
        with pytest.raises(TimeoutError):
            ask(address, "an impatient man", "final", timeout=0.5)
        time.sleep(0.5)  # the server is told that the client is gone
        goes_on.set()
        assert [one.result() for one in slow_ones] == [200] * 8
        assert ask(address, "a woman", "final") == 200
    assert "an impatient man" not in started


# ---------------------------------------------------------------- the commands


def test_other_machines_are_let_in_with_a_token_alone(gallery, capsys, monkeypatch):
    monkeypatch.delenv("CADA_TOKEN", raising=False)
    assert main(["serve", gallery.place, "--host", "0.0.0.0"]) == 2
    assert "give --token as well" in capsys.readouterr().err
    assert main(["serve", gallery.place, "--host", "0.0.0.0", "--token", "short"]) == 2
    assert "12 to 200" in capsys.readouterr().err
    with listen("127.0.0.1", 0) as taken:
        assert main(["serve", gallery.place, "--port", str(taken.getsockname()[1])]) == 2
    assert "give another --host or --port" in capsys.readouterr().err
    assert main(["serve", gallery.place, "--port", "70000"]) == 2
    assert main(["serve", "nothing/here", "--port", "0"]) == 2


def test_the_demo_draws_indexes_and_serves(tmp_path, monkeypatch, capsys):
    options = ["demo", "--no-browser", "--people", "3", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "cada_plugin", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("12 images: http://127.0.0.1:"), line or process.stderr.read()
            address = line.split()[-1]
            sentence = process.stdout.readline().removeprefix("Try: ").strip()
            body = json.dumps({"sentences": [sentence]}).encode()
            request = urllib.request.Request(f"{address}api/search", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                hits = json.load(answer)["hits"]
            assert (len(hits), hits[0]["person"]) == (12, "1")
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")

    served = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "serve", lambda gallery, *_: served.append(gallery))
    monkeypatch.setattr(Gallery, "create", None)  # the second start finds everything there
    assert main(options) == 0
    assert len(served[0]) == 12

    meta = served[0].store.meta()
    served[0].store.set_meta(meta | {"fingerprint": "CADA 128x64 0123456789ab"})
    assert main(options) == 2
    assert f"another version: delete {Path('cada_demo') / 'gallery'}" in capsys.readouterr().err


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("cada_plugin.serve", "cada_plugin.cli.serve"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", "gallery"]) == 2
    assert "pip install 'cada_plugin[serve]'" in capsys.readouterr().err


def test_the_socket_is_of_this_machine():
    with listen("127.0.0.1", 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert sock.family == socket.AF_INET
