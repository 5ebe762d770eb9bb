"""However its files are damaged, a checkpoint is restored as it was saved, or not at all."""

import contextlib
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.state import TrainState
from tests.properties.given import examples, message_of, values

STEPS = (3, 7)


def make_state(step):
    """Arrays of every kind, large and small; random, so that compression does not shrink them."""
    rng = np.random.default_rng(step)
    arrays = {"w": rng.normal(size=(40, 40)).astype(np.float32), "b": rng.normal(size=3)}
    arrays |= {"half": jnp.asarray(rng.normal(size=70), jnp.bfloat16), "on": rng.random(9) < 0.5}
    arrays = jax.tree.map(jnp.asarray, arrays)
    return TrainState(jnp.int32(step), arrays, (jnp.arange(50),), None, None)


LIKE = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state(0)
)


def bits(state):
    """The bytes of every array of a state, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in leaves}


# By step, the bytes and the facts.
SAVED = {step: (bits(make_state(step)), {"seconds": step / 2, "name": "é"}) for step in STEPS}


@pytest.fixture(scope="module")
def intact_run(tmp_path_factory):
    """A work directory with two checkpoints; read only."""
    folder = tmp_path_factory.mktemp("intact")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in STEPS:
            checkpoints.save(make_state(step), SAVED[step][1])
    return folder


def contents(folder):
    """The bytes of every file below a folder, by path; None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


# Ways to damage a file: (data to draw from, its path) -> None.


def change_bytes(data, path):
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, max(len(content) - 1, 0)), min_size=1, max_size=3)):
        content[at : at + 1] = bytes(
            [content[at] ^ data.draw(st.integers(1, 255))] if content else []
        )
    path.write_bytes(content)


def truncate(data, path):
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])


def overwrite(data, path):
    path.write_bytes(data.draw(st.binary() | values.map(json.dumps).map(str.encode)))


def remove(data, path):
    path.unlink()


def replace_by_folder(data, path):
    """Puts a folder in the place of the file."""
    path.unlink()
    path.mkdir()


def replace_by_another_file(data, path):
    """Copies another file of the run over it, perhaps one of the other checkpoint."""
    run = next(parent for parent in path.parents if parent.name == "run")
    files = sorted(file for file in run.rglob("*") if file.is_file())
    path.write_bytes(data.draw(st.sampled_from(files)).read_bytes())


def change_json(data, path):
    """Changes a value of the JSON: other names, other shapes, paths outside the folder."""
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return overwrite(data, path)
    strange = st.sampled_from(["../../x", "/etc/passwd", [10**12], [-1], 10**30, "os:system"])
    at, parent = record, None
    while isinstance(at, dict | list) and at:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        parent, at = at, at[key]
    if parent is not None:
        parent[key] = data.draw(strange | values)
    path.write_text(json.dumps(record))


DAMAGES = [
    *(change_bytes, truncate, overwrite, remove),
    *(replace_by_folder, replace_by_another_file, change_json),
]


@examples(12, 600)
@given(st.data())
def test_what_is_restored_was_saved(intact_run, tmp_path_factory, data):
    outer = tmp_path_factory.mktemp("damaged")
    folder = shutil.copytree(intact_run, outer / "run")
    for _ in range(data.draw(st.integers(1, 3))):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(files))
        data.draw(st.sampled_from(DAMAGES))(data, path)
    before = contents(outer)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), Checkpoints(folder) as checkpoints:
            found = checkpoints.restore(LIKE)
    except ValueError as error:
        assert str(folder / "checkpoints") in message_of(error)
    else:
        step = int(found.state.step)
        assert (bits(found.state), found.facts) == SAVED[step]
        assert all(message_of(reason) for reason in found.damaged.values())
        assert set(found.damaged) == {later for later in STEPS if later > step}
    assert contents(outer) == before
    assert "Traceback" not in errors.getvalue()
    shutil.rmtree(outer)
