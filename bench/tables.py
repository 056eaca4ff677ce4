"""Makes the tables of README.md and docs/benchmarks.md, as Markdown, from the lines of bench/results."""

import re
from collections.abc import Iterable

from cases import CASES
from curves import PLOTS, along, card, exponent, panels, points
from map_tables import maps, tears, truth
from results import lines_of, table
from summary import ALL, MEASURES, Group, difference, groups, number, ratio

HEAD = {
    "trustworthiness": "trustworthiness@15", "knn_preservation": "preservation@15", "triplet_accuracy": "triplets",
    "label_share": "labels", "knn_recall": "recall@15",
}  # fmt: skip
README_CASES = ("debian", "like-3M", "like-3M-pairs", "flux-pairs")


def measured(on_device: bool) -> list[Group]:
    """All groups of end_to_end.jsonl on a GPU, or on a CPU, by case."""
    found = groups([r for r in lines_of("end_to_end") if (r["device"] is not None) == on_device])
    order = list(CASES)
    return sorted(found, key=lambda g: order.index(g.case))


def sizes(g: Group) -> str:
    """Rows, features and format of a case, as the tables show them."""
    p = g.runs[0]["parameters"]
    form = f"TopK pairs, k = {p['active']}" if p["active"] else f"dense {p['dtype']}"
    reduced = f", PCA to {p['reduce_dims']}" if p.get("reduce_dims") else ""
    return f"{p['rows']:,} x {p['features']:,}, {form}{reduced}"


def epochs(g: Group) -> str:
    return str(g.runs[0]["parameters"]["n_epochs"])


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f}" if n_bytes else ""


def spread(g: Group, name: str) -> str:
    """The median and, if there are several runs, the range."""
    values = [r[name] for r in g.runs]
    between = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{g.median(name):.1f}{between}"


def cpu() -> str:
    """`debian` on a CPU: streamumap under its smallest budget, umap-learn, and the ratio of both."""
    found = [g for g in measured(False) if g.case == "debian" and g.runs]
    ours = next((g for g in found if g.system == "streamumap"), None)
    theirs = next((g for g in found if g.system == "umap-learn"), None)
    if ours is None or theirs is None:
        return table([], [])
    names = ("trustworthiness", "knn_preservation", "label_share", "triplet_accuracy")
    lines = []
    for g in (ours, theirs):
        used = [spread(g, "wall_seconds"), spread(g, "cpu_seconds"), f"{gigabytes(g.most('host_bytes'))} GB"]
        lines.append([g.label, *used, *(number(g.median(m), 3) for m in names)])
    costs = [r and r[0] for r in (ratio(theirs, ours, name) for name in ("wall_seconds", "cpu_seconds", "host_bytes"))]
    lines.append(["umap-learn / streamumap, median of pairs", *(number(cost, 1) for cost in costs), *[""] * len(names)])
    return table(["system", "seconds", "CPU seconds", "peak RssAnon", *(HEAD[m] for m in names)], lines)


def cpu_all() -> str:
    """Every case on a CPU."""
    lines = []
    for g in (g for g in measured(False) if g.runs):
        used = [spread(g, "wall_seconds"), number(g.median("cpu_seconds"), 1), gigabytes(g.most("host_bytes"))]
        lines.append([f"{g.case}: {sizes(g)}", g.label, epochs(g), *used, *(number(g.median(m), 3) for m in MEASURES)])
    return table(
        ["rows", "system", "epochs", "seconds", "CPU seconds", "peak RssAnon, GB", *(HEAD[m] for m in MEASURES)], lines
    )


def gpu(cases: Iterable[str], phases: tuple[str, ...] = ()) -> str:
    """All systems on a GPU, case by case, with the seconds of `phases`, which the total includes."""
    wanted, lines, names = set(cases), [], [m for m in MEASURES if m != "label_share"]
    for g in (g for g in measured(True) if g.case in wanted and g.runs):
        apart = [number(g.seconds(phase), 1) for phase in phases]
        used = [gigabytes(g.most(name)) for name in ("device_bytes", "host_bytes")]
        quality = [number(g.median(m), 3) for m in names]
        name = [f"{g.case}: {sizes(g)}", card(g.machine), g.label]
        lines.append([*name, epochs(g), spread(g, "wall_seconds"), *apart, *used, *quality])
    parts = [f"of which {phase}" for phase in phases]
    return table(
        ["rows", "GPU", "system", "epochs", "seconds", *parts, "device GB", "host GB", *(HEAD[m] for m in names)], lines
    )


def ratios() -> str:
    """Other systems' costs divided by ours (median of pairs of runs), and their quality minus ours."""
    lines = []
    for theirs, ours in pairs(measured(True) + measured(False)):
        if any(ratio(theirs, ours, "wall_seconds") or ()):
            costs = [
                f"{r[0]:.2f}" if (r := ratio(theirs, ours, c)) else ""
                for c in ("wall_seconds", "host_bytes", "device_bytes")
            ]
            where = card(ours.machine) if ours.runs[0]["device"] else "2 cores"
            lines.append(
                [ours.case, where, theirs.label, ours.label, *costs, *(more(theirs, ours, m) for m in MEASURES)]
            )
    header = ["case", "machine", "other", "compared with", "seconds ratio", "host bytes ratio", "device bytes ratio"]
    return table([*header, *(f"{HEAD[m]} difference" for m in MEASURES)], lines)


def pairs(found: list[Group]) -> list[tuple[Group, Group]]:
    """All pairs of (another system, streamumap under one budget) on the same case and machine."""
    return [
        (theirs, ours)
        for theirs in found
        for ours in found
        if theirs.system != "streamumap" == ours.system
        and (theirs.case, theirs.machine) == (ours.case, ours.machine)
        and theirs.runs
        and ours.runs
    ]


def more(theirs: Group, ours: Group, name: str) -> str:
    values = theirs.median(name), ours.median(name)
    return "" if None in values else f"{values[0] - values[1]:+.3f}"  # type: ignore[operator]


def budgets() -> str:
    """The largest difference of each measure between runs with and without a budget, on the same rows and seeds."""
    found = [g for g in measured(True) + measured(False) if g.system == "streamumap" and g.runs]
    widest = {(g.case, g.machine): g for g in found if g.budget == ALL}
    lines = []
    for g in found:
        free = widest.get((g.case, g.machine))
        if free is not None and free is not g:
            apart = [number(difference(g, free, m), 4) for m in MEASURES]
            if not any(apart):  # never measured on one commit
                continue
            used = [gigabytes(of.most("device_bytes" if g.runs[0]["device"] else "host_bytes")) for of in (g, free)]
            lines.append([g.case, g.machine, g.label.partition(", ")[2], *used, *apart])
    return table(
        ["case", "machine", "budget", "peak GB", "peak GB without budget", *(HEAD[m] for m in MEASURES)], lines
    )


def stages() -> str:
    """Seconds of each stage of streamumap, under its largest budget."""
    names = ("read", "reduce", "neighbors", "graph", "start", "layout", "quality", "write")
    last: dict[tuple[str, str], Group] = {}
    for g in measured(True) + measured(False):
        if g.system == "streamumap" and g.runs and g.budget != ALL and any(r["phases"] for r in g.runs):
            last[g.case, g.machine] = g
    lines = [
        [
            g.case,
            g.machine,
            g.label.partition(", ")[2],
            number(g.median("wall_seconds"), 1),
            *(number(g.seconds(n), 1) for n in names),
        ]
        for g in last.values()
    ]
    return table(["case", "machine", "budget", "whole process", *names], lines)


def curve(name: str) -> str:
    """Costs of streamumap along one of the CURVES."""
    steps, lines = along(measured(True), name), []
    for g in steps:
        used = [gigabytes(g.most(cost)) for cost in ("device_bytes", "host_bytes")]
        own = [spread(g, "wall_seconds"), number(g.seconds("neighbors"), 1), *used, number(g.median("knn_recall"), 3)]
        lines.append([sizes(g), card(g.machine), g.label.partition(", ")[2], *own])
    said = ""
    if len(steps) > 2:
        found = points(measured(True), name)
        powers = exponent(found), exponent(found[-2:])
        said = (
            "\n\nExponent of the seconds (least squares on logarithms): {:.2f}; from the last two rows alone: {:.2f}."
        )
        said = said.format(*powers)
    return (
        table(["rows", "GPU", "budget", "seconds", "of which k-NN", "device GB", "host GB", "recall@15"], lines) + said
    )


def plots() -> str:
    """Links to the plots that report.py drew."""
    alt = {
        "bench-seconds.png": "Seconds from file to map against rows",
        "bench-memory.png": "Peak device memory against rows",
    }
    shown = [f"![{text}]({name})" for name, text in alt.items() if panels(measured(True), PLOTS[name])]
    return "\n\n".join(shown) or "Not measured yet."


def failures() -> str:
    """Runs that ended without a map, with their last message."""
    lines = []
    for g in (g for g in measured(True) + measured(False) if g.failed):
        used = [gigabytes(g.failed.get(name, 0)) for name in ("device_bytes", "host_bytes")]
        lines.append(
            [
                g.case,
                card(g.machine),
                g.label,
                f"{g.failed['wall_seconds']:.0f}",
                *used,
                _without_folders(g.failed["failed"]),
            ]
        )
    return table(["case", "machine", "system", "after seconds", "device GB", "host GB", "last message"], lines)


def _without_folders(message: str) -> str:
    return re.sub(r"/\S+/", "", message)


def knn() -> str:
    """The newest line of each k-NN search in neighbors.jsonl."""
    last = {}
    for r in lines_of("neighbors"):
        p = r["parameters"]
        last[
            p["data"],
            p["rows"],
            r["machine"]["gpu"][0] if r["device_bytes"] else f"{r['machine']['cores']} cores",
            r["case"],
        ] = r
    lines = []
    for (data, rows, machine, case), r in last.items():
        used = [gigabytes(r[name]) for name in ("device_bytes", "host_bytes")]
        own = f"{r['prepare_seconds']:.1f}", f"{r['seconds']:.1f}", f"{r['cpu_seconds']:.0f}", f"{r['recall']:.3f}"
        lines.append(
            [f"{data}, {rows:,} x {r['parameters']['features']:,}", machine, case, *own, *used, str(len(r["runs"]))]
        )
    header = [
        "rows",
        "machine",
        "search",
        "seconds to prepare",
        "seconds",
        "CPU seconds",
        "recall@15",
        "device GB",
        "host GB",
        "runs",
    ]
    return table(header, lines)


def layouts() -> str:
    """First positions and layout alone on a GPU, by layout_at_scale.py: our defaults and cuML, of the newest measured commit."""
    last: dict[tuple[str, int], dict] = {}
    found = [r for r in lines_of("layout") if "layout_seconds" in r]
    for r in (r for r in found if r["commit"] == found[-1]["commit"]):
        if r["system"] == "streamumap, default" or r["system"].startswith("cuML"):
            last[r["system"], r["epochs"]] = r
    lines = []
    for (system, epochs), r in sorted(last.items(), key=lambda item: (item[0][0].startswith("cuML"), item[0][1])):
        seconds = r.get("start_seconds", 0.0) + r["layout_seconds"]
        where = card(r["machine"]["gpu"][0])
        lines.append([system, where, str(epochs), f"{seconds:.2f}", *(number(r[m], 3) for m in MEASURES[:3])])
    return table(["system", "GPU", "epochs", "seconds", *(HEAD[m] for m in MEASURES[:3])], lines)


TABLES = {
    "cpu": cpu,
    "cpu-all": cpu_all,
    "gpu": lambda: gpu(README_CASES),
    "gpu-all": lambda: gpu(CASES, ("read", "convert", "fit")),
    "ratios": ratios,
    "budgets": budgets,
    "stages": stages,
    "curve-n": lambda: curve("curve-n"),
    "plots": plots,
    "failures": failures,
    "knn": knn,
    "layout": layouts,
    "maps": maps,
    "tears": tears,
    "truth": truth,
}
