"""Compiled kernels that numba has cached beside the sources: a run that compiles none is planned with less memory."""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def compiled_modules(package: Path = PACKAGE) -> frozenset[str]:
    """Modules ("graph.cpu") with cached kernels for this Python that are newer than their source.

    Empty where NUMBA_CACHE_DIR says that numba caches elsewhere.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return frozenset()
    tag = f".py{sys.version_info.major}{sys.version_info.minor}.nbi"
    modules = set()
    for index in package.glob("**/__pycache__/*.nbi"):
        source = index.parent.parent / f"{index.name.partition('.')[0]}.py"
        try:
            fresh = index.stat().st_mtime >= source.stat().st_mtime
        except OSError:
            continue
        if fresh and index.name.endswith(tag):
            modules.add(".".join(source.relative_to(package).with_suffix("").parts))
    return frozenset(modules)
