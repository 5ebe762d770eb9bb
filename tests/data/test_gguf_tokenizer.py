import json

import pytest
from tokenizers import Tokenizer

from sequencematch.data.gguf_tokenizer import tokenizer_files
from sequencematch.data.subword import read_tokenizer
from tests.data import tokenizer_folders as folders

TEXTS = ["", "the cat sat", " the  cat", "12+123=135", "thé\ncat", "a<s>b", "tab\tthe"]


def facts_of(folder, kind, **others):
    """What a GGUF file would say of a tokenizer: its tokens, their kinds, and merges or scores."""
    source = json.loads((folder / "tokenizer.json").read_text())
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = sorted(library.get_vocab(), key=library.token_to_id)
    kinds = [1] * len(tokens)
    for token in source["added_tokens"]:
        kinds[token["id"]] = 3 if token["special"] else 4
    merges = source["model"]["merges"]
    ranks = {"".join(pair): rank for rank, pair in reversed([*enumerate(merges)])}
    facts = {
        "model": kind,
        "tokens": tokens,
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in merges],
        "scores": [-ranks.get(token, len(merges)) for token in tokens],
        **others,
    }
    found = {f"tokenizer.ggml.{key}": value for key, value in facts.items()}
    return lambda key, default=None: found.get(key, default)


def read_files(texts, folder):
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return read_tokenizer(folder)


@pytest.fixture
def byte_facts(tmp_path):
    folder = folders.byte_level(tmp_path / "bytes")
    return lambda **others: facts_of(folder, "gpt2", pre="smollm", eos_token_id=0, **others)


def test_bytes_have_the_ids_of_the_original(byte_facts, tmp_path):
    made = read_files(tokenizer_files(byte_facts()), tmp_path / "made")
    original = read_tokenizer(tmp_path / "bytes")
    assert [made.encode(text) for text in TEXTS] == [original.encode(text) for text in TEXTS]
    assert made.encode("a<think>")[1:] == original.encode("<think>")
    assert [*made.ordinary] == [*original.ordinary] and (made.bos, made.eos) == (None, 0)


def test_the_token_of_what_has_none_is_no_token_of_a_text(tmp_path):
    folder = folders.sentence_piece(tmp_path / "pieces")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    get = facts_of(folder, "llama", **ids)
    kinds = get("tokenizer.ggml.token_type").copy()
    kinds[0] = 2  # as llama.cpp writes it
    made = tokenizer_files(lambda key, d=None: kinds if key.endswith("token_type") else get(key, d))
    assert 0 not in read_files(made, tmp_path / "made").ordinary


def test_scores_say_what_merges_said(tmp_path):
    folder = folders.sentence_piece(tmp_path / "pieces")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    made = read_files(tokenizer_files(facts_of(folder, "llama", **ids)), tmp_path / "made")
    original = read_tokenizer(folder)
    for text in TEXTS:
        assert made.encode(text) == original.encode(text)
        assert made.encode_within(text) == original.encode_within(text)
    assert (made.bos, made.eos) == (1, 2)


def test_a_file_may_say_that_nothing_is_written_before_a_text(tmp_path):
    folder = folders.sentence_piece(tmp_path / "pieces")
    says = {"add_space_prefix": False, "add_bos_token": False, "bos_token_id": 1, "eos_token_id": 2}
    made = read_files(tokenizer_files(facts_of(folder, "llama", **says)), tmp_path / "made")
    assert made.bos is None
    assert made.encode("the cat") == read_tokenizer(folder).encode_within("the cat")


# What the cuts are told apart by: how digits are cut, and what a sign may begin.
@pytest.mark.parametrize(
    ("words", "text", "cut"),
    [
        ("gpt-2", "ab 1234 (x", ["ab", "Ġ1234", "Ġ(", "x"]),
        ("smollm", "ab 1234 (x", ["ab", "Ġ", "1", "2", "3", "4", "Ġ(", "x"]),
        ("llama-bpe", "ab 1234 (x", ["ab", "Ġ", "123", "4", "Ġ(", "x"]),
        ("llama-bpe", "WE'LL\n\n  go(on", ["WE", "'LL", "ĊĊ", "Ġ", "Ġgo", "(on"]),
    ],
)
def test_words_are_cut_as_their_name_says(byte_facts, words, text, cut):
    def get(key, default=None):
        return words if key == "tokenizer.ggml.pre" else byte_facts()(key, default)

    made = Tokenizer.from_str(tokenizer_files(get)["tokenizer.json"])
    assert [word for word, _ in made.pre_tokenizer.pre_tokenize_str(text)] == cut


@pytest.mark.parametrize(("words", "bos"), [("smollm", None), ("llama-bpe", 1)])
def test_where_a_file_does_not_say_llama_3_begins_with_bos(byte_facts, tmp_path, words, bos):
    def get(key, default=None):
        return words if key == "tokenizer.ggml.pre" else byte_facts(bos_token_id=1)(key, default)

    assert read_files(tokenizer_files(get), tmp_path / "made").bos == bos


def test_the_chat_template_is_kept(byte_facts):
    def get(key, default=None):
        return "{{ x }}" if key == "tokenizer.chat_template" else byte_facts()(key, default)

    assert tokenizer_files(get)["chat_template.jinja"] == "{{ x }}"
    assert set(tokenizer_files(byte_facts())) == {"tokenizer.json", "tokenizer_config.json"}


@pytest.mark.parametrize(("key", "known"), [("model", "gpt2, llama"), ("pre", "gpt-2, smollm,")])
def test_other_kinds_are_refused_with_a_list(byte_facts, key, known):
    def get(asked, default=None):
        return "other" if asked == f"tokenizer.ggml.{key}" else byte_facts()(asked, default)

    with pytest.raises(ValueError, match=f"'other'; these .*: {known}"):
        tokenizer_files(get)
