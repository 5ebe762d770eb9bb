"""Set-up of all tests: 8 simulated devices, checked shapes, and networks that tests share."""

import gc
import itertools
import json
import os
import pathlib
import re
import shutil
import tempfile
from importlib.metadata import version

# jax reads these when it is first imported. Without most optimisations, programs compile in half the
# time, and the laws hold all the same; the short run of the main job in .ci/run tests optimised code.
# Other devices than simulated ones, "gpu" or "tpu", are named by experiments/gpu_check.py.
if os.environ.get("SEQUENCEMATCH_TEST_PLATFORM", "cpu") == "cpu":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    )
    if version("jaxlib").startswith("0.10."):
        # XLA's older code generator takes half the CPU time for programs that are not optimised.
        # Later releases do not have it, and end the process that asks for it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

# Tests share compiled programs, also across the processes of pytest-xdist.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR"
) or tempfile.mkdtemp(prefix="sequencematch-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import pytest
from flax import nnx
from hypothesis import settings
from jaxtyping import install_import_hook

# This must run before anything of the package is imported.
ROOMS = ("core", "models", "rollout", "storage.fingerprint", "train")
CHECKED = [f"sequencematch.{room}" for room in ROOMS]
install_import_hook(CHECKED, "beartype.beartype")

# `make test` tries the same few inputs every time; --hypothesis-profile=fuzz tries many new ones.
settings.register_profile("few", derandomize=True, database=None, deadline=None, max_examples=25)
settings.register_profile("fuzz", database=None, deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("few")


def pytest_configure(config):
    # After a damaged checkpoint orbax leaves unfinished reads to the garbage collector, which warns.
    left = "(?s)Exception ignored in.*(_read_array|Event loop is closed)"
    config.addinivalue_line(
        "filterwarnings", f"ignore:{left}:pytest.PytestUnraisableExceptionWarning"
    )
    # The type of flax's State uses typing.Hashable, which beartype warns about.
    config.addinivalue_line(
        "filterwarnings", "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning"
    )


def skip_without_devices():
    """Skips what the wrapped hook runs where a mesh needs more devices than the platform has."""
    try:
        return (yield)
    except (ValueError, AssertionError) as error:  # the latter by `pytest.raises` with other words
        own = "SEQUENCEMATCH_TEST_PLATFORM" in os.environ
        if own and re.search(r"needs \d+ devices, but jax finds", str(error)):
            pytest.skip(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from skip_without_devices())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from skip_without_devices())


# Each of two workers takes one half of the tests, then steals from the end of the other's. So what
# shares runs and compiled programs comes first in a half, and what shares none comes last.
ORDER = (
    "command_line",
    "test_",
    "core",
    "evaluate",
    "properties",
    "cli",
    "dependability",
    "parity",
)
ORDER += ("train", "storage", "rollout", "models", "setup", "data")


def pytest_collection_modifyitems(items):
    def place(item):
        room = item.path.relative_to(pathlib.Path(__file__).parent).parts[0]
        found = (i for i, name in enumerate(ORDER) if room.startswith(name))
        return next(found, len(ORDER))

    items.sort(key=place)


def pytest_collection_finish(session):
    # Tracing makes many objects, and each collection of garbage goes through those of all modules, too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)


def pytest_unconfigure(config):
    compiled = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    if compiled.name.startswith("sequencematch-tests-") and not hasattr(config, "workerinput"):
        shutil.rmtree(compiled, ignore_errors=True)


@pytest.fixture(scope="session")
def sizes() -> dict:
    """Sizes of a small network with two layers and heads that share keys."""
    return dict(vocab_size=12, layers=2, d_model=32, heads=4, kv_heads=2, d_ff=48)


@pytest.fixture(scope="session")
def transformer(sizes):
    """A freshly initialised network of these sizes. Tests share it, so they must not change it."""
    from sequencematch.models.config import TransformerConfig
    from sequencematch.models.transformer import Transformer

    return Transformer(TransformerConfig(**sizes), nnx.Rngs(0))


@pytest.fixture(scope="session")
def spellings(tmp_path_factory) -> str:
    """A JSON Lines file of three-letter words to be spelt backwards."""
    path = tmp_path_factory.mktemp("data") / "words.jsonl"
    words = map("".join, itertools.product("abcd", repeat=3))
    lines = [json.dumps({"prompt": word + ">", "completion": word[::-1]}) for word in words]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="session")
def tiny_run(spellings):
    """A `TinyRun`, compiled once for all tests."""
    from tests.train import runs

    return runs.make_tiny_run(spellings)


@pytest.fixture(scope="session")
def whole_run(tiny_run, tmp_path_factory):
    """(work directory, last state) of an uninterrupted run; read only."""
    from tests.train import runs

    folder = tmp_path_factory.mktemp("whole")
    return folder, runs.train(tiny_run, folder, save_every=runs.STEPS)


@pytest.fixture(scope="session")
def pairs_file(spellings):
    """The path of a file of 64 questions and answers."""
    return pathlib.Path(spellings)


@pytest.fixture(scope="session")
def tiny_flags(pairs_file):
    """Flags of a run that takes seconds."""
    from tests.command_line.command import CONFIG, TINY

    values = {**TINY, "data.path": pairs_file}
    return [CONFIG, *(f"--config.{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="session")
def finished_run(tiny_flags, tmp_path_factory):
    """The work directory of a finished run; tests must not change it."""
    from tests.command_line.command import run_command

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run_command(*tiny_flags, f"--workdir={folder}") == 0
    return folder
