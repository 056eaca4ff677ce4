"""Opens damaged inputs by the million. Each must be read, or refused with one sentence, in little time and memory.

    python tools/fuzz.py npy safetensors npz list beside csc coo --runs 250000    random damage to whole files, the same every time
    python tools/fuzz.py npy --atheris --runs 250000                  guided by coverage (pip install atheris)

Prints one JSON object for each kind: runs, seconds, the numbers read and refused, and the growth of the process's memory. Fails
if anything else was raised or a run took longer than 10 s; ends with exit code 1 if memory grew by more than 50 MB.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse

from streamumap.errors import InputError
from streamumap.source import ToConvert, open_source

LONGEST_SECONDS = 10
LARGEST_GROWTH_BYTES = 50_000_000
ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)
WORDS = [
    b"'descr'", b"'shape'", b"'fortran_order'", b"True", b"False", b"None", b"-1", b"0", b"3000000", b"12288", b"9223372036854775807",
    b"18446744073709551616", b"1e400", b"'<f4'", b"'|O'", b"'<V2'", b"'>f8'", b"'|S4'", b"(", b")", b"[", b"]", b"{", b"}", b",", b":",
    b"__import__('os')", b"lambda: 0", b'"dtype"', b'"F32"', b'"BF16"', b'"data_offsets"', b'"__metadata__"', b"null", b"\\u0000",
    b"../", b"/etc/passwd\n", b"rows.npy\n", b"\x00", b"\xff\xff\xff\xff", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY\x01\x00",
]  # fmt: skip


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, ROWS)
    return file.getvalue()


def safetensors() -> bytes:
    header = {"acts": {"dtype": "F32", "shape": [12, 4], "data_offsets": [0, 192]}}
    header["ids"] = {"dtype": "I64", "shape": [12], "data_offsets": [192, 288]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + ROWS.tobytes() + bytes(96)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, acts=ROWS, ids=np.arange(12))
    return file.getvalue()


def beside() -> bytes:
    """Rows in Fortran order beside text, dates and objects."""
    file = io.BytesIO()
    others = {"names": np.array(["a", "b"]), "when": np.zeros(2, "M8[s]"), "run": np.array({"layer": 3}, object)}
    np.savez(file, acts=np.asfortranarray(ROWS), **others)
    return file.getvalue()


def sparse(form: str) -> bytes:
    file = io.BytesIO()
    scipy.sparse.save_npz(file, scipy.sparse.coo_array(ROWS).asformat(form), compressed=False)
    return file.getvalue()


def shard_list() -> bytes:
    return b"rows.npy\nmore.npy\n"


KINDS = {
    "npy": (npy, "x.npy"),
    "safetensors": (safetensors, "x.safetensors"),
    "npz": (npz, "x.npz"),
    "list": (shard_list, "x.txt"),
    "beside": (beside, "x.npz"),
    "csc": (partial(sparse, "csc"), "x.npz"),
    "coo": (partial(sparse, "coo"), "x.npz"),
}


def damaged(content: bytes, source: random.Random) -> bytes:
    """Changes, removes, repeats or replaces some bytes, mostly in the header, also with words of the formats."""
    data = bytearray(content)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data) + 1) if source.random() < 0.3 else source.randrange(min(len(data), 200) + 1)
        what = source.randrange(6)
        if what == 0 and at < len(data):
            data[at] = source.randrange(256)
        elif what == 1:
            del data[at : at + source.randint(1, 12)]
        elif what == 2:
            data[at:at] = source.choice(WORDS)
        elif what == 3:
            word = source.choice(WORDS)
            data[at : at + len(word)] = word
        elif what == 4:
            data[at:at] = data[at : at + source.randint(1, 40)] * source.randint(1, 8)
        else:
            del data[source.randrange(len(data) + 1) :]
        if not data:
            break
    return bytes(data)


class Opener:
    """Writes content to a file, opens it and counts what happens."""

    def __init__(self, folder: Path, name: str):
        self.path, self.read, self.refused = folder / name, 0, 0
        np.save(folder / "rows.npy", ROWS)
        np.save(folder / "more.npy", ROWS)
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def __call__(self, content: bytes) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, content, 0)
        signal.alarm(LONGEST_SECONDS)
        try:
            source = open_source(self.path)
            with contextlib.closing(source):
                if isinstance(source, ToConvert):
                    source.convert(self.path.parent).close()
                else:
                    source.read(0, 3)
            self.read += 1
        except InputError as error:
            assert "\n" not in str(error), str(error)
            self.refused += 1
        finally:
            signal.alarm(0)


def memory_bytes() -> int:
    """The peak memory of the process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(kind: str, runs: int, seed: int, guided: bool) -> dict:
    make, name = KINDS[kind]
    content = make()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        opener = Opener(Path(folder), name)
        opener(content)
        assert opener.read == 1, "the undamaged file must be read"
        before_bytes, started = memory_bytes(), time.monotonic()
        peak_bytes = run_guided(opener, content, runs, seed) if guided else 0
        if not guided:
            source = random.Random(f"{kind} {seed}")
            for _ in range(runs):
                opener(damaged(content, source))
        seconds, grown_bytes = time.monotonic() - started, max(memory_bytes(), peak_bytes) - before_bytes
    return {
        "kind": kind, "guided": guided, "runs": opener.read + opener.refused - 1, "seconds": round(seconds, 1), "read": opener.read - 1,
        "refused": opener.refused, "grown_bytes": grown_bytes,
    }  # fmt: skip


def run_guided(opener: Opener, content: bytes, runs: int, seed: int) -> int:
    """Fuzzes with atheris in a child process, because atheris ends the process; counts come back through a pipe. Returns the
    child's peak memory, which includes atheris and its corpus."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import atheris

        opener.read = opener.refused = 0
        done = 0

        def one(data: bytes) -> None:
            nonlocal done
            opener(data)
            done += 1
            if done >= runs:
                os.write(writer, json.dumps([opener.read, opener.refused, memory_bytes()]).encode())
                os._exit(0)

        corpus = opener.path.parent / "corpus"
        corpus.mkdir()
        (corpus / "seed").write_bytes(content)
        for module in [m for n, m in sys.modules.items() if n.startswith("streamumap.source")]:
            for function in [
                f for f in vars(module).values() if callable(f) and getattr(f, "__module__", "") == module.__name__
            ]:
                if hasattr(function, "__code__"):
                    setattr(module, function.__name__, atheris.instrument_func(function))
        atheris.Setup(
            [sys.argv[0], f"-seed={seed + 1}", "-max_len=4096", "-verbosity=0", "-rss_limit_mb=0", str(corpus)], one
        )
        atheris.Fuzz()
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    counts = os.read(reader, 1 << 16)
    assert status == 0 and counts, f"the child ended with status {status}"
    read, refused, child_bytes = json.loads(counts)
    opener.read, opener.refused = opener.read + read, refused
    return child_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--runs", type=int, default=100_000, help="runs of each kind, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage")
    args = parser.parse_args()
    worst = 0
    for kind in args.kinds:
        found = fuzz(kind, args.runs, args.seed, args.atheris)
        print(json.dumps(found), flush=True)
        worst = max(worst, found["grown_bytes"])
    return int(worst > LARGEST_GROWTH_BYTES)


if __name__ == "__main__":
    sys.exit(main())
