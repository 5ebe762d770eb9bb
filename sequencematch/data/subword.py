"""The tokenizer of a pretrained model, read from its tokenizer.json by the library `tokenizers`."""

import collections
import dataclasses
import functools
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sequencematch.data import tokenizer_files as files
from sequencematch.data.chat import chat_prompt
from sequencematch.data.ids import Ids
from sequencematch.data.tokenizer import EDITS, check_ids, ids_of, quote
from sequencematch.storage.files import expand, write


@dataclasses.dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """The ids of a pretrained model, and after them those of the edits.

    A text may spell special tokens, as a chat template does; it never spells an edit.

    Attributes:
      source: tokenizer.json, without edits.
      config: tokenizer_config.json, as `tokenizer_files.fast_config` makes it.
      template: the chat template; None where there is none.
      edits: names of the edit actions, keys of `EDITS`; order and repetition do not matter.
      edits_saved: names of the edits that the directory it comes from has rows for, row by row.
    """

    source: str = dataclasses.field(repr=False)
    config: Mapping[str, Any]
    template: str | None = dataclasses.field(default=None, repr=False)
    edits: tuple[str, ...] = ("<bkspc>",)
    edits_saved: tuple[str, ...] = ()

    @functools.cached_property
    def _first(self) -> Tokenizer:
        return Tokenizer.from_str(self.source)

    @functools.cached_property
    def _within(self) -> Tokenizer:
        source = json.loads(self.source)
        plain = files.without_prefix(source)
        return self._first if plain == source else Tokenizer.from_str(json.dumps(plain))

    @functools.cached_property
    def _lost_bytes(self) -> frozenset[int]:
        return files.lost_bytes(json.loads(self.source), self._own)

    @functools.cached_property
    def _found_bytes(self) -> bytes:
        return bytes(set(range(256)) - self._lost_bytes)

    @functools.cached_property
    def _own(self) -> list[str]:
        ids = self._first.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    @property
    def _names(self) -> list[str]:
        return _in_order(self.edits)

    @property
    def own_size(self) -> int:
        """Number of ids without edits: the rows that the model's embedding must have at least."""
        return len(self._own)

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of special tokens and edits included."""
        return self.own_size + len(self._names)

    @functools.cached_property
    def bos(self) -> int | None:
        """Id that comes before every prompt; None where the model was trained without one."""
        return self._special("bos") if self.config["add_bos_token"] else None

    @functools.cached_property
    def eos(self) -> int:
        """Id of the action that ends a text."""
        return self._special("eos")

    @functools.cached_property
    def pad(self) -> int:
        """Id that fills unused slots; it may be that of `eos`."""
        return self._special("pad")

    def _special(self, name: str) -> int:
        return self._first.token_to_id(self.config[f"{name}_token"])

    @functools.cached_property
    def pops(self) -> dict[int, int]:
        """Id of each edit action -> how many tokens it pops."""
        return {self.own_size + i: EDITS[name] for i, name in enumerate(self._names)}

    @property
    def edit_rows(self) -> list[int | None]:
        """Of each edit in `pops`, the row after `own_size` that is saved for it; None without one."""
        saved = {name: row for row, name in enumerate(self.edits_saved)}
        return [saved.get(name) for name in self._names]

    @functools.cached_property
    def ordinary(self) -> Ids:
        """The ids that texts are made of: all but special tokens and edits."""
        added = self._first.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special}
        special |= {i for i in (self.bos, self.eos, self.pad) if i is not None}
        return Ids(i for i in range(self.own_size) if i not in special)

    @functools.cached_property
    def fingerprint(self) -> int:
        """Checksum of all that decides ids."""
        parts = (type(self).__name__, self.bos, self.eos, self.pad, self._names)
        return zlib.crc32(repr(parts).encode(), zlib.crc32(self.source.encode()))

    @functools.cached_property
    def unknown(self) -> int | None:
        """Id that stands for what has none; None where there is none, or a text may have it."""
        found = files.unknown_id(json.loads(self.source)["model"])
        return None if found is None or found in self.ordinary else found

    def lost_characters(self, text: str) -> list[str]:
        """The characters of a text of whose bytes some have no ids."""
        if not text.encode().translate(None, self._found_bytes):
            return []
        return sorted(c for c in set(text) if not self._lost_bytes.isdisjoint(c.encode()))

    @property
    def writes_space(self) -> bool:
        """Whether `encode` writes a space before a text, as SentencePiece does."""
        first, within = (
            t.encode("a", add_special_tokens=False) for t in (self._first, self._within)
        )
        return first.ids != within.ids

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, as the first after `<bos>`.

        Raises:
          ValueError: something in the text has no ids.
        """
        return self._encode(self._first, text)

    def encode_within(self, text: str) -> list[int]:
        """Returns the ids of a text that follows others; SentencePiece writes no space before it.

        Raises:
          ValueError: as of `encode`.
        """
        return self._encode(self._within, text)

    def _encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        try:
            lost = self.lost_characters(text)
        except UnicodeEncodeError as cause:
            raise ValueError(f"{quote(text)} is no text: {cause}") from None
        found = tokenizer.encode(text, add_special_tokens=False)
        if self.unknown in found.ids:
            places = zip(found.ids, found.offsets, strict=True)
            lost = sorted({text[slice(*place)] for i, place in places if i == self.unknown})
        if lost:
            raise ValueError(f"the model has no ids for {lost} of {quote(text)}")
        return found.ids

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the ids; special tokens and edits are skipped.

        After `<bos>` it is the inverse of `encode`, without it that of `encode_within`. Bytes that are
        no UTF-8, as where a character was cut, become U+FFFD.

        Raises:
          ValueError: there is no such id.
        """
        ids = check_ids(ids, self.vocab_size)
        is_first = self.bos is not None and ids[:1] == [self.bos]
        text = [i for i in ids if i in self.ordinary]
        return (self._first if is_first else self._within).decode(text, skip_special_tokens=False)

    @functools.cached_property
    def _symbols(self) -> list[str]:
        """The text of each ordinary id; what the tokenizer calls it, if others share the text."""
        texts = self._within.decode_batch([[i] for i in range(self.own_size)], False)
        named = {name: i for i, name in enumerate([*self._own, *self._names])}
        counts = collections.Counter(texts)
        return [
            text if counts[text] == 1 and text and named.get(text, i) == i else self._own[i]
            for i, text in enumerate(texts)
        ] + self._names

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self._symbols)}

    def symbols(self, ids: Iterable[int]) -> list[str]:
        """Returns the symbol of each id: its text, or where that is no help the tokenizer's own name.

        Raises:
          ValueError: there is no such id.
        """
        return [self._symbols[i] for i in check_ids(ids, self.vocab_size)]

    def parse(self, symbols: Iterable[str]) -> list[int]:
        """Returns the id of each symbol, the inverse of `symbols`.

        Raises:
          ValueError: a symbol has no id.
        """
        return ids_of(symbols, self._ids, "each must be one token of the model, whole")

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Returns the text before the assistant's next turn, without a `<bos>` at its beginning.

        Raises:
          ValueError: there is no chat template, or it refuses the turns.
        """
        if self.template is None:
            raise ValueError(
                "the model has no chat template: name one that has, or use other fields"
            )
        tokens = {name: x for name, x in self.config.items() if name in files.TOKENS}
        text = chat_prompt(self.template, messages, tokens)
        # Prompts begin with it in any case.
        return text if self.bos is None else text.removeprefix(tokens["bos_token"])

    def files(self) -> dict[str, str]:
        """Name -> content of files that transformers and `read_tokenizer` read; edits are special."""
        special = {name: x for name, x in self.config.items() if name in files.TOKENS}
        tokenizer = files.add_edits(json.loads(self.source), self._names, self.own_size)
        found = {"tokenizer.json": tokenizer, "tokenizer_config.json": self.config}
        found |= {"special_tokens_map.json": special}
        texts = {name: json.dumps(x, ensure_ascii=False) + "\n" for name, x in found.items()}
        return texts if self.template is None else texts | {files.TEMPLATE: self.template}

    def save(self, folder: Path) -> None:
        """Writes `files` to a folder that exists.

        Raises:
          OSError: they cannot be written.
        """
        for name, text in self.files().items():
            write(folder / name, text)


def read_tokenizer(folder: str | Path, edits: Sequence[str] = ("<bkspc>",)) -> SubwordTokenizer:
    """Returns the tokenizer of a model directory, or of a folder that `SubwordTokenizer.save` wrote to.

    Args:
      folder: has tokenizer.json; what other files say of special tokens is in
        `tokenizer_files.special_names`.
      edits: names of the edit actions, keys of `EDITS`.

    Raises:
      ValueError: files are missing or damaged, or cannot be used; says what in one line.
      OSError: a file cannot be read.
    """
    folder = expand(folder)
    # A text is never cut or filled up here, whatever the model was last used for.
    whole = files.read_tokenizer_json(folder) | {"truncation": None, "padding": None}
    source, saved = files.split_edits(whole)
    side = {name: files.read_json(folder / name) for name in files.SIDE_FILES}
    config, tokenizer = side["tokenizer_config.json"], _load(source, folder)
    special = files.special_names(side, _check_names(tokenizer, folder, edits))
    if special["eos_token"] is None:
        raise ValueError(f"no file of {folder} says which token ends a text (eos_token)")
    special["pad_token"] = special["pad_token"] or special["eos_token"]
    source, adds_bos = files.settle_bos(source, tokenizer, special["bos_token"], config)
    return SubwordTokenizer(
        source=json.dumps(source, ensure_ascii=False),
        config=files.fast_config(config, special, adds_bos),
        template=files.chat_template(folder, config),
        edits=tuple(edits),
        edits_saved=tuple(saved),
    )


def _in_order(edits: Iterable[str]) -> list[str]:
    return [name for name in EDITS if name in edits]


def _load(source: files.JSON, folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(source))
    except Exception as cause:  # the library has no class of its own for them
        raise ValueError(f"{folder / 'tokenizer.json'} is no tokenizer: {cause}") from cause


def _check_names(tokenizer: Tokenizer, folder: Path, edits: Iterable[str]) -> dict[int, str]:
    """Returns the tokens by id; raises ValueError if edits cannot follow them."""
    ids, place = tokenizer.get_vocab(), folder / "tokenizer.json"
    if sorted(ids.values()) != [*range(len(ids))]:
        raise ValueError(f"the ids in {place} are not 0 to {len(ids) - 1}, each once")
    taken = [name for name in edits if name in ids]
    if taken:
        raise ValueError(f"{place} has a token {taken[0]} of its own: leave it out of config.edits")
    return {i: name for name, i in ids.items()}
