"""Texts to ids and back, the special tokens, and how many tokens each edit pops.

`Tokenizer` says what the project needs of one. Every id has a symbol, by which traces show it.
"""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sequencematch.core.mdp import EVERYTHING

# Edit action -> how many tokens it pops.
EDITS: Mapping[str, int] = {"<bkspc>": 1, "<bkspc2>": 2, "<bkspc4>": 4, "<reset>": EVERYTHING}

_LETTERS = 60  # of a text in messages
_SPECIALS = ("<pad>", "<bos>", "<eos>")


class Tokenizer(Protocol):
    """What maps texts to ids 0 <= id < vocab_size, and back.

    Edits have the last ids, so that no other id depends on them. `pad` may be `eos`: padding is known
    by its place.

    Attributes:
      vocab_size: number of ids, those of special tokens and edits included.
      bos: id that comes before every prompt; None for a tokenizer that has none, and then no prompt
        may be empty.
      eos: id of the action that ends a text.
      pad: id that fills unused slots.
      pops: id of each edit action -> how many tokens it pops.
      ordinary: the ids that texts are made of, and that noise may push, in ascending order.
      fingerprint: checksum of all that decides ids.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def pops(self) -> Mapping[int, int]: ...
    @property
    def ordinary(self) -> Sequence[int]: ...
    @property
    def fingerprint(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, ordinary ones alone.

        A tokenizer that writes the beginning of a prompt in its own way has another function,
        `encode_within`, for texts that follow others. One whose encode(a + b) is encode(a) +
        encode(b) for all texts may say so, is_additive = True: then no prompt is encoded twice.

        Raises:
          ValueError: the text has no ids.
        """
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special tokens and edits are skipped."""
        ...

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Returns the symbol of each id, all different; an edit's is its name in `EDITS`.

        Raises:
          ValueError: there is no such id.
        """
        ...

    def parse(self, symbols: Iterable[str]) -> list[int]:
        """Returns the id of each symbol, the inverse of `symbols`.

        Raises:
          ValueError: a symbol has no id.
        """
        ...


def encode_within(tokenizer: Tokenizer, text: str) -> list[int]:
    """Returns the ids of a text that follows others, `encode(text)` for most tokenizers.

    Raises:
      ValueError: the text has no ids.
    """
    return getattr(tokenizer, "encode_within", tokenizer.encode)(text)


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Returns ids as a list.

    Raises:
      ValueError: one is not in 0 <= id < vocab_size.
    """
    found = [int(i) for i in ids]
    # Python would take a negative id as counted from the end.
    unknown = [i for i in found if not 0 <= i < vocab_size]
    if unknown:
        raise ValueError(f"unknown ids {unknown}: allowed are 0 <= id < {vocab_size}")
    return found


def ids_of(symbols: Iterable[str], ids: Mapping[str, int], allowed: str) -> list[int]:
    """Returns the id of each symbol.

    Args:
      symbols: what to look up.
      ids: symbol -> id.
      allowed: which symbols there are, for the message.

    Raises:
      ValueError: a symbol has no id.
    """
    symbols = list(symbols)
    unknown = [symbol for symbol in symbols if symbol not in ids]
    if unknown:
        raise ValueError(f"unknown symbols {unknown}: {allowed}")
    return [ids[symbol] for symbol in symbols]


def quote(text: str) -> str:
    """A text in messages: the beginning of a long one."""
    return repr(text if len(text) <= _LETTERS else text[:_LETTERS] + "...")


class _Table:
    """Ids by a list of symbols: special tokens first, then what texts are made of, then the edits.

    Subclasses have `edits`, names of the edit actions, and `_units`, the symbols of ordinary ids.
    """

    is_additive = True

    bos: int | None = _SPECIALS.index("<bos>")
    eos: int = _SPECIALS.index("<eos>")
    pad: int = _SPECIALS.index("<pad>")
    edits: tuple[str, ...]
    _units: Sequence[str]

    @functools.cached_property
    def _symbols(self) -> list[str]:
        return [*_SPECIALS, *self._units, *(name for name in EDITS if name in self.edits)]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self._symbols)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of special tokens and edits included."""
        return len(self._symbols)

    @functools.cached_property
    def ordinary(self) -> range:
        """The ids that texts are made of."""
        return range(len(_SPECIALS), len(_SPECIALS) + len(self._units))

    @property
    def pops(self) -> dict[int, int]:
        """Id of each edit action -> how many tokens it pops."""
        return {self._ids[name]: pops for name, pops in EDITS.items() if name in self.edits}

    @property
    def fingerprint(self) -> int:
        """Checksum of all that decides ids."""
        return zlib.crc32(repr((type(self).__name__, self._symbols)).encode())

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Returns the symbol of each id, as traces show it: a character, or a name as `<eos>`.

        Raises:
          ValueError: there is no such id.
        """
        return [self._symbols[i] for i in check_ids(ids, self.vocab_size)]

    def parse(self, symbols: Iterable[str]) -> list[int]:
        """Returns the id of each symbol, the inverse of `symbols`.

        Raises:
          ValueError: a symbol has no id.
        """
        return ids_of(symbols, self._ids, f"allowed are {self._symbols}")


@dataclasses.dataclass(frozen=True)
class CharTokenizer(_Table):
    """One id for each character of an alphabet, in the order of the characters.

    Attributes:
      alphabet: the characters of all texts; order and repetition do not matter.
      edits: names of the edit actions, keys of `EDITS`; order and repetition do not matter.
    """

    alphabet: str
    edits: tuple[str, ...] = ("<bkspc>",)

    @functools.cached_property
    def _units(self) -> list[str]:
        return sorted(set(self.alphabet))

    def encode(self, text: str) -> list[int]:
        """Returns the id of each character.

        Raises:
          ValueError: a character is not in the alphabet.
        """
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError:
            unknown = "".join(sorted(set(text) - set(self._units)))
            known = "".join(self._units)
            raise ValueError(
                f"characters {unknown!r} of {quote(text)} are not in the alphabet {known!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special tokens and edits are skipped."""
        # Those are the symbols of more than one character.
        return "".join(symbol for symbol in self.symbols(ids) if len(symbol) == 1)


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(_Table):
    """One id for each byte of UTF-8: it has ids for any text.

    Attributes:
      edits: names of the edit actions, keys of `EDITS`; order and repetition do not matter.
    """

    edits: tuple[str, ...] = ("<bkspc>",)

    @functools.cached_property
    def _units(self) -> list[str]:
        # A byte that is no printable ASCII character is shown by its number, as SentencePiece does.
        return [chr(b) if 0x20 <= b < 0x7F else f"<0x{b:02X}>" for b in range(256)]

    def encode(self, text: str) -> list[int]:
        """Returns the id of each byte of the text in UTF-8.

        Raises:
          ValueError: the text has half a surrogate pair, which UTF-8 cannot write.
        """
        first = self.ordinary[0]
        try:
            return [b + first for b in text.encode()]
        except UnicodeEncodeError as cause:
            raise ValueError(f"{quote(text)} is no text: {cause}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special tokens and edits are skipped.

        Bytes that are no UTF-8, as where a character was cut, become U+FFFD.
        """
        ids, first = list(ids), self.ordinary[0]
        self.symbols(ids)  # raises for an id that does not exist
        return bytes(i - first for i in ids if i in self.ordinary).decode(errors="replace")
