"""The report of `streamumap doctor`: versions, devices, backends."""

import platform
from importlib import metadata, util

from streamumap import __version__
from streamumap.machine import memory

REQUIRED = ("numpy", "torch", "numba", "scipy", "scikit-learn", "pyarrow", "matplotlib")
OPTIONAL = ("triton", "cuml-cu13", "cuvs-cu13", "umap-learn")


def examine() -> dict:
    """JSON-able: versions, devices, and which backends can run here."""
    devices = memory.devices()
    gpu = bool(devices) and util.find_spec("triton") is not None
    return {
        "streamumap": __version__,
        "python": f"{platform.python_version()}, {platform.platform()}",
        "packages": {name: _version(name) or "missing: pip install streamumap installs it" for name in REQUIRED},
        "optional packages": {name: _version(name) or "not installed" for name in OPTIONAL},
        "cores": memory.n_cores(),
        "free memory bytes": memory.host_free_bytes(),
        "devices": [
            f"{d.label} {d.name}, {memory.format_bytes(d.free_bytes)} of {memory.format_bytes(d.total_bytes)} free"
            for d in devices
        ],
        "backends": {
            "neighbors": [
                "packed",
                "dense",
                *(["cuda"] if gpu else []),
                *(["cuvs"] if gpu and util.find_spec("cuvs") else []),
            ],
            "layout": ["cpu", *(["cuda"] if gpu else []), *(["cuml"] if gpu and util.find_spec("cuml") else [])],
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
