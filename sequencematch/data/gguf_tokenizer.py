"""The tokenizer of a GGUF file, the format of llama.cpp, as the files of a model directory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from sequencematch.data.tokenizer_files import TEMPLATE, bos_processor, fast_config

Get = Callable[..., Any]  # (key, default) -> value of a key of the file

# Kinds of token: two that no text has, the one of what has no token and of control, and one that is
# found before all others.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
SPACE = "▁"  # SentencePiece's

# How llama.cpp calls the ways to cut a text into words, from which merges do not reach out.
WORDS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
LLAMA3_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # endings
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"  # letters, after anything; three digits
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # signs; white space
)


def tokenizer_files(get: Get) -> dict[str, str]:
    """Name -> content of the files of a tokenizer, which `subword.read_tokenizer` reads.

    Args:
      get: (key, default) -> value of a key of the GGUF file, such as `tokenizer.ggml.tokens`.

    Raises:
      ValueError: it is a kind of tokenizer that is not built here.
    """
    kind = get("tokenizer.ggml.model", None)
    if kind not in MAKERS:
        raise ValueError(
            f"the tokenizer of the GGUF file is of the kind {kind!r}; these are read: "
            f"{', '.join(MAKERS)}"
        )
    tokenizer, tokens = MAKERS[kind](get), get("tokenizer.ggml.tokens")
    for special in (True, False):
        wanted = (UNKNOWN, CONTROL) if special else (USER_DEFINED,)
        found = [
            AddedToken(token, special=special, normalized=False)
            for token, each in zip(tokens, get("tokenizer.ggml.token_type"), strict=True)
            if each in wanted
        ]
        tokenizer.add_special_tokens(found) if special else tokenizer.add_tokens(found)
    return _texts(get, json.loads(tokenizer.to_str()), tokens, kind)


def _texts(get: Get, tokenizer: dict[str, Any], tokens: Sequence[str], kind: str) -> dict[str, str]:
    ids = {name: get(f"tokenizer.ggml.{key}_token_id", None) for name, key in SPECIAL.items()}
    names = {name: tokens[i] for name, i in ids.items() if i is not None}
    # Where a file does not say, llama.cpp writes <bos> for SentencePiece and for Llama 3.
    usual = kind == "llama" or get("tokenizer.ggml.pre", None) == "llama-bpe"
    adds_bos = bool(get("tokenizer.ggml.add_bos_token", usual)) and "bos_token" in names
    if adds_bos:
        tokenizer["post_processor"] = bos_processor(names["bos_token"], ids["bos_token"])
    config = fast_config({"model_max_length": get("llama.context_length", None)}, names, adds_bos)
    found = {"tokenizer.json": tokenizer, "tokenizer_config.json": config}
    texts = {name: json.dumps(x, ensure_ascii=False) + "\n" for name, x in found.items()}
    template = get("tokenizer.chat_template", None)
    return texts if template is None else texts | {TEMPLATE: template}


SPECIAL = {
    "bos_token": "bos",
    "eos_token": "eos",
    "pad_token": "padding",
    "unk_token": "unknown",
}


def byte_level(get: Get) -> Tokenizer:
    """A tokenizer like GPT-2's: bytes, merged within words.

    Raises:
      ValueError: words are cut in a way that is not built here.
    """
    words = get("tokenizer.ggml.pre", None)
    if words not in WORDS:
        raise ValueError(
            f"the tokenizer of the GGUF file cuts words as {words!r}; these ways are known: "
            f"{', '.join(WORDS)}"
        )
    ids = {token: i for i, token in enumerate(get("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in get("tokenizer.ggml.merges")]
    # Llama 3 takes a word that is a token whole, even where no merges lead to it.
    result = Tokenizer(models.BPE(ids, merges, ignore_merges=words == "llama-bpe"))
    result.pre_tokenizer = WORDS[words]()
    result.decoder = decoders.ByteLevel()
    return result


def sentence_piece(get: Get) -> Tokenizer:
    """A tokenizer like Llama 2's: characters, merged by score; bytes for what has no token."""
    tokens, scores = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.scores")
    unknown = tokens[get("tokenizer.ggml.unknown_token_id", 0)]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = [*_merges_by_score(ids, scores)]
    result = Tokenizer(
        models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces = [normalizers.Replace(" ", SPACE)]
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if get("tokenizer.ggml.add_space_prefix", True):
        spaces, undo = [normalizers.Prepend(SPACE), *spaces], [*undo, decoders.Strip(" ", 1, 0)]
    result.normalizer = normalizers.Sequence(spaces)
    result.decoder = decoders.Sequence(undo)
    return result


def _merges_by_score(ids: Mapping[str, int], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """All pairs of tokens whose text is a token, those of the highest score first."""
    by_score = sorted(ids, key=lambda token: -scores[ids[token]])
    for token in by_score:
        pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
        yield from sorted(
            (pair for pair in pairs if pair[0] in ids and pair[1] in ids),
            key=lambda pair: (ids[pair[0]], ids[pair[1]]),
        )


MAKERS: Mapping[str, Callable[[Get], Tokenizer]] = {"gpt2": byte_level, "llama": sentence_piece}
