"""What a run leaves behind and what a person sees while it goes on."""

import json
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter


class MetricsLog:
    """`metrics.jsonl` and TensorBoard events of one work directory.

    Records after `step` are dropped on opening: a resumed run writes them again.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        whole = path.with_name(path.name + ".tmp")  # a kill here must not lose what is kept
        whole.write_text("".join(line + "\n" for line in kept))
        os.replace(whole, path)
        self._file = path.open("a", buffering=1)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_):
        self._file.close()
        self._board.close()

    def write(self, record: dict) -> None:
        """Writes one record; it has a `kind` and a `step`, and numbers."""
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{record['kind']}/{name}", value, record["step"])


def _lines(path: Path) -> list[str]:
    """Whole lines of a file; one that a kill cut short is left out."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


class ProgressLine:
    """One live line in a terminal; elsewhere a plain line for each report.

    Progress and time left are reckoned in tokens: the steps of a later phase may cost more.

    Args:
      steps: length of the run.
      done: tokens that earlier parts of the run have taken.
      tokens: tokens that the whole run takes.
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
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("compiling", total=tokens, completed=done)

    def __enter__(self) -> "ProgressLine":
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def advance(self, tokens: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=tokens)

    def report(self, step: int, record: dict, accuracy: float | None) -> None:
        """Shows the losses, the last known accuracy, the speed and the time left."""
        words = [f"step {step}/{self._steps}", record["phase"], f"loss {record['loss']:.4f}"]
        words.append(f"bc {record['bc']:.4f}")
        if "objective" in record:
            words.append(f"J {record['objective']:.3f}")
        if accuracy is not None:
            words.append(f"accuracy {accuracy:.1%}")
        words.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        self._progress.update(self._task, description="  ".join(words))
        if not self._console.is_terminal:
            done = record["tokens"] + record["sampled_tokens"]
            left = record["seconds"] * (self._tokens / done - 1)
            print("  ".join(words), f" {left:.0f} s left", flush=True)
