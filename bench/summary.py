"""Summarises the runs of end_to_end.jsonl: medians by system, ratios of pairs, and differences between budgets."""

from dataclasses import dataclass
from statistics import median

from results import print_table

from streamumap.machine.memory import format_bytes, parse_bytes

MEASURES = ("trustworthiness", "knn_preservation", "triplet_accuracy", "label_share", "knn_recall")
COSTS = ("wall_seconds", "cpu_seconds", "host_bytes", "device_bytes")
SHORT = {
    "trustworthiness": "trust.",
    "knn_preservation": "pres.",
    "triplet_accuracy": "triplets",
    "label_share": "labels",
}
SHORT |= {"knn_recall": "recall"}
ALL = "all"


@dataclass(frozen=True)
class Group:
    """The counted runs of one system under one budget, in order. `failed`: the line of a failed run, if all failed."""

    case: str
    machine: str
    system: str
    budget: str | None
    runs: tuple[dict, ...]
    failed: dict | None

    @property
    def label(self) -> str:
        if self.budget is None:
            return self.system
        return f"{self.system}, {'no budget' if self.budget == ALL else format_bytes(parse_bytes(self.budget))}"

    @property
    def budget_bytes(self) -> float:
        """A sort key: no budget is the largest."""
        return float("inf") if self.budget in (None, ALL) else parse_bytes(self.budget)

    def median(self, name: str) -> float | None:
        """The median over the runs that have the value, None if none has."""
        values = [r[name] for r in self.runs if r.get(name) is not None]
        return median(values) if values else None

    def most(self, name: str) -> float:
        return max(r.get(name, 0) for r in self.runs)

    def seconds(self, *phases: str) -> float | None:
        """The median of the summed seconds of these phases, None if the system has none of them."""
        sums = [sum(r["phases"].get(p, 0.0) for p in phases) for r in self.runs if set(phases) & set(r["phases"])]
        return median(sums) if sums else None


def where(record: dict) -> str:
    """The GPU or the CPU that a run used."""
    machine = record["machine"]
    return record["device"] or f"{machine['cpu']}, {machine['cores']} cores"


def in_rounds(records: list[dict]) -> list[dict]:
    """Adds `round`: successive lines of one case and machine with the same run number alternated, so they share a round."""
    last: dict[tuple, tuple[int, int]] = {}
    out = []
    for r in records:
        key = r["case"], where(r)
        run, number = last.get(key, (-1, 0))
        last[key] = r["run"], number + (r["run"] != run)
        out.append(r | {"round": last[key][1]})
    return out


def groups(records: list[dict]) -> list[Group]:
    """Groups by case, ours first, from the smallest budget up. Only lines of a system's newest commit count, the last one of
    each run number, and never run 0."""
    lines: dict[tuple, list[dict]] = {}
    for r in in_rounds(records):
        lines.setdefault((r["case"], where(r), r["system"], r["budget"]), []).append(r)
    out = []
    for key, own in lines.items():
        last = [r for r in own if r["commit"] == own[-1]["commit"]]
        runs = {r["run"]: r for r in last if r["run"] > 0 and not r.get("failed")}
        failed = next((r for r in reversed(last) if r.get("failed")), None)
        if runs or failed:
            out.append(Group(*key, tuple(runs[n] for n in sorted(runs)), None if runs else failed))
    return sorted(out, key=lambda g: (g.case, g.machine, g.system != "streamumap", g.budget_bytes, g.system))


def ratio(theirs: Group, ours: Group, name: str) -> tuple[float, float, float] | None:
    """(median, smallest, largest) of theirs / ours over runs of the same round, None if there are none."""
    of_ours = {r["round"]: r[name] for r in ours.runs}
    found = [r[name] / of_ours[r["round"]] for r in theirs.runs if of_ours.get(r["round"])]
    return (median(found), min(found), max(found)) if found else None


def difference(one: Group, other: Group, name: str) -> float | None:
    """The largest difference of a measure between runs of the same number and commit."""
    there = {(r["run"], r["commit"]): r[name] for r in other.runs if r.get(name) is not None}
    pairs = [(r[name], there.get((r["run"], r["commit"]))) for r in one.runs if r.get(name) is not None]
    return max((abs(a - b) for a, b in pairs if b is not None), default=None)


def print_summary(records: list[dict]) -> None:
    """Prints the results of one case."""
    found = groups(records)
    if not found:
        return
    measures = [name for name in MEASURES if any(g.median(name) is not None for g in found)]
    header = [
        "runs",
        "wall s",
        "read",
        "convert",
        "fit",
        "CPU s",
        "host GB",
        "device GB",
        *(SHORT[m] for m in measures),
    ]
    lines = []
    for g in found:
        if g.failed:
            lines.append([g.label, f"failed: {g.failed['failed']}", *[""] * (len(header) - 1)])
            continue
        values = [
            g.median("wall_seconds"),
            g.seconds("read"),
            g.seconds("convert"),
            g.seconds("fit"),
            g.median("cpu_seconds"),
        ]
        bytes_ = [f"{g.most(name) / 1e9:.2f}" for name in ("host_bytes", "device_bytes")]
        quality = [number(g.median(m), 4) for m in measures]
        lines.append([g.label, str(len(g.runs)), *(number(v, 1) for v in values), *bytes_, *quality])
    print(f"\n{found[0].case}: medians of the counted runs; of bytes the largest")
    print_table(["system", *header], [line for line in lines if "failed" not in line[1]])
    print(*(f"{line[0]}: {line[1]}" for line in lines if "failed" in line[1]), sep="\n")
    ours = [g for g in found if g.system == "streamumap" and g.runs]
    for theirs in (g for g in found if g.system != "streamumap" and g.runs):
        for own in ours:
            said = [
                f"{name} {r[0]:.2f} ({r[1]:.2f} to {r[2]:.2f})" for name in COSTS if (r := ratio(theirs, own, name))
            ]
            print(f"{theirs.label} / {own.label}: {', '.join(said)}")
    for own in ours[:-1]:
        said = [f"{SHORT[m]} {d:.4f}" for m in measures if (d := difference(own, ours[-1], m)) is not None]
        print(f"|{own.label} - {ours[-1].label}|, at most: {', '.join(said)}")


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
