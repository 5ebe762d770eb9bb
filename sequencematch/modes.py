"""What the command line can ask for: to train, to evaluate, to answer.

Each function checks and opens all it needs and returns the job, which then only works.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.live import Live
from rich.text import Text

from sequencematch import workdir
from sequencematch.data import pipeline
from sequencematch.evaluate import accuracy
from sequencematch.evaluate.report import write_report
from sequencematch.rollout import stream
from sequencematch.run import Run, make_generator, make_plan, training_data
from sequencematch.train import loop
from sequencematch.train.checkpoint import Checkpoints
from sequencematch.train.log import MetricsLog
from sequencematch.train.state import TrainState

Job = Callable[[], None]


def training(run: Run, folder: Path, name: str, command: str, resume: bool) -> Job:
    """Trains, or goes on from the newest checkpoint, then judges the result."""
    restored = restore(run, folder) if resume else None
    plan, (episodes, prompts) = make_plan(run), training_data(run)
    workdir.start(folder, name, run.config)

    def job() -> None:
        state, seconds = restored or (run.initial(), 0.0)
        announce(run, folder, int(state.step))
        generator = make_generator(run)
        with (
            Checkpoints(folder, run.config.checkpoint.keep) as checkpoints,
            MetricsLog(folder, int(state.step)) as log,
        ):
            state, seconds = loop.train(
                plan,
                state,
                episodes,
                prompts,
                lambda state: validated(run, generator, state),
                checkpoints,
                log,
                seconds,
            )
        tokens, sampled = plan.tokens(plan.steps)
        facts = {"command": command, "tokens": tokens, "sampled_tokens": sampled}
        judge(run, folder, name, state, facts | {"seconds": {"train": seconds}})

    return job


def evaluation(run: Run, folder: Path) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    state, seconds = restore(run, folder)
    known = told(folder / "summary.json", seconds)
    return lambda: judge(run, folder, workdir.read(folder)["name"], state, known)


def told(path: Path, seconds: float) -> dict[str, Any]:
    """What the run's summary says of its training; of one that was cut, how long it took.

    Raises:
      ValueError: the summary is damaged.
    """
    if not path.is_file():
        return {"seconds": {"train": seconds}}
    try:
        known = json.loads(path.read_text())
        return known | {"seconds": {"train": known["seconds"]["train"]}}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to evaluate the run") from error


def answering(run: Run, folder: Path, question: str) -> Job:
    """Prints the greedy answer to one prompt as it is written, deletions struck through."""
    prompt, start = pipeline.encode_prompt(run.tokenizer, question, run.config.prompt_slots)
    state, _ = restore(run, folder)
    actions = stream.actions(
        run.recipe.graph,
        run.recipe.mdp,
        state.params,
        prompt,
        int(start),
        max_actions=run.config.evaluate.max_actions,
    )
    return lambda: show(run, question, actions)


def restore(run: Run, folder: Path) -> tuple[TrainState, float]:
    """The newest state of the folder's run, and the seconds that training took."""
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(run.like)


def announce(run: Run, folder: Path, step: int) -> None:
    """Says what is about to happen, and where its traces will be."""
    print(
        f"{run.config.method} on {run.task.name}: {run.parameters:,} parameters, steps {step} to "
        f"{run.config.train.steps} on {hardware()}; everything goes to {folder}/",
        flush=True,
    )


def validated(run: Run, generator: accuracy.Generator, state: TrainState) -> dict[str, float]:
    """Accuracy on the first examples of the validation set, for the learning curves."""
    examples = run.task.splits["validation"]
    examples = [examples[i] for i in range(min(run.config.evaluate.examples, len(examples)))]
    figures = {}
    for choice in accuracy.CHOICES:
        found = accuracy.accuracy(list(generator.answers(state.params, examples, choice)))
        figures[f"accuracy/{choice}"] = found["accuracy"]
        figures[f"accuracy/{choice}_low"] = found["low"]
        figures[f"accuracy/{choice}_high"] = found["high"]
    return figures


def judge(run: Run, folder: Path, name: str, state: TrainState, facts: Mapping[str, Any]) -> None:
    """Answers the test set; writes summary.json, traces.jsonl and report.html; prints the result."""
    began = time.perf_counter()
    examples, generator, test, traces = run.task.splits["test"], make_generator(run), {}, []
    for choice in accuracy.CHOICES:
        answers = list(generator.answers(state.params, examples, choice))
        edits = accuracy.edit_statistics(run.recipe.mdp, answers, run.tokenizer.encode)
        test[choice] = accuracy.accuracy(answers) | {"bkspc": edits}
        traces += [trace(run, choice, a) for a in answers[: run.config.evaluate.traces]]
    spent = {"train": facts["seconds"]["train"], "evaluate": time.perf_counter() - began}
    summary = dict(facts) | {
        "name": name,
        "method": run.config.method,
        "seed": run.config.seed,
        "steps": int(state.step),
        "parameters": run.parameters,
        "seconds": spent | {"total": sum(spent.values())},
        "hardware": hardware(),
        "versions": {p: version(p) for p in ("sequencematch", "jax", "flax", "optax")},
        "config": workdir.plain(run.config),
        "test": test,
    }
    workdir.write(folder / "traces.jsonl", "".join(json.dumps(t) + "\n" for t in traces))
    workdir.write_json(folder / "summary.json", summary)
    for choice, found in test.items():
        print(
            f"{choice}: {found['right']} of {found['n']} test questions right, "
            f"{found['accuracy']:.1%} (95 % interval {found['low']:.1%} to {found['high']:.1%})"
        )
    print(f"look at {write_report(folder)}")


def trace(run: Run, choice: str, answer: accuracy.Answer) -> dict[str, Any]:
    """One answer as the report shows it."""
    return {
        "decode": choice,
        "prompt": answer.example.prompt,
        "answer": answer.example.completion,
        "actions": run.tokenizer.symbols(answer.actions),
        "text": answer.text,
        "right": answer.right,
    }


def hardware() -> str:
    """The devices, and what they sit in."""
    devices = jax.devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    )


def show(run: Run, question: str, actions) -> None:
    """Writes an answer live in a terminal; elsewhere symbol by symbol."""
    console, taken = Console(highlight=False), []
    if not console.is_terminal:
        print(question, end=" ", flush=True)
        for action in actions:
            taken.append(action)
            print(*run.tokenizer.symbols([action]), sep="", end="", flush=True)
        print("\n" + run.tokenizer.decode(accuracy.replay(run.recipe.mdp, taken)))
        return
    with Live(console=console, auto_refresh=False) as live:
        for action in actions:
            taken.append(action)
            live.update(struck(run, question, taken), refresh=True)


def struck(run: Run, question: str, actions: list[int]) -> Text:
    """The question, and the answer with each deleted token struck through and each edit marked."""
    styles, alive = [""] * len(actions), []
    for i, action in enumerate(actions):
        pops = int(run.recipe.mdp.pops[action])
        for _ in range(min(pops, len(alive))):
            styles[alive.pop()] = "red strike"
        if pops:
            styles[i] = "dim"
        else:
            alive.append(i)
    text = Text(question + " ")
    for action, style in zip(actions, styles, strict=True):
        symbol = run.tokenizer.symbols([action])[0]
        text.append("⌫" if run.recipe.mdp.pops[action] else symbol, style=style)
    return text
