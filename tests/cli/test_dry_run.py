"""A dry run traces each remaining step of a plan and computes nothing."""

import re
from math import prod
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from sequencematch.cli import dry_run
from sequencematch.models.pretrained.configs import transformer_config
from sequencematch.models.pretrained.presets import PRESETS
from sequencematch.setup.build import build, make_plan
from sequencematch.train.mesh import make_mesh, replicated_sharding
from sequencematch.train.plan import Phase, Plan
from tests.setup.configs import valid_config_with


def plan_of(*phases):
    """A plan of these phases; each refresh is of 3 prompts."""
    everywhere = replicated_sharding(make_mesh(1, 1))
    return Plan(phases, refresh, 7, 2, 3, 1, 1, 1, 0, everywhere)


@jax.jit
def refresh(state, tokens, start):
    assert tokens.shape == (3, 4) and start.shape == (3,)
    raise InterruptedError("the refresh was traced")


def traced_step(name, traced):
    """A step that notes that it was traced, with shapes and no values."""

    @jax.jit
    def step(state, batch):
        assert isinstance(state @ batch, jax.core.Tracer)
        traced.append(name)
        return state, {}

    return step


PARTS = SimpleNamespace(like=jax.ShapeDtypeStruct((2, 5), jnp.float32))
BATCHES, PROMPTS = [jnp.zeros((5, 1))], [(jnp.zeros((3, 4)), jnp.zeros(3))]


def test_every_step_of_a_nonempty_phase_is_traced():
    traced = []
    plan = plan_of(
        Phase("never", traced_step("never", traced), 0, False, 1),
        Phase("first", traced_step("first", traced), 4, False, 1),
        Phase("second", traced_step("second", traced), 9, False, 2),
    )
    dry_run.trace(PARTS, plan, BATCHES, PROMPTS)
    assert traced == ["first", "second"]


def test_step_with_wrong_shapes_fails():
    plan = plan_of(Phase("first", traced_step("first", []), 4, False, 1))
    with pytest.raises(TypeError, match="dot_general|matmul"):
        dry_run.trace(PARTS, plan, [jnp.zeros((4, 1))], PROMPTS)


def test_refresh_is_traced_where_a_phase_has_samples():
    plan = plan_of(Phase("first", traced_step("first", []), 4, True, 1))
    with pytest.raises(InterruptedError):
        dry_run.trace(PARTS, plan, BATCHES, PROMPTS)


@pytest.mark.parametrize(
    ("first", "left"),
    [
        (0, [("a", 0, 4), ("b", 4, 9)]),
        (3, [("a", 3, 4), ("b", 4, 9)]),
        (4, [("b", 4, 9)]),
        (9, []),
    ],
)
def test_remaining_phases_start_at_the_first_step(first, left):
    plan = plan_of(Phase("a", None, 4, False, 1), Phase("b", None, 9, False, 1))
    assert [(p.name, *span) for p, *span in dry_run.remaining_phases(plan, first)] == left


@pytest.fixture(scope="module")
def preset(spellings):
    """The parts of a QLoRA run of llama2-7b on four devices; nothing of it is allocated."""
    known = {"model.preset": "llama2-7b", "model.lora_rank": 64, "model.lora_base": "nf4"}
    split = {f"data.{name}": 10 for name in ("train", "validation", "test")}
    mesh = {"mesh.fsdp": 2, "mesh.model": 2}
    return build(
        valid_config_with({"task": "jsonl", "data.path": spellings, **known, **split, **mesh})
    )


def columns(table):
    """The cells of each column of a table."""
    return [list(column.cells) for column in table.columns]


def test_each_parameter_is_shown_with_its_shape_and_its_part_on_a_device(preset):
    names, shapes, parts, dtypes = columns(dry_run.parameter_table(preset.frozen, "frozen"))
    shown = dict(zip(names, zip(shapes, parts, dtypes, strict=True), strict=True))
    assert shown["blocks/feed_forward/up/kernel/qvalue"] == (
        "32x4096x11008",
        "32x2048x5504",
        "uint4",
    )
    assert shown["norm/scale"] == ("4096", "4096", "float32")
    names, shapes, parts, _ = columns(dry_run.parameter_table(preset.like.params, "trained"))
    assert all("lora" in name or name == "edits/kernel" for name in names)
    assert sum(prod(map(int, shape.split("x"))) for shape in shapes) == preset.trained_parameters


def test_a_preset_is_compared_with_the_vocabulary_of_the_model(preset):
    facts = [x for _, x in dry_run.describe_run(preset, make_plan(preset), Path("run"))]
    (fact,) = (x for x in facts if "llama2-7b itself has 32,000" in x)
    difference = int(re.search("which are (.*) parameters more", fact)[1].replace(",", ""))
    whole = transformer_config(PRESETS["llama2-7b"])
    frozen = preset.parameters - preset.trained_parameters  # all but adapters and edits
    assert frozen + difference == whole.matrices + whole.vectors
