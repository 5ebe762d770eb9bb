"""The rule of each key and the relations between keys: what they refuse, allow and report."""

import pytest

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, flatten
from sequencematch.setup.relations import relations
from sequencematch.setup.rules import RULES
from tests.setup.configs import config_with, error_of

# key -> values that its rule refuses
NAMES, COUNT, COUNT_OR_ZERO = ["", "nothing"], [0, -1, 2**31], [-1, 2**31]
FRACTION, FRACTION_BELOW_ONE, POSITIVE = [-0.1, 1.1], [-0.1, 1.0, 1.5], [0.0, -2.0]
NEARLY_ONE = 1 - 1e-8  # 1 in float32
REFUSED = {
    "method": ["", "sequencematc", "MLE"],
    "seed": [-1, 2**32],
    "init": ["run:", "runs/mine"],
    "train.accumulate": [0, -1],
    "model.path": ["a\0b"],
    "model.preset": ["gpt3", "llama2-70b"],
    "model.attention": NAMES,
    "model.remat": NAMES,
    "model.lora_rank": [-1, 2**31],
    "model.lora_alpha": [0.0, -1.0],
    "model.lora_targets": ["(query"],
    "model.lora_base": NAMES,
    "data.dir": [__file__, f"{__file__}/data", "~nobody-of-this-name", "a\0b", "~\0"],
    "data.source": NAMES,
    "data.checker": NAMES,
    "data.module": ["", "arithmetic/mul", "../arithmetic__mul", "a\0b"],
    "data.path": ["~nobody-of-this-name/file", "a\0b", "~\0"],
    "data.bases": [(1,), (10, 17), (0,)],
    "data.entropy": [(), (1.0,), (3.0, 2.0), (-1.0, 2.0), (1.0, 2.0, 3.0), (2.0, 101.0)],
    "data.numbers": [1, 5],
    "data.validation_path": ["~nobody-of-this-name/file", "a\0b", "~\0"],
    "data.test_path": ["~nobody-of-this-name/file", "a\0b", "~\0"],
    "data.fields": [*NAMES, "chat"],
    "data.long": [*NAMES, "cut"],
    "data.corpus": ["files:a\0b"],
    "data.divider": ["([", r"^\u00a7"],
    "data.tokenizer": ["a\0b", "~nobody-of-this-name"],
    "data.separator": ["\ud800"],
    "data.window": [-1, 7, 2**31],
    "data.prompt": COUNT_OR_ZERO,
    "data.test_share": [0.0, 0.6, -0.1],
    "evaluate.stop_at": COUNT_OR_ZERO,
    "evaluate.decodings": [("greedy",), ("greedy", "sampled", "greedy")],
    "data.train": COUNT_OR_ZERO,
    "data.validation": COUNT_OR_ZERO,
    "data.test": COUNT_OR_ZERO,
    "data.seed": [-1, 2**32],
    "data.split": [*NAMES, "twin"],
    "prompt_slots": [1, -3, 2**31],
    "max_actions": COUNT_OR_ZERO,
    "edits": [("<bkpsc>",), ("<bkspc>", "reset"), ("<bkspc>", "<bkspc>")],
    "noise.kind": NAMES,
    "noise.eta": FRACTION_BELOW_ONE,
    "noise.run": FRACTION_BELOW_ONE,
    "noise.step": NAMES,
    "noise.max_cut": FRACTION,
    "model.layers": [0, -1, 1001],
    "model.d_model": COUNT,
    "model.heads": COUNT,
    "model.kv_heads": COUNT,
    "model.d_ff": COUNT,
    "model.rope_base": [0.5, -1.0],
    "model.dtype": ["float16", "bfloat"],
    "optimizer.learning_rate": POSITIVE,
    "optimizer.warmup": COUNT_OR_ZERO,
    "optimizer.final": FRACTION,
    "optimizer.weight_decay": [-0.1],
    "optimizer.b1": [*FRACTION_BELOW_ONE, NEARLY_ONE],
    "optimizer.b2": [*FRACTION_BELOW_ONE, NEARLY_ONE],
    "optimizer.clip": POSITIVE,
    "train.steps": COUNT,
    "train.batch_size": COUNT,
    "train.bc_steps": COUNT_OR_ZERO,
    "train.beta_end": FRACTION,
    "train.frozen": ["[a-"],
    "train.unfrozen": ["[a-"],
    "train.skip_nonfinite": COUNT_OR_ZERO,
    "objective.divergence": [*NAMES, "chi2_mix"],
    "objective.alpha": POSITIVE,
    "objective.gamma": [0.0, -0.5, 1.5],
    "objective.policy_weight": FRACTION,
    "objective.weighting": NAMES,
    "objective.terminal": NAMES,
    "objective.next_value": NAMES,
    "objective.t_max": [1.0, 0.5, -3.0, 1 + 1e-8, 2e4],
    "objective.td_weight": [*POSITIVE, 1e38],
    "rollout.every": COUNT,
    "rollout.rows": COUNT,
    "rollout.capacity": COUNT,
    "rollout.batch_size": COUNT,
    "mesh.data": COUNT,
    "mesh.fsdp": COUNT,
    "mesh.model": COUNT,
    "log_every": COUNT,
    "wandb": ["a/b/c", "/b", "a/", "a b", "a#b"],
    "evaluate.every": COUNT,
    "evaluate.examples": COUNT,
    "evaluate.rows": COUNT,
    "evaluate.max_actions": COUNT_OR_ZERO,
    "evaluate.edit_threshold": [0.0, 1.0, -0.5],
    "evaluate.temperature": POSITIVE,
    "evaluate.samples": COUNT,
    "evaluate.traces": COUNT_OR_ZERO,
    "checkpoint.every": COUNT,
    "checkpoint.keep": COUNT,
    "checkpoint.keep_every": COUNT_OR_ZERO,
}


def test_defaults_are_valid_and_every_key_has_a_rule():
    check_config(defaults())
    free = {"task", "objective.bound", "rollout.noise", "evaluate.edit_bias"}
    free |= {"evaluate.memory", "checkpoint.best"}
    assert set(RULES) == set(flatten(defaults())) - free
    assert set(REFUSED) == set(RULES)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values]
)
def test_refused_value_is_reported_with_what_is_allowed(key, value):
    message = error_of(config_with({key: value}))
    allowed = RULES[key].allowed
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
        {"task": "text", "data.train": 0, "noise.max_cut": 1.0},
        {"task": "jsonl", "data.test": 0, "data.test_path": "a", "data.validation": 0}
        | {"data.validation_path": "b"},
        {"method": "mle", "train.bc_steps": 5000},
        {"method": "mle", "mesh.data": 3, "train.batch_size": 66},  # no samples to divide
        {"objective.weighting": "uniform"},
        {"objective.weighting": "uniform", "objective.divergence": "chi2"}
        | {"objective.policy_weight": 0.0},
        {"noise.kind": "policy"},
        {"objective.gamma": 1.0},
        {"edits": ("<reset>",), "evaluate.edit_bias": -5.0},
        {"edits": ["<bkspc4>", "<bkspc>", "<bkspc2>"]},
        {"edits": (), "noise.kind": "none"},
        {"edits": (), "method": "mle"},
        {"noise.step": "imitate"},
        {"noise.step": "skip", "objective.divergence": "chi2", "objective.policy_weight": 0.0},
        {"noise.step": "skip", "method": "le_cam", "objective.policy_weight": 0.0},
        {"noise.step": "skip", "method": "le_cam", "objective.policy_weight": 0.5},  # no effect
        {"noise.step": "skip", "noise.kind": "policy", "method": "bc"},
        {"noise.step": "skip", "method": "mle"},
        {"noise.step": "imitate", "rollout.noise": True, "method": "le_cam"},  # draws no samples
        {"mesh.data": 4, "mesh.fsdp": 2, "mesh.model": 2},
    ],
)
def test_limits_of_the_allowed_ranges_are_allowed(changes):
    check_config(config_with(changes))


def test_data_folder_need_not_exist(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "data", "~/.cache/sequencematch", "relative"):
        check_config(config_with({"data.dir": str(folder)}))


# (keys that break a relation, words that the message must contain)
BROKEN_RELATIONS = [
    (
        {"evaluate.stop_at": 25, "evaluate.max_actions": 24},
        ["evaluate.stop_at=25 must be at most config.evaluate.max_actions=24"],
    ),
    (
        {"data.separator": "\n", "data.window": 0},
        ["config.data.separator='\\n' needs config.data.window > 0"],
    ),
    ({"init": "adapter:there"}, ["config.init='adapter:there'", "config.model.path"]),
    ({"data.train": 0}, ["config.data.train=0", "'jsonl' and 'text' alone", "'arithmetic'"]),
    ({"task": "gym/gcd", "data.train": 0}, ["config.data.train=0", "name a number"]),
    ({"data.test": 0}, ["config.data.test=0 asks no question: name a number"]),
    (
        {"task": "jsonl", "data.validation": 0},
        ["config.data.validation=0", "config.data.validation_path"],
    ),
    (
        {"task": "countdown", "data.validation": 0, "data.validation_path": "a"},
        ["config.data.validation=0"],
    ),
    (
        {"task": "jsonl", "data.test": 0, "data.validation_path": "a"},
        ["config.data.test=0", "config.data.test_path"],
    ),
    (
        {"train.bc_steps": 2000},
        ["config.train.bc_steps=2000", "train.steps - 1", "1999", "sequencematch"],
    ),
    (
        {"objective.bound": True, "objective.gamma": NEARLY_ONE},
        ["config.objective.bound=True", "config.objective.gamma < 1"],
    ),
    ({"optimizer.warmup": 2000}, ["config.optimizer.warmup=2000", "config.train.steps=2000"]),
    (
        {
            "objective.weighting": "uniform",
            "objective.divergence": "chi2",
            "objective.policy_weight": 0.5,
        },
        ["config.objective.weighting='uniform'", "'chi2_mixture'", "not 'chi2'"],
    ),
    (
        {
            "objective.bound": True,
            "objective.divergence": "chi2",
            "objective.policy_weight": 0.5,
        },
        ["weighting='discounted'", "bound=True", "policy_weight > 0", "not 'chi2'"],
    ),
    (
        {"evaluate.decodings": ("greedy", "sampled", "topp=0.9")},
        ["config.evaluate.decodings", "did you mean 'top_p'?"],
    ),
    ({"model.lora_base": "nf4"}, ["config.model.lora_base='nf4'", "config.model.lora_rank > 0"]),
    ({"train.unfrozen": "head"}, ["config.train.unfrozen='head'", "config.model.lora_rank > 0"]),
    ({"noise.kind": "policy", "noise.run": 0.5}, ["config.noise.run=0.5 must be 0", "'policy'"]),
    (
        {"noise.kind": "policy", "noise.step": "imitate"},
        ["config.noise.step='imitate'", "noise.kind='policy'"],
    ),
    (
        {"noise.step": "imitate", "rollout.noise": True},
        ["config.rollout.noise=True", "noise.step='imitate'"],
    ),
    (
        {"noise.step": "skip", "objective.policy_weight": 0.0},
        ["config.noise.step='skip'", "method=sequencematch", "'chi2_mixture'"],
    ),
    ({"edits": ("<reset>", "<bkspc>")}, ["config.edits=('<reset>', '<bkspc>')", "alone"]),
    ({"edits": ("<bkspc2>",)}, ["config.edits=('<bkspc2>',)", "have '<bkspc>'"]),
    ({"edits": ()}, ["config.edits=()", "method=sequencematch", "config.noise.kind='none'"]),
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
    (
        {"mesh.data": 8, "mesh.fsdp": 16},
        [
            "config.train.batch_size=64 must be a multiple of config.mesh.data=8 x config.mesh.fsdp=16"
        ],
    ),
    (
        {"mesh.fsdp": 64, "mesh.model": 4},
        [
            "config.model.d_model=128 must be a multiple of config.mesh.fsdp=64 x config.mesh.model=4"
        ],
    ),
    ({"mesh.model": 3, "model.d_ff": 255}, ["config.model.d_model=128", "config.mesh.model=3"]),
    ({"mesh.model": 4, "model.d_ff": 250}, ["config.model.d_ff=250", "config.mesh.model=4"]),
    (
        {"model.preset": "gpt2", "model.layers": 3},
        ["config.model.preset='gpt2' has sizes of its own", "leave out config.model.layers"],
    ),
    (
        {"model.preset": "gpt2", "prompt_slots": 1020},
        [
            "prompt_slots + max_actions = 1032 is more than the 1024 positions of",
            "config.model.preset='gpt2'",
        ],
    ),
    (
        {"model.preset": "gpt2", "evaluate.max_actions": 991},
        ["prompt_slots + evaluate.max_actions = 1025 is more than the 1024 positions of"],
    ),
    (
        {"model.preset": "smollm2-135m", "max_actions": 8192},
        ["is more than the 8192 positions of config.model.preset='smollm2-135m'"],
    ),
    ({"model.preset": "smollm2-135m", "mesh.model": 5}, ["config.model.d_model=576"]),
    ({"mesh.model": 128}, ["config.mesh.model=128 must divide", "model.kv_heads"]),
]


@pytest.mark.parametrize(("changes", "words"), BROKEN_RELATIONS)
def test_broken_relation_names_both_keys(changes, words):
    message = error_of(config_with(changes))
    assert [word for word in words if word not in message] == []


def test_every_relation_is_broken_by_some_case():
    broken, found = set(), []
    for changes, _ in BROKEN_RELATIONS:
        found = [holds for holds, _ in relations(config_with(changes))]
        broken |= {i for i, holds in enumerate(found) if not holds}
    assert broken == set(range(len(found)))


def test_divergence_of_ones_own_may_have_a_psi(monkeypatch):
    monkeypatch.setitem(DIVERGENCES, "mine", DIVERGENCES["chi2_mixture"])
    uniform = {"objective.weighting": "uniform", "objective.policy_weight": 0.5}
    check_config(config_with(uniform | {"objective.divergence": "mine"}))


def test_misspelt_value_gets_a_suggestion():
    message = error_of(config_with({"method": "sequencematc"}))
    assert message.endswith("did you mean 'sequencematch'?")
    assert error_of(config_with({"noise.kind": "randm"})).endswith("did you mean 'random'?")
    edits = ("<bkspc>", "<bkspace2>")
    assert error_of(config_with({"edits": edits})).endswith("did you mean '<bkspc2>'?")


def test_no_other_number_is_suggested():
    with pytest.raises(ValueError, match=r"model.layers=10000 must be in \[1, 1000\]$"):
        check_config(config_with({"model.layers": 10_000}))
