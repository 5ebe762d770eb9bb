"""Measures how fast a corpus of text is prepared, how much memory that takes, and how fast it is read.

    python -m experiments.preparation [MEGABYTES]

By bytes, by a BPE of 4,096 ids, and by the tokenizers library alone, which only encodes. The corpus is
made here: documents of some 5 kB of words that follow Zipf's law, so that a tokenizer meets old and new
ones. Each preparation is a process of its own, so that the peak of its memory is its own.

    python -m experiments.preparation 2000

says whether the memory is independent of the corpus; it takes 6 GB of disk.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from absl import app

from sequencematch.cli.bpe import save, train
from sequencematch.data import text
from sequencematch.data.subword import read_tokenizer
from sequencematch.setup.defaults import defaults

IDS, WORDS, LENGTH, BATCH = 4096, 50_000, 800, 200  # LENGTH: words of a document
READS = 2000  # of windows, at random places


class Cost(NamedTuple):
    """Seconds that preparing took, the peak of its memory in bytes, and seconds to read a window."""

    seconds: float
    peak: int
    read: float


def documents(megabytes: int, seed: int = 0) -> Iterator[str]:
    """Yields documents of about so many million bytes in all; the first ones are the same for any."""
    rng, left = np.random.default_rng(seed), megabytes * 1_000_000
    letters, shares = np.array([*"etaoinshrdlucmfwypvbgkjqxz"]), 1 / np.arange(1, 27)
    sizes = rng.integers(2, 11, WORDS)
    drawn = rng.choice(letters, (WORDS, 10), p=shares / shares.sum())
    words = np.array(["".join(row[:n]) for row, n in zip(drawn, sizes, strict=True)])
    ranks = np.cumsum(1 / np.arange(1, WORDS + 1))
    while left > 0:
        places = np.searchsorted(ranks, rng.random(LENGTH) * ranks[-1])
        document = " ".join(words[places])
        left -= len(document) + 1
        yield document


def write_corpus(path: Path, megabytes: int) -> int:
    """Writes a file of JSON lines; returns the bytes of its texts."""
    size = 0
    with path.open("w") as file:
        for document in documents(megabytes):
            file.write(json.dumps({"text": document}) + "\n")
            size += len(document)
    return size


def prepare(corpus: Path, tokenizer: str) -> Cost:
    """Prepares windows of a corpus in a new folder, which it removes."""
    data = defaults().data
    data.update(corpus=f"files:{corpus}", tokenizer=tokenizer, window=256, prompt=32)
    data.divider = "^{"  # where a document begins, if this is no *.jsonl
    with tempfile.TemporaryDirectory(dir=corpus.parent) as folder:
        data.dir, began = folder, time.perf_counter()
        windows = text.task(data).splits["train"]
        seconds, peak = time.perf_counter() - began, peak_memory()
        places = np.random.default_rng(0).integers(len(windows), size=READS)
        began = time.perf_counter()
        for place in places:
            windows[place]
        return Cost(seconds, peak, (time.perf_counter() - began) / READS)


def peak_memory() -> int:
    """The peak of this process's memory so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split() for line in lines if line.startswith("VmHWM:"))
    return int(found[1]) * 1024


def prepare_apart(corpus: Path, tokenizer: str) -> Cost:
    """As `prepare`, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(prepare, (corpus, tokenizer))


def encode_alone(folder: Path, megabytes: int) -> float:
    """Seconds that the tokenizers library takes for the texts alone."""
    library = tokenizers.Tokenizer.from_str(read_tokenizer(folder).source)
    texts, seconds = [*documents(megabytes)], 0.0
    for begin in range(0, len(texts), BATCH):
        began = time.perf_counter()
        library.encode_batch(texts[begin : begin + BATCH], add_special_tokens=False)
        seconds += time.perf_counter() - began
    return seconds


def rows(megabytes: int) -> Iterator[str]:
    """Yields the lines of a table; the library is given at most 50 MB, which are kept in memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save(train(documents(2), IDS), root / "bpe")
        corpus, few = root / "corpus.jsonl", min(megabytes, 50)
        size = write_corpus(corpus, megabytes)
        alone = encode_alone(root / "bpe", few)
        for name, tokenizer in (("bytes", "bytes"), ("BPE", str(root / "bpe"))):
            cost = prepare_apart(corpus, tokenizer)
            speed, peak = size / 1e6 / cost.seconds * 60, cost.peak / 2**20
            shown = f"preparing {size / 1e6:,.0f} MB by {name}"
            read = f"a window is read in {1e3 * cost.read:.2f} ms"
            yield f"{shown:<36} {speed:8,.0f} MB/min, at most {peak:,.0f} MiB; {read}"
        yield f"{'the tokenizers library alone':<36} {few / alone * 60:8,.0f} MB/min"


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    for row in rows(int(argv[1]) if argv[1:] else 50):
        print(row, flush=True)


if __name__ == "__main__":
    app.run(main)
