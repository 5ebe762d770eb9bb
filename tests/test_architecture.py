"""The house stays in order: layers, sizes and names (docs/naming.md)."""

import ast
import configparser
import sys
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = "sequencematch"
REPOSITORY = Path(__file__).parents[1]

# A room imports itself and rooms of lower layers; rooms of one layer do not import each other.
LAYERS = [
    {"__init__"},
    {"core", "storage"},
    {"data", "models"},
    {"rollout"},
    {"evaluate", "train"},
    {"setup"},
    {"cli"},
    {"api", "main"},
]
LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
# The front door: `import sequencematch` alone imports nothing, `sequencematch.load` is in api.
FRONT_DOOR = {("__init__", "sequencematch.api.load")}

CORE_MAY_IMPORT = {PACKAGE, "jax", "jaxtyping", "numpy", *sys.stdlib_module_names}
# Files are data: nothing in them is executed.
UNSAFE_IMPORTS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"__import__", "compile", "eval", "exec"}
NOBODY_MAY_IMPORT = {"docs", "experiments", "tensorflow", "tests", *UNSAFE_IMPORTS}
MODULE_LINES = 300
CORE_LINES = 1000
BODY_P90 = 25  # lines
SUPPRESSIONS = ("# noqa", "# type: ignore", "# pylint:", "# pragma:")

# A function is named by a verb for what it does, or by a noun for what it returns. Words that end like
# participles, gerunds or adjectives and are neither:
NOT_PARTICIPLES = {
    "embed",
    "feed",
    "need",
    "read",
    "seed",
    "sharding",
    "speed",
    "string",
    "table",
    "variable",
}
IRREGULAR = {
    "begun",
    "broken",
    "built",
    "chosen",
    "done",
    "drawn",
    "found",
    "given",
    "gone",
    "heard",
    "held",
    "hidden",
    "kept",
    "known",
    "left",
    "lost",
    "made",
    "meant",
    "met",
    "put",
    "said",
    "sent",
    "shown",
    "spent",
    "spoilt",
    "spoken",
    "stood",
    "struck",
    "taken",
    "thought",
    "told",
    "written",
}
ENDINGS = ("ed", "ing", "able", "ible")
# Named like a participle all the same: stretches of work that can, or cannot, be interrupted, and what
# everyone calls the hidden states of a network.
NAMED_BY_PARTICIPLE = {"deferred", "hidden", "interruptible"}


def imported_names(source: str, package: str):
    """Dotted names `source` imports, wherever in it; `package` is what a leading dot stands for."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join((parents if node.level else []) + [node.module or ""]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(root: Path, folder: str = PACKAGE):
    """(path under root, dotted package it is in, source) of each module of a folder."""
    for path in sorted((root / folder).rglob("*.py")):
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
        if room not in LAYER:
            yield f"{inside}: {room} is on no layer"
            continue
        for name in imported_names(source, package):
            top = name.split(".")[0]
            if top in NOBODY_MAY_IMPORT:
                yield f"{inside}: imports {name}"
            if room == "core" and top not in CORE_MAY_IMPORT:
                yield f"{inside}: core imports {name}"
            other = room_named(root, name) if top == PACKAGE else room
            if (room, name) not in FRONT_DOOR and other != room and LAYER[other] >= LAYER[room]:
                yield f"{inside}: {room} imports {name}, which is not below it"


def module_imports(root: Path) -> dict[str, set[str]]:
    """Each module of the package -> the modules of the package that it imports."""
    sources = {
        ".".join(inside.with_suffix("").parts): (package, source)
        for inside, package, source in modules(root)
    }
    found = {}
    for name, (package, source) in sources.items():
        names = set(imported_names(source, package))
        found[name] = {n for n in names | {n.rpartition(".")[0] for n in names} if n in sources}
    return found


def circles(root: Path):
    """Modules that import themselves by way of others."""
    graph = module_imports(root)
    for start in graph:
        reached, ahead = set(), [*graph[start]]
        while ahead:
            name = ahead.pop()
            if name not in reached:
                reached.add(name)
                ahead += graph[name]
        if start in reached:
            yield start


def wrong_sizes(root: Path):
    core = 0
    for inside, _, source in modules(root):
        lines = len(source.splitlines())
        core += lines * (room_of(inside) == "core")
        if inside.name == "utils.py":
            yield f"{inside}: name it by what it does"
        if lines > MODULE_LINES:
            yield f"{inside}: {lines} lines, {MODULE_LINES} at most"
    if core > CORE_LINES:
        yield f"core: {core} lines, {CORE_LINES} at most"


def functions(source: str):
    """Every function of a module, methods and inner functions included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def is_participle(name: str) -> bool:
    """Whether a name is one word that is a participle, a gerund or an adjective of that form."""
    word = name.strip("_")
    return word not in NOT_PARTICIPLES and (
        word in IRREGULAR or ("_" not in word and word.endswith(ENDINGS))
    )


def test_imports_point_down():
    assert list(wrong_imports(REPOSITORY)) == []


def test_no_module_imports_itself_by_way_of_others():
    assert list(circles(REPOSITORY)) == []


def unsafe_calls(source: str):
    """Calls in a module's source that execute what they are given."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else None
            allows = [k.arg for k in node.keywords if k.arg == "allow_pickle"]
            yield from [
                name for name in (called, *allows) if name in {*UNSAFE_CALLS, "allow_pickle"}
            ]


def test_nothing_in_a_file_is_executed():
    for inside, _, source in modules(REPOSITORY):
        assert list(unsafe_calls(source)) == [], inside
    assert list(unsafe_calls("eval(x); np.load(f, allow_pickle=True); re.compile(p)")) == [
        "eval",
        "allow_pickle",
    ]


def test_modules_are_small_and_named():
    assert list(wrong_sizes(REPOSITORY)) == []


def test_functions_are_short():
    bodies = sorted(
        node.end_lineno - node.body[0].lineno + 1
        for _, _, source in modules(REPOSITORY)
        for node in functions(source)
    )
    assert bodies[int(0.9 * len(bodies))] <= BODY_P90


@pytest.mark.parametrize("folder", [PACKAGE, "configs", "docs", "experiments", "tests"])
def test_no_function_is_named_by_a_participle_alone(folder):
    found = {
        f"{inside}: {node.name}"
        for inside, _, source in modules(REPOSITORY, folder)
        for node in functions(source)
        if is_participle(node.name) and node.name not in NAMED_BY_PARTICIPLE
    }
    assert found == set()


def test_a_participle_is_recognised():
    named = ["kept", "_told", "affordable", "waiting", "opened", "deferred"]
    assert all(map(is_participle, named))
    plain = ["seed", "read", "keep", "load_task", "kept_rows", "cut_at", "encode", "noised_text"]
    assert not any(map(is_participle, plain))


def test_nothing_is_suppressed():
    for folder in (PACKAGE, "configs", "docs", "experiments"):
        for inside, _, source in modules(REPOSITORY, folder):
            assert [mark for mark in SUPPRESSIONS if mark in source] == [], inside


def test_every_jax_key_is_made_in_one_place():
    makers = {str(inside) for inside, _, source in modules(REPOSITORY) if "random.key(" in source}
    assert makers == {"sequencematch/core/keys.py"}


def test_configurations_import_no_experiment():
    for path in sorted((REPOSITORY / "configs").rglob("*.py")):
        tops = {name.split(".")[0] for name in imported_names(path.read_text(), "configs")}
        assert not tops & NOBODY_MAY_IMPORT, path.name


def test_every_room_is_installed():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    rooms = {path.parent for path in (REPOSITORY / PACKAGE).rglob("__init__.py")}
    names = {".".join(room.relative_to(REPOSITORY).parts) for room in rooms}
    listed = setup["options"]["packages"].split()
    assert set(listed) == names | {"sequencematch.configs"}
    assert all(a < b for a, b in pairwise(listed))


def test_names_fit_on_a_page():
    assert len((REPOSITORY / "docs" / "naming.md").read_text().splitlines()) <= 40


# The checks themselves, on a small tree that is in order but for one module.

IN_ORDER = {
    "__init__.py": '__version__ = "0"\ndef load():\n    from sequencematch.api import load',
    "core/__init__.py": "",
    "core/mdp.py": "import jax.numpy as jnp\nfrom typing import NamedTuple\nimport sequencematch",
    "storage/files.py": "from sequencematch import __version__",
    "data/text.py": "import tensorflow_datasets\nfrom sequencematch.core import mdp",
    "models/config.py": "import flax",
    "rollout/replay.py": "from . import sampler\nfrom .. import data\nfrom ..core import mdp",
    "rollout/sampler.py": "from sequencematch.models.config import Config",
    "evaluate/report.py": "from sequencematch import __version__",
    "train/loop.py": "from sequencematch.rollout import replay",
    "setup/defaults.py": "from sequencematch.train.loop import NAMES",
    "api.py": "from sequencematch.setup import defaults",
    "main.py": "from sequencematch import setup\nfrom sequencematch.train.loop import run",
}

IMPORTS_OUT_OF_ORDER = {
    "__init__.py": ["from sequencematch.setup import defaults", "from sequencematch import main"],
    "core/mdp.py": [
        "import flax",
        "from optax import adamw",
        "import sequencematch.models.config",
        "from sequencematch.data import text",
        "from sequencematch.storage import files",
    ],
    "data/text.py": [
        "import tensorflow as tf",
        "from tensorflow import data",
        "import pickle",
        "from marshal import loads",
        "from sequencematch.models.config import Config",
        "def late():\n    from ..models import config",
    ],
    "models/config.py": ["from ..rollout import replay", "from sequencematch import setup"],
    "rollout/replay.py": ["from sequencematch import train", "import sequencematch.train.loop"],
    "train/loop.py": [
        "from sequencematch.evaluate import report",
        "from sequencematch import setup",
        "import sequencematch.main",
        "import experiments.benchmark",
        "from tests import oracles",
    ],
    "evaluate/report.py": ["from .. import train", "from sequencematch.main import run"],
    "setup/defaults.py": ["from .. import main", "from sequencematch.main import flags"],
    "api.py": ["from sequencematch import main"],
    "main.py": ["from experiments import benchmark", "from sequencematch.api import load"],
    "tools/plots.py": [""],
}

SIZES_OUT_OF_ORDER = [
    {"train/loop.py": "x = 1\n" * (MODULE_LINES + 1)},
    {"core/utils.py": "x = 1\n"},
    {f"core/part{i}.py": "x = 1\n" * (CORE_LINES // 4) for i in range(4)},
]

CIRCLES = [
    {"core/a.py": "from sequencematch.core import b", "core/b.py": "from . import a"},
    {
        "core/a.py": "from .b import x",
        "core/b.py": "from .c import x",
        "core/c.py": "from . import a",
    },
]


def build(root: Path, changes: dict[str, str]) -> Path:
    for name, source in {**IN_ORDER, **changes}.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_a_tree_in_order_passes(tmp_path):
    build(tmp_path, {"train/loop.py": "x = 1\n" * MODULE_LINES})
    assert [*wrong_imports(tmp_path), *wrong_sizes(tmp_path)] == []
    assert not set(circles(tmp_path)) - {"sequencematch.api"}


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


@pytest.mark.parametrize("changes", CIRCLES)
def test_a_circle_is_found(tmp_path, changes):
    build(tmp_path, changes)
    assert {f"sequencematch.{name[:-3].replace('/', '.')}" for name in changes} <= {
        *circles(tmp_path)
    }
