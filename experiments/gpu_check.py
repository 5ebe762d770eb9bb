"""Tries the package on the GPU of this machine, and prints a table for docs/results.md.

    make gpu-check
    python -m experiments.gpu_check [--part=NAME ...] [--patience=N] [--rehearse]

Each part is a process of its own with a limit of its own, eight minutes in all, so that one that fails
or takes too long is a line of the table and ends no other. Compiling takes most of the first time, and
is kept on disk: what was not done goes on when it is asked for again, or gets N times its limit. What
parts print meanwhile is on stderr. Tests that need several devices are skipped.
With --rehearse every part is tried at toy size on whatever device there is: its figures mean nothing.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from configs import llama_arithmetic, pretrained
from experiments.benchmark import Side
from sequencematch.setup.check import check_config
from sequencematch.storage.provenance import devices, hardware
from sequencematch.train.profiling import peak_flops

REHEARSE = flags.DEFINE_bool("rehearse", False, "Toy sizes, on any device.")
PATIENCE = flags.DEFINE_float("patience", 1.0, "Multiplies the limits of parts.")
INSIDE = flags.DEFINE_bool("inside", False, "This is the process of one part.")
REPETITIONS = 8
TOY = dict(layers=1, d_model=32, d_ff=64, heads=2, preset="", dtype="float32")

Rows = dict[str, str]  # what was measured -> the figure, with its unit


class Part(NamedTuple):
    """One part of the check.

    Attributes:
      limit: seconds that it may take.
      measure: does the work; returns rows of the table.
    """

    limit: int
    measure: Callable[[], Rows]


def peak_memory() -> str:
    """The largest memory that this process had on its first device."""
    found = jax.devices()[0].memory_stats() or {}
    return f"{found['peak_bytes_in_use'] / 2**30:.1f} GiB" if found else "not known"


def median_seconds(work: Callable[[int], None]) -> float:
    """The median time of a work; the first two repetitions compile and warm up."""
    seconds = []
    for i in range(REPETITIONS + 2):
        began = time.perf_counter()
        work(i)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[2:]))


def pretrained_config(
    preset: str, task: str, prompt_slots: int, max_actions: int, rows: int
) -> ConfigDict:
    """Arithmetic on a network of a known model's sizes with random weights, in bfloat16."""
    config = pretrained.get_config()
    config.task = f"experiments.vocabularies:{task}"
    config.model.update(path="", preset=preset, dtype="bfloat16", remat="full")
    config.update(prompt_slots=prompt_slots, max_actions=max_actions)
    config.data.update(train=2_000, validation=64, test=64)
    config.train.batch_size = config.rollout.batch_size = rows
    config.rollout.update(rows=rows, capacity=rows)
    config.evaluate.max_actions = max_actions
    if REHEARSE.value:
        config.task = "experiments.vocabularies:TOY"
        config.model.update(TOY)
        config.update(prompt_slots=32, max_actions=24)
        config.data.update(train=200, validation=16, test=16)
    check_config(config)
    return config


def main_job() -> Rows:
    """The main job, as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--config.data.dir={folder}/data", f"--workdir={folder}/run"]
        if REHEARSE.value:
            sizes = {key: x for key, x in TOY.items() if key not in ("preset", "dtype")}
            flags += [f"--config.model.{key}={x}" for key, x in sizes.items()]
            flags += ["--config.train.steps=6", "--config.train.bc_steps=3"]
            flags += ["--config.optimizer.warmup=2", "--config.data.train=200"]
            flags += ["--config.data.validation=16", "--config.data.test=16"]
        main = [sys.executable, "-m", "sequencematch.main", "--config=configs/arithmetic.py"]
        subprocess.run([*main, *flags], check=True, stdout=sys.stderr)
        summary = json.loads((Path(folder) / "run/summary.json").read_text())
    speed, right = summary["speed"], summary["test"]["greedy"]["accuracy"]
    return {
        "the main job": f"{right:.1%} greedy after {summary['seconds']['total']:.0f} s",
        "the main job, training": f"{speed['tokens_per_second']:,.0f} tokens/s",
    }


def small_step() -> Rows:
    """A step of full finetuning of SmolLM2-135M's sizes."""
    side = Side(pretrained_config("smollm2-135m", "SMALL", 64, 64, rows=32), "mle")
    seconds, phase = median_seconds(side.step), side.phase
    tokens, peak = phase.passes * side.parts.slots, peak_flops(jax.devices()[0].device_kind)
    mfu = f", MFU {phase.flops / seconds / peak:.1%}" if peak else ""
    name = f"mle step, {side.parts.parameters / 1e6:,.0f} M parameters, {tokens:,} tokens"
    return {name: f"{seconds * 1e3:,.1f} ms{mfu}; peak {peak_memory()}"}


def large_steps() -> Rows:
    """Steps at the sizes of Llama 3.2 1B, T = 1,024: SequenceMatch against maximum likelihood."""
    config = pretrained_config("llama3.2-1b", "LARGE", 512, 512, rows=4)
    per_token, found = {}, {}
    for method in ("mle", "sequencematch"):
        side = Side(config, method)
        if side.phase.samples:
            side.refresh(0)  # an empty replay buffer has samples of no length
        seconds = median_seconds(side.step)
        tokens = side.phase.passes * side.parts.slots
        per_token[method] = seconds / tokens
        name = f"{method} step, {side.parts.parameters / 1e6:,.0f} M parameters, {tokens:,} tokens"
        found[name] = f"{seconds * 1e3:,.1f} ms; peak so far {peak_memory()}"
        del side
    ratio = per_token["sequencematch"] / per_token["mle"]
    return found | {"sequencematch against mle, per token": f"{ratio:.3f}"}


def qlora_step() -> Rows:
    """A step of the paper's QLoRA at the sizes of Llama 2 7B, with random weights."""
    config = llama_arithmetic.get_config("qlora,mle")
    config.task = "experiments.vocabularies:SMALL"
    config.model.update(path="", preset="llama2-7b", dtype="bfloat16")
    config.data.update(train=2_000, validation=64, test=64)
    config.update(prompt_slots=64, max_actions=64)
    if REHEARSE.value:
        config.task = "experiments.vocabularies:TOY"
        config.model.update(TOY | {"d_model": 64})  # kernels in 4 bits have widths of 64
        config.data.update(train=200, validation=16, test=16)
    check_config(config)
    side = Side(config, "mle")
    seconds, tokens = median_seconds(side.step), side.phase.passes * side.parts.slots
    trained, rest = side.parts.trained_parameters / 1e6, side.parts.parameters / 1e9
    name = f"QLoRA mle step, {trained:,.0f} M of {rest:,.1f} B parameters, {tokens:,} tokens"
    return {name: f"{seconds * 1e3:,.1f} ms; peak {peak_memory()}"}


def sampler() -> Rows:
    """256 samples at once of SmolLM2-135M's sizes."""
    rows = 8 if REHEARSE.value else 256
    side = Side(pretrained_config("smollm2-135m", "SMALL", 64, 128, rows=rows), "sequencematch")
    seconds, actions = median_seconds(side.refresh), rows * side.parts.config.max_actions
    name = f"{rows} samples, {side.parts.parameters / 1e6:,.0f} M parameters"
    return {name: f"up to {actions / seconds:,.0f} actions/s; peak {peak_memory()}"}


def tests() -> Rows:
    """Tests of core, models, rollout and train on this device, in eight processes."""
    where = {"SEQUENCEMATCH_TEST_PLATFORM": jax.default_backend()}
    # Laws hold to float32, which the products of a GPU are not by default, and bit for bit.
    where |= {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    own = "--xla_gpu_exclude_nondeterministic_ops=true" * (jax.default_backend() == "gpu")
    where |= {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {own}".strip()}
    rooms = ["core/test_mdp.py"] if REHEARSE.value else ["core", "models", "rollout", "train"]
    pytest = [sys.executable, "-m", "pytest", "-q", "-n", "8", "--no-header", "-p", "no:warnings"]
    done = subprocess.Popen(
        [*pytest, *(f"tests/{room}" for room in rooms)],
        env=os.environ | where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last = "no output"
    for line in done.stdout:  # as it comes: the part may be ended before it is done
        print(line, end="", file=sys.stderr, flush=True)
        last = line.strip("= \n") or last
    what = f"tests of {', '.join(rooms)}, in float32"
    return {what: f"FAILED: {last}" if done.wait() else last}


PARTS = {
    "main-job": Part(120, main_job),
    "small-step": Part(40, small_step),
    "large-steps": Part(90, large_steps),
    "qlora-step": Part(80, qlora_step),
    "sampler": Part(50, sampler),
    "tests": Part(100, tests),
}
ASKED = flags.DEFINE_multi_enum("part", list(PARTS), list(PARTS), "Only these parts.")


def run_part(name: str) -> Rows:
    """The rows of a part, made in a process of its own; one that says what went wrong if it failed."""
    command = [sys.executable, "-m", "experiments.gpu_check", f"--part={name}", "--inside"]
    command += ["--rehearse"] * REHEARSE.value
    limit = round(PARTS[name].limit * PATIENCE.value * (10 if REHEARSE.value else 1))
    pipe = subprocess.PIPE
    # A part starts processes of its own, which have to end with it.
    part = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, err = part.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(part.pid, signal.SIGKILL)
        sys.stderr.write(part.communicate()[1])
        return {name: f"NOT DONE in {limit} s: ask for more with --part={name} --patience=3"}
    except BaseException:  # Ctrl-C reaches this process alone
        os.killpg(part.pid, signal.SIGKILL)
        raise
    sys.stderr.write(err)
    if part.returncode:
        # Our own line, or that of an error; jax adds notes below.
        ours = re.findall(r"^sequencematch: .*", err, re.MULTILINE)
        errors = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", err, re.MULTILINE)
        reason = (ours or errors or err.strip().splitlines() or ["no reason"])[-1]
        return {name: f"FAILED ({part.returncode}): {reason}"}
    return json.loads(out.strip().splitlines()[-1])


def main(argv: list[str]) -> int:
    """Prints the table, line by line as the parts are done."""
    logging.set_verbosity(logging.ERROR)
    # Several processes share the device: none takes more memory than it needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; jax refuses both
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    # Parts compile the same programs.
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/sequencematch/jax")
    )
    if INSIDE.value:
        (name,) = ASKED.value
        print(json.dumps(PARTS[name].measure()))
        return 0
    try:
        has_gpu, found = devices()[0].platform == "gpu", hardware()
    except ValueError as error:  # CUDA was asked for, and does not start
        has_gpu, found = False, str(error)
    if not (has_gpu or REHEARSE.value):
        print(
            f"jax finds no GPU here ({found}): install jax[cuda13] for NVIDIA's drivers from 580 "
            "on, jax[cuda12] for older ones, or try the parts at toy size with --rehearse",
            file=sys.stderr,
        )
        return 2
    print(
        f"On {jax.devices()[0].device_kind}, jax {jax.__version__}:\n\n| what | measured |\n|---|---|"
    )
    wrong = False
    for name in ASKED.value:
        began = time.perf_counter()
        for what, figure in run_part(name).items():
            wrong |= figure.startswith(("FAILED", "NOT DONE"))
            print(f"| {what} | {figure} |", flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    app.run(main)
