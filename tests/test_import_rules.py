"""Who may import whom. Every file of the package is parsed, so an import inside a function counts as well."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "streamumap"

# A folder, or a file at the root, imports from the left of its own place only: those in one place do not know each other.
ORDER = (
    "errors events quality < params < machine < store < source < neighbors graph layout reduce"
    " < planning show writer request < run demo < engine transform < estimator < streamumap < cli"
)
COMPUTE = {"torch", "triton", "numba", "pynndescent", "cuml", "cuvs"}  # in BACKENDS, and where IN_FUNCTIONS use them
BACKENDS = r"machine.gpu|neighbors\.(dense|sparse|table)\b.*|.*(\b|_)(cuda|cuvs|cuml)\b.*|(graph|layout)\..*(cpu|out_of_sample)|.*device_feed"
IN_FUNCTIONS = r"layout\.epochs|reduce\.pca|source\.formats\.torch_file"
ONLY_IN = {
    "typer": r"cli\..*",
    "sklearn": r"estimator|show\.clusters",
    "pynvml": r"machine\..*",
    "matplotlib": r"show\.sheet",
}
ONLY_IN |= {"PIL": r"show\.gif", "anndata": r"show\.export", "bench": "", "tools": "", "tests": ""}
COMPUTING, NOT_BY_COMPUTE = {"neighbors", "graph", "layout", "reduce"}, "store.workdir"

LAYER_OF = {room: number for number, line in enumerate(ORDER.split("<")) for room in line.split()}
HEAVY = COMPUTE | {"sklearn", "matplotlib", "pyarrow", "scipy", "pandas", "pynvml"}


@dataclass(frozen=True)
class Import:
    """`target`: the dotted name, what `from` takes out of a module included. `room`: the file or folder of ours it lies in, or ""."""

    target: str
    line: int
    in_function: bool

    @property
    def library(self) -> str:
        return self.target.partition(".")[0]

    @property
    def room(self) -> str:
        if self.library != "streamumap" or self.target == "streamumap.__version__":
            return ""
        name = self.target.split(".")[1] if "." in self.target else "streamumap"
        return (
            name if name in LAYER_OF or exists(name) else "streamumap"
        )  # what is no module is taken from the package itself


def exists(room):
    return (PACKAGE / f"{room}.py").exists() or (PACKAGE / room).is_dir()


def module_of(path):
    """streamumap/layout/__init__.py -> "layout"; streamumap/layout/cpu.py -> "layout.cpu"; streamumap/__init__.py -> "streamumap"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "streamumap"


def imports(source, module, is_package=False):
    """Every import statement, and every import_module("...") or __import__("..."), of a source text."""
    found = []

    def visit(node, in_function):
        inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        found.extend(Import(target, node.lineno, in_function) for target in targets(node, module, is_package))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def targets(node, module, is_package):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{origin(node, module, is_package)}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return [str(node.args[0].value)] if name in ("import_module", "__import__") else []
    return []


def origin(node, module, is_package):
    """The absolute name behind `from .x import` as well."""
    if not node.level:
        return node.module
    parts = [] if module == "streamumap" else module.split(".")
    parts = parts[: len(parts) - node.level + is_package] if parts else []
    return ".".join(["streamumap", *parts, *([node.module] if node.module else [])])


def broken(module, found):
    """The rules that the imports of a module break, one sentence each."""
    return [f"streamumap/{module}, line {i.line}: {why}" for i in found if (why := objection(module, i))]


def objection(module, i):
    room = module.partition(".")[0]
    if i.library in ONLY_IN and not re.fullmatch(ONLY_IN[i.library], module):
        return f"{i.library} may be imported in {ONLY_IN[i.library] or 'no file of the package'} only"
    where_used = i.in_function and re.fullmatch(IN_FUNCTIONS, module)
    if i.library in COMPUTE and not where_used and not re.fullmatch(BACKENDS, module):
        return f"{i.library} may be imported in a backend file only"
    if i.room and i.room not in LAYER_OF:
        return f"{i.room} has no place in ORDER"
    if i.room and i.room != room and LAYER_OF[i.room] >= LAYER_OF[room]:
        return f"imports go downward, and {i.room} is not below {room}"
    if room in COMPUTING and i.target.startswith(f"streamumap.{NOT_BY_COMPUTE}"):
        return f"what computes does not know {NOT_BY_COMPUTE}"
    return ""


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_file_is_found():
    found = {module_of(path) for path in FILES}
    assert {"streamumap", "errors", "planning.planner", "cli", "engine", "estimator", "neighbors.cuda.search"} <= found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_the_rules(path):
    module = module_of(path)
    assert module.partition(".")[0] in LAYER_OF, f"{module} has no place in ORDER"
    assert broken(module, imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layout.init.pca", "import torch"),
        ("layout.init.pca", "def f():\n    import torch.linalg"),
        ("planning.planner", "from numba import njit"),
        ("neighbors.reference", "import triton.language as tl"),
        ("quality", "import importlib\nimportlib.import_module('cuml.manifold')"),
        ("source.formats.npy", "__import__('pynndescent')"),
        ("reduce.pca", "import torch"),
        ("layout.epochs", "import torch"),
        ("engine", "from cuvs import neighbors"),
        ("layout", "import torch"),
        ("layout.cpu", "from streamumap.neighbors import reference"),
        ("layout.cpu", "def f():\n    from streamumap import graph"),
        ("graph.build", "from ..layout.init import pca"),
        ("neighbors.dense", "import streamumap.planning.planner"),
        ("reduce", "from streamumap.store.workdir import Workdir"),
        ("layout.init.pca", "from streamumap import engine"),
        ("graph.build", "from streamumap.cli import main"),
        ("source.base", "from streamumap.estimator import StreamUMAP"),
        ("source.base", "from streamumap import StreamUMAP"),
        ("machine.memory", "import streamumap"),
        ("planning.planner", "from streamumap.engine import run"),
        ("engine", "if True:\n    from streamumap import cli"),
        ("params", "from streamumap.source import open_source"),
        ("events", "import streamumap.quality"),
        ("show.png", "from streamumap.planning import planner"),
        ("engine", "import typer"),
        ("cli", "from sklearn.base import BaseEstimator"),
        ("engine", "def f():\n    import pynvml"),
        ("cli", "import matplotlib.pyplot as plt"),
        ("cli", "from bench import time_it"),
        ("demo", "from tools.make_demo import sample"),
        ("engine", "import tests.test_memory"),
    ],
)
def test_what_breaks_a_rule_is_seen(module, source):
    assert len(broken(module, imports(source, module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layout.cuda", "import torch\nimport triton"),
        ("layout.epochs", "def f():\n    import torch\n    from streamumap.layout import cuda"),
        ("graph.build", "from . import cpu\nfrom .cpu import merge_rows\nfrom ..events import Tick"),
        ("neighbors.cuda.search", "from streamumap.source.base import widen"),
        ("engine", "from streamumap import __version__, quality\nfrom streamumap.planning.planner import make_plan"),
        ("cli.app", "import typer\nimport streamumap\nfrom streamumap import engine, plan"),
        ("machine.sampler", "from streamumap.machine import memory\nimport pynvml"),
        ("streamumap", "def f():\n    from streamumap.estimator import StreamUMAP"),
        ("planning.planner", "from importlib import metadata\nmetadata.version('torch')"),
    ],
)
def test_what_keeps_the_rules_is_left_alone(module, source):
    assert broken(module, imports(source, module)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import streamumap",
        "import streamumap.planning.planner",
        "import streamumap.cli",
        "import streamumap, streamumap.planning.planner, streamumap.cli",
        "import streamumap.cli; sys.argv = ['streamumap', '--help']; streamumap.cli.main()",
        "import streamumap.cli; sys.argv = ['streamumap', 'embed', '--help']; streamumap.cli.main()",
    ],
)
def test_importing_and_help_stay_light(code):
    report = f"print('heavy:', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    code = f"import atexit, sys\natexit.register(lambda: {report})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "heavy:\n"), done.stderr


SORTS = {"sort", "argsort", "median", "partition", "unique", "quantile"}


def sorting_kernels(source):
    """Names of functions under @njit that call one of NumPy's sorts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(d) for d in node.decorator_list):
            calls = {ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
            if calls & {f"np.{name}" for name in SORTS}:
                yield node.name


def test_one_compiled_function_sorts():
    """numba gives what is inside np.sort and np.argsort the same symbols, told apart by a counter of the process. Kernels that two
    processes compiled and cached may so name different code alike, and a third process that loads both calls the wrong one."""
    found = [name for path in FILES for name in sorting_kernels(path.read_text(encoding="utf-8"))]
    assert found == ["_sum_strongest"]
