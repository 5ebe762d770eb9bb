"""What a SequenceMatch step costs against maximum likelihood, in one run on one machine.

    python -m experiments.benchmark [--config=configs/arithmetic.py] [--config.key=value ...]

Every figure is a ratio of medians of interleaved repetitions, so that a machine that slows down slows
both sides. "Tokens processed" are the slots that a training pass takes through the network.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, logging
from ml_collections import ConfigDict, config_flags

from sequencematch.setup.build import build, make_plan, training_data
from sequencematch.setup.validate import validate
from sequencematch.storage.provenance import hardware

CONFIG = config_flags.DEFINE_config_file("config", "configs/arithmetic.py")
REPETITIONS = 30


class Side:
    """One kind of work on a training state of its own."""

    def __init__(self, config: ConfigDict, method: str):
        config = config.copy_and_resolve_references()
        config.method = method
        self.run = build(config)
        self.plan, (self.episodes, self.prompts) = make_plan(self.run), training_data(self.run)
        self.state = self.run.initial()
        self.phase = self.plan.phases[-1]

    def step(self, i: int) -> None:
        """One optimiser step of the method's last phase."""
        self.state, metrics = self.phase.step(self.state, self.episodes[i])
        jax.block_until_ready((self.state, metrics))

    def refresh(self, i: int) -> None:
        """One refresh of the replay buffer."""
        self.state = self.plan.refresh(self.state, *self.prompts[i])
        jax.block_until_ready(self.state)


def interleaved(works: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """Median seconds of each work, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for i in range(REPETITIONS + 2):
        for name, work in works.items():
            began = time.perf_counter()
            work(i)
            seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(times[2:])) for name, times in seconds.items()}


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    logging.set_verbosity(logging.ERROR)
    config = CONFIG.value
    validate(config)
    mle, match = Side(config, "mle"), Side(config, "sequencematch")
    works = {"mle": mle.step, "refresh": match.refresh, "match": match.step}
    seconds = interleaved(works)
    slots = mle.run.slots
    per_token = {
        "mle": seconds["mle"] / (mle.phase.passes * slots),
        "match": seconds["match"] / (match.phase.passes * slots),
    }
    amortised = seconds["match"] + seconds["refresh"] / match.plan.refresh_every
    rows = match.plan.refresh_rows
    print(f"{hardware()}; {mle.run.parameters:,} parameters, {REPETITIONS} repetitions, medians")
    print(f"MLE step                             {seconds['mle'] * 1e3:8.1f} ms")
    print(f"SequenceMatch step                   {seconds['match'] * 1e3:8.1f} ms")
    print(f"refresh, {rows} samples                {seconds['refresh'] * 1e3:8.1f} ms")
    print(f"per token processed, against MLE     {per_token['match'] / per_token['mle']:8.3f}")
    print(f"optimiser step with its sampling     {amortised / seconds['mle']:8.3f} x MLE's")
    print(f"of that, sampling                    {1 - seconds['match'] / amortised:8.1%}")


if __name__ == "__main__":
    app.run(main)
