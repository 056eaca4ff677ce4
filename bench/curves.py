"""Seconds and peak memory against the number of rows: points, exponents and plots."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cases import CASES, CURVES
from summary import ALL, Group

STYLES = {
    "streamumap": ("#0072b2", "o"), "cuml": ("#d55e00", "s"), "cuml-clusters": ("#cc79a7", "^"), "umap-learn": ("#009e73", "D"),
}  # fmt: skip
"""A colour (of Okabe and Ito) and a marker for each system, so that neither is needed alone."""

Points = list[tuple[float, float]]
LEAST_POINTS = 3


@dataclass(frozen=True)
class Plot:
    """Plots `value` of the records, divided by `unit`."""

    value: str
    unit: float
    label: str
    with_exponent: bool = False


PLOTS = {
    "bench-seconds.png": Plot("wall_seconds", 1.0, "seconds from file to map", with_exponent=True),
    "bench-memory.png": Plot("device_bytes", 1e9, "peak device memory, GB"),
}


def along(found: list[Group], curve: str) -> list[Group]:
    """streamumap along one of the CURVES, on the machine and under the budget with most points, the newest if equal."""
    own = [g for g in found if g.case in CURVES[curve] and g.system == "streamumap" and g.runs and g.budget != ALL]
    alike: dict[tuple, list[Group]] = defaultdict(list)
    for g in own:
        alike[g.machine, g.budget].append(g)
    most = max(alike.values(), key=lambda of: (len(of), max(r["date"] for g in of for r in g.runs)), default=[])
    return sorted(most, key=lambda g: CURVES[curve].index(g.case))


def points(found: list[Group], curve: str, value: str = "wall_seconds") -> Points:
    """(rows or features, median of `value`) along a curve."""
    of = "features" if curve == "curve-d" else "rows"
    return [(g.runs[0]["parameters"][of], g.median(value) or 0.0) for g in along(found, curve)]


def card(machine: str) -> str:
    """ "NVIDIA H100 80GB HBM3" -> "H100"."""
    return next((word for word in machine.split() if word[:1].isalpha() and word[-1:].isdigit()), machine)


def exponent(found: Points) -> float:
    """The slope of a line through the logarithms of the points."""
    x, y = np.log(np.array(found)).T
    return float(np.polyfit(x, y, 1)[0])


def lines(found: list[Group], pairs: bool, plot: Plot) -> dict[str, Points]:
    """Points by label, of the cases that differ only in their number of rows."""
    out: dict[str, Points] = defaultdict(list)
    for g in found:
        case = CASES[g.case]
        if case.kind == "like" and case.n_features == 3072 and case.pairs == pairs and g.runs and g.budget != ALL:
            amount = g.median(plot.value) if plot.value == "wall_seconds" else g.most(plot.value)
            out[f"{g.label}, {card(g.machine)}"].append((g.runs[0]["parameters"]["rows"], (amount or 0.0) / plot.unit))
    return {label: sorted(own) for label, own in out.items()}


def panels(found: list[Group], plot: Plot) -> dict[str, dict[str, Points]]:
    """Lines with at least LEAST_POINTS points, by the format of the rows."""
    out = {}
    for form in ("dense float16", "TopK pairs"):
        own = lines(found, form == "TopK pairs", plot)
        out[form] = {label: steps for label, steps in own.items() if len(steps) >= LEAST_POINTS}
    return {form: own for form, own in out.items() if own}


def draw(found: list[Group], folder: Path) -> dict[Path, str]:
    """Draws the plots that have points. Returns a hash of the drawn points by path."""
    out = {}
    for name, plot in PLOTS.items():
        if shown := panels(found, plot):
            out[folder / name] = hashlib.blake2b(json.dumps(shown).encode(), digest_size=12).hexdigest()
            _draw(shown, plot, folder / name, out[folder / name])
    return out


def drawn(path: Path) -> str | None:
    """The hash of the points that a plot shows, from its metadata."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("Source")


def _draw(shown: dict[str, dict[str, Points]], plot: Plot, path: Path, source: str) -> None:
    if drawn(path) == source:
        return
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = plt.subplots(
        1, len(shown), figsize=(4.6 * len(shown), 3.4), squeeze=False, layout="constrained", sharey=True
    )
    for axis, (form, own) in zip(axes[0], shown.items(), strict=True):
        shades: dict[str, int] = defaultdict(int)
        for name, steps in own.items():
            system = name.partition(",")[0]
            color, marker = STYLES.get(system, ("#555555", "x"))
            said = f"{name} (N^{exponent(steps):.2f})" if plot.with_exponent and len(steps) > 1 else name
            style = ("-", "--", ":", "-.")[shades[system] % 4]
            shades[system] += 1
            axis.plot(
                *zip(*steps, strict=True),
                color=color,
                marker=marker,
                linestyle=style,
                linewidth=1.4,
                markersize=4.5,
                label=said,
            )
        axis.set(xscale="log", yscale="log", xlabel="rows")
        axis.set_title(f"3,072 features, {form}", fontsize=9, loc="left")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.25, which="both")
        axis.legend(fontsize=7, frameon=False)
        axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel(plot.label)
    figure.savefig(path, dpi=130, metadata={"Source": source})
    plt.close(figure)
