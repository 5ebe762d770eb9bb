"""Defaults are valid; whatever else is not is one line that names key, value and what is allowed."""

import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from sequencematch.setup.defaults import check_known_key, defaults, differences, flat
from sequencematch.setup.rules import KINDS, RULES, relations
from sequencematch.setup.validate import kind, validate

# key -> values that its rule refuses
NAMES, COUNT, WHOLE = ["", "nothing"], [0, -1, 2**31], [-1, 2**31]
SHARE, BELOW_ONE, POSITIVE = [-0.1, 1.1], [-0.1, 1.0, 1.5], [0.0, -2.0]
NEARLY_ONE = 1 - 1e-8  # 1 in float32
REFUSED = {
    "method": ["", "sequencematc", "MLE"],
    "seed": [-1, 2**32],
    "data.dir": [__file__, f"{__file__}/data", "~nobody-of-this-name", "a\0b", "~\0"],
    "data.source": NAMES,
    "data.module": ["", "arithmetic/mul", "../arithmetic__mul", "a\0b"],
    "data.path": ["~nobody-of-this-name/file", "a\0b", "~\0"],
    "data.bases": [(1,), (10, 17), (0,)],
    "data.entropy": [(), (1.0,), (3.0, 2.0), (-1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 101.0)],
    "data.train": COUNT,
    "data.validation": COUNT,
    "data.test": COUNT,
    "data.seed": [-1, 2**32],
    "prompt_slots": [1, 0, -3, 2**31],
    "max_actions": COUNT,
    "edits": [(), ("<bkpsc>",), ("<bkspc>", "reset"), ("<bkspc>", "<bkspc>")],
    "noise.kind": NAMES,
    "noise.eta": BELOW_ONE,
    "noise.run": BELOW_ONE,
    "noise.step": NAMES,
    "model.layers": [0, -1, 1001],
    "model.d_model": COUNT,
    "model.heads": COUNT,
    "model.kv_heads": COUNT,
    "model.d_ff": COUNT,
    "model.rope_base": [0.5, -1.0],
    "model.dtype": ["float16", "bfloat"],
    "optimizer.learning_rate": POSITIVE,
    "optimizer.warmup": WHOLE,
    "optimizer.final": SHARE,
    "optimizer.weight_decay": [-0.1],
    "optimizer.b1": [*BELOW_ONE, NEARLY_ONE],
    "optimizer.b2": [*BELOW_ONE, NEARLY_ONE],
    "optimizer.clip": POSITIVE,
    "train.steps": COUNT,
    "train.batch_size": COUNT,
    "train.bc_steps": WHOLE,
    "train.beta_end": SHARE,
    "train.skip_nonfinite": WHOLE,
    "objective.divergence": [*NAMES, "chi2_mix"],
    "objective.alpha": POSITIVE,
    "objective.gamma": [0.0, 1.0, -0.5, 1.5, NEARLY_ONE],
    "objective.policy_weight": SHARE,
    "objective.weighting": NAMES,
    "objective.terminal": NAMES,
    "objective.next_value": NAMES,
    "objective.t_max": [1.0, 0.5, -3.0, 1 + 1e-8],
    "objective.td_weight": [*POSITIVE, 1e38],
    "rollout.every": COUNT,
    "rollout.rows": COUNT,
    "rollout.capacity": COUNT,
    "rollout.batch_size": COUNT,
    "mesh.data": COUNT,
    "mesh.model": COUNT,
    "log_every": COUNT,
    "evaluate.every": COUNT,
    "evaluate.examples": COUNT,
    "evaluate.rows": COUNT,
    "evaluate.max_actions": COUNT,
    "evaluate.traces": WHOLE,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
    "checkpoint.keep_every": WHOLE,
}


def changed(changes):
    config = defaults()
    config.update_from_flattened_dict(changes)
    return config


def refusal(config):
    """The one line in which a configuration is refused."""
    with pytest.raises(ValueError) as raised:
        validate(config)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_the_defaults_are_valid_and_every_key_is_looked_at():
    validate(defaults())
    free = {"task", "objective.bound", "evaluate.edit_bias"}
    assert set(RULES) == set(flat(defaults())) - free
    assert set(REFUSED) == set(RULES)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values]
)
def test_a_refused_value_is_named_with_what_is_allowed(key, value):
    message = refusal(changed({key: value}))
    allowed = RULES[key][0]
    assert message.startswith(f"config.{key}={value!r} must be {allowed}")


@pytest.mark.parametrize(
    "changes",
    [
        {"noise.eta": 0.0, "noise.run": 0.0, "optimizer.final": 0.0, "optimizer.b1": 0.0},
        {"objective.policy_weight": 0.0, "train.beta_end": 0.0, "optimizer.final": 1.0},
        {"objective.policy_weight": 1.0, "train.beta_end": 1.0, "train.bc_steps": 0},
        {"data.bases": (), "data.entropy": (3.0, 3.0), "seed": 2**32 - 1, "evaluate.traces": 0},
        {"data.bases": (2, 16), "prompt_slots": 2, "max_actions": 1, "optimizer.warmup": 0},
        {"method": "bc", "train.bc_steps": 2000},
        {"method": "mle", "train.bc_steps": 5000},
        {"objective.weighting": "uniform"},
        {"objective.weighting": "uniform", "objective.divergence": "chi2"}
        | {"objective.policy_weight": 0.0},
        {"noise.kind": "policy"},
        {"edits": ("<reset>",), "evaluate.edit_bias": -5.0},
        {"edits": ["<bkspc4>", "<bkspc>", "<bkspc2>"]},
        {"noise.step": "imitate"},
        {"noise.step": "skip", "objective.divergence": "chi2", "objective.policy_weight": 0.0},
        {"noise.step": "skip", "method": "le_cam", "objective.policy_weight": 0.0},
        {"noise.step": "skip", "noise.kind": "policy", "method": "bc"},
        {"noise.step": "skip", "method": "mle"},
        {"mesh.data": 4, "mesh.model": 2},
    ],
)
def test_the_edges_of_what_is_allowed_are_allowed(changes):
    validate(changed(changes))


# what two keys refuse of each other -> the words that must be in the line
UNRELATED = [
    ({"train.bc_steps": 2000}, ["config.train.bc_steps=2000", "train.steps=2000", "sequencematch"]),
    ({"optimizer.warmup": 2000}, ["config.optimizer.warmup=2000", "config.train.steps=2000"]),
    (
        {"objective.weighting": "uniform", "objective.divergence": "chi2"},
        ["config.objective.weighting='uniform'", "'chi2_mixture'", "not 'chi2'"],
    ),
    ({"noise.kind": "policy", "noise.run": 0.5}, ["config.noise.run=0.5 must be 0", "'policy'"]),
    (
        {"noise.kind": "policy", "noise.step": "imitate"},
        ["config.noise.step='imitate'", "noise.kind='policy'"],
    ),
    (
        {"noise.step": "skip", "objective.policy_weight": 0.0},
        ["config.noise.step='skip'", "method=sequencematch", "'chi2_mixture'"],
    ),
    (
        {"noise.step": "skip", "method": "le_cam"},
        ["config.noise.step='skip'", "method=le_cam", "policy_weight=0 (it is 0.5)"],
    ),
    ({"edits": ("<reset>", "<bkspc>")}, ["config.edits=('<reset>', '<bkspc>')", "alone"]),
    ({"edits": ("<bkspc2>",)}, ["config.edits=('<bkspc2>',)", "have '<bkspc>'"]),
    ({"rollout.rows": 1024}, ["config.rollout.rows=1024", "config.rollout.capacity=512"]),
    (
        {"rollout.rows": 512, "rollout.every": 1, "train.steps": 2**22},
        ["config.rollout.rows=512 in 4194304 refreshes", "config.rollout.every"],
    ),
    ({"mesh.data": 3, "train.batch_size": 64}, ["config.train.batch_size=64", "mesh.data=3"]),
    (
        {"mesh.data": 3, "train.batch_size": 66, "rollout.batch_size": 66},
        ["config.rollout.rows=64 must be a multiple of config.mesh.data=3"],
    ),
    (
        {"mesh.data": 3, "train.batch_size": 66, "rollout.rows": 66},
        ["config.rollout.batch_size=64 must be a multiple of config.mesh.data=3"],
    ),
    ({"mesh.model": 3, "model.d_ff": 255}, ["config.model.d_model=128", "config.mesh.model=3"]),
    ({"mesh.model": 4, "model.d_ff": 250}, ["config.model.d_ff=250", "config.mesh.model=4"]),
    ({"mesh.model": 128}, ["config.mesh.model=128 must divide", "model.kv_heads"]),
]


@pytest.mark.parametrize(("changes", "words"), UNRELATED)
def test_keys_that_do_not_go_together_are_both_named(changes, words):
    message = refusal(changed(changes))
    assert [word for word in words if word not in message] == []


def test_every_relation_is_broken_above():
    broken, found = set(), []
    for changes, _ in UNRELATED:
        found = [holds for holds, _ in relations(changed(changes))]
        broken |= {i for i, holds in enumerate(found) if not holds}
    assert broken == set(range(len(found)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.heads": 3}, ["model.d_model=128", "model.heads=3"]),
        ({"model.heads": 128}, ["model.d_model=128", "twice model.heads=128"]),
        ({"model.kv_heads": 3}, ["model.heads=4", "model.kv_heads=3"]),
    ],
)
def test_heads_that_do_not_divide_are_named(changes, words):
    message = refusal(changed(changes))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("section", "wrong", "right"),
    [
        ("train", "stpes", "train.steps"),
        ("objective", "gama", "objective.gamma"),
        ("noise", "eat", "noise.eta"),
        ("data", "entropie", "data.entropy"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_spelling(section, wrong, right):
    config = defaults()
    with config.unlocked():
        config[section][wrong] = 1
    message = refusal(config)
    assert message.startswith(f"config.{section}.{wrong} is no key")
    assert message.endswith(f"did you mean {right!r}?")


def test_a_key_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="^config.zzzzzz is no key of this configuration$"):
        check_known_key("zzzzzz", flat(defaults()))


def test_a_misspelt_name_gets_the_nearest_one():
    assert refusal(changed({"method": "sequencematc"})).endswith("did you mean 'sequencematch'?")
    assert refusal(changed({"noise.kind": "randm"})).endswith("did you mean 'random'?")
    edits = ("<bkspc>", "<bkspace2>")
    assert refusal(changed({"edits": edits})).endswith("did you mean '<bkspc2>'?")


def test_a_missing_key_is_named():
    config = defaults()
    with config.unlocked():
        del config.objective.alpha
    assert refusal(config).startswith("config.objective.alpha is missing")


# One value of every kind there is, and some that only look like it, as a config.json may hold that
# was edited by hand.
VALUES = [None, True, 3, 2.5, "often", (), (3,), (2.5,), ("<bkspc>",), np.int64(3), np.float64(0.5)]
ENDLESS = [math.nan, math.inf, -math.inf, 1e-50, 1e50, 10**400, 2**63]
OF_ITS_KIND = {bool: [bool], int: [int], float: [float, int], str: [str], tuple: [tuple, list]}


def edited(key, value):
    """The defaults with one key put in by force."""
    values = defaults().to_dict()
    *section, name = key.split(".")
    (values[section[0]] if section else values)[name] = value
    return ConfigDict(values)


@pytest.mark.parametrize("key", flat(defaults()))
def test_values_of_another_kind_are_refused(key):
    default = flat(defaults())[key]
    element = [type(x) for x in default[:1]] if isinstance(default, tuple) else []
    for value in VALUES:
        fits = type(value) in OF_ITS_KIND[type(default)]
        if fits and all(type(x) in OF_ITS_KIND[t] for t in element for x in value):
            continue
        message = refusal(edited(key, value))
        assert message.startswith(f"config.{key}={value!r} must be {kind(default)}")
        assert message.endswith(RULES[key][0] if key in RULES else "")


def test_numbers_that_float32_does_not_hold_are_refused():
    for key in (key for key, default in flat(defaults()).items() if isinstance(default, float)):
        for value in ENDLESS:
            message = refusal(edited(key, value))
            assert message.startswith(f"config.{key}={value!r} must be a finite float32 number")
    for value in ENDLESS:
        message = refusal(edited("data.entropy", (1.0, value)))
        assert "must be a tuple whose every element is a finite float32 number, a ra" in message


def test_kinds_are_named():
    kinds = {kind(x) for x in flat(defaults()).values()}
    assert kinds == {*KINDS.values()} | {
        f"a tuple whose every element is {one}"
        for one in ("an integer", "a finite float32 number", "a text")
    }


@pytest.mark.parametrize("value", [3, None, "steps", [1, 2]])
def test_a_section_that_is_none_is_named(value):
    config = ConfigDict(defaults().to_dict() | {"train": value})
    assert refusal(config) == f"config.train={value!r} must be a section, as in defaults()"


def test_a_key_that_became_a_section_is_named():
    config = ConfigDict(defaults().to_dict() | {"seed": {"of": 3}})
    assert refusal(config).startswith("config.seed.of is no key of this configuration")
    assert refusal(ConfigDict({1: 2})) == "config.1 is no key of this configuration"
    config = ConfigDict(defaults().to_dict() | {"train": {}})
    assert refusal(config).startswith("config.train.batch_size is missing")


def test_a_folder_for_data_may_be_there_or_not(tmp_path):
    for place in (tmp_path, tmp_path / "new" / "data", "~/.cache/sequencematch", "relative"):
        validate(changed({"data.dir": str(place)}))


def test_flat_names_every_leaf():
    nested = {"a": {"b": {"c": 1}, "d": (2, 3)}, "e": {}}
    assert flat(nested) == {"a.b.c": 1, "a.d": (2, 3)}
    assert flat(ConfigDict(nested)) == {"a.b.c": 1, "a.d": (2, 3)}
    assert flat(nested, "x.") == {"x.a.b.c": 1, "x.a.d": (2, 3)}


def test_differences_say_what_was_and_what_is():
    theirs = {"a": {"b": 1, "c": 2.0}, "gone": "x", "same": [1]}
    ours = {"a": {"b": 1, "c": 3.0}, "new": None, "same": [1]}
    assert differences(ours, theirs) == [
        "a.c: 2.0 -> 3.0",
        "gone: 'x' -> 'missing'",
        "new: 'missing' -> None",
    ]
    assert differences(theirs, theirs) == []
