"""A tokenizer like GPT-2's: subwords that cross from prompt to answer, no `<bos>`, pad = eos."""

import dataclasses

from sequencematch.data.tokenizer import EDITS


@dataclasses.dataclass(frozen=True)
class Subwords:
    """Takes the longest unit that fits, from left to right."""

    units: tuple[str, ...]
    edits: tuple[str, ...] = ("<bkspc>",)
    bos = None
    eos = pad = 0
    fingerprint = 7

    @property
    def _symbols(self):
        return ["<end>", *self.units, *self.edits]

    @property
    def vocab_size(self):
        return len(self._symbols)

    @property
    def ordinary(self):
        return range(1, 1 + len(self.units))

    @property
    def pops(self):
        return {self._symbols.index(name): EDITS[name] for name in self.edits}

    def encode(self, text):
        ids = []
        while text:
            fitting = [unit for unit in self.units if text.startswith(unit)]
            if not fitting:
                raise ValueError(f"{text!r} has no ids")
            ids.append(self._symbols.index(max(fitting, key=len)))
            text = text.removeprefix(max(fitting, key=len))
        return ids

    def decode(self, ids):
        return "".join(self._symbols[i] for i in ids if i in self.ordinary)

    def symbols(self, ids):
        return [self._symbols[i] for i in ids]

    def parse(self, symbols):
        return [self._symbols.index(symbol) for symbol in symbols]
