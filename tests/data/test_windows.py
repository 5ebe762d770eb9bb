"""Windows of documents: nothing is lost, nothing is torn, and each has room for its end."""

import numpy as np
import pytest

from sequencematch.data.episodes import answer_ids, clean_ids
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer
from sequencematch.data.windows import cut_windows, open_question, starts_of
from tests.data import tokenizer_folders

LETTERS = "ab c\né€𝄞12 "
TEXTS = ["that cat", "é" * 9, "𝄞a€", "", "a"] + [
    "".join(np.random.default_rng(i).choice([*LETTERS], size=i)) for i in range(1, 60, 7)
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tokenizer_folders.byte_level(tmp_path_factory.mktemp("subwords"))
    return {
        "characters": CharTokenizer("".join(TEXTS)),
        "bytes": ByteTokenizer(),
        "subwords": read_tokenizer(folder),
    }


@pytest.mark.parametrize("kind", ["characters", "bytes", "subwords"])
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
        question = open_question(text, starts, window, context)
        if question is not None:
            assert text.startswith(question.prompt + question.completion) and question.completion
            assert question.cut == (question.prompt + question.completion != text)
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
