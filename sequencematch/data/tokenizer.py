"""Characters to ids and back; the ids of the special tokens."""

import dataclasses
import functools
from collections.abc import Iterable

SPECIALS = ("<pad>", "<bos>", "<eos>", "<bkspc>")
PAD, BOS, EOS, BKSPC = range(len(SPECIALS))


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One id for each special token, then one for each character of an alphabet, in sorted order.

    Attributes:
      alphabet: the characters that texts are made of; order and repetition do not matter.
    """

    alphabet: str

    @functools.cached_property
    def _symbols(self) -> list[str]:
        return [*SPECIALS, *sorted(set(self.alphabet))]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {c: i for i, c in enumerate(self._symbols) if i >= len(SPECIALS)}

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""
        return len(self._symbols)

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
        """Returns the text of the ids; special tokens are skipped."""
        return "".join(self._symbols[i] for i in ids if i >= len(SPECIALS))

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Returns every id as it is shown in a trace, a special token as `<eos>`."""
        return [self._symbols[i] for i in ids]
