import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sequencematch.data.episodes import answer_ids, prompt_ids
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.task import character_ids
from sequencematch.data.tokenizer import EDITS
from sequencematch.data.tokenizer_files import generation_config
from tests.data import tokenizer_folders as folders

MAKERS = {"bytes": folders.byte_level, "pieces": folders.sentence_piece}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {name: make(root / name) for name, make in MAKERS.items()}


@pytest.fixture(scope="module", params=MAKERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(directory, name):
    return read_tokenizer(directory[name], ("<reset>", "<bkspc>"))


@pytest.fixture(scope="module")
def library(directory, name):
    return Tokenizer.from_file(str(directory[name] / "tokenizer.json"))


@pytest.fixture
def bytes_folder(tmp_path):
    return folders.byte_level(tmp_path / "bytes")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(" thecat12+=\n")


@given(texts)
def test_texts_come_back(tokenizer, text):
    ids = tokenizer.encode_within(text)
    assert tokenizer.decode(ids) == text
    assert set(ids) <= set(tokenizer.ordinary)
    assert tokenizer.decode([*ids, *tokenizer.pops, tokenizer.eos]) == text


@given(texts)
def test_prompts_come_back_and_have_the_ids_of_the_library(tokenizer, library, text):
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    if ids and tokenizer.bos is not None:
        assert tokenizer.decode(prompt_ids(tokenizer, text)) == text
        assert prompt_ids(tokenizer, text) == library.encode(text).ids


@given(texts, texts)
def test_what_follows_a_prompt_is_the_text(tokenizer, prompt, text):
    assert tokenizer.decode(answer_ids(tokenizer, prompt, text).ids) == text


@given(texts)
def test_what_follows_a_special_token_is_the_text(tokenizer, text):
    """The library adds a space there where it writes one before a text."""
    (end,) = tokenizer.symbols([tokenizer.eos])
    assert tokenizer.decode(answer_ids(tokenizer, f"the{end}", text).ids) == text


@pytest.mark.parametrize(
    ("prompt", "text", "apart"),
    [("the ", "cat", True), ("the", " cat", False), ("12+", "12", False), ("th", "e", True)],
)
def test_a_prompt_may_join_with_its_answer(tokenizer, prompt, text, apart):
    answer = answer_ids(tokenizer, prompt, text)
    assert answer.is_apart == apart and tokenizer.decode(answer.ids) == text


def test_symbols_are_different_and_name_every_id(tokenizer):
    ids = [*range(tokenizer.vocab_size)]
    symbols = tokenizer.symbols(ids)
    assert len(set(symbols)) == len(ids) and tokenizer.parse(symbols) == ids
    assert tokenizer.symbols(tokenizer.pops) == ["<bkspc>", "<reset>"]
    assert tokenizer.symbols(tokenizer.encode_within("the cat")) == ["the", " cat"] or (
        tokenizer.symbols(tokenizer.encode_within("the cat")) == ["t", "he", " cat"]
    )


def test_edits_have_the_last_ids_and_change_no_other(directory, name):
    few, many = (read_tokenizer(directory[name], edits) for edits in (("<bkspc>",), EDITS))
    assert few.own_size == many.own_size == many.vocab_size - len(EDITS)
    assert [*many.pops] == [*range(many.own_size, many.vocab_size)]
    assert many.pops == {many.own_size + i: pops for i, pops in enumerate(EDITS.values())}
    assert few.encode("the cat") == many.encode("the cat")
    assert few.fingerprint != many.fingerprint
    assert len(few.encode("<bkspc>")) > 1 and set(few.encode("<bkspc>")).isdisjoint(few.pops)


def test_special_tokens_are_no_part_of_texts(directory):
    of_bytes, of_pieces = (read_tokenizer(directory[name]) for name in MAKERS)
    assert (of_bytes.bos, of_bytes.eos, of_bytes.pad) == (None, 0, 0)
    assert (of_pieces.bos, of_pieces.eos, of_pieces.pad) == (1, 2, 2)
    assert {0, 1}.isdisjoint(of_bytes.ordinary) and {0, 1, 2}.isdisjoint(of_pieces.ordinary)
    # An added token that is not special is found in texts, and is a part of them.
    (think,) = of_bytes.encode("<think>")
    assert think in of_bytes.ordinary and of_bytes.decode([think]) == "<think>"
    assert of_bytes.encode("a<start>")[-1] == 1 and of_bytes.decode([1]) == ""


def test_characters_are_ids_without_a_space_before_them(tokenizer):
    assert tokenizer.symbols(character_ids("12")(tokenizer)) == ["1", "2"]


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_unknown_ids_and_symbols_are_named(tokenizer, unknown):
    for function in (tokenizer.decode, tokenizer.symbols):
        with pytest.raises(ValueError, match=rf"^unknown ids \[{unknown}\]"):
            function([5, unknown])
    with pytest.raises(ValueError, match=r"^unknown symbols \['the cat'\]"):
        tokenizer.parse(["the cat"])


def test_a_cut_character_is_decoded_all_the_same(tokenizer):
    ids = tokenizer.encode_within("é")
    assert len(ids) == 2 and tokenizer.decode(ids[:1]) == "\ufffd"


def test_characters_without_ids_are_named(tmp_path):
    known = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    tokenizer = read_tokenizer(folders.byte_level(tmp_path, alphabet=known))
    assert tokenizer.decode(tokenizer.encode("a cat\n")) == "a cat\n"
    with pytest.raises(ValueError, match=r"^the model has no ids for \['é'\] of 'aé'$"):
        tokenizer.encode("aé")


def test_half_a_surrogate_pair_has_no_ids(tokenizer):
    with pytest.raises(ValueError, match=r"^'\\ud800' is no text"):
        tokenizer.encode("\ud800")


# Files


def test_saved_is_the_same_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path, tokenizer.edits)
    assert again.files() == tokenizer.files() and again.edit_rows == [*range(len(again.pops))]
    assert again.fingerprint == tokenizer.fingerprint and again.pops == tokenizer.pops
    assert (again.bos, again.eos, again.pad) == (tokenizer.bos, tokenizer.eos, tokenizer.pad)
    # Other edits than the saved ones take the same first ids, and have no rows yet.
    others = read_tokenizer(tmp_path, ("<bkspc2>",))
    assert [*others.pops] == [tokenizer.own_size] and others.edit_rows == [None]


def test_a_saved_edit_has_its_row_whatever_edits_are_beside_it(bytes_folder, tmp_path):
    read_tokenizer(bytes_folder, ("<bkspc>", "<bkspc2>")).save(tmp_path)
    assert read_tokenizer(tmp_path, ("<bkspc2>",)).edit_rows == [1]
    assert read_tokenizer(tmp_path, ("<reset>",)).edit_rows == [None]
    assert read_tokenizer(tmp_path, ("<bkspc2>", "<bkspc4>", "<bkspc>")).edit_rows == [0, 1, None]


def test_the_library_reads_saved_edits_with_their_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "the cat<bkspc>"
    assert library.encode(text, add_special_tokens=False).ids == [
        *tokenizer.encode("the cat"),
        tokenizer.own_size,
    ]
    assert library.get_vocab_size() == tokenizer.vocab_size


def test_the_tokenizers_files_win_over_the_models(bytes_folder):
    def eos():
        return read_tokenizer(bytes_folder).eos

    folders.change(bytes_folder, "config", eos_token_id=5)
    assert eos() == 5
    folders.change(bytes_folder, "generation_config", eos_token_id=[6, 7])
    assert eos() == 6
    folders.change(bytes_folder, "special_tokens_map", eos_token="<start>")
    assert eos() == 1
    folders.change(bytes_folder, "tokenizer_config", eos_token={"content": "<end>"})
    assert eos() == 0
    folders.change(bytes_folder, "tokenizer_config", eos_token="<none>")
    assert eos() == 1


@pytest.mark.parametrize("says", [True, False])
def test_bos_comes_first_where_the_configuration_says_so(directory, name, tmp_path, says):
    for path in directory[name].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    folders.change(tmp_path, "special_tokens_map", bos_token="<start>")
    tokenizer = read_tokenizer(folders.change(tmp_path, "tokenizer_config", add_bos_token=says))
    assert tokenizer.bos == (1 if says else None)
    tokenizer.save(tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("the").ids == prompt_ids(tokenizer, "the")


def test_lengths_of_an_earlier_use_are_not_kept(bytes_folder):
    path = bytes_folder / "tokenizer.json"
    library = Tokenizer.from_file(str(path))
    library.enable_truncation(1)
    library.enable_padding(length=8)
    library.save(str(path))
    assert len(read_tokenizer(bytes_folder).encode("the cat")) == 2


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer.json: name a directory"):
        read_tokenizer(tmp_path)


def test_a_sentencepiece_model_is_refused_with_how_to_convert_it(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"has tokenizer.model but no tokenizer.json.*save_pretr"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [("{", "is damaged"), ("[]", "must hold a JSON object"), ('{"model": 3}', "is no tokenizer")],
)
def test_a_damaged_file_is_named(bytes_folder, content, fault):
    (bytes_folder / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer.json {fault}"):
        read_tokenizer(bytes_folder)


def test_an_end_must_be_known(bytes_folder):
    (bytes_folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"says which token ends a text \(eos_token\)$"):
        read_tokenizer(bytes_folder)


def test_a_token_named_as_an_edit_is_refused_where_it_is_no_last_one(tmp_path):
    folder = folders.byte_level(tmp_path, tokens=("<end>", "<reset>"))
    assert read_tokenizer(folder).symbols([1]) == ["<reset>"]
    with pytest.raises(ValueError, match="has a token <reset> of its own: leave it out of"):
        read_tokenizer(folder, ("<reset>",))


def test_generation_is_kept_from_what_is_never_chosen(tokenizer):
    found = generation_config(tokenizer, rows := tokenizer.vocab_size + 3)
    assert found["eos_token_id"] == tokenizer.eos and found.get("bos_token_id") == tokenizer.bos
    suppressed = set(found["suppress_tokens"])
    assert suppressed == {*range(rows)} - {*tokenizer.ordinary, tokenizer.eos}
    assert {*tokenizer.pops, rows - 1} <= suppressed


# Chats

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_the_template_writes_prompts_of_chats(tmp_path):
    folder = folders.sentence_piece(tmp_path)
    assert read_tokenizer(folder).template is None
    with pytest.raises(ValueError, match="^the model has no chat template"):
        read_tokenizer(folder).chat_prompt([])
    folders.change(folder, "tokenizer_config", chat_template=TEMPLATE)
    tokenizer = read_tokenizer(folder)
    turns = [{"role": "user", "content": "the cat"}]
    # <bos> comes before every prompt, so the template's own is left out; </s> has its id.
    text = tokenizer.chat_prompt(turns)
    assert text == "[user] the cat</s>[assistant] "
    assert prompt_ids(tokenizer, text).count(tokenizer.eos) == 1
    assert json.loads(tokenizer.files()["tokenizer_config.json"])["bos_token"] == "<s>"
    (folder / "chat_template.jinja").write_text("other")
    assert read_tokenizer(folder).chat_prompt(turns) == "other"
    tokenizer.save(folder)
    assert read_tokenizer(folder).chat_prompt(turns) == text
