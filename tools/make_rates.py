"""Writes streamumap/planning/rates.json, from which `plan` estimates seconds: the stages of the runs in bench/results.

python tools/make_rates.py
"""

import json
from pathlib import Path

from streamumap.source.sparse.csr_rows import pays

ROOT = Path(__file__).parent.parent
OUT = ROOT / "streamumap" / "planning" / "rates.json"


def rates(folder: Path) -> list[dict]:
    """One entry for each stage of each run of ours with a kept run.json. Leaves out runs that compiled (run 0) and runs that
    had less than one core of a busy machine."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            run = record.get("report", record)
            starved = "report" in record and not record["device"] and record["cpu_seconds"] < record["wall_seconds"]
            if "stages" in run and "input" in run and record.get("run") != 0 and not starved:
                found += _of(run)
    return found


def _of(run: dict) -> list[dict]:
    params, shape = run["params"], run["input"]
    job = {
        "device": run["device"].rpartition(", ")[0] if run["device"].startswith("cpu") else run["device"],
        "n_rows": shape["rows"],
        "n_features": shape["features"],
        "dtype": shape["dtype"],
        "packed": _is_sparse(run),
        "n_pairs": _n_nonzero(shape) if shape["name"].endswith("_indices.npy") else None,
        "n_nonzero": _n_nonzero(shape),
        "reduce_dims": params["reduce_dims"] if params["reduce"] != "none" else None,
        "n_neighbors": params["n_neighbors"],
        "n_epochs": params["n_epochs"],
    }
    return [
        {**job, **{key: stage[key] for key in ("stage", "backend", "blocks", "seconds")}} for stage in run["stages"]
    ]


def _n_nonzero(shape: dict) -> int:
    return round(shape["rows"] * shape["features"] * shape["density"])


def _is_sparse(run: dict) -> bool:
    """Whether the search used sparse rows. GPU runs from before that was possible have no chunk_rows."""
    shape = run["input"]
    takes_pairs = run["device"].startswith("cpu") or any("chunk_rows" in stage["blocks"] for stage in run["stages"])
    return (
        takes_pairs and run["params"]["reduce"] == "none" and pays(shape["rows"], shape["features"], _n_nonzero(shape))
    )


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(entry) for entry in rates(ROOT / "bench" / "results"))
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
