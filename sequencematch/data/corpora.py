"""Corpora by name: the documents of files, of a tensorflow-datasets data set, or of Python's library.

A corpus is read from begin to end, one document after the other, in little memory.
"""

import ast
import glob
import json
import mmap
import os
import pathlib
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from sequencematch.data.lines import Lines
from sequencematch.data.progress import tell_progress

_PACKED = b"\x1f\x8b"  # what compressed files begin with
_STRETCH = 2**24  # bytes of a file, whole pages
# Bytes of a document of a text file. It takes some ten times as many while it is read.
LONGEST = 2**26
# Folders of the standard library that are not part of what it documents.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


class Corpus(NamedTuple):
    """Where texts come from.

    Attributes:
      name: for messages and folders.
      identity: all that decides its texts; texts that differ have another one.
      documents: -> the documents, in order; it raises ValueError or OSError for what cannot be read.
    """

    name: str
    identity: Mapping[str, Any]
    documents: Callable[[], Iterator[str]]


def find_corpus(data: Any) -> Corpus:
    """The corpus that the configuration names.

    Args:
      data: has `corpus`, "stdlib", "files:GLOB" or "tfds:NAME[/SPLIT]"; `divider`, a regular
        expression, where documents of a text file begin, "" for one document a file; and `dir`,
        where prepared data sets are.

    Raises:
      ValueError: there is no such corpus, or no such file.
    """
    kind, _, rest = data.corpus.partition(":")
    if kind not in CORPORA or (kind == "stdlib") != (not rest):
        raise ValueError(
            f"data.corpus={data.corpus!r} must be stdlib, files:GLOB or tfds:NAME[/SPLIT]"
        )
    return CORPORA[kind](rest, data)


def library(_: str, data: Any) -> Corpus:
    """The docstrings of Python's standard library, tests left out: 8,000 texts, 1.8 MB of English."""
    version = platform.python_version()
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    return Corpus(f"stdlib-{version}", {"python": version}, lambda: docstrings(root))


def docstrings(root: pathlib.Path) -> Iterator[str]:
    """Yields the docstrings of modules, classes and functions below a folder."""
    paths = [p for p in sorted(root.rglob("*.py")) if not _LEFT_OUT & {*p.relative_to(root).parts}]
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    what, share = f"reading the docstrings in {root}", lambda done: done / len(paths)
    for path in tell_progress(paths, what, share):
        try:
            nodes = ast.walk(ast.parse(path.read_bytes()))
        except (SyntaxError, ValueError):  # templates, and samples of another encoding
            continue
        for node in nodes:
            text = (ast.get_docstring(node) or "") if isinstance(node, kinds) else ""
            if text.strip():
                yield text.strip()


def text_files(pattern: str, data: Any) -> Corpus:
    """The files that a pattern matches: *.jsonl, also *.jsonl.gz, with a "text" a line; or plain."""
    found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    paths = [pathlib.Path(path) for path in found if os.path.isfile(path)]
    if not paths:
        raise ValueError(f"data.corpus='files:{pattern}' matches no file")
    stats = [(str(path.absolute()), path.stat()) for path in paths]
    sizes = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    name = re.sub(r"[^A-Za-z0-9]+", "-", paths[0].name.split(".")[0]).strip("-") or "files"
    identity = {"files": sizes, "divider": data.divider}
    return Corpus(name, identity, lambda: _documents_of_files(paths, data.divider))


def _documents_of_files(paths: list[pathlib.Path], divider: str) -> Iterator[str]:
    pattern = compile_divider(divider) if divider else None
    what, share = f"reading {len(paths):,} files", lambda done: done / len(paths)
    for path in tell_progress(paths, what, share):
        is_lines = path.name.endswith((".jsonl", ".jsonl.gz"))
        for text in _json_texts(path) if is_lines else _plain_texts(path, pattern):
            if stripped := text.strip():
                yield stripped


def compile_divider(divider: str) -> re.Pattern[bytes]:
    """The regular expression, of bytes, since a file may be too large to be decoded first.

    Raises:
      ValueError: a class holds a character of several bytes, of which it would match each, or a count
        follows one, of which it would concern the last byte.
    """
    plain = re.sub(r"\\.", "", divider)  # without what is escaped
    if re.search(r"\[[^]]*[^\0-\x7f]|[^\0-\x7f][?*+{]", plain):
        raise ValueError(
            f"data.divider={divider!r} is matched with bytes: beyond ASCII write (a|b) for [ab], and "
            "(a)? for a?"
        )
    return re.compile(divider.encode(), re.MULTILINE)


def _json_texts(path: pathlib.Path) -> Iterator[str]:
    """Yields the "text" of each line."""
    for number, line in Lines(path).scan():
        content = _decode(line, f"{path}:{number}")
        try:
            text = json.loads(content)["text"]
            text.encode()  # fails for half a surrogate pair, and for what is no text
        except (ValueError, AttributeError, RecursionError, TypeError, KeyError) as cause:
            why = f": {cause}" if isinstance(cause, ValueError) else ""
            raise ValueError(
                f'{path}:{number}: expected {{"text": "..."}} in UTF-8{why}'
            ) from cause
        yield text


def _plain_texts(path: pathlib.Path, divider: re.Pattern[bytes] | None) -> Iterator[str]:
    """Yields the documents of a text file."""
    size = path.stat().st_size
    if not size:
        return
    # Not closed before its last user is gone: matches hold it, and an error would be lost in theirs.
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if content[:2] == _PACKED:
        raise ValueError(f"{path} is compressed: unpack it (only .jsonl.gz is read as it is)")
    begins = (match.start() for match in divider.finditer(content)) if divider else iter(())
    what, share = f"reading {path}", lambda _: content.tell() / size
    dropped = 0
    for end in tell_progress(_ends(begins, size), what, share):
        begin = content.tell()
        if end - begin > LONGEST:
            raise ValueError(
                f"{path} has a document of {end - begin:,} bytes from byte {begin}, and one may have "
                f"{LONGEST:,}, as it is in memory whole: say with data.divider where documents begin"
            )
        yield _decode(content.read(end - begin), path, begin)
        # What has been read need not stay in memory: a corpus may be larger than that.
        while end - dropped >= _STRETCH:
            content.madvise(mmap.MADV_DONTNEED, dropped, _STRETCH)
            dropped += _STRETCH


def _ends(begins: Iterator[int], size: int) -> Iterator[int]:
    """Where each document ends: where the next begins, or the file ends."""
    yield from (begin for begin in begins if begin)
    yield size


def _decode(content: bytes, path: pathlib.Path | str, begin: int = 0) -> str:
    """Text from UTF-8, without a byte order mark; a fault is named by its place, from `begin` on."""
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as cause:
        place = begin + cause.start
        raise ValueError(
            f"{path} is not UTF-8: byte {place} is 0x{cause.object[cause.start]:02x}, {cause.reason}"
        ) from cause


def prepared_set(name: str, data: Any) -> Corpus:
    """A data set that tensorflow-datasets has prepared in `data.dir`, in array_record files."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    builder, split = _builder_and_split(name, data.dir)
    info = builder.info.splits[split]
    identity = {"tfds": name, "version": str(builder.version)}
    identity |= {"documents": info.num_examples, "bytes": info.num_bytes}
    return Corpus(short, identity, lambda: _documents_of_set(name, builder, split))


def _builder_and_split(name: str, folder: str) -> tuple[tfds.core.DatasetBuilder, str]:
    """The data set that a name means, and the split of it.

    Raises:
      ValueError: there is none.
    """
    whole, _, last = name.rpartition("/")
    root = os.path.expanduser(folder)
    builder, split = _find_set(name, root), "train"
    if builder is None and whole:
        builder, split = _find_set(whole, root), last
    if builder is None or split not in builder.info.splits:
        splits = f": it has {', '.join(builder.info.splits)}" if builder else ""
        raise ValueError(
            f"data.corpus='tfds:{name}': there is no such data set, or split, prepared in {root}"
            f"{splits}"
        )
    return builder, split


def _documents_of_set(name: str, builder: tfds.core.DatasetBuilder, split: str) -> Iterator[str]:
    features = dict(builder.info.features)
    texts = [key for key, kind in features.items() if isinstance(kind, tfds.features.Text)]
    field = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
    if field is None:
        raise ValueError(
            f"data.corpus='tfds:{name}' has no feature 'text', and not one text alone: it has "
            f"{', '.join(features)}"
        )
    try:
        source = builder.as_data_source(split)
    except NotImplementedError as cause:
        raise ValueError(
            f"data.corpus='tfds:{name}' is not in array_record files: prepare it again with "
            "file_format='array_record'"
        ) from cause
    what, share = f"reading {name}", lambda done: done / len(source)
    for i in tell_progress(range(len(source)), what, share):
        if text := source[i][field].decode().strip():
            yield text


def _find_set(name: str, root: str) -> tfds.core.DatasetBuilder | None:
    """The builder of files that are there; None if there are none."""
    try:
        builder = tfds.builder(name, data_dir=root)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return None
    return builder if builder.info.splits else None


# Kind -> (what follows the colon, the configuration's `data` section) -> the corpus.
CORPORA: Mapping[str, Callable[[str, Any], Corpus]] = {
    "stdlib": library,
    "files": text_files,
    "tfds": prepared_set,
}
