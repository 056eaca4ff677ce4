"""The HTML of a page: one file that holds everything. Its own policy forbids requests and evaluating text as a program."""

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from streamumap.errors import InputError
from streamumap.show.page.data import PageData
from streamumap.store.atomic import publish

MOST_BYTES = 60_000_000
"""Largest page: a size that mail and chat accept and a browser opens at once."""
N_THREADS = 8
LEVEL = 6


def write_page(data: PageData, path: Path) -> tuple[int, list[str]]:
    """Writes the page and returns its size in bytes and what was left out to stay under MOST_BYTES: "features", then
    "names". Raises InputError where the page is more than twice as large even so, OutputError."""
    packed = _pack(data)
    left_out: list[str] = []
    for kind in ("features", "names"):
        if sum(map(len, packed.values())) > MOST_BYTES and data.meta[kind]:
            data = data.without(kind)
            packed = {name: packed[name] for name in data.blocks}
            left_out.append(kind)
    text = (
        head(data)
        + b"".join(
            b'<script type="application/octet-stream" id="data-%s">%s</script>\n' % (name.encode(), data)
            for name, data in packed.items()
        )
        + tail()
    )
    if len(text) > 2 * MOST_BYTES:
        raise InputError(
            f"{path}: expected a page of at most {2 * MOST_BYTES:,} bytes, found {len(text):,}; use --serve."
        )
    publish(path, lambda file: file.write(text))
    return len(text), left_out


def _pack(data: PageData) -> dict[str, bytes]:
    def pack(make: Callable[[], bytes]) -> bytes:
        return base64.b64encode(zlib.compress(make(), LEVEL))

    with ThreadPoolExecutor(N_THREADS) as pool:
        return dict(zip(data.blocks, pool.map(pack, data.blocks.values()), strict=True))


def head(data: PageData, served: bool = False) -> bytes:
    """The page up to the blocks. `served`: the blocks come from the server, not from the page."""
    style = _file("page.css")
    title = html.escape(data.meta["title"].encode("utf-8", "replace").decode())
    meta = json.dumps(data.meta | {"served": served}, allow_nan=False).replace("<", "\\u003c")
    text = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(served)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{_file('page.html')}"
        f'<script type="application/json" id="meta">{meta}</script>\n'
    )
    return text.encode()


def tail() -> bytes:
    """The page behind the blocks."""
    return f"<script>{_file('bundle.js')}</script>\n</body>\n</html>\n".encode()


def policy(served: bool) -> str:
    """The Content-Security-Policy: this script and this style only; requests to the own server only if `served`."""
    script, style = (_hash(_file(name)) for name in ("bundle.js", "page.css"))
    connect = "'self'" if served else "'none'"
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _file(name: str) -> str:
    return (files("streamumap.show.page") / name).read_text(encoding="utf-8")
