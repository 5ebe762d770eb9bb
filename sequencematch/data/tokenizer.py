"""Characters to ids and back, the special tokens, and how many tokens each edit pops."""

import dataclasses
import functools
import zlib
from collections.abc import Iterable, Mapping

from sequencematch.core.mdp import EVERYTHING

SPECIALS = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(len(SPECIALS))

# Edit action -> how many tokens it pops.
EDITS: Mapping[str, int] = {"<bkspc>": 1, "<bkspc2>": 2, "<bkspc4>": 4, "<reset>": EVERYTHING}


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """Maps characters to ids: special tokens first, then the sorted alphabet, then the edits.

    Attributes:
      alphabet: the characters of all texts; order and repetition do not matter.
      edits: names of the edit actions, keys of `EDITS`; order and repetition do not matter.
    """

    alphabet: str
    edits: tuple[str, ...] = ("<bkspc>",)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        characters = sorted(set(self.alphabet))
        return {c: i for i, c in enumerate(characters, start=len(SPECIALS))}

    @functools.cached_property
    def _symbols(self) -> list[str]:
        # Edits come last, so that no other id depends on them.
        return [*SPECIALS, *self._ids, *(name for name in EDITS if name in self.edits)]

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return len(self._symbols)

    @property
    def pops(self) -> dict[int, int]:
        """Id of each edit action -> how many tokens it pops."""
        return {self._symbols.index(name): EDITS[name] for name in EDITS if name in self.edits}

    @property
    def fingerprint(self) -> int:
        """Checksum of all that decides ids."""
        return zlib.crc32(repr(self._symbols).encode())

    def encode(self, text: str) -> list[int]:
        """Returns the id of each character.

        Raises:
          ValueError: a character is not in the alphabet.
        """
        try:
            return [self._ids[c] for c in text]
        except KeyError:
            unknown = "".join(sorted(set(text) - set(self._ids)))
            known = "".join(self._ids)
            raise ValueError(
                f"characters {unknown!r} of {text!r} are not in the alphabet {known!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special tokens and edits are skipped."""
        return "".join(c for c in self.symbols(ids) if c in self._ids)

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Returns the symbol of each id, as traces show it: a character, or a name as `<eos>`.

        Raises:
          ValueError: there is no such id.
        """
        ids = list(ids)
        # Python would take a negative id as counted from the end.
        unknown = [int(i) for i in ids if not 0 <= i < self.vocab_size]
        if unknown:
            raise ValueError(f"unknown ids {unknown}: allowed are 0 <= id < {self.vocab_size}")
        return [self._symbols[i] for i in ids]

    def parse(self, symbols: Iterable[str]) -> list[int]:
        """Returns the id of each symbol, the inverse of `symbols`.

        Raises:
          ValueError: a symbol has no id.
        """
        ids, symbols = {symbol: i for i, symbol in enumerate(self._symbols)}, list(symbols)
        unknown = [symbol for symbol in symbols if symbol not in ids]
        if unknown:
            raise ValueError(f"unknown symbols {unknown}: allowed are {list(ids)}")
        return [ids[symbol] for symbol in symbols]
