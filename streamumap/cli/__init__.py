"""The command line: parse, plan, run, draw. Data goes to standard output, everything else to standard error.

A file a kind of command, in the order in which `--help` names them; `options.py` says what options mean.
"""

from streamumap.cli import embed, first_steps, inputs, pictures  # noqa: F401  (each adds its commands)
from streamumap.cli.app import app, default_out, main

__all__ = ["app", "default_out", "main"]
