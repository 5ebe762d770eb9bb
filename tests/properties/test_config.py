"""Every configuration is either valid, and trains, or refused in one line that names a key."""

import ast
import contextlib
import io
import itertools
import json
import math
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS
from sequencematch.data.noise import NOISE_STEPS, WRONG_TOKENS
from sequencematch.data.tokenizer import EDITS
from sequencematch.main import main
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, flatten
from sequencematch.train.methods import METHODS
from tests.properties.given import examples, message_of, numbers, values

ROOT = pathlib.Path(__file__).parents[2]
DEFAULTS = flatten(defaults())
TABLES = (
    METHODS,
    WRONG_TOKENS,
    NOISE_STEPS,
    EDITS,
    DIVERGENCES,
    WEIGHTINGS,
    TERMINALS,
    NEXT_VALUES,
)
names = st.sampled_from([*itertools.chain(*TABLES), "float32", "bfloat16", "generator", "tfds"])
likely = names | st.integers(0, 64) | st.floats(0, 1) | st.lists(names | st.integers(2, 16))
given_values = likely | numbers | values | st.tuples(numbers, numbers)
changes = st.dictionaries(st.sampled_from(sorted(DEFAULTS)), given_values, min_size=1, max_size=4)


def has_possible_keys(value):
    """Whether ConfigDict allows all keys in a value, and they are printable."""
    if isinstance(value, dict):
        keys = all(key.isprintable() and "." not in key for key in value)
        return keys and all(map(has_possible_keys, value.values()))
    return not isinstance(value, list | tuple) or all(map(has_possible_keys, value))


@examples(80, 4000)
@given(changes.filter(lambda changes: has_possible_keys(list(changes.values()))))
def test_any_values_are_valid_or_refused_in_one_line(changes):
    """Values of any type, as a configuration file may set them or a config.json may hold them."""
    nested = defaults().to_dict()
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section[part]
        # ConfigDict converts an integer to float when it is assigned to a float.
        converts = type(value) is int and isinstance(DEFAULTS[key], float) and abs(value) < 2**64
        section[name] = float(value) if converts else value
    config = ConfigDict(nested)
    try:
        check_config(config)
    except ValueError as error:
        assert message_of(error).startswith(("config.", "model."))
        return
    for key, default in DEFAULTS.items():
        value = flatten(config)[key]
        assert isinstance(value, tuple | list) == isinstance(default, tuple)
        assert isinstance(value, bool) == isinstance(default, bool)
        assert isinstance(value, str) == isinstance(default, str)
        assert not isinstance(default, int) or isinstance(value, int)
        assert not isinstance(default, float) or math.isfinite(value)


# About half of these choices make a valid configuration, which is then trained for three steps.

SIZES = {
    "data.train": 20,
    "data.validation": 4,
    "data.test": 4,
    "noise.max_cut": 1.0,
    "optimizer.warmup": 1,
    "train.steps": 3,
    "log_every": 1,
    "evaluate.every": 3,
    "evaluate.rows": 4,
    "evaluate.max_actions": 6,
    "checkpoint.every": 3,
}
some_edits = st.sampled_from(["<bkspc>", "<reset>", "('<bkspc>','<bkspc4>')", "()"])
rows = st.sampled_from([2, 4, 6])
CHOICES = {
    "method": st.sampled_from(sorted(METHODS)),
    "seed": st.integers(0, 2**32 - 1),
    "edits": some_edits,
    "prompt_slots": st.integers(4, 6),
    "max_actions": st.integers(3, 8),
    "noise.kind": st.sampled_from(sorted(WRONG_TOKENS)),
    "noise.step": st.sampled_from(sorted(NOISE_STEPS)),
    "noise.eta": st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    "noise.run": st.sampled_from([0.0, 0.3, 1 - 1e-9]),
    "model.layers": st.integers(1, 2),
    "model.d_model": st.sampled_from([8, 16]),
    "model.heads": st.sampled_from([2, 4]),
    "model.kv_heads": st.sampled_from([1, 2]),
    "model.d_ff": st.sampled_from([8, 12]),
    "model.dtype": st.sampled_from(["float32", "bfloat16"]),
    "optimizer.learning_rate": st.sampled_from([1e-4, 1e-2, 1.0]),
    "optimizer.b1": st.sampled_from([0.0, 0.9]),
    "train.bc_steps": st.integers(0, 2),
    "train.batch_size": rows,
    "train.beta_end": st.sampled_from([0.0, 0.3, 1.0]),
    "objective.divergence": st.sampled_from(sorted(DIVERGENCES)),
    "objective.alpha": st.sampled_from([1e-3, 0.01, 1.0, 30.0]),
    "objective.gamma": st.sampled_from([0.01, 0.9, 1.0]),
    "objective.policy_weight": st.sampled_from([0.0, 0.5, 1.0]),
    "objective.weighting": st.sampled_from(["discounted", *sorted(WEIGHTINGS)]),
    "objective.terminal": st.sampled_from(sorted(TERMINALS)),
    "objective.next_value": st.sampled_from(sorted(NEXT_VALUES)),
    "objective.bound": st.booleans(),
    "rollout.every": st.integers(1, 3),
    "rollout.rows": rows,
    "rollout.batch_size": rows,
    "rollout.capacity": st.integers(5, 9),
    "rollout.noise": st.booleans(),
    "mesh.data": st.sampled_from([1, 2]),
    "mesh.fsdp": st.sampled_from([1, 2]),
    "mesh.model": st.sampled_from([1, 2]),
    "evaluate.edit_bias": st.sampled_from([-3.0, 0.0, 3.0]),
    "evaluate.edit_threshold": st.sampled_from([1e-6, 0.3, 0.5, 0.999]),
    "evaluate.temperature": st.sampled_from([1e-30, 0.7, 1.0, 1e30]),
    "evaluate.memory": st.booleans(),
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A file of words of three characters, answered by their first 0, 1 or 2."""
    path = tmp_path_factory.mktemp("data") / "words.jsonl"
    words = map("".join, itertools.product("abcdé", "abc\n", "a>"))
    lines = [{"prompt": word, "completion": word[: i % 3]} for i, word in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def train(questions, folder, choices):
    """Trains with these choices, as from a terminal; returns the exit code."""
    flags = SIZES | choices | {"data.path": questions}
    argv = [f"--config.{key}={value}" for key, value in flags.items()]
    return main(["main.py", f"--config={ROOT}/configs/jsonl.py", f"--workdir={folder}", *argv])


def is_valid(choices):
    """Whether the choices make a valid configuration."""
    config = defaults()
    edits = choices["edits"]
    edits = ast.literal_eval(edits) if edits.startswith("(") else (edits,)
    config.update_from_flattened_dict(SIZES | choices | {"edits": edits})
    try:
        check_config(config)
    except ValueError:
        return False
    return True


choices = st.fixed_dictionaries(CHOICES)


@pytest.mark.exhaustive
@pytest.mark.stress
@examples(2, 40)
@given(choices.filter(is_valid))
def test_any_valid_configuration_trains_three_steps(questions, tmp_path_factory, choices):
    """Exit code 0, all files of a run, and only finite metrics."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(questions, folder, choices) == 0
    assert (folder / "report.html").is_file() and (folder / "checkpoints" / "3").is_dir()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in trained] == [1, 2, 3]
    for record in trained:
        assert [name for name, x in record.items() if x is None] == []  # NaN is written as null
        assert record["skipped"] == 0


@examples(20, 500)
@given(choices.filter(lambda choices: not is_valid(choices)))
def test_any_invalid_configuration_is_refused_in_one_line(questions, tmp_path_factory, choices):
    folder, err = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    with contextlib.redirect_stderr(err):
        assert train(questions, folder, choices) == 2
    line = err.getvalue()
    assert line[:-1].isprintable() and line.endswith("\n")
    assert line.startswith(("sequencematch: config.", "sequencematch: model."))
    assert not folder.exists()
