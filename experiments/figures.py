"""The figures of a cell while it is judged: each is kept on disk once it is made."""

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.generate import Answer
from sequencematch.storage import files

NAME, METRICS = "figures.json", "metrics.jsonl"


class Figures:
    """Figures by name, in a folder.

    Args:
      folder: has those that an earlier process has made.
      revision: of the code; figures of another are made again.
    """

    def __init__(self, folder: Path, revision: str | None = None):
        self.folder, self._revision = folder, revision
        path = folder / NAME
        kept = json.loads(path.read_text()) if path.exists() else {}
        is_ours = bool(kept) and kept["revision"] == revision
        self.found: dict[str, Any] = kept["figures"] if is_ours else {}

    def add(self, name: str, make: Callable[[], Any]) -> None:
        """Makes a figure, unless it is there already."""
        if name not in self.found:
            self.found[name] = make()
            kept = {"revision": self._revision, "figures": self.found}
            files.write(self.folder / NAME, json.dumps(kept))

    def forget(self) -> None:
        """Removes the file; the folder stays."""
        (self.folder / NAME).unlink(missing_ok=True)


def write_metrics(folder: Path, step: int, metrics: Mapping[str, ArrayLike]) -> None:
    """Adds the metrics of a step to those of a folder."""
    record = {name: np.asarray(x).item() for name, x in jax.device_get(metrics).items()}
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"step": step} | record) + "\n")


def mean_metrics(folder: Path) -> dict[str, float]:
    """The mean of each metric over the steps that are known, each once: a killed run repeats some."""
    path = folder / METRICS
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_step = {record.pop("step"): record for record in records}
    names = next(iter(by_step.values()), {})
    return {name: float(np.mean([each[name] for each in by_step.values()])) for name in names}


def write_texts(folder: Path, choice: str, answers: Iterable[Answer], tokenizer: Tokenizer) -> None:
    """Writes texts as --mode=score reads them, so that other metrics may be asked for later.

    The name of the file is that of the way to answer, without its commas: they divide --files.
    """
    path = folder / "texts" / f"{choice.replace(',', ' ').replace('  ', ' ')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        {"prompt": a.example.prompt, "text": a.text, "references": [*a.example.references]}
        | {"finished": a.finished, "symbols": tokenizer.symbols(a.actions)}
        for a in answers
    )
    files.write(path, "".join(json.dumps(line) + "\n" for line in lines))


def pack(right: Sequence[bool]) -> str:
    """Bits as hexadecimal digits, the first question in the highest bit."""
    return np.packbits(np.asarray(right, bool)).tobytes().hex()


def pack_numbers(values: Sequence[float], kind: str) -> str:
    """Numbers in base64, of a type as numpy names it: "u1" for counts, "<f4" for scores."""
    return base64.b64encode(np.asarray(values, kind).tobytes()).decode()


def unpack_numbers(text: str, kind: str) -> np.ndarray:
    """The numbers of `pack_numbers`."""
    return np.frombuffer(base64.b64decode(text), kind)


def unpack(digits: str, n: int) -> np.ndarray:
    """The n bits of `pack`, as bool[n]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=n).astype(bool)
