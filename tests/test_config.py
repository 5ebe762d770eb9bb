"""Defaults are valid; whatever else is not is one line that names key, value and what is allowed."""

import math

import pytest
from ml_collections import ConfigDict

from sequencematch import config as configuration
from sequencematch import validation

# key -> values that its rule refuses
NAMES, POSITIVE, NATURAL = ["", "nothing"], [0, -1], [-1]
SHARE, BELOW_ONE, REAL = [-0.1, 1.1], [-0.1, 1.0, 1.5], [0.0, -2.0, math.nan, math.inf]
REFUSED = {
    "method": ["", "sequencematc", "MLE"],
    "seed": [-1, 2**32],
    "data.source": NAMES,
    "data.bases": [(1,), (10, 17), ("a",), (2.5,)],
    "data.entropy": [(), (1.0,), (3.0, 2.0), (-1.0, 2.0), (1.0, 2.0, 3.0), ("a", "b")],
    "data.train": POSITIVE,
    "data.validation": POSITIVE,
    "data.test": POSITIVE,
    "data.seed": [-1, 2**32],
    "prompt_slots": [1, 0, -3],
    "max_actions": POSITIVE,
    "edits": [(), ("<bkpsc>",), ("<bkspc>", "reset"), (1,)],
    "noise.kind": NAMES,
    "noise.eta": BELOW_ONE,
    "noise.run": BELOW_ONE,
    "noise.step": NAMES,
    "model.layers": POSITIVE,
    "model.d_model": POSITIVE,
    "model.heads": POSITIVE,
    "model.kv_heads": POSITIVE,
    "model.d_ff": POSITIVE,
    "model.rope_base": REAL,
    "model.dtype": ["float16", "bfloat"],
    "optimizer.learning_rate": REAL,
    "optimizer.warmup": NATURAL,
    "optimizer.final": SHARE,
    "optimizer.weight_decay": [-0.1, math.inf],
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.clip": REAL,
    "train.steps": POSITIVE,
    "train.batch_size": POSITIVE,
    "train.bc_steps": NATURAL,
    "train.beta_end": SHARE,
    "train.skip_nonfinite": NATURAL,
    "objective.divergence": [*NAMES, "chi2_mix"],
    "objective.alpha": REAL,
    "objective.gamma": [0.0, 1.0, -0.5, 1.5, math.nan],
    "objective.policy_weight": SHARE,
    "objective.weighting": NAMES,
    "objective.terminal": NAMES,
    "objective.next_value": NAMES,
    "objective.t_max": [1.0, 0.5, -3.0, math.nan],
    "objective.td_weight": REAL,
    "rollout.every": POSITIVE,
    "rollout.rows": POSITIVE,
    "rollout.capacity": POSITIVE,
    "rollout.batch_size": POSITIVE,
    "mesh.data": POSITIVE,
    "mesh.model": POSITIVE,
    "log_every": POSITIVE,
    "evaluate.every": POSITIVE,
    "evaluate.examples": POSITIVE,
    "evaluate.rows": POSITIVE,
    "evaluate.max_actions": POSITIVE,
    "evaluate.edit_bias": [math.nan, math.inf, -math.inf],
    "evaluate.traces": NATURAL,
    "checkpoint.every": POSITIVE,
    "checkpoint.keep": POSITIVE,
    "checkpoint.keep_every": NATURAL,
}


def changed(changes):
    config = configuration.defaults()
    config.update_from_flattened_dict(changes)
    return config


def refusal(config):
    """The one line in which a configuration is refused."""
    with pytest.raises(ValueError) as raised:
        validation.validate(config)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_the_defaults_are_valid_and_every_key_is_looked_at():
    validation.validate(configuration.defaults())
    free = {"task", "data.dir", "data.module", "data.path", "objective.bound"}
    assert set(validation.RULES) == set(configuration.flat(configuration.defaults())) - free
    assert set(REFUSED) == set(validation.RULES)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values]
)
def test_a_refused_value_is_named_with_what_is_allowed(key, value):
    message = refusal(changed({key: value}))
    allowed = validation.RULES[key][0]
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
    validation.validate(changed(changes))


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
    broken, relations = set(), None
    for changes, _ in UNRELATED:
        relations = [holds for holds, _ in validation.relations(changed(changes))]
        broken |= {i for i, holds in enumerate(relations) if not holds}
    assert broken == set(range(len(relations)))


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
    config = configuration.defaults()
    with config.unlocked():
        config[section][wrong] = 1
    message = refusal(config)
    assert message.startswith(f"config.{section}.{wrong} is no key")
    assert message.endswith(f"did you mean {right!r}?")


def test_a_key_like_no_other_gets_no_suggestion():
    with pytest.raises(ValueError, match="^config.zzzzzz is no key of this configuration$"):
        configuration.known_key("zzzzzz", configuration.flat(configuration.defaults()))


def test_a_misspelt_name_gets_the_nearest_one():
    assert refusal(changed({"method": "sequencematc"})).endswith("did you mean 'sequencematch'?")
    assert refusal(changed({"noise.kind": "randm"})).endswith("did you mean 'random'?")
    edits = ("<bkspc>", "<bkspace2>")
    assert refusal(changed({"edits": edits})).endswith("did you mean '<bkspc2>'?")


def test_a_missing_key_is_named():
    config = configuration.defaults()
    with config.unlocked():
        del config.objective.alpha
    assert refusal(config).startswith("config.objective.alpha is missing")


def test_values_of_another_kind_are_refused():
    # As a config.json may hold that was edited by hand.
    config = ConfigDict(configuration.defaults().to_dict() | {"log_every": "often", "seed": None})
    assert refusal(config).startswith("config.seed=None must be in [0, 2**32)")


def test_flat_names_every_leaf():
    nested = {"a": {"b": {"c": 1}, "d": (2, 3)}, "e": {}}
    assert configuration.flat(nested) == {"a.b.c": 1, "a.d": (2, 3)}
    assert configuration.flat(ConfigDict(nested)) == {"a.b.c": 1, "a.d": (2, 3)}
    assert configuration.flat(nested, "x.") == {"x.a.b.c": 1, "x.a.d": (2, 3)}


def test_differences_say_what_was_and_what_is():
    theirs = {"a": {"b": 1, "c": 2.0}, "gone": "x", "same": [1]}
    ours = {"a": {"b": 1, "c": 3.0}, "new": None, "same": [1]}
    assert configuration.differences(ours, theirs) == [
        "a.c: 2.0 -> 3.0",
        "gone: 'x' -> 'missing'",
        "new: 'missing' -> None",
    ]
    assert configuration.differences(theirs, theirs) == []
