"""The command line. Data goes to standard output, everything else to standard error.

Commands are in `embed.py` (embed, transform, plan), `inputs.py` (inspect, pack), `pictures.py` (render, view, export) and `first_steps.py`
(demo, doctor), in the order of `--help`. Options that several commands share are in `options.py`.
"""

from streamumap.cli import embed, first_steps, inputs, pictures  # noqa: F401  (each adds its commands)
from streamumap.cli.app import app, default_out, main

__all__ = ["app", "default_out", "main"]
