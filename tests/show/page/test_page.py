import base64
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamumap.errors import InputError, OutputError
from streamumap.show.columns import TopFeatures, label_column
from streamumap.show.page import html as page
from streamumap.show.page.data import PAGE_ROWS, Label, Page, page_data
from streamumap.show.page.html import _file, head, policy, write_page
from streamumap.show.page.serve import PageServer
from streamumap.show.palette import DARK, LIGHT, linear

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


def cloud(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)


def made(n=5000, **options):
    return page_data(cloud(n), Page(**({"title": "T", "facts": "f"} | options)))


def positions(found):
    """The positions on the page, (N, 2) in units of the map, and the rows that it does not draw."""
    low, high = (np.frombuffer(found.blocks[name](), np.uint8).reshape(2, -1).astype(float) for name in ("low", "high"))
    box = found.meta["box"]
    missing = np.frombuffer(found.blocks["missing"](), "<u4")
    return ((low + 256 * high) / 65535 * box["side"]).T + (box["left"], box["bottom"]), missing


def blocks_of(html):
    """The bytes of the blocks by name, as a browser finds them."""
    found = re.findall(rb'<script type="application/octet-stream" id="data-([\w-]+)">([\w+/=]*)</script>', html)
    return {name.decode(): zlib.decompress(base64.b64decode(data)) for name, data in found}


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.floats(-100, 100, width=32)))
def test_positions_are_exact_to_a_65535th(X):
    found = page_data(X, Page())
    at, missing = positions(found)
    assert len(missing) == 0
    np.testing.assert_allclose(at, X, atol=0.51 * found.meta["box"]["side"] / 65535 + 1e-9)


def test_rows_without_a_position_and_far_ones_are_told():
    X = cloud(5000)
    X[7], X[8, 0], X[9] = np.nan, np.inf, [1e30, 0]
    found = page_data(X, Page())
    at, missing = positions(found)
    assert missing.tolist() == [7, 8] and found.meta["rows"] == 5000
    assert found.meta["notes"] == [
        "Rows without a position: 2.",
        "Rows farther out, drawn at the edge: 1.",
    ]
    assert np.abs(at[10:] - X[10:]).max() < 0.01, "a far row costs the others their resolution"


@pytest.mark.parametrize("X", [np.zeros((3, 2)), np.full((3, 2), np.nan), np.zeros((0, 2))])
def test_odd_maps_have_a_page(X, tmp_path):
    write_page(page_data(X.astype(np.float32), Page()), tmp_path / "p.html")


def test_a_page_has_all_that_was_given(tmp_path):
    n = PAGE_ROWS + 10
    names = pa.array([f"name {i}" for i in range(n)], pa.large_string())  # as they are read from a file
    ids = np.arange(2 * n, dtype=np.uint16).reshape(n, 2)
    values = np.random.default_rng(0).random((n, 2)).astype(np.float32)
    column = label_column("section", [f"l{i % 3}" for i in range(n)])
    found = made(n, names=names, features=TopFeatures(ids, values), columns=[column], labels=[Label("here", 1, 2, 1)])
    size, left_out = write_page(found, tmp_path / "p.html")
    html = (tmp_path / "p.html").read_bytes()
    blocks = blocks_of(html)
    assert (size, left_out) == (len(html), []) and set(blocks) == set(found.blocks)
    assert blocks["names-1"].decode().split("\n") == [f"name {i}" for i in range(PAGE_ROWS, n)]
    assert np.array_equal(np.frombuffer(blocks["column-0"], np.uint8), column.codes)
    levels = np.frombuffer(blocks["features-1"][2 * 20 :], np.uint8)
    assert np.array_equal(np.frombuffer(blocks["features-1"][: 2 * 20], "<u2"), ids[PAGE_ROWS:].ravel())
    np.testing.assert_allclose((levels / 255) ** 2 * values.max(), values[PAGE_ROWS:].ravel(), atol=0.01)
    meta = json.loads(re.search(rb'id="meta">(.*?)</script>', html)[1])
    assert meta["labels"] == [{"text": "here", "x": 1, "y": 2, "level": 1}] and meta["columns"][0]["counts"] == [
        1369, 1369, 1368,
    ]  # fmt: skip


def test_text_of_users_is_never_markup(tmp_path):
    names = pa.array([EVIL] * 50 + [f"a\nb{chr(0x2028)}c"] * 50)
    found = made(
        100, title=EVIL, facts=EVIL, names=names, columns=[label_column(EVIL, [EVIL] * 100)], labels=[Label(EVIL, 0, 0)]
    )
    write_page(found, tmp_path / "p.html")
    html = (tmp_path / "p.html").read_text()
    assert "<img" not in html and "alert(1)</script>" not in html
    assert html.count("<script") == html.count("</script>") == 2 + len(found.blocks)
    assert blocks_of(html.encode())["names-0"].decode().split("\n") == [EVIL] * 50 + ["a b\u2028c"] * 50


@pytest.mark.parametrize("served", [False, True])
def test_the_policy_allows_this_script_and_nothing_else(served):
    text = head(made(10), served).decode()
    assert f'content="{policy(served)}"' in text
    assert "unsafe" not in policy(served) and "http" not in policy(served)
    assert ("connect-src 'none'" in policy(served)) is not served
    assert not re.search(r"https?://", text.replace("http-equiv", "")), "an address in the page"


def test_the_bundle_needs_no_eval_and_ends_no_script():
    bundle = _file("bundle.js")
    code = bundle[bundle.index("*/") :]
    assert "</script" not in bundle.lower() and "<!--" not in bundle
    assert not re.search(r"\beval\(|\bFunction\(|https?://(?!www\.w3\.org)", code)
    sources = (Path(__file__).parents[3] / "tools" / "page" / "src").glob("*.js")
    assert not any(re.search(r"innerHTML|outerHTML|insertAdjacent|\.html\(", file.read_text()) for file in sources)
    for name in ("d3-zoom", "d3-selection", "Permission to use, copy, modify"):
        assert name in bundle and name in _file("NOTICE")


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is needed to build the bundle")
def test_the_bundle_is_what_its_sources_make():
    tools = Path(__file__).parents[3] / "tools" / "page"
    if not (tools / "node_modules").exists():
        pytest.skip("tools/page/build.sh was not run here, and a test downloads nothing")
    command = (
        "./node_modules/.bin/esbuild src/main.js --bundle --minify --format=iife --target=es2022 --legal-comments=none"
    )
    done = subprocess.run(command.split(), cwd=tools, capture_output=True, text=True, check=True)
    assert _file("bundle.js").endswith("*/\n" + done.stdout)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_is_readable(theme):
    luminance = linear([theme.page, theme.ink, theme.faint_ink]) @ [0.2126, 0.7152, 0.0722]
    contrast = (max(luminance[0], *luminance[1:]) + 0.05, *(luminance + 0.05))
    for text in contrast[2:]:
        assert max(text, contrast[1]) / min(text, contrast[1]) > 4.5


def test_what_is_too_big_is_left_out_and_told(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    names = pa.array([rng.bytes(60).hex() for _ in range(5000)])
    features = TopFeatures(rng.integers(0, 9999, (5000, 4)).astype(np.uint16), rng.random((5000, 4)).astype(np.float32))
    found = made(names=names, features=features)
    for most, want in [(10**6, []), (500_000, ["features"]), (80_000, ["features", "names"])]:
        monkeypatch.setattr(page, "MOST_BYTES", most)
        size, left_out = write_page(found, tmp_path / "p.html")
        blocks = blocks_of((tmp_path / "p.html").read_bytes())
        assert left_out == want and ("names-0" in blocks) == ("names" not in want) and size < 2 * most + 10**5
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="use --serve"):
        write_page(found, tmp_path / "q.html")
    monkeypatch.setattr(page, "MOST_BYTES", 10**6)
    with pytest.raises(OutputError, match="no/p.html"):
        write_page(made(10), tmp_path / "no" / "p.html")
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


# Served


@pytest.fixture
def server():
    with PageServer(made(names=pa.array([f"name {i}" for i in range(5000)]))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, host=None, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, answer.headers


def test_the_page_and_its_blocks_are_served(server):
    status, body, headers = ask(server, f"/{server.token}/")
    assert status == 200 and b'"served": true' in body and not blocks_of(body)
    assert headers["Content-Security-Policy"].startswith(policy(served=True))
    status, body, _ = ask(server, f"/{server.token}/data/names-1")
    assert status == 200 and body.startswith(b"name 4096\n")
    assert server.address == f"http://127.0.0.1:{server.server_port}/{server.token}/" and len(server.token) >= 32


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 403),
        ("/wrong/", 403),
        ("/wrong/data/low", 403),
        ("/TOKEN", 200),
        ("/TOKEN/data/", 404),
        ("/TOKEN/data/names-9", 404),
        ("/TOKEN/data/../../etc/passwd", 404),
        ("/TOKEN/low", 404),
        ("/%ff/", 403),
    ],
)
def test_nothing_else_is_served(server, path, status):
    assert ask(server, path.replace("TOKEN", server.token))[0] == status


def test_only_this_machine_under_its_own_name_is_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, f"/{server.token}/", host="evil.example")[0] == 403
    assert ask(server, f"/{server.token}/", host=f"localhost:{server.server_port}")[0] == 200
    assert ask(server, f"/{server.token}/", method="POST")[0] == 501


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port: .*expected a free port"):
            PageServer(made(10), taken.getsockname()[1])
