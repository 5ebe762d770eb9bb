"""The live progress line of a run."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sequencematch.storage import console
from sequencematch.storage.processes import is_first


class ProgressLine:
    """One live line in a terminal; elsewhere a plain line for each report.

    Progress and time left are computed from tokens, since steps of a later phase may take longer.

    Args:
      steps: length of the run.
      done: tokens of earlier parts of the run.
      tokens: tokens of the whole run.
    """

    def __init__(self, steps: int, done: int, tokens: int):
        self._console, self._steps, self._tokens = Console(), steps, tokens
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            # In a log file, a line that is redrawn would be many; there `report` prints plain ones.
            disable=not (self._console.is_terminal and is_first()),
        )
        self._task = self._progress.add_task("compiling", total=tokens, completed=done)

    def __enter__(self) -> "ProgressLine":
        # A closed terminal must not end the run.
        with console.ignore_write_failures(sys.stdout):
            self._progress.start()
        return self

    def __exit__(self, *_):
        with console.ignore_write_failures(sys.stdout):
            self._progress.stop()

    def advance(self, tokens: int) -> None:
        """Moves the bar to `tokens`, a total."""
        self._progress.update(self._task, completed=tokens)

    def report(self, step: int, record: dict, judged: tuple[str, float] | None) -> None:
        """Shows the losses, the figure of the last validation, the speed and the time left.

        Args:
          step: number of steps done.
          record: of this step.
          judged: name, as NAME or NAME/CHOICE, and value of what the run is judged by; None before the
            first validation.
        """
        words = [f"step {step}/{self._steps}", record["phase"], f"loss {record['loss']:.4f}"]
        words.append(f"bc {record['bc']:.4f}")
        if "objective" in record:
            words.append(f"J {record['objective']:.3f}")
        if judged is not None:
            name, value = judged[0].rpartition("/")[0] or judged[0], judged[1]
            words.append(f"{name} {value:.1%}" if 0 <= value <= 1 else f"{name} {value:.4g}")
        words.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        words += [f"mfu {record['mfu']:.1%}"] if "mfu" in record else []
        self._progress.update(self._task, description="  ".join(words))
        if not self._console.is_terminal:
            done = record["tokens"] + record["sampled_tokens"]
            left = record["seconds"] * (self._tokens / done - 1)
            console.to_stdout("  ".join(words) + f"  {left:.0f} s left")
