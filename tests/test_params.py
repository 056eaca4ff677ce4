import ast
import dataclasses
import importlib.util
import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap.errors import InputError
from streamumap.params import UMAP, Params

KNOBS = {f.name: f for f in fields(Params)}
NUMBERS = {name: f for name, f in KNOBS.items() if f.metadata["choices"] is None}
WHOLE = [name for name, f in NUMBERS.items() if f.type in ("int", int, "int | None", int | None)]
CHOICES = {name: f for name, f in KNOBS.items() if f.metadata["choices"] is not None}


def params(**given):
    """With a spread that allows the min_dist that is tried, and the other way about."""
    rooms = {"min_dist": {"spread": 100.0}, "spread": {"min_dist": 0.0}}
    return Params(**{k: v for name in given for k, v in rooms.get(name, {}).items()} | given)


def test_the_promised_defaults():
    promised = dict(
        n_neighbors=15,
        min_dist=0.1,
        spread=1.0,
        n_components=2,
        metric="euclidean",
        reduce="none",
        recall=0.95,
        seed=42,
    )
    assert {name: getattr(Params(), name) for name in promised} == promised


def umap_defaults():
    """The keyword defaults of umap.UMAP, read from its source: importing it takes seconds."""
    folder = Path(importlib.util.find_spec("umap").origin).parent
    tree = ast.parse((folder / "umap_.py").read_text(encoding="utf-8"))
    umap = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "UMAP")
    init = next(node for node in umap.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    names = [a.arg for a in init.args.args][-len(init.args.defaults) :]
    return {name: ast.literal_eval(default) for name, default in zip(names, init.args.defaults, strict=True)}


def test_names_and_defaults_are_those_of_umap_learn():
    theirs = umap_defaults()
    ours = {
        name: f.default for name, f in KNOBS.items() if f.metadata["source"] == UMAP and name != "init"
    }  # ours has an "auto"
    assert len(ours) >= 10 and ours == {name: theirs[name] for name in ours}
    assert "init" in theirs
    assert not {name for name, f in KNOBS.items() if f.metadata["source"] != UMAP} & set(theirs)


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_is_explained_and_its_default_is_in_its_range(name):
    knob = KNOBS[name].metadata
    assert knob["help"].endswith(".") and knob["source"]
    assert (knob["choices"] is None) != (knob["low"] is None)
    assert KNOBS[name].default in (knob["choices"] or (None,)) or knob["low"] <= KNOBS[name].default <= knob["high"]


def test_params_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Params().seed = 1


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_in_it(name, end):
    value = NUMBERS[name].metadata[end]
    assert getattr(params(**{name: value}), name) == value


def outside():
    for name, f in NUMBERS.items():
        step = 1 if name in WHOLE else 1e-9
        yield name, f.metadata["low"] - step
        yield name, f.metadata["high"] * (1 + 1e-9) + step
        yield from ((name, value) for value in (float("nan"), float("inf"), True, "5", [5], 5j))
        if f.default is not None:
            yield name, None
    yield from ((name, 15.5) for name in WHOLE)
    yield from ((name, value) for name in CHOICES for value in ("", "PCA", None, 0, ["pca"]))


@pytest.mark.parametrize(("name", "value"), list(outside()))
def test_what_is_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected .*, found .*; (give|choose) one ") as refused:
        params(**{name: value})
    assert repr(value) in str(refused.value) and refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "choice"), [(name, choice) for name, f in CHOICES.items() for choice in f.metadata["choices"]]
)
def test_every_choice_is_taken(name, choice):
    assert getattr(Params(**{name: choice}), name) == choice


def test_min_dist_may_not_exceed_spread():
    assert Params(min_dist=0.5, spread=0.5).min_dist == 0.5
    with pytest.raises(
        InputError, match=r"^min_dist: expected at most spread \(0\.5\), found 0\.6; lower it or raise spread"
    ):
        Params(min_dist=0.6, spread=0.5)


def values(f):
    if f.metadata["choices"]:
        return st.sampled_from(f.metadata["choices"])
    low, high = f.metadata["low"], f.metadata["high"]
    numbers = st.integers(low, high) if f.name in WHOLE else st.floats(low, high)
    return st.none() | numbers if f.default is None else numbers


@given(st.fixed_dictionaries({name: values(f) for name, f in KNOBS.items()}))
def test_json_holds_all_of_it(chosen):
    chosen["min_dist"] = min(chosen["min_dist"], chosen["spread"])
    p = Params(**chosen)
    assert p.to_json() == chosen
    assert Params(**json.loads(json.dumps(p.to_json()))) == p
