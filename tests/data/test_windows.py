"""Windows of documents and of streams: nothing is lost or torn, and what ends has room for its end."""

import numpy as np
import pytest

from sequencematch.data.episodes import answer_ids, clean_ids
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer
from sequencematch.data.windows import (
    Stream,
    begin_with_words,
    cut_windows,
    open_questions,
    starts_of,
)
from tests.data import tokenizer_folders

LETTERS = "ab c\né€𝄞12 "
TEXTS = ["that cat", "é" * 9, "𝄞a€", "", "a"] + [
    "".join(np.random.default_rng(i).choice([*LETTERS], size=i)) for i in range(1, 60, 7)
]
NOTES = "".join(f" {chr(0x1D100 + i)}" for i in range(64))
TEXTS += [NOTES, "the cat" + " the cat" * 9]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder, across, pieces = (tmp_path_factory.mktemp(name) for name in ("a", "b", "c"))
    tokenizer_folders.byte_level(folder)
    # Of so many characters not all have a token: some have one for the space before and their first
    # bytes.
    tokenizer_folders.byte_level(across, texts=[NOTES] * 3)
    tokenizer_folders.sentence_piece(pieces)
    return {
        "characters": CharTokenizer("".join(TEXTS)),
        "bytes": ByteTokenizer(),
        "subwords": read_tokenizer(folder),
        "subwords across characters": read_tokenizer(across),
        "sentence pieces": read_tokenizer(pieces),
    }


@pytest.mark.parametrize(
    "kind", ["characters", "bytes", "subwords", "subwords across characters", "sentence pieces"]
)
@pytest.mark.parametrize(("window", "context"), [(8, 0), (8, 5), (9, 20), (64, 3), (0, 4)])
def test_windows_tile_a_document(tokenizers, kind, window, context):
    tokenizer = tokenizers[kind]
    for text, starts in zip(TEXTS, starts_of(tokenizer)(TEXTS), strict=True):
        found = [*cut_windows(text, starts, window, context)]
        assert "".join(each.completion for each in found) == text
        assert [each.cut for each in found] == [True] * (len(found) - 1) + [False] * bool(found)
        before = ""
        for each in found:
            assert before.endswith(each.prompt) and bool(each.prompt) == bool(before and context)
            assert not window or len(clean_ids(tokenizer, each)) <= window
            before += each.completion
        questions = [*open_questions(text, starts, window, context)]
        asked = "".join(each.prompt + each.completion for each in questions)
        assert text.startswith(asked) and all(each.completion for each in questions)
        assert all(bool(each.prompt) == bool(context) for each in questions)
        assert all(each.cut for each in questions[:-1])
        if questions:
            # What is left is no whole question; one alone takes all of a short document.
            assert questions[-1].cut or asked == text
            assert questions[0].cut == (asked != text) or len(questions) > 1
            assert not window or len(next(starts_of(tokenizer)([text[len(asked) :]]))) <= (
                context + window + 4
            )
        else:
            # Too short, or a prompt would tear its first character.
            assert len(starts) - 1 <= context + 3 or len(text[0].encode()) > context > 0


def test_whole_characters_fill_a_window_but_for_what_would_tear_one(tokenizers):
    (starts,) = starts_of(tokenizers["bytes"])(["aé€" * 5])
    sizes = [len(x.completion.encode()) for x in cut_windows("aé€" * 5, starts, 8, 0)]
    assert sum(sizes) == 30 and all(6 <= size <= 8 for size in sizes[:-1])


def test_ids_of_a_window_are_those_of_the_document(tokenizers):
    """So a model of windows is a model of the texts."""
    tokenizer, text = tokenizers["subwords"], "that cat sat on that mat, that cat " * 3
    (starts,) = starts_of(tokenizer)([text])
    ids = [
        i
        for x in cut_windows(text, starts, 8, 0)
        for i in answer_ids(tokenizer, "", x.completion).ids
    ]
    assert ids == answer_ids(tokenizer, "", text).ids


@pytest.mark.parametrize("cut", [cut_windows, open_questions])
def test_prompts_inside_a_document_have_its_tokens_where_a_space_is_written_first(tokenizers, cut):
    """Else a word's end would be read as a word, and a space before a word twice."""
    pieces = tokenizers["sentence pieces"]
    assert pieces.writes_space and not tokenizers["subwords"].writes_space
    text = "the cat sat on 12 mats and  not on the 12 hats, the cat ate " * 6
    (starts,) = starts_of(pieces)([text])
    plain = [*cut(text, starts, 7, 6)]
    found = [*begin_with_words(text, plain)]
    assert [x.completion for x in found] == [x.completion for x in plain]
    ids, places = pieces.encode_within(text), [starts[i] for i in range(len(starts))]
    place = exact = 0
    for before, after in zip(plain, found, strict=True):
        place += len(before.prompt) * (cut is open_questions)
        token = places.index(place)
        place += len(before.completion)
        assert before.prompt.endswith(after.prompt)
        if " " in before.prompt and before.prompt != text[: len(before.prompt)]:
            asked = pieces.encode(after.prompt)
            assert asked == ids[token - len(asked) : token]
            assert len(asked) <= 6
            exact += 1
    assert exact > 10
    assert found[1].prompt and found[0] == plain[0]


def in_a_stream(tokenizer, texts, window, context):
    stream = Stream("|", window, context)
    pairs = zip(texts, starts_of(tokenizer)(texts), strict=True)
    return [*(x for pair in pairs for x in stream.cut(*pair)), *stream.end()]


@pytest.mark.parametrize(("window", "context"), [(8, 0), (8, 5), (9, 20), (64, 3), (1000, 4)])
def test_windows_of_a_stream_are_those_of_the_concatenation(tokenizers, window, context):
    """The oracle has all tokens in one list: those of the documents, and a separator between two."""
    texts = [text for text in TEXTS if text]
    subwords = tokenizers["subwords"]
    # Subwords are divided as each document is on its own; characters are in one text too.
    pieces = [subwords.symbols(subwords.encode_within(text)) for text in ascii_only(texts)]
    for tokenizer, documents, tokens in (
        (tokenizers["characters"], texts, [*"|".join(texts)]),
        (subwords, ascii_only(texts), [*join(pieces, "|")]),
    ):
        expected = [
            ("".join(tokens[max(i - context, 0) : i]), "".join(tokens[i : i + window]))
            for i in range(0, len(tokens), window)
        ]
        found = in_a_stream(tokenizer, documents, window, context)
        assert [(x.prompt, x.completion) for x in found] == expected
        assert all(x.cut for x in found)


def ascii_only(texts):
    """Texts whose tokens are whole characters."""
    return ["".join(c for c in text if c.isascii()) + "." for text in texts]


def join(lists, separator):
    """All elements, a separator between two lists."""
    for i, each in enumerate(lists):
        yield from [separator] * (i > 0)
        yield from each


def test_windows_of_a_stream_tear_no_character(tokenizers):
    texts = [text for text in TEXTS if text]
    found = in_a_stream(tokenizers["bytes"], texts, 8, 5)
    assert "".join(x.completion for x in found) == "|".join(texts)
    assert all(5 <= len(x.completion.encode()) <= 8 for x in found[:-1])


def test_an_empty_stream_has_no_windows():
    assert [*Stream("|", 8, 4).end()] == []


@pytest.mark.parametrize("kind", ["characters", "bytes", "subwords"])
def test_without_a_bos_no_prompt_is_empty_and_all_but_the_first_character_is_learnt(
    tokenizers, kind
):
    tokenizer, texts = tokenizers[kind], [text for text in TEXTS if len(text) > 1]
    for text, starts in zip(texts, starts_of(tokenizer)(texts), strict=True):
        found = [*cut_windows(text, starts, 8, 5, first=1)]
        stream = Stream("|", 8, 5, first=1)
        others = [*stream.cut(text, starts), *stream.end()]
        for windows in (found, others):
            whole = windows[0].prompt + "".join(x.completion for x in windows)
            assert whole == text and all(x.prompt for x in windows)
        assert len(found[0].prompt) <= 4
    assert [*cut_windows("a", (0, 1), 8, 5, first=1)] == []
