"""The house stays in order: imports point down only, and rooms stay small (design, section 3)."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = "sequencematch"
REPOSITORY = Path(__file__).parents[1]

# From the ground up: a room may import itself and the rooms of lower floors; rooms of one floor
# are strangers. `__init__` is the package's own file; what stands above `train` are the parts of main.
FLOORS = [
    {"__init__"},
    {"core", "files"},
    {"data", "models"},
    {"rollout"},
    {"evaluate", "train"},
    {"config", "provenance"},
    {"validation"},
    {"run", "workdir"},
    {"judge", "memory", "resume"},
    {"dry_run"},
    {"modes"},
    {"main"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

CORE_MAY_IMPORT = {PACKAGE, "jax", "jaxtyping", "numpy", *sys.stdlib_module_names}
# What is read is data: nothing of it is run.
UNSAFE_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"__import__", "compile", "eval", "exec"}
NOBODY_MAY_IMPORT = {"experiments", "tensorflow", *UNSAFE_IMPORTS}
MODULE_LINES = 300
CORE_LINES = 900


def imported(source: str, package: str):
    """Dotted names `source` imports, wherever in it; `package` is what a leading dot stands for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join((parents if node.level else []) + [node.module or ""]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(root: Path):
    """(path under root, dotted package it lives in, source) of each module of the package."""
    for path in sorted((root / PACKAGE).rglob("*.py")):
        inside = path.relative_to(root)
        yield inside, ".".join(inside.parent.parts), path.read_text()


def room_of(inside: Path) -> str:
    return inside.parts[1].removesuffix(".py")


def room_named(root: Path, name: str) -> str:
    """The room of `sequencematch.room.module.name`; the package's plain names are `__init__`'s."""
    first = name.split(".")[1] if "." in name else "__init__"
    package = root / PACKAGE
    return first if (package / first).is_dir() or (package / f"{first}.py").exists() else "__init__"


def wrong_imports(root: Path):
    for inside, package, source in modules(root):
        room = room_of(inside)
        if room not in FLOOR:
            yield f"{inside}: no floor is known for {room}"
            continue
        for name in imported(source, package):
            top = name.split(".")[0]
            if top in NOBODY_MAY_IMPORT:
                yield f"{inside}: imports {name}"
            if room == "core" and top not in CORE_MAY_IMPORT:
                yield f"{inside}: core imports {name}"
            other = room_named(root, name) if top == PACKAGE else room
            if other != room and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
                yield f"{inside}: {room} imports {name}, which is not below it"


def wrong_sizes(root: Path):
    core = 0
    for inside, _, source in modules(root):
        lines = len(source.splitlines())
        core += lines * (room_of(inside) == "core")
        if inside.name == "utils.py":
            yield f"{inside}: call it what it does"
        if lines >= MODULE_LINES:
            yield f"{inside}: {lines} lines, {MODULE_LINES - 1} at most"
    if core >= CORE_LINES:
        yield f"core: {core} lines, {CORE_LINES - 1} at most"


def test_imports_point_down():
    assert list(wrong_imports(REPOSITORY)) == []


def unsafe_calls(source: str):
    """Calls that run what they are given, in a module's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else None
            allows = [k.arg for k in node.keywords if k.arg == "allow_pickle"]
            yield from [
                name for name in (called, *allows) if name in {*UNSAFE_CALLS, "allow_pickle"}
            ]


def test_nothing_that_is_read_is_run():
    for inside, _, source in modules(REPOSITORY):
        assert list(unsafe_calls(source)) == [], inside
    assert list(unsafe_calls("eval(x); np.load(f, allow_pickle=True); re.compile(p)")) == [
        "eval",
        "allow_pickle",
    ]


def test_modules_are_small_and_named():
    assert list(wrong_sizes(REPOSITORY)) == []


def test_configurations_import_no_experiment():
    for path in sorted((REPOSITORY / "configs").rglob("*.py")):
        tops = {name.split(".")[0] for name in imported(path.read_text(), "configs")}
        assert not tops & NOBODY_MAY_IMPORT, path.name


# The checks themselves, on a small tree that is in order but for one module.

IN_ORDER = {
    "__init__.py": '__version__ = "0"',
    "core/__init__.py": "",
    "core/mdp.py": "import jax.numpy as jnp\nfrom typing import NamedTuple\nimport sequencematch",
    "data/text.py": "import tensorflow_datasets\nfrom sequencematch.core import mdp",
    "models/config.py": "import flax",
    "rollout/replay.py": "from . import sampler\nfrom .. import data\nfrom ..core import mdp",
    "rollout/sampler.py": "from sequencematch.models.config import Config",
    "evaluate/report.py": "from sequencematch import __version__",
    "train/loop.py": "from sequencematch.rollout import replay",
    "config.py": "from sequencematch.train.loop import NAMES",
    "main.py": "from sequencematch import config\nfrom sequencematch.train.loop import run",
}

IMPORTS_OUT_OF_ORDER = {
    "core/mdp.py": [
        "import flax",
        "from optax import adamw",
        "import sequencematch.models.config",
        "from sequencematch.data import text",
    ],
    "data/text.py": [
        "import tensorflow as tf",
        "from tensorflow import data",
        "import pickle",
        "from marshal import loads",
        "from sequencematch.models.config import Config",
        "def late():\n    from ..models import config",
    ],
    "models/config.py": ["from ..rollout import replay", "from sequencematch import config"],
    "rollout/replay.py": ["from sequencematch import train", "import sequencematch.train.loop"],
    "train/loop.py": [
        "from sequencematch.evaluate import report",
        "from sequencematch import config",
        "import sequencematch.main",
        "import experiments.benchmark",
    ],
    "evaluate/report.py": ["from .. import train", "from sequencematch.main import run"],
    "config.py": ["from . import main", "from sequencematch.main import flags"],
    "main.py": ["from experiments import benchmark"],
    "tools/plots.py": [""],
}

SIZES_OUT_OF_ORDER = [
    {"train/loop.py": "x = 1\n" * MODULE_LINES},
    {"core/utils.py": "x = 1\n"},
    {f"core/part{i}.py": "x = 1\n" * (CORE_LINES // 4) for i in range(4)},
]


def build(root: Path, changes: dict[str, str]) -> Path:
    for name, source in {**IN_ORDER, **changes}.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_a_tree_in_order_passes(tmp_path):
    build(tmp_path, {"train/loop.py": "x = 1\n" * (MODULE_LINES - 1)})
    assert [*wrong_imports(tmp_path), *wrong_sizes(tmp_path)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [(module, source) for module, sources in IMPORTS_OUT_OF_ORDER.items() for source in sources],
)
def test_a_wrong_import_is_named(tmp_path, module, source):
    (found,) = wrong_imports(build(tmp_path, {module: source}))
    assert module in found


@pytest.mark.parametrize("changes", SIZES_OUT_OF_ORDER)
def test_a_wrong_size_or_name_is_named(tmp_path, changes):
    assert len(list(wrong_sizes(build(tmp_path, changes)))) == 1
