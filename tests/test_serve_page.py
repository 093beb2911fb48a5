"""The page in a real browser: what a reader does on it, and what they are told when something is wrong.

Debian's ``chromium`` is used; where there is none, one line says that these tests were left out.
"""

import io
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright
from serve_factory import build_gallery, running

from cada_plugin.gallery import Filter, Gallery, Query

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = f"{__name__} was left out: there is no chromium (apt-get install chromium)"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER),
]
SENTENCE = "a woman in a red coat with a black backpack"
TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Gallery:
    return build_gallery(tmp_path_factory.mktemp("page"), people=40)


@pytest.fixture(scope="module")
def address(gallery) -> Iterator[str]:
    with running(gallery) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """A page whose console must stay without errors, and which may ask nobody but its own server."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    assert [text for text in told if "status of 4" not in text and "ERR_" not in text] == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "blob:"))] == []
    context.close()


def type_sentence(page: Page, text: str = SENTENCE) -> None:
    page.get_by_label("Description of the person").first.fill(text)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Best of")


def shown(page: Page) -> list[str]:
    return page.locator(".hit").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)")


def faded_share(canvas: Locator, grid: tuple[int, int]) -> np.ndarray:
    """How far each patch of a drawn map is faded to grey, from 0 to 1, by the contrast that is left at its centre; NaN
    where there was none."""
    script = """(one, [rows, columns]) => {
      const whole = document.createElement('canvas');
      [whole.width, whole.height] = [one.width, one.height];
      whole.getContext('2d').drawImage(document.getElementById('picture'), 0, 0, one.width, one.height);
      const middle = (place, count, side) => Math.floor((place + 0.5) / count * side);
      return [one, whole].map((canvas) => {
        const { data, width, height } = canvas.getContext('2d').getImageData(0, 0, one.width, one.height);
        return Array.from({ length: rows * columns }, (_, patch) => {
          const y = middle(Math.floor(patch / columns), rows, height);
          const first = 4 * (y * width + middle(patch % columns, columns, width));
          return [...data.slice(first, first + 3)];
        });
      });
    }"""
    colours = np.array(canvas.evaluate(script, list(grid)), float).reshape(2, *grid, 3)
    left, there = np.abs(colours - (236, 238, 241)).sum(-1)
    return np.where(there > 100, 1 - left / np.maximum(there, 1), np.nan)


def wanted(gallery: Gallery, query: Query) -> list[str]:
    return [hit.row.id for hit in gallery.search(query)]


def test_a_sentence_is_typed_and_its_images_come_in_the_order_of_the_gallery(page, gallery):
    type_sentence(page)
    assert shown(page)[:48] == wanted(gallery, Query([SENTENCE], topk=48))
    best = gallery.search(SENTENCE)[0]
    told = page.locator(".hit .told").first.inner_text()
    assert f"{best.score * 100:.0f} %" in told
    assert best.row.camera in told
    assert "2026-11-25 08:" in told
    page.wait_for_function("() => document.querySelector('.hit img').naturalWidth === 64")


def test_the_first_order_is_shown_before_the_re_ranked_one(page, gallery):
    held: list[Route] = []  # the request for the final list

    def wait(route: Route) -> None:
        if '"final"' in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", wait)
    page.get_by_label("Description of the person").fill(SENTENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("re-ranking")
    assert shown(page) == wanted(gallery, Query([SENTENCE], topk=48, rerank=False))
    held[0].continue_()
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == wanted(gallery, Query([SENTENCE], topk=48))


def test_a_picture_that_is_open_stays_the_one_that_is_marked(page, gallery):
    """The final list may put another picture at its place, or not have it at all."""
    first = wanted(gallery, Query([SENTENCE], topk=48, rerank=False))
    final = wanted(gallery, Query([SENTENCE], topk=48))
    place = next(place for place in range(48) if first[place] != final[place])
    held: list[Route] = []  # the request for the final list

    def wait(route: Route) -> None:
        if '"final"' in route.request.post_data and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/search", wait)
    page.get_by_label("Description of the person").fill(SENTENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("re-ranking")
    page.locator(".hit .open").nth(place).click()
    held[0].continue_()
    expect(page.locator("#status")).to_contain_text("Best of")
    page.keyboard.press("w")
    expect(page).to_have_url(re.compile(rf"wrong={first[place]}"))


def test_a_least_likelihood_is_no_least_cosine(page, gallery):
    type_sentence(page)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Likelihood at least").fill("0.5")
    expect(page).to_have_url(re.compile("least_likelihood=0.5"))
    page.get_by_label("Without").fill("a hat")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Cosine at least")).to_have_value("0")
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == wanted(gallery, Query([SENTENCE], without=["a hat"], topk=48))
    page.get_by_label("Without").fill("")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Likelihood at least")).to_have_value("0.5")


def test_scrolling_brings_the_rest(page, gallery):
    type_sentence(page)
    for _ in range(5):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(200)
    expect(page.locator(".hit")).to_have_count(120)
    assert shown(page) == wanted(gallery, Query([SENTENCE], topk=120))


def test_filters_sentences_and_without_are_kept_in_the_address(page, gallery, address):
    type_sentence(page)
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("checkbox", name="cam_b").check()
    page.get_by_label("Without").fill("a hat; a backpack")
    page.get_by_label("best picture of each person").check()
    page.get_by_label("floor").select_option("upper")
    page.get_by_role("button", name="+ sentence").click()
    page.get_by_label("Description of the person").nth(1).fill("a man in blue")
    page.get_by_label("How sentences are combined").select_option("or")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#status")).to_contain_text("Best of")
    expect(page).to_have_url(re.compile(r"combine=or"))
    query = Query(
        [SENTENCE, "a man in blue"],
        without=["a hat", "a backpack"],
        combine="or",
        per_person=True,
        topk=48,
        only=Filter(["cam_b"], columns={"floor": ["upper"]}),
    )
    assert shown(page) == wanted(gallery, query)
    before = shown(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("#status")).to_contain_text("Best of")
    assert shown(other) == before
    assert other.get_by_label("Without").input_value() == "a hat; a backpack"
    page.go_back()
    expect(page.get_by_label("Description of the person")).to_have_count(1)


def test_times_and_scores_filter_and_nothing_found_is_told(page):
    type_sentence(page)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("After (UTC)").fill("2026-11-25T08:10")
    page.get_by_label("Before (UTC)").fill("2026-11-25T08:12")
    expect(page.locator(".hit")).to_have_count(6)
    page.get_by_label("Likelihood at least").fill("0.99")
    expect(page.locator("#status")).to_contain_text("Nothing is found with these filters")


def test_marks_re_order_the_rest_and_can_be_taken_back(page, gallery):
    type_sentence(page)
    ids = shown(page)
    page.locator(".hit").nth(0).get_by_label("Right").click()
    expect(page.locator(".chip.right")).to_have_count(1)
    expect(page.locator(".hit").first).not_to_have_attribute("data-id", ids[0])
    page.locator(f".hit[data-id='{ids[1]}']").get_by_label("Wrong").click()
    expect(page.locator(".chip.wrong")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == wanted(gallery, Query([SENTENCE], right=ids[:1], wrong=ids[1:2], topk=48))
    page.get_by_label("Remove: right").click()
    page.get_by_label("Remove: wrong").click()
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == ids[:48]


def test_a_picture_is_dropped_in(page, gallery):
    row = next(gallery.store.rows())
    content = (gallery.root / row.path).read_bytes()
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "<b>x</b>.jpg", {type: "image/jpeg"}));
            for (const kind of ["dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(content),
    )
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == wanted(gallery, Query(like=[gallery.root / row.path], topk=48))
    page.locator("#file").set_input_files({"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"damaged"})
    expect(page.locator("#status.error")).to_contain_text("not an image")
    expect(page.locator(".hit")).to_have_count(0)


def test_a_picture_is_opened_large_and_searched_by(page, gallery):
    type_sentence(page)
    hit = gallery.search(SENTENCE)[0]
    page.locator(".hit .open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(hit.row.path)
    expect(dialog).to_contain_text(f"{hit.match:.2f}")
    page.wait_for_function("() => document.getElementById('picture').naturalWidth === 64")
    page.get_by_role("button", name="More like this").click()
    expect(page).to_have_url(re.compile(rf"like={hit.row.id}"))
    expect(page.locator("#status")).to_contain_text("Best of")
    assert shown(page)[:48] == wanted(gallery, Query(like=[hit.path], topk=48))


def test_an_open_picture_tells_why_it_was_found(page, gallery):
    type_sentence(page)
    first, second = gallery.search(SENTENCE)[:2]
    page.locator(".hit .open").first.click()
    why = page.get_by_role("region", name="Why it was found")
    expect(why).to_be_hidden()
    page.get_by_role("button", name="Why?").click()
    for hit in (first, second):
        if hit is second:  # the next picture is explained too
            page.keyboard.press("ArrowRight")
        expect(page.locator("#facts")).to_contain_text(hit.row.path)
        (wanted,) = gallery.explain(SENTENCE, hit.row.id)
        for phrase in wanted.phrases:
            number = f"{phrase.change:+.2f}".replace("-", "\N{MINUS SIGN}")
            speaks = "speaks for it" if phrase.change < 0 else "speaks against it"
            expect(why.get_by_role("figure").filter(has_text=phrase.text)).to_contain_text(f"{number} {speaks}")
        expect(why.get_by_role("img")).to_have_count(len(wanted.phrases))
        phrase = wanted.phrases[1]
        canvas = why.get_by_role("img", name=f"Where the model looks for: {phrase.text}", exact=True)
        faded = faded_share(canvas, phrase.map.shape)
        told = ~np.isnan(faded)  # where the picture itself is grey, nothing can be told
        assert told.sum() > 5
        expected = 225 / 255 * (1 - phrase.map / phrase.map.max())
        np.testing.assert_allclose(faded[told], expected[told], atol=0.2)  # a pixel beside the centre is interpolated
    page.keyboard.press("e")
    expect(why).to_be_hidden()
    page.keyboard.press("Escape")
    page.get_by_label("Description of the person").first.fill("")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Describe a person")


def test_judged_phrases_have_their_verdict(page, gallery, monkeypatch):
    monkeypatch.setattr(type(gallery.retriever), "judges_phrases", True)
    monkeypatch.setattr(gallery.retriever, "judge_phrases", lambda *_: [[3.0], [-3.0], [0.2]])
    type_sentence(page)
    page.locator(".hit .open").first.click()
    page.get_by_role("button", name="Why?").click()
    why = page.get_by_role("region", name="Why it was found")
    for phrase, verdict in (("woman", "yes, 95 %"), ("red coat", "no, 5 %"), ("black backpack", "unsure, 55 %")):
        expect(why.get_by_role("figure").filter(has_text=phrase)).to_contain_text(verdict)
    expect(why).to_contain_text("whether the phrase is true of the picture")


def test_the_page_is_used_by_keys_alone(page):
    page.keyboard.press("Escape")
    page.locator("#status").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Best of")
    ids = shown(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.closest('.hit').dataset.id") == ids[1]
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#facts dd").first).to_have_text("3")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("() => document.activeElement.closest('.hit').dataset.id") == ids[2]
    page.keyboard.press("w")
    expect(page.locator(".chip.wrong")).to_have_count(1)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement !== document.body")


def test_names_of_cameras_are_text(page):
    """The first crop has a camera whose name is an ``img`` with a script."""
    page.get_by_role("button", name="Filters").click()
    page.locator("#cameras input").first.check()
    type_sentence(page)
    expect(page.locator(".hit")).to_have_count(1)
    expect(page.locator(".hit .told")).to_contain_text("<img src=x onerror=")
    page.locator(".hit .open").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("<img src=x onerror=")
    assert page.title() == "Find a person"


def test_errors_are_told(page):
    page.get_by_label("Description of the person").fill("!!!")
    page.keyboard.press("Enter")
    expect(page.locator("#status.error")).to_contain_text("has no word that the model reads")
    page.route("**/api/search", lambda route: route.abort())
    page.get_by_label("Description of the person").fill(SENTENCE)
    page.keyboard.press("Enter")
    expect(page.locator("#status.error")).to_contain_text("The server does not answer")


def test_a_token_is_asked_for_and_kept(browser, gallery):
    with running(gallery, TOKEN) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        page.get_by_label("Token").fill("wrong-wrong-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        type_sentence(page)
        page.reload()
        expect(page.locator("#status")).to_contain_text("Best of")
        page.context.close()
        page = browser.new_context().new_page()
        page.goto(f"{address}/?q=a+man#token={TOKEN}")
        expect(page.locator("#status")).to_contain_text("Best of")
        assert "token" not in page.url
        page.context.close()


@pytest.fixture
def telephone(browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, color_scheme="dark")
    yield context.new_page()
    context.close()


def test_a_telephone_shows_three_images_in_a_row_and_nothing_beside_the_screen(telephone, address):
    page = telephone
    page.goto(f"{address}/?q=a+woman+in+a+red+coat")
    expect(page.locator("#status")).to_contain_text("Best of")
    page.get_by_role("button", name="Filters").click()
    tops = page.locator(".hit").evaluate_all("tiles => tiles.slice(0, 4).map(tile => tile.offsetTop)")
    assert tops[0] == tops[2] != tops[3]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", dark))) < 150


def test_a_telephone_scrolls_to_the_explanation_that_was_asked_for(telephone, address):
    telephone.goto(f"{address}/?q=a+woman+in+a+red+coat")
    expect(telephone.locator("#status")).to_contain_text("Best of")
    telephone.locator(".hit .open").first.click()
    telephone.get_by_role("button", name="Why?").click()
    why = telephone.get_by_role("region", name="Why it was found")
    expect(why.get_by_role("figure").first).to_be_in_viewport()


def test_the_reference_of_the_api_is_drawn(page, address):
    page.goto(f"{address}/api.html")
    expect(page.get_by_role("heading", name="POST /api/search-by-picture")).to_be_visible()
    expect(page.locator("section").first).to_contain_text("sentences")


def test_a_picture_of_a_telephone_is_accepted(page):
    """Twelve million pixels, which lie on their side."""
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000), "red").save(file, "JPEG")
    page.locator("#file").set_input_files({"name": "x.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()})
    expect(page.locator("#status")).to_contain_text("Best of")
