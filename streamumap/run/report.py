"""The content of run.json: parameters, plan and measurements."""

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata

from streamumap import __version__
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.run.inputs import Inputs
from streamumap.source import RowSource
from streamumap.source.scan.result import Scan

PACKAGES = ("numpy", "torch", "triton", "numba", "scipy", "scikit-learn")


def input_facts(source: RowSource, inputs: Inputs, found: Scan) -> dict:
    """The rows of a run as run.json describes them. `source`: the mapped ones, fewer than the input has where some are left out."""
    n_rows, n_sampled = inputs.source.n_rows, None if inputs.sample is None else len(inputs.sample)
    return {
        "name": source.name,
        "array": getattr(inputs.source, "chosen", None),  # None where there was nothing to choose from
        "rows": n_rows,
        "sampled_rows": n_sampled,
        "dropped_rows": (n_sampled or n_rows) - source.n_rows,
        "features": source.n_features,
        "dtype": found.dtype,
        "density": found.density,
        "zero_rows": found.n_zero_rows,
        "duplicate_rows": found.n_duplicate_rows,
        "dead_features": found.n_dead_features,
        "fingerprint": source.fingerprint,
        **inputs.origin,
    }


def report(input: dict, params: Params, plan: Plan, seconds: float, measured: dict) -> dict:
    """The content of run.json, JSON-able. `input`: facts of the rows. `measured`: stages (each with seconds, predicted and measured
    bytes), quality, warnings, reused results."""
    machine = plan.machine
    return {
        "schema": 1,
        "streamumap": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "exit_status": 0,
        "input": input,
        "params": params.to_json(),
        "device": machine.device.name if machine.device else f"cpu, {machine.n_cores} cores, {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
        "budget": asdict(plan.budget),
        "predicted_peak": asdict(plan.peak),
        "measured_peak": {f: max(s["measured"][f] for s in measured["stages"]) for f in ("host_bytes", "device_bytes")},
        "seconds": round(seconds, 3),
        **measured,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
