"""The page in a real browser, opened from disk with the network off. Chromium is Playwright's own, the system's, or the
one that STREAMUMAP_CHROMIUM names (tools/page/chromium.sh gets one from the npm registry)."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streamumap.show.columns import Numbers, TopFeatures, label_column
from streamumap.show.page.data import Label, Page, page_data
from streamumap.show.page.html import write_page
from streamumap.show.page.serve import PageServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is needed to drive a browser")
N = 5000
CENTRES = np.array([[-8.0, 8.0], [8.0, 8.0], [-8.0, -8.0], [8.0, -8.0]])
EVIL = "<img src=x onerror=\"document.title='hacked'\"> </script>"
SOFTWARE_GL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


def data():
    """Four islands, a section each; row 7 has no position, row 8 a name that would be markup."""
    rng = np.random.default_rng(0)
    which = np.arange(N) % 4
    X = (CENTRES[which] + rng.normal(scale=1.2, size=(N, 2))).astype(np.float32)
    X[7] = np.nan
    names = [f"row {i} {'pear' if i % 50 == 0 else 'apple'}" for i in range(N)]
    names[8] = EVIL
    names[9] = "=SUM(1,2)"
    return X, which, names


def the_data():
    X, which, names = data()
    ids = np.stack([which * 100, np.full(N, 7)], axis=1).astype(np.uint16)
    values = np.tile(np.float32([2.0, 0.5]), (N, 1))
    columns = [
        label_column("section", [f"section {i}" for i in which]),
        Numbers("feature 3", np.where(which == 2, 1.5, 0).astype(np.float32), zero_is_none=True),
        label_column(EVIL, [EVIL] * N),
    ]
    marks = [Label(f"island {i}", *centre) for i, centre in enumerate(CENTRES.tolist())]
    return page_data(X, Page("A map", "5,000 rows", columns, pa.array(names), TopFeatures(ids, values), marks))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        places = (os.environ.get("STREAMUMAP_CHROMIUM"), started.chromium.executable_path)
        places += tuple(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        found = next((place for place in places if place and Path(place).exists()), None)
        if found is None:
            pytest.skip("no Chromium: run playwright install chromium or tools/page/chromium.sh")
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--headless", *SOFTWARE_GL])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "map.html"
    write_page(the_data(), path)
    return path


@pytest.fixture
def opened(browser, file):
    """opened(**context): opens the page from disk. At the end there may be no request to a network and no error."""
    contexts, asked, wrong = [], [], []

    def open_page(address=None, width=1200, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=address is None, **options)
        contexts.append(context)
        page = context.new_page()
        page.said_to_be_wrong = wrong
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(address or file.as_uri())
        page.wait_for_selector("body[data-ready], body[data-failed]")
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((file.as_uri(), "http://127.0.0.1:", "blob:"))] == []


def settled(page):
    page.wait_for_timeout(100)
    page.wait_for_selector("body[data-drawn=all]")


def place(page, row):
    return page.evaluate(f"streamumap.view.rowOnScreen({row})")


def pixel(page, at):
    """The colour (r, g, b) of a pixel."""
    return page.evaluate(
        """([px, py]) => {
            const { gl } = streamumap.renderer, out = new Uint8Array(4), ratio = streamumap.view.ratio;
            gl.readPixels(Math.round(px * ratio), gl.canvas.height - 1 - Math.round(py * ratio), 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, out);
            return Array.from(out.slice(0, 3));
        }""",
        at,
    )


def screen_of(page, points):
    """Pixels on the screen of positions on the map."""
    return page.evaluate(
        """(points) => { const { box } = JSON.parse(document.getElementById('meta').textContent);
            return points.map(([x, y]) => streamumap.view.toScreen((x - box.left) / box.side, (y - box.bottom) / box.side)); }""",
        np.asarray(points, float).tolist(),
    )


def test_it_opens_from_disk_without_a_network_and_draws_every_row(opened, file):
    page = opened()
    assert page.evaluate("streamumap.rows") == N and page.evaluate("streamumap.renderer.drawn") == N
    assert page.title() == "A map · streamumap" and page.inner_text("#title") == "A map"
    assert "Rows without a position: 1." in page.inner_text("#notes")
    X = data()[0]
    at = np.array(screen_of(page, X[[100, 101, 102]]))
    np.testing.assert_allclose(at, [place(page, row) for row in (100, 101, 102)], atol=0.1)


def test_the_policy_stops_requests_and_eval(opened):
    page = opened()
    # later, as a task of the page's own: what the debugger evaluates is above the policy
    page.evaluate(
        """() => setTimeout(async () => {
            const refused = [];
            const tries = {
                fetch: () => fetch("http://127.0.0.1:9/"),
                eval: async () => (0, eval)("1"),
                function: async () => new Function("return 1")(),
            };
            for (const [name, attempt] of Object.entries(tries)) await attempt().catch(() => refused.push(name));
            const script = document.createElement("script");
            script.textContent = "document.title = 'hacked'";
            document.body.append(script);
            document.body.dataset.refused = refused.join(" ");
        }, 200)"""
    )
    page.wait_for_selector("body[data-refused]")
    assert page.get_attribute("body", "data-refused") == "fetch eval function" and page.title() != "hacked"
    wrong = page.said_to_be_wrong
    assert wrong and all("Content Security Policy" in text for text in wrong)
    wrong.clear()


def test_colours_match_the_legend(opened):
    page = opened()
    for section in range(4):
        entry = page.locator("#legend .entry", has_text=f"section {section}")
        dot = entry.locator(".dot").evaluate("dot => getComputedStyle(dot).backgroundColor")
        want = [int(part) for part in dot.removeprefix("rgb(").removesuffix(")").split(",")]
        (centre,) = screen_of(page, [CENTRES[section]])
        reached = min(
            np.abs(np.array(pixel(page, place(page, row))) - want).max()
            for row in range(section + 12, 200 + section, 4)
        )
        assert reached < 40, f"section {section} is not drawn in the colour of its legend"
        assert "1,250" in entry.inner_text() and centre[0] > 0


def test_hidden_labels_are_neither_drawn_nor_found(opened):
    page = opened()
    row = 101  # it is in section 1
    page.locator("#legend .entry", has_text="section 1").click()
    settled(page)
    assert pixel(page, place(page, row)) == [255, 255, 255]
    page.mouse.move(*place(page, row))
    page.wait_for_timeout(300)
    assert "section 1" not in page.inner_text("#tip")


def test_hover_says_the_name_the_columns_and_the_features(opened):
    page = opened()
    page.mouse.move(*place(page, 102))
    page.wait_for_selector("#tip:not([hidden])")
    row = page.evaluate("streamumap.state.ringed")
    text = page.inner_text("#tip")
    assert f"row {row} apple" in text and f"section {row % 4}" in text
    assert f"{row % 4 * 100} (2), 7 (0.5" in text
    page.mouse.move(600, 1)
    page.wait_for_selector("#tip", state="hidden")


def test_names_are_text_and_not_markup(opened):
    page = opened()
    page.fill("#search", "onerror")
    page.wait_for_selector("#selected:has-text('1 of 5,000')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tip:not([hidden])")
    assert EVIL in page.inner_text("#tip strong") and EVIL in page.inner_text("#found")
    assert page.locator("img").count() == 0 and page.title() == "A map · streamumap"


def test_search_by_text_and_by_number(opened):
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("PEAR")
    page.wait_for_selector("#selected:has-text('100 of 5,000 rows match')")
    assert page.evaluate("streamumap.state.selected.every(row => row % 50 === 0)")
    settled(page)
    page.fill("#search", "4321")
    page.wait_for_selector("#selected:has-text('1 of 5,000')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tip:has-text('row 4321 apple')")
    assert page.evaluate("streamumap.state.ringed") == 4321
    np.testing.assert_allclose(
        place(page, 4321), page.evaluate("[streamumap.view.width / 2, streamumap.view.height / 2]"), atol=1
    )
    page.fill("#search", "nothing like it")
    page.wait_for_selector("#selected:has-text('0 of 5,000')")
    assert page.is_disabled("#csv")
    page.keyboard.press("Escape")
    assert page.is_hidden("#selection") and page.input_value("#search") == ""


@pytest.mark.parametrize("how", ["key", "shift"])
def test_the_lasso_takes_what_lies_in_it_and_the_csv_has_it(opened, how, tmp_path):
    page = opened()
    X, _, names = data()
    square = CENTRES[2] + np.array([[-2, -2], [2, -2], [2, 2], [-2, 2]])
    corners = screen_of(page, square)
    if how == "key":
        page.keyboard.press("l")
    else:
        page.keyboard.down("Shift")
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in (*corners[1:], corners[0]):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector("#selected:has-text('in the lasso')")
    got = set(page.evaluate("streamumap.state.selected"))
    edge = 0.08  # a pixel of the mask
    inside, maybe = (
        set(np.flatnonzero((np.abs(X - CENTRES[2]) < half).all(axis=1)).tolist()) for half in (2 - edge, 2 + edge)
    )
    assert inside <= got <= maybe and len(got) > 500
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "s.csv")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "row_id,name" and {int(line.split(",")[0]) for line in lines[1:]} == got
    assert lines[1] == f'{min(got)},"{names[min(got)]}"' and download.value.suggested_filename == "A_map-selection.csv"


def test_the_csv_holds_no_formula(opened, tmp_path):
    page = opened()
    page.fill("#search", "=sum")
    page.wait_for_selector("#selected:has-text('1 of 5,000')")
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == 'row_id,name\n9,"\'=SUM(1,2)"\n'


def test_a_column_of_numbers_and_density(opened):
    page = opened()
    page.select_option("#columns", label="feature 3")
    page.wait_for_selector("#legend .bar")
    assert "3,750" in page.inner_text("#legend")  # row 7 counts although it has no position
    settled(page)
    inside, outside = (pixel(page, place(page, row)) for row in (102, 101))
    assert inside[2] - inside[0] > 40 and max(outside) - min(outside) < 12, "a feature's rows stand out of grey ones"
    page.select_option("#columns", label="density")
    page.wait_for_selector("#legend .ends:has-text('few rows')")


def test_keys(opened):
    page = opened()

    def transform():
        return page.evaluate("[streamumap.view.transform.k, streamumap.view.transform.x, streamumap.view.transform.y]")

    page.keyboard.press("ArrowLeft")
    assert transform() == [1, 80, 0]
    page.keyboard.press("+")
    assert transform()[0] == 1.5
    page.keyboard.press("0")
    assert transform() == [1, 0, 0]
    page.keyboard.press("c")
    page.wait_for_selector("#legend .bar")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.style.colorScheme") == "dark"
    settled(page)
    assert pixel(page, [5, 5]) == [0x0D, 0x10, 0x14]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") != ""


def test_wheel_zooms_about_the_pointer(opened):
    page = opened()
    before = place(page, 102)
    page.mouse.move(*before)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert page.evaluate("streamumap.view.transform.k") > 1.2
    np.testing.assert_allclose(place(page, 102), before, atol=1.5)
    settled(page)


def test_the_readers_system_decides_on_light_or_dark(opened):
    assert pixel(opened(color_scheme="dark"), [5, 5]) == [0x0D, 0x10, 0x14]
    assert pixel(opened(color_scheme="light"), [5, 5]) == [255, 255, 255]


def test_a_phone(opened):
    page = opened(width=390, height=800, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.is_hidden("#panel")
    page.touchscreen.tap(*place(page, 102))
    page.wait_for_selector("#tip:not([hidden])")
    page.tap("#panel-toggle")
    page.wait_for_selector("#panel", state="visible")
    settled(page)
    assert page.evaluate("document.getElementById('map').clientHeight") > 300


def test_the_map_comes_back_after_a_lost_context(opened):
    page = opened()
    before = pixel(page, place(page, 102))
    page.evaluate(
        """async () => {
            const lose = streamumap.renderer.gl.getExtension("WEBGL_lose_context");
            lose.loseContext();
            await new Promise((done) => setTimeout(done, 200));
            lose.restoreContext();
            await new Promise((done) => setTimeout(done, 300));
        }"""
    )
    settled(page)
    assert pixel(page, place(page, 102)) == before


def test_served(opened):
    with PageServer(the_data()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = opened(server.address)
        page.fill("#search", "row 4800 ")
        page.wait_for_selector("#selected:has-text('1 of 5,000')")
        page.keyboard.press("Enter")
        page.wait_for_selector("#tip:has-text('row 4800 pear')")
        server.shutdown()
        page.context.set_offline(True)
        page.fill("#search", "anything")
        page.wait_for_selector("#status:has-text('is streamumap view --serve still running?')")
        assert page.said_to_be_wrong
        page.said_to_be_wrong.clear()  # the browser's own line about the refused connection
