"""Which compiled kernels numba has kept beside the sources: a run that compiles none needs less memory, and is planned so."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def kept(package: Path = PACKAGE) -> frozenset[str]:
    """Modules ("graph.cpu") of which kernels are kept that this Python takes, made from the source as it is. None where
    numba keeps them elsewhere."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return frozenset()
    tag = f".py{sys.version_info.major}{sys.version_info.minor}.nbi"
    found = set()
    for index in package.glob("**/__pycache__/*.nbi"):
        source = index.parent.parent / f"{index.name.partition('.')[0]}.py"
        try:
            fresh = index.stat().st_mtime >= source.stat().st_mtime
        except OSError:
            continue
        if fresh and index.name.endswith(tag):
            found.add(".".join(source.relative_to(package).with_suffix("").parts))
    return frozenset(found)
