"""Running text: documents of a corpus, split by document, cut into windows, written once.

The windows lie in `<data.dir>/text/<name>`, in array_record files that are read by index.
"""

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from typing import Any

from sequencematch.data import prepared
from sequencematch.data.corpora import Corpus, find_corpus
from sequencematch.data.documents import COUNTED, distinct, groups, plain_documents, shares
from sequencematch.data.facts import describe
from sequencematch.data.shards import Shards, open_windows
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, encode_within
from sequencematch.data.windows import (
    Starts,
    Stream,
    begin_with_words,
    cut_windows,
    open_questions,
    starts_of,
)
from sequencematch.storage import console, files

FACTS = "facts.json"  # written last but for the folder's own name
KEPT = ("splits", "characters")  # beside those counts
_FORMAT = 6  # of the records, and of where windows are cut


def task(data: Any) -> Task:
    """Returns the task of going on with a text; the first call with these parameters prepares files.

    Training windows tile their documents, or with a separator the documents one after another. So do
    the questions of test and validation: `prompt` tokens, and what follows in the next `window`.

    Args:
      data: has `corpus` and `divider` (see `corpora.find_corpus`), `dir`, `tokenizer` ("characters",
        "bytes", or a folder with a tokenizer.json), `separator` ("", or one token), `window` and
        `prompt` in tokens, `test_share` of the documents, `seed`, and the numbers of windows `train`,
        `validation` and `test`, each at most; of train 0 takes all.

    Raises:
      ValueError: the corpus is not there, is empty or has too few documents; names what to change.
      OSError: a file cannot be read or written.
    """
    make_tokenizer, identity = find_tokenizer(data.tokenizer)
    if not data.prompt and make_tokenizer(()).bos is None:
        raise ValueError(
            f"data.prompt=0 needs a tokenizer with <bos>, which {data.tokenizer} has not: set "
            "data.prompt to 1 or more"
        )
    corpus = find_corpus(data)
    folder = _folder(data, corpus, identity)
    _check_separator(data, make_tokenizer)
    if not folder.exists():
        with prepared.lock_folder(folder.parent):
            # Again: another process may have prepared them while this one waited for the lock.
            if not folder.exists():
                _prepare(folder, corpus, make_tokenizer(()), data)
    facts = prepared.read_or_explain(folder, lambda: json.loads((folder / FACTS).read_text()))
    # A file that lacks one of these is damaged, too.
    found, characters = prepared.read_or_explain(folder, lambda: itemgetter(*KEPT)(facts))
    splits = {
        name: open_windows(folder, split, getattr(data, name), data.seed)
        for name, split in found.items()
    }
    if data.tokenizer == "characters":
        make_tokenizer = partial(CharTokenizer, characters)
    told = {key: facts.get(key, 0) for key in COUNTED}
    return Task(corpus.name, splits, make_tokenizer, facts=told)


def is_prepared(data: Any) -> bool:
    """Whether the files that `task` would open are there already."""
    return _folder(data, find_corpus(data), find_tokenizer(data.tokenizer)[1]).is_dir()


def training_documents(data: Any) -> Iterator[str]:
    """Yields the documents that `task` trains on, each once."""
    corpus = find_corpus(data)
    chosen = distinct(corpus.documents(), data, dict.fromkeys(COUNTED, 0))
    return (document for split, document in chosen if split == "train")


TOKENIZERS = {"characters": partial(CharTokenizer, ""), "bytes": ByteTokenizer}


def find_tokenizer(name: str) -> tuple[Any, Any]:
    """(Names of the edits -> the tokenizer, what decides its ids); that of characters has none yet.

    Raises:
      ValueError, OSError: there is no such tokenizer, or its files cannot be read.
    """
    if name in TOKENIZERS:
        return TOKENIZERS[name], name
    folder = files.expand(name.removesuffix("tokenizer.json") or ".")
    if not (folder / "tokenizer.json").is_file():
        kinds = ", ".join(TOKENIZERS)
        raise ValueError(
            f"data.tokenizer={name!r} must be {kinds}, or a folder with tokenizer.json"
        )
    found = read_tokenizer(folder, ())
    # What cuts documents in another way: without <bos> no prompt may be empty, and where a space is
    # written before every text they begin with words.
    marks = ["no <bos>"] * (found.bos is None) + ["words"] * found.writes_space
    identity = [found.fingerprint, *marks] if marks else found.fingerprint
    return partial(read_tokenizer, folder), identity


def _check_separator(data: Any, make_tokenizer: Callable[..., Tokenizer]) -> None:
    """Raises ValueError unless `data.separator`, if there is one, is one ordinary token."""
    if not data.separator:
        return
    if data.tokenizer == "characters":
        make_tokenizer = partial(CharTokenizer, f"a{data.separator}")
    tokenizer = make_tokenizer(())
    texts = ("a", data.separator, f"a{data.separator}a")
    begin, ids, within = (encode_within(tokenizer, text) for text in texts)
    named = f"data.separator={data.separator!r} must be one ordinary token of {data.tokenizer}"
    if tokenizer.eos in ids:
        raise ValueError(f"{named}, and not <eos>, which ends an episode")
    if len(ids) != 1 or ids[0] not in tokenizer.ordinary:
        raise ValueError(f"{named}: it is {', '.join(map(repr, tokenizer.symbols(ids)))}")
    if within != [*begin, *ids, *begin]:
        raise ValueError(f"{named} between texts too: there it is joined with them, or divided")


def _folder(data: Any, corpus: Corpus, tokenizer: Any) -> pathlib.Path:
    # All parameters that decide the content decide the name: different ones never share a folder.
    decides = [_FORMAT, corpus.identity, tokenizer, data.window, data.prompt, data.seed]
    decides += [data.test_share, data.separator]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    root = files.expand(data.dir) / "text"
    return root / f"{corpus.name[:60]}-window{data.window}-prompt{data.prompt}-{digest}"


def _prepare(folder: pathlib.Path, corpus: Corpus, tokenizer: Tokenizer, data: Any) -> None:
    """Writes a folder under another name, which it loses when all is on disk."""
    console.to_stdout(f"preparing the texts in {folder}, once")
    # The lock is held, and whoever takes it removes what a killed process has left.
    unfinished = folder.with_name(f"incomplete.{folder.name}")
    try:
        unfinished.mkdir()
        facts = _write_windows(unfinished, corpus, tokenizer, data)
        files.write(unfinished / FACTS, json.dumps(facts, indent=2) + "\n")
        unfinished.rename(folder)
        files.flush(folder.parent)
    except RuntimeError as cause:
        # array_record raises a bare RuntimeError when the disk is full; subclasses are other faults.
        if type(cause) is RuntimeError:
            raise OSError(f"the texts cannot be written to {folder} ({cause})") from cause
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_windows(
    folder: pathlib.Path, corpus: Corpus, tokenizer: Tokenizer, data: Any
) -> dict[str, Any]:
    """Writes the windows of all documents; returns what is known of them.

    Raises:
      ValueError: a split has none.
    """
    facts = dict.fromkeys(COUNTED, 0)
    writers = {split: Shards(folder, split) for split in shares(data)}
    characters, starts = set(data.separator), starts_of(tokenizer)
    how = (data.window, data.prompt, int(tokenizer.bos is None))
    stream = Stream(data.separator, *how) if data.separator else None
    needs_alphabet = isinstance(tokenizer, CharTokenizer)
    writes_space = getattr(tokenizer, "writes_space", False)
    settle = begin_with_words if writes_space else lambda _, windows: windows
    documents = distinct(corpus.documents(), data, facts)
    plain = plain_documents(documents, tokenizer, facts)
    for group, begin_lists in _encode_ahead(groups(plain), starts):
        characters |= {*"".join(text for _, text in group)} if needs_alphabet else set()
        for (split, text), begins in zip(group, begin_lists, strict=True):
            if begins is None:
                facts["foreign_documents"] += 1
                found = ()
            elif split != "train":
                found = _questions(text, begins, data)
                facts["short_documents"] += not found
            elif stream:
                found = stream.cut(text, begins)
            else:
                found = cut_windows(text, begins, *how)
            writers[split].write(settle(text, found))
    writers["train"].write(settle("", stream.end() if stream else ()))
    found = {split: writer.close()._asdict() for split, writer in writers.items()}
    _check_splits(data.corpus, facts, {split: sum(found[split]["sizes"]) for split in writers})
    return {**facts, "splits": found, "characters": "".join(sorted(characters))}


def _encode_ahead(
    groups: Iterable[list[tuple[str, str]]],
    starts: Callable[[Sequence[str]], Iterator[Starts | None]],
) -> Iterator[tuple[list[tuple[str, str]], list[Starts | None]]]:
    """Yields each group with where its tokens begin, while the next one is encoded.

    The library of subwords lets other threads of Python run meanwhile.
    """
    before = None
    with ThreadPoolExecutor(1) as pool:
        for group in groups:
            encoding = pool.submit(lambda texts: [*starts(texts)], [text for _, text in group])
            if before:
                yield before[0], before[1].result()
            before = group, encoding
        if before:
            yield before[0], before[1].result()


def _questions(text: str, starts: Sequence[int], data: Any) -> list[Example]:
    """What a document of test or validation asks, if it is long enough.

    Where documents follow each other, what comes after the last token is the separator, and no `<eos>`.
    """
    found = [*open_questions(text, starts, data.window, data.prompt)]
    if data.separator and found and not found[-1].cut:
        last = found.pop()
        found.append(Example(last.prompt, last.completion + data.separator, cut=True))
    return found


def _check_splits(name: str, facts: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    """Raises ValueError for a split without a window."""
    if not facts["documents"]:
        raise ValueError(f"data.corpus={name!r} is empty: there is no text in it")
    missing = [split for split, size in sizes.items() if not size]
    if missing:
        left_out = " ".join(describe({key: facts[key] for key in COUNTED[1:]}))
        raise ValueError(
            f"data.corpus={name!r} gives no example for {' and '.join(missing)} (number of documents: "
            f"{facts['documents']}): name more files, cut them into more documents with data.divider, "
            f"raise data.test_share, or lower data.prompt. {left_out}".rstrip()
        )
