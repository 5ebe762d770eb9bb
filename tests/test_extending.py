"""Every example of docs/extending.md runs as it is; those of the command line have at most 30 lines."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.main import main
from sequencematch.rollout.sampler import Sampling, sample
from sequencematch.setup.build import training_data
from sequencematch.train.methods import METHODS
from sequencematch.train.step import STEPS, expert_trajectories, number_rows
from tests.marks import exhaustive, stress
from tests.train.traces import build_small

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
EXAMPLES = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```\n\n    python -m sequencematch\.main ([^\n]*)\n",
    PAGE,
    re.DOTALL,
)
(LOOP,) = re.findall(r"```python\n# loop\.py\n(.*?)```\n\n    python loop\.py\n", PAGE, re.DOTALL)
# What makes a run of the examples short.
SMALL = {
    "data.train": 8,
    "data.validation": 2,
    "data.test": 2,
    "model.layers": 1,
    "model.d_model": 16,
    "model.d_ff": 16,
    "train.batch_size": 4,
    "train.steps": 3,
    "train.bc_steps": 1,
    "optimizer.warmup": 1,
    "rollout.rows": 4,
    "rollout.batch_size": 4,
    "evaluate.rows": 2,
    "evaluate.every": 3,
    "log_every": 1,
}


@pytest.fixture(autouse=True)
def tables():
    """What an example adds to a table is gone after the test."""
    before = [(table, dict(table)) for table in (DIVERGENCES, METHODS, STEPS)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def test_there_is_one_of_each():
    assert [name for name, _, _ in EXAMPLES] == [
        "factors.py",
        "shouting.py",
        "averaging.py",
        "halving.py",
        "alpha_half.py",
        "smoothing.py",
    ]


# CI runs a task and a divergence of one's own.
FIRST = ("factors.py", "alpha_half.py")
CASES = [stress(*each) if each[0] in FIRST else exhaustive(*each) for each in EXAMPLES]


@pytest.mark.parametrize(("name", "code", "flags"), CASES, ids=[name for name, *_ in EXAMPLES])
def test_it_runs_as_it_is(name, code, flags, tmp_path, monkeypatch, capfd):
    assert len(list(filter(None, code.splitlines()))) <= 30
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(name).write_text(code)
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    data = f"--config.data.dir={tmp_path / 'data'}"
    assert main(["main.py", *flags.split(), *small, data]) == 0, capfd.readouterr().err
    has_network = name == "averaging.py"
    assert ("the network is the task's own" in capfd.readouterr().out) == has_network
    # Whatever a transformer of these sizes would take: a task's own network is not one.
    huge = ["--config.model.d_model=65536", "--config.model.d_ff=65536", "--workdir=runs/huge"]
    code = main(["main.py", *flags.split(), *small, data, *huge, "--dry_run"]) if has_network else 0
    assert code == 0, capfd.readouterr().err
    # A step of one's own takes what is frozen from the recipe.
    part = ["--config.train.frozen=embed", "--workdir=runs/frozen"] * (name == "smoothing.py")
    code = main(["main.py", *flags.split(), *small, data, *part]) if part else 0
    assert code == 0, capfd.readouterr().err
    folder = Path(re.search(r"--workdir=(\S+)", flags)[1])
    assert (folder / "report.html").is_file()


@pytest.mark.stress
def test_the_script_finds_a_task_where_it_is_called(tmp_path):
    """The script `sequencematch` is made as pip makes it, in a folder that is not the task's."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "sequencematch"
    script.write_text("from sequencematch.main import run\n\nrun()\n")
    ((name, code, _), *_) = EXAMPLES
    (tmp_path / name).write_text(code)
    flags = ["--config=arithmetic", "--config.task=factors:task", "--dry_run"]
    command = [sys.executable, script, *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_smoothed_likelihood_is_that_of_a_loop(spellings):
    """At each decision all logits are of its own text, wherever in its row the answer begins."""
    exec(next(code for name, code, _ in EXAMPLES if name == "smoothing.py"), found := {})
    parts = build_small(spellings, {"method": "bc"})
    recipe, state = parts.recipe, parts.initial()
    batch = jax.device_put(training_data(parts)[0][0])
    expert = expert_trajectories(recipe, state, number_rows(batch))
    model = recipe.network(state.params)
    logits = np.asarray(model.logits(model.hidden(expert.tokens, expert.visibility)), float)
    losses, legal = [], np.asarray(recipe.mdp.legal)
    for row, time in zip(*np.nonzero(np.asarray(expert.imitate)), strict=True):
        here = logits[row, expert.state[row, time]][legal]
        log_probs = here - np.log(np.exp(here).sum())
        label = log_probs[np.cumsum(legal)[expert.actions[row, time]] - 1]
        losses.append(-0.8 * label - 0.2 * log_probs.mean())
    metrics = found["smoothing_step"](recipe, state, batch, epsilon=0.2)[1]
    assert float(metrics["bc"]) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.stress
def test_a_loop_of_ones_own_learns_to_answer(capsys):
    """Most sampled answers are right, after deletions; the loss falls to a tenth."""
    exec(LOOP, found := {})
    first, *_, last = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert last < first / 10
    batch, both = found["batch"], [jax.random.key(i) for i in range(2)]

    def losses(beta):
        parts = [copy.deepcopy((found["model"], found["optimizer"])) for _ in both]
        calls = zip(parts, both, strict=True)
        return [float(found["step"](*part, batch, beta, key)) for part, key in calls]

    cloning, matching = losses(1.0), losses(0.5)
    assert cloning[0] == cloning[1]  # whatever is sampled
    assert matching[0] != matching[1] and np.isfinite(matching).all()
    ids, length, most = (found[name] for name in ("ids", "PROMPT", "ACTIONS"))
    pairs = [(a, b) for a in range(10) for b in range(10)]
    prompts = jnp.array([found["episode"](*pair).tokens[:length] for pair in pairs])
    start, key = jnp.full(len(pairs), length - 1), jax.random.key(0)
    drawn = sample(found["model"], found["actions"], prompts, start, key, Sampling(most))
    right = 0
    for (a, b), actions in zip(pairs, np.asarray(drawn.tokens)[:, length:], strict=True):
        text = []
        for action in actions[: [*actions, ids.eos].index(ids.eos)]:
            text = text[:-1] if action in ids.pops else [*text, action]
        right += ids.decode(text) == str(a + b)
    assert right > 80
