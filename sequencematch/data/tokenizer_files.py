"""A tokenizer's files in a model directory: read, and changed as plain JSON."""

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from sequencematch.data.tokenizer import EDITS, Tokenizer

JSON = dict[str, Any]

# What else may decide about special tokens and chats. None of these has to be there.
SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
TEMPLATE = "chat_template.jinja"
# Keys of tokenizer_config.json that say something of the texts, whatever class reads it.
_KEPT = ("model_max_length", "padding_side", "truncation_side")
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")

# What a part of tokenizer.json says if no space is written before a text, or taken away from it.
_NO_SPACE: Mapping[str, JSON] = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
    "Strip": {"start": 0},
}
_PARTS = ("normalizers", "pretokenizers", "decoders")  # of a Sequence


def read_json(path: Path) -> JSON:
    """The JSON object of a file; an empty one if there is no such file.

    Raises:
      ValueError: it is damaged.
      OSError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as cause:
        raise ValueError(f"{path} is damaged, or no JSON: {cause}") from cause
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(found).__name__}")
    return found


def read_tokenizer_json(folder: Path) -> JSON:
    """The content of a model directory's tokenizer.json.

    Raises:
      ValueError: it is missing or damaged; says how another form of tokenizer is converted.
      OSError: it cannot be read.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_json(path)
    others = [name for name in ("tokenizer.model", "vocab.json") if (folder / name).is_file()]
    if not others:
        raise ValueError(f"{folder} has no tokenizer.json: name a directory with a whole model")
    convert = (
        "from transformers import AutoTokenizer as A; "
        f"A.from_pretrained('{folder}').save_pretrained('{folder}')"
    )
    raise ValueError(
        f"{folder} has {others[0]} but no tokenizer.json, which alone is read: make it with "
        f'`pip install transformers sentencepiece` and `python -c "{convert}"`'
    )


def split_edits(tokenizer: JSON) -> tuple[JSON, list[str]]:
    """Returns (tokenizer.json without the edits that are its last ids, their names by id)."""
    tokens = sorted(tokenizer.get("added_tokens") or [], key=operator.itemgetter("id"))
    names = [token["content"] for token in tokens]
    own = max((i + 1 for i, name in enumerate(names) if name not in EDITS), default=0)
    return tokenizer | {"added_tokens": tokens[:own]}, names[own:]


def add_edits(tokenizer: JSON, edits: Sequence[str], first: int) -> JSON:
    """tokenizer.json with edits as special tokens, from id `first` on; the inverse of `split_edits`."""
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    added = [
        {"id": first + i, "content": name, **dict.fromkeys(flags, False), "special": True}
        for i, name in enumerate(edits)
    ]
    return tokenizer | {"added_tokens": [*(tokenizer.get("added_tokens") or []), *added]}


def without_prefix(tokenizer: JSON) -> JSON:
    """tokenizer.json of texts that are not the first: no space is written before them.

    SentencePiece writes one before a text, and takes it away again when it decodes.
    """
    sections = ("normalizer", "pre_tokenizer", "decoder")
    return tokenizer | {name: _plain(tokenizer.get(name)) for name in sections}


def _plain(part: JSON | None) -> JSON | None:
    if part is None or part["type"] == "Prepend":
        return None
    changed = {
        key: [plain for inner in part[key] if (plain := _plain(inner))]
        for key in _PARTS
        if key in part
    }
    # The older form of a Metaspace says it by another key, and some Strip belongs to a normalizer.
    old = "add_prefix_space" if part["type"] == "Metaspace" else ""
    no_space = {} if "strip_left" in part else _NO_SPACE.get(part["type"], {})
    return {k: v for k, v in part.items() if k != old} | changed | no_space


def lost_bytes(tokenizer: JSON, pieces: Iterable[str]) -> frozenset[int]:
    """The bytes of UTF-8 that have no token, and would be left out of a text without a word.

    SmolLM2 has none for 21 of 256. A tokenizer of characters writes an unknown token, or bytes.

    Args:
      tokenizer: tokenizer.json.
      pieces: its tokens.
    """
    if '"ByteLevel"' not in json.dumps(tokenizer.get("pre_tokenizer")):
        return frozenset()
    # Every byte that UTF-8 has; `tokenizers` writes each as a character.
    codes = [*range(0x800), *range(0x800, 0xD800, 0x800), *range(0xE000, 0x110000, 0x800)]
    text, known = "".join(map(chr, codes)), set(pieces)
    cut = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    written = "".join(word for word, _ in cut)
    return frozenset(b for b, c in zip(text.encode(), written, strict=True) if c not in known)


def unknown_id(model: JSON) -> int | None:
    """The id that the section `model` of tokenizer.json has for what has none; None without one."""
    if "unk_id" in model:  # of Unigram
        return model["unk_id"]
    return model["vocab"].get(model.get("unk_token"))


def settle_bos(
    source: JSON, tokenizer: tokenizers.Tokenizer, bos: str | None, config: JSON
) -> tuple[JSON, bool]:
    """Returns tokenizer.json, and whether <bos> comes before a text; from now on it says so itself.

    tokenizer_config.json may say otherwise by `add_bos_token`, and then it is right.
    """
    ids, plain = (tokenizer.encode("a", add_special_tokens=adds).ids for adds in (True, False))
    does_add = bos is not None and ids[:1] == [tokenizer.token_to_id(bos)] != plain[:1]
    adds = bool(config.get("add_bos_token", does_add)) and bos is not None
    if adds == does_add:
        return source, adds
    processor = bos_processor(bos, tokenizer.token_to_id(bos)) if adds else None
    return source | {"post_processor": processor}, adds


def bos_processor(bos: str, bos_id: int) -> JSON:
    """`post_processor` of tokenizer.json that writes <bos> before a text."""
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [special, text],
        "pair": [special, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def special_names(side: Mapping[str, JSON], pieces: Mapping[int, str]) -> dict[str, str | None]:
    """Which tokens are those of `TOKENS`; None for one that nothing says.

    The tokenizer's own files win, since chats end as they say: tokenizer_config.json, then
    special_tokens_map.json. Then come the model's, generation_config.json and config.json; where they
    list several, the first. What names no token of the tokenizer is passed over.

    Args:
      side: the JSON of each of `SIDE_FILES`.
      pieces: the tokens by id.
    """
    known, found = set(pieces.values()), {}
    for name in TOKENS:
        named = [side[file].get(name) for file in SIDE_FILES[:2]]
        texts = [token.get("content") if isinstance(token, dict) else token for token in named]
        numbers = [side[file].get(f"{name}_id") for file in SIDE_FILES[2:]]
        firsts = [number[:1] if isinstance(number, list) else [number] for number in numbers]
        texts += [pieces.get(i) for first in firsts for i in first if isinstance(i, int)]
        found[name] = next((t for t in texts if isinstance(t, str) and t in known), None)
    return found


def chat_template(folder: Path, config: JSON) -> str | None:
    """The template that writes chats, from its file or from tokenizer_config.json; None without one.

    Raises:
      OSError, ValueError: it cannot be read.
    """
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {each["name"]: each["template"] for each in found}.get("default")
    return found


def fast_config(config: JSON, names: Mapping[str, str | None], adds_bos: bool) -> JSON:
    """The tokenizer_config.json that makes transformers read tokenizer.json as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{key: config[key] for key in _KEPT if config.get(key) is not None},
        **{name: token for name, token in names.items() if token is not None},
        "add_bos_token": adds_bos,
    }


def generation_config(tokenizer: Tokenizer, rows: int) -> JSON:
    """The generation_config.json of an exported model, which `generate()` of transformers follows.

    It keeps from it what the model was not trained to choose, and edits, which it cannot follow.

    Args:
      tokenizer: the model's.
      rows: number of ids that have a logit.
    """
    chosen = {tokenizer.eos, *tokenizer.ordinary}
    ids = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad}
    found = {f"{name}_token_id": i for name, i in ids.items() if i is not None}
    return found | {"suppress_tokens": [i for i in range(rows) if i not in chosen]}
