"""Trains a tokenizer of subwords (byte-level BPE) on the training documents of a corpus.

  python -m sequencematch.cli.bpe --out=DIR [--corpus=stdlib] [--size=4096]

Then `--config.data.tokenizer=DIR`. Documents of test and validation play no part.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sequencematch.data.text import training_documents
from sequencematch.setup.check import check_value
from sequencematch.setup.defaults import defaults
from sequencematch.setup.values import can_be_folder
from sequencematch.storage.console import to_stderr, to_stdout
from sequencematch.storage.files import expand, write

SPECIALS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
KEYS = ("corpus", "divider", "dir", "seed", "test_share")  # of config.data
LEAST = 256 + len(SPECIALS)  # every byte has an id


def main(argv: Sequence[str]) -> int:
    """Makes the folder, which must not hold a tokenizer; returns the exit code."""
    own = defaults().data
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--size", type=int, default=4096, help="number of ids")
    for key in KEYS:
        same = f"as config.data.{key}"
        parser.add_argument(f"--{key}", type=type(own[key]), default=own[key], help=same)
    asked = parser.parse_args(argv)
    out = expand(asked.out)
    try:
        if asked.size < LEAST:
            raise ValueError(f"--size={asked.size} must be {LEAST} at least: every byte has an id")
        if not can_be_folder(str(out)):
            raise ValueError(f"--out={out} must be a folder that exists or can be created")
        if (out / "tokenizer.json").exists():
            raise ValueError(f"--out={out} holds a tokenizer already: name another folder")
        own.update({key: getattr(asked, key) for key in KEYS})
        for key in KEYS:
            check_value(f"data.{key}", own[key])
        tokenizer = train(training_documents(own), asked.size)
        save(tokenizer, out)
    except (ValueError, OSError) as error:
        to_stderr(error)
        return 2
    to_stdout(f"{out} has {tokenizer.get_vocab_size()} ids: --config.data.tokenizer={asked.out}")
    return 0


def train(texts: Iterator[str], size: int) -> Tokenizer:
    """Byte-level BPE: text of any kind has ids, and they give the text back.

    Raises:
      ValueError: there is no text.
    """
    first = next(texts, None)
    if first is None:
        raise ValueError("the corpus has no documents to train on")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIALS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for each in ([first], texts) for text in each), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, out: Path) -> None:
    """Writes a folder that `read_tokenizer` and transformers read; tokenizer.json comes last.

    Raises:
      OSError: it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **SPECIALS}
    write(out / "tokenizer_config.json", json.dumps(facts, indent=2) + "\n")
    write(out / "tokenizer.json", tokenizer.to_str() + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
