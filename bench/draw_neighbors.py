"""Draws recall against seconds and bytes from neighbors.jsonl: a row of panels for each data set and machine."""

import json
from collections import defaultdict
from pathlib import Path

COLORS = {"streamumap": "#1f6f8b", "nn-descent": "#c8553d", "pynndescent": "#8a6fb0"}
SECONDS, CPU_SECONDS = ("seconds", "seconds", 1.0), ("cpu_seconds", "CPU seconds", 1.0)
HOST, DEVICE = ("host_bytes", "peak host GB", 1e9), ("device_bytes", "peak device GB", 1e9)
N_PANELS = 3


def read(path: Path) -> dict[tuple, list[dict]]:
    """The newest line of each case, by (data, rows, features, metric, machine, budget)."""
    last: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        r = json.loads(line)
        p, machine = r["parameters"], r["machine"]
        where = (
            machine["gpu"][0] if r["device_bytes"] and machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
        )
        budget = p.get("budget") or "80% of what is free"
        last[p["data"], p["rows"], p["features"], p["metric"], where, budget][r["case"]] = r
    return {key: list(cases.values()) for key, cases in last.items()}


def draw(path: Path) -> Path:
    """Writes PATH with .png: recall over seconds and over peak bytes, on log scales. The line through a point is the range of
    its runs."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    groups = read(path)
    figure, axes = plt.subplots(
        len(groups), N_PANELS, figsize=(4.4 * N_PANELS, 3.6 * len(groups)), squeeze=False, layout="constrained"
    )
    for line, ((data, rows, features, metric, where, budget), records) in zip(axes, groups.items(), strict=True):
        on_device = any(r["device_bytes"] for r in records)
        for axis, (name, label, unit) in zip(line, (SECONDS, DEVICE if on_device else CPU_SECONDS, HOST), strict=True):
            axis.set(xlabel=label, xscale="log")
            _panel(axis, [r for r in records if r[name]], name, unit)
        line[0].set_ylabel(f"recall@{records[0]['parameters']['n_neighbors']}")
        line[0].set_title(
            f"{data}: {rows:,} x {features:,}, {metric}\n{where}, budget {budget}", fontsize=8, loc="left"
        )
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=130)
    return target


def _panel(axis, records: list[dict], name: str, unit: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    values = [r[name] / unit for r in records]
    least = min(r["recall"] for r in records)
    labels: list[tuple[float, float]] = []
    for r, value in sorted(zip(records, values, strict=True), key=lambda pair: pair[1]):
        low, high = (pick(run[name] for run in r["runs"]) / unit for pick in (min, max))
        color = COLORS[r["system"]]
        axis.plot([low, high], [r["recall"]] * 2, color=color, linewidth=1)
        axis.plot(value, r["recall"], "o", color=color)
        below = sum(value < 1.6 * x and abs(r["recall"] - y) < 0.1 * (1.01 - least) for x, y in labels)
        labels.append((value, r["recall"]))
        offset = 5, -11 - 9 * below
        axis.annotate(r["case"], (value, r["recall"]), xytext=offset, textcoords="offset points", fontsize=7)
    axis.set_xlim(min(values) / 1.6, max(values) * 2.4)
    axis.set_ylim(least - 0.15 * (1.001 - least) - 0.01, 1 + 0.1 * (1.001 - least))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=7)
