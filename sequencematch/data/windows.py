"""From documents to examples: windows of so many tokens, none of which crosses a document."""

from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tokenizers

from sequencematch.data.subword import SubwordTokenizer
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import ByteTokenizer, Tokenizer

Starts = Sequence[
    int
]  # where each token of a text begins, in characters; last, where the text ends


def starts_of(tokenizer: Tokenizer) -> Callable[[Sequence[str]], Iterator[Starts]]:
    """What tells, of texts, where their tokens begin.

    Tokens that share a character, such as the bytes of an é, have one beginning.
    """
    if isinstance(tokenizer, SubwordTokenizer):
        # A plain one, for its batches: they are encoded in parallel.
        library = tokenizers.Tokenizer.from_str(tokenizer.source)
        return lambda texts: map(
            _StartsOfSubwords, library.encode_batch([*texts], add_special_tokens=False), texts
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


class _StartsOfSubwords(Sequence[int]):
    """Asks the encoding for the few beginnings that are needed: a list of all would take far longer."""

    def __init__(self, encoding: tokenizers.Encoding, text: str):
        self._encoding, self._count, self._end = encoding, len(encoding), len(text)

    def __len__(self) -> int:
        return self._count + 1

    def __getitem__(self, token: int) -> int:
        if token == self._count:
            return self._end
        begin, _ = self._encoding.token_to_chars(token)
        # White space before a token may be left out of its offsets, and is the token's all the same.
        return min(begin, self._encoding.token_to_chars(token - 1)[1]) if token else 0


def cut_windows(text: str, starts: Starts, window: int, context: int) -> Iterator[Example]:
    """Yields a document in windows: each has the tokens before it for a prompt, and learns the next.

    The last one ends in `<eos>`, so it has a token less; all others are cut. Each token is learnt once.

    Args:
      text: the document.
      starts: of its tokens.
      window: tokens that a window learns, `<eos>` included; 0 for all of the document.
      context: tokens of its prompt; the first has fewer, down to none.
    """
    count, begin = len(starts) - 1, 0
    while begin < count:
        end = count if not window else _end_of_window(starts, begin, window)
        prompt = text[starts[_whole(starts, max(begin - context, 0))] : starts[begin]]
        yield Example(prompt, text[starts[begin] : starts[end]], cut=end < count)
        begin = end


def open_question(text: str, starts: Starts, window: int, context: int) -> Example | None:
    """The beginning of a document as a prompt, and what follows; None if nothing does.

    Args: as of `cut_windows`.
    """
    count, begin = len(starts) - 1, _whole(starts, min(context, len(starts) - 1))
    if begin >= count or (context and not begin):
        return None
    end = count if not window else _end_of_window(starts, begin, window)
    return Example(text[: starts[begin]], text[starts[begin] : starts[end]], cut=end < count)


def _end_of_window(starts: Starts, begin: int, window: int) -> int:
    """Where a window ends that begins here: no character is torn, and there is room for `<eos>`."""
    count = len(starts) - 1
    if count - begin < window:
        return count
    # Were all of the rest in this window, there would be no room, and nothing left for another.
    end = _whole(starts, min(begin + window, count - 1))
    return end if end > begin else _next(starts, begin)


def _whole(starts: Starts, token: int) -> int:
    """The last token up to this one that begins with a character of its own."""
    while token and starts[token] == starts[token - 1]:
        token -= 1
    return token


def _next(starts: Starts, token: int) -> int:
    """The first token after this one that begins with another character."""
    return next(i for i in range(token + 1, len(starts)) if starts[i] > starts[token])
