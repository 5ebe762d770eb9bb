"""From documents to examples: windows of so many tokens, of one document or of a stream of them."""

import dataclasses
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate

import numpy as np
import tokenizers

from sequencematch.data.subword import SubwordTokenizer
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import ByteTokenizer, Tokenizer
from sequencematch.data.tokenizer_files import without_prefix

# Where each token of a text begins, in characters; last, where the text ends.
Starts = Sequence[int]


def starts_of(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Iterator[Starts | None]]:
    """What tells, of texts, where their tokens begin; None of one with something that has no ids.

    Tokens that share a character, such as the bytes of an é, have one beginning.
    """
    if isinstance(tokenizer, SubwordTokenizer):
        # A plain one, for its batches: they are encoded in parallel. No space is written before a text,
        # as before no completion.
        plain = without_prefix(json.loads(tokenizer.source))
        library = tokenizers.Tokenizer.from_str(json.dumps(plain))
        find = partial(_starts_of_subwords, tokenizer.unknown)
        return lambda texts: map(
            find, library.encode_batch([*texts], add_special_tokens=False), texts
        )
    if isinstance(tokenizer, ByteTokenizer):
        return lambda texts: map(_starts_of_bytes, texts)
    return lambda texts: (range(len(text) + 1) for text in texts)


def _starts_of_bytes(text: str) -> Starts:
    if text.isascii():
        return range(len(text) + 1)
    content = np.frombuffer(text.encode(), np.uint8)
    # All bytes of a character but the first are 10xxxxxx.
    number = np.cumsum((content & 0xC0) != 0x80, dtype=np.intc) - 1
    return array("i", number.tobytes() + np.intc(len(text)).tobytes())


def _starts_of_subwords(
    unknown: int | None, encoding: tokenizers.Encoding, text: str
) -> Starts | None:
    # Ids are copied where they are asked for.
    is_lost = unknown is not None and unknown in encoding.ids
    return None if is_lost else _StartsOfSubwords(encoding, text)


class _StartsOfSubwords(Sequence[int]):
    """Asks the encoding for the few beginnings that are needed: a list of all would take far longer."""

    def __init__(self, encoding: tokenizers.Encoding, text: str):
        self._encoding, self._count, self._end = encoding, len(encoding), len(text)

    def __len__(self) -> int:
        return self._count + 1

    def __getitem__(self, token: int) -> int:
        if token == self._count:
            return self._end
        if not token:
            return 0
        begin, _ = self._encoding.token_to_chars(token)
        _, before = self._encoding.token_to_chars(token - 1)
        # White space before a token may be left out of its offsets, and is the token's all the same. A
        # token that begins within another has a part of its last character: they begin together.
        return before if begin >= before else self[token - 1]


def cut_windows(
    text: str, starts: Starts, window: int, context: int, first: int = 0
) -> Iterator[Example]:
    """Yields a document in windows: each has the tokens before it for a prompt, and learns the next.

    The last one ends in `<eos>`, so it has a token less; all others are cut. Each token is learnt once,
    but for the first ones.

    Args:
      text: the document.
      starts: of its tokens.
      window: tokens that a window learns, `<eos>` included; 0 for all of the document.
      context: tokens of its prompt; the first has fewer, down to `first`.
      first: 0, or 1 where a prompt needs a token, since there is no `<bos>`.
    """
    count, begin = len(starts) - 1, _first_learnt(starts, first)
    while begin < count:
        end = count if not window else _end_of_window(starts, begin, window)
        prompt = text[starts[_whole(starts, max(begin - context, 0))] : starts[begin]]
        yield Example(prompt, text[starts[begin] : starts[end]], cut=end < count)
        begin = end


class Stream:
    """Documents that follow each other as one text, cut into windows as they come.

    A separator stands between two documents, and windows may cross it. All windows are cut, the last
    one too: such a text has no end. Each token is learnt once, but for the first ones.

    Args:
      separator: a text that is one token.
      window, context, first: as of `cut_windows`; the window is not 0.
    """

    def __init__(self, separator: str, window: int, context: int, first: int = 0):
        self._separator, self._window, self._context = separator, window, context
        self._first, self._begin = first, 0
        # What is not learnt yet, after its context of so many tokens; None before the first document.
        self._rest: tuple[str, Starts] | None = None

    def cut(self, text: str, starts: Starts) -> Iterator[Example]:
        """Yields the windows that are full once this document is added; to be taken to its end."""
        between = (self._separator, (0, len(self._separator)))
        parts = [] if self._rest is None else [self._rest, between]
        text = "".join([*(part for part, _ in parts), text])
        starts = _Joined([*(begins for _, begins in parts), starts])
        count = len(starts) - 1
        begin = self._begin if self._rest else _first_learnt(starts, self._first)
        while count - begin >= self._window:
            end = _cut_before(starts, begin, begin + self._window)
            yield self._example(text, starts, begin, end)
            begin = end
        kept = _whole(starts, max(begin - self._context, 0))
        ends = [starts[token] for token in range(kept, count + 1)]
        self._rest, self._begin = (text[ends[0] :], [end - ends[0] for end in ends]), begin - kept

    def end(self) -> Iterator[Example]:
        """Yields what is left: a window that is not full, if anything."""
        text, starts = self._rest or ("", [0])
        if self._begin < len(starts) - 1:
            yield self._example(text, starts, self._begin, len(starts) - 1)

    def _example(self, text: str, starts: Starts, begin: int, end: int) -> Example:
        context = starts[_whole(starts, max(begin - self._context, 0))]
        return Example(text[context : starts[begin]], text[starts[begin] : starts[end]], cut=True)


class _Joined(Sequence[int]):
    """The beginnings of the tokens of texts that follow each other."""

    def __init__(self, parts: Sequence[Starts]):
        self._parts = parts
        self._tokens = [0, *accumulate(len(part) - 1 for part in parts)]
        self._places = [0, *accumulate(part[len(part) - 1] for part in parts)]

    def __len__(self) -> int:
        return self._tokens[-1] + 1

    def __getitem__(self, token: int) -> int:
        part = min(bisect_right(self._tokens, token), len(self._parts)) - 1
        return self._places[part] + self._parts[part][token - self._tokens[part]]


def open_questions(text: str, starts: Starts, window: int, context: int) -> Iterator[Example]:
    """Yields a document in questions: `context` tokens for a prompt, and the window that follows.

    Less than a whole one, at the end of a document, is asked only of one that has asked nothing before.

    Args: as of `cut_windows`.
    """
    count, begin, end = len(starts) - 1, 0, 0
    while end < count:
        middle = _whole(starts, min(begin + context, count))
        if middle >= count or (context and middle == begin):
            return
        end = count if not window else _end_of_window(starts, middle, window)
        if begin and count - middle < window - 1:  # 1 for <eos>
            return
        prompt, completion = (
            text[starts[a] : starts[b]] for a, b in ((begin, middle), (middle, end))
        )
        yield Example(prompt, completion, cut=end < count)
        begin = end


def begin_with_words(text: str, windows: Iterable[Example]) -> Iterator[Example]:
    """Yields windows of a document; a prompt that begins inside it begins after the first space in it.

    For tokenizers that write a space before every text: a prompt's tokens are then those that the
    document has there. One without a space stays as it is.
    """
    for each in windows:
        _, _, rest = each.prompt.partition(" ")
        begins = text.startswith(each.prompt) or not rest
        yield each if begins else dataclasses.replace(each, prompt=rest)


def _end_of_window(starts: Starts, begin: int, window: int) -> int:
    """Where a window ends that begins here: no character is torn, and there is room for `<eos>`."""
    count = len(starts) - 1
    if count - begin < window:
        return count
    # Were all of the rest in this window, there would be no room, and nothing left for another.
    return _cut_before(starts, begin, min(begin + window, count - 1))


def _cut_before(starts: Starts, begin: int, limit: int) -> int:
    """The last token up to the limit that begins with a character of its own; after `begin`."""
    end = _whole(starts, limit)
    return end if end > begin else _next(starts, begin)


def _first_learnt(starts: Starts, first: int) -> int:
    """Where the first window begins, after whole characters."""
    return _next(starts, first - 1) if first and len(starts) > 1 else 0


def _whole(starts: Starts, token: int) -> int:
    """The last token up to this one that begins with a character of its own."""
    while token and starts[token] == starts[token - 1]:
        token -= 1
    return token


def _next(starts: Starts, token: int) -> int:
    """The first token after this one that begins with another character."""
    return next(i for i in range(token + 1, len(starts)) if starts[i] > starts[token])
