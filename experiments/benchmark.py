"""Measures the cost of a SequenceMatch step relative to a step of maximum likelihood.

    python -m experiments.benchmark [--config=configs/arithmetic.py] [--config.key=value ...]

Every figure compares medians of interleaved repetitions, so that a machine that slows down for a while
affects both sides. "Tokens processed" are the slots that pass through the network in training.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, logging
from ml_collections import ConfigDict, config_flags

from sequencematch.setup.build import build, make_plan, training_data
from sequencematch.setup.check import check_config
from sequencematch.storage.provenance import hardware

CONFIG = config_flags.DEFINE_config_file("config", "configs/arithmetic.py")
REPETITIONS = 30


class Side:
    """One method, with its plan, its data and its train state; a batch has `times` the rows."""

    def __init__(self, config: ConfigDict, method: str, times: int = 1):
        config = config.copy_and_resolve_references()
        config.method = method
        config.train.batch_size *= times
        parts = build(config)
        params = parts.draw()
        self.parts = parts.with_frozen(params)  # of a network with adapters all but these
        self.plan, (self.episodes, self.prompts) = make_plan(self.parts), training_data(self.parts)
        self.state = self.parts.begin(self.parts.split(params)[0])
        self.phase = self.plan.phases[-1]

    def step(self, i: int) -> None:
        """Takes one optimiser step of the method's last phase."""
        self.state, metrics = self.phase.step(self.state, self.episodes[i])
        jax.block_until_ready((self.state, metrics))

    def refresh(self, i: int) -> None:
        """Refreshes the replay buffer once."""
        self.state = self.plan.refresh(self.state, *self.prompts[i])
        jax.block_until_ready(self.state)


def time_interleaved(works: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """The median time of each work in seconds; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(REPETITIONS + 2):
        for name, work in works.items():
            began = time.perf_counter()
            work(i)
            seconds[name].append(time.perf_counter() - began)
    # The first two repetitions compile and warm up.
    return {name: float(np.median(times[2:])) for name, times in seconds.items()}


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    logging.set_verbosity(logging.ERROR)
    config = CONFIG.value
    check_config(config)
    mle, match = Side(config, "mle"), Side(config, "sequencematch")
    twice = Side(config, "mle", times=2)  # as many tokens as a SequenceMatch step
    works = {"mle": mle.step, "twice": twice.step, "refresh": match.refresh, "match": match.step}
    seconds = time_interleaved(works)
    slots = mle.parts.slots
    per_token = {
        "mle": seconds["mle"] / (mle.phase.passes * slots),
        "match": seconds["match"] / (match.phase.passes * slots),
    }
    # One refresh serves several steps.
    amortised = seconds["match"] + seconds["refresh"] / match.plan.refresh_every
    rows = match.plan.refresh_rows
    print(f"{hardware()}; {mle.parts.parameters:,} parameters, {REPETITIONS} repetitions, medians")
    print(f"MLE step                             {seconds['mle'] * 1e3:8.1f} ms")
    print(f"MLE step of twice the rows           {seconds['twice'] * 1e3:8.1f} ms")
    print(f"SequenceMatch step                   {seconds['match'] * 1e3:8.1f} ms")
    print(f"refresh, {rows} samples                {seconds['refresh'] * 1e3:8.1f} ms")
    print(f"per token processed, against MLE     {per_token['match'] / per_token['mle']:8.3f}")
    print(f"optimiser step with its sampling     {amortised / seconds['mle']:8.3f} x MLE's")
    print(f"the same, at equal tokens            {amortised / seconds['twice']:8.3f} x MLE's")
    print(f"of that, sampling                    {1 - seconds['match'] / amortised:8.1%}")


if __name__ == "__main__":
    app.run(main)
