"""What a configuration and a task make: actions, metrics, and facts of the data."""

import sys
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.likelihood import behavioural_cloning
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.noise import Noise
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer
from sequencematch.models import readout
from sequencematch.models.config import TransformerConfig
from sequencematch.models.transformer import Transformer
from sequencematch.setup.build import build, make_plan, network_maker, training_data
from sequencematch.setup.recipe import make_mdp
from sequencematch.train.methods import METHODS
from tests.data.doubling import ALPHABET, EXAMPLES, TASK, batches
from tests.data.subwords import Subwords
from tests.setup.configs import valid_config_with

EDITS = ("<bkspc>", "<bkspc2>")


class PaddedByEos(CharTokenizer):
    """As GPT-2's does, `<eos>` pads."""

    pad = CharTokenizer.eos


class OneSpecial(Subwords):
    """As with GPT-2, one id begins texts, ends and pads them."""

    bos = 0


TOKENIZERS = [
    CharTokenizer(ALPHABET, EDITS),
    PaddedByEos(ALPHABET, EDITS),
    ByteTokenizer(EDITS),
    Subwords(("a", "b"), EDITS),
    OneSpecial(("a", "b"), EDITS),
]


SPLITS = {"train": EXAMPLES, "validation": EXAMPLES[:9], "test": EXAMPLES[:9]}


def build_task(monkeypatch, task, changes=()):
    """The parts of a run on a task, with some keys changed."""
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(make=lambda data: task))
    return build(valid_config_with({"task": "mine:make", **dict(changes)}))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: type(tokenizer).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_actions_are_ordinary_tokens_eos_and_edits_of_methods_that_have_them(tokenizer, method):
    found = make_mdp(valid_config_with({"method": method}), tokenizer)
    edits = tokenizer.pops if METHODS[method].edits else {}
    assert set(np.flatnonzero(found.legal)) == {*tokenizer.ordinary, tokenizer.eos, *edits}
    assert set(np.flatnonzero(found.ordinary)) == set(tokenizer.ordinary)
    assert {int(i): int(found.pops[i]) for i in np.flatnonzero(found.pops)} == dict(edits)
    assert (found.eos, found.pad) == (tokenizer.eos, tokenizer.pad)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.edits])
def test_without_edits_every_method_has_the_actions_and_the_batches_of_mle(monkeypatch, method):
    """SequenceMatch without backspace: the same clean texts, and J on them. Then bc is mle."""
    clean = {"edits": (), "noise.kind": "none"}
    ours = build_task(monkeypatch, TASK._replace(splits=SPLITS), clean | {"method": method})
    mle = build_task(monkeypatch, TASK._replace(splits=SPLITS), {"edits": (), "method": "mle"})
    for found, expected in zip(ours.recipe.mdp, mle.recipe.mdp, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.any(ours.recipe.mdp.pops)
    batch, expected = (training_data(parts)[0][3] for parts in (ours, mle))
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    first, *_ = make_plan(ours).phases
    assert first.name == "mle"


@pytest.mark.stress
def test_the_loss_does_not_depend_on_the_id_that_pads():
    """Padding is known by its place: nothing sees it and nothing counts it."""
    config, losses = valid_config_with({}), []
    sizes = TransformerConfig(TOKENIZERS[0].vocab_size, 1, 16, 2, 1, 16)
    model = Transformer(sizes, nnx.Rngs(5))
    for tokenizer in TOKENIZERS[:2]:
        process = make_mdp(config, tokenizer)
        batch = batches(Noise("random", 0.3, 0.0), slots=24, tokenizer=tokenizer)[0]
        expert = jax.jit(jax.vmap(partial(build_trajectory, process)))(batch)
        hidden = readout.states(model, expert)
        values = readout.action_values(model, process, hidden, expert)
        losses.append(behavioural_cloning(values, expert).value)
    assert losses[0] == losses[1] and np.isfinite(losses[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("acuracy",)}, "no metric 'acuracy': did you mean 'accuracy'?"),
        ({"judged_by": "mauve"}, "judged by 'mauve', but its metrics give the figures accuracy"),
        ({"metrics": (lambda examples, answers: answers[1],)}, "'double' fail: IndexError"),
    ],
)
def test_a_metric_that_cannot_judge_is_refused_before_any_training(monkeypatch, changes, message):
    task = TASK._replace(splits=SPLITS, **changes)
    with pytest.raises(ValueError, match=message):
        build_task(monkeypatch, task)


def test_an_answer_of_the_task_itself_tries_its_metrics(monkeypatch):
    seen = []

    def collect(examples, answers):
        seen.append((examples[0], answers[0].text, answers[0].right, answers[0].finished))
        return {"n": len(answers)}

    task = TASK._replace(splits=SPLITS, metrics=(collect,), judged_by="n")
    parts = build_task(monkeypatch, task)
    assert seen == [(EXAMPLES[0], "0", True, True)] and parts.metrics == [collect]
    assert parts.data.found["encoded_apart"] == 0


def test_completions_that_are_encoded_apart_are_counted(monkeypatch):
    units = (*ALPHABET, "=2", "=4")
    task = Task("double", SPLITS, lambda edits: Subwords(units, edits))
    apart = sum(e.completion[0] in "24" for split in SPLITS.values() for e in split)
    assert build_task(monkeypatch, task).data.found["encoded_apart"] == apart > 10


@pytest.mark.parametrize(
    ("key", "value", "only"),
    [
        ("mesh.fsdp", 2, 1),
        ("mesh.model", 2, 1),
        ("model.lora_rank", 2, 0),
        ("model.path", "DIR", "''"),
        ("model.preset", "gpt2", "''"),
    ],
)
def test_a_network_of_ones_own_is_whole_and_has_no_adapters_and_no_weights(key, value, only):
    tokenizer, task = TOKENIZERS[0], SimpleNamespace(network=lambda ids, edits, rngs: (ids, edits))
    make = network_maker(valid_config_with({}), task, tokenizer, None)
    assert make(None) == (tokenizer.vocab_size - 2, 2)
    config = valid_config_with({})
    config.update_from_flattened_dict({key: value})
    with pytest.raises(
        ValueError, match=f"config.{key}={value!r} must be {only}: the task brings a network"
    ):
        network_maker(config, task, tokenizer, None)
