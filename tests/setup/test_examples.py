"""How the examples of a run are made of its data and its model."""

import json

import pytest

from sequencematch.data.saved import read_questions
from sequencematch.data.task import Example
from sequencematch.data.tasks import check_harmless, load_task
from sequencematch.setup.defaults import defaults
from sequencematch.setup.examples import (
    chat_writer,
    chats_of,
    check_questions,
    load_data,
    task_data,
)
from tests.data import tokenizer_folders
from tests.data.doubling import TASK, TOKENIZER
from tests.models.pretrained import tiny
from tests.setup.configs import config_with, valid_config_with

TURNS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]"


@pytest.fixture
def config(tmp_path):
    """Of a file of twenty chats, and of a tiny model."""
    folder = tokenizer_folders.byte_level(tmp_path)
    tiny.write(folder, tiny.CASES["llama"] | {"vocab_size": 300, "eos_token_id": 0})
    chats = [[{"role": "user", "content": f"{i}+2?"}, TURNS[1]] for i in range(20)]
    lines = [json.dumps({"messages": chat}) for chat in chats]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    changes = {"task": "jsonl", "data.path": str(tmp_path / "chats.jsonl"), "data.train": 0}
    changes |= {"data.fields": "messages", "data.validation": 2, "data.test": 2}
    changes |= {"prompt_slots": 0, "max_actions": 0, "evaluate.max_actions": 0}
    return valid_config_with(changes | {"model.path": str(tmp_path)})


def first_prompt(config):
    task, tokenizer, _ = load_data(config.copy_and_resolve_references())  # sizes are set in it
    return task.splits["train"][0].prompt, tokenizer


def test_chats_are_written_by_the_models_template_where_there_is_one(config, tmp_path):
    assert first_prompt(config)[0].startswith("user: ")
    tokenizer_folders.change(tmp_path, "tokenizer_config", chat_template=TEMPLATE)
    prompt, tokenizer = first_prompt(config)
    assert prompt.startswith("[user]") and prompt.endswith("+2?[answer]")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"messages": TURNS}))
    (question,) = read_questions(questions, "messages", chat_writer(tokenizer))
    assert (question.prompt, question.completion) == ("[user]2+2?[answer]", "4")
    # Those who ask are read as the chats were.
    assert chats_of(config, tokenizer)(TURNS[:1]) == question.prompt
    config.data.fields = "question"
    assert chats_of(config, tokenizer) is None


def test_every_right_answer_to_a_question_can_be_encoded(tmp_path):
    """What edits mend is told by all of them."""
    task, config = TASK._replace(possible=None), valid_config_with({})
    questions = [Example("1+1=", "2", ("2", "two"))]
    with pytest.raises(
        ValueError, match="q.jsonl: question 0: .* of 'two' are not in the alphabet"
    ):
        check_questions(config, task, TOKENIZER, questions, "q.jsonl: ")
    check_questions(config, task._replace(possible=lambda *_: True), TOKENIZER, questions)


def test_turns_that_a_template_refuses_are_named_by_their_line(config, tmp_path):
    refusing = "{{ raise_exception('no users') }}"
    tokenizer_folders.change(tmp_path, "tokenizer_config", chat_template=refusing)
    with pytest.raises(ValueError, match=r"chats.jsonl:1: the chat template fails.*no users"):
        load_data(config)


def test_a_model_has_the_tokens_of_its_text_when_a_run_is_resumed_too(tmp_path):
    """Prepared texts are found again, so that a folder of one's own is no reason to refuse."""
    for i in range(60):
        (tmp_path / f"{i:02}.txt").write_text(f"the cat sat on mat {i} and that rat saw it")
    folder = tokenizer_folders.byte_level(tmp_path / "model")
    changes = {"data.corpus": f"files:{tmp_path}/*.txt", "data.dir": str(tmp_path / "prepared")}
    config = config_with({"task": "text", "model.path": str(folder), "data.prompt": 4, **changes})
    with pytest.raises(ValueError, match="asks to prepare data"):
        check_harmless("text", task_data(config), defaults().data)
    load_task("text", task_data(config))
    check_harmless("text", task_data(config), defaults().data)
    config.data.corpus = "tfds:mine"  # not even looked at: its files could name code
    with pytest.raises(ValueError, match="asks to read a data set in data.dir"):
        check_harmless("text", task_data(config), defaults().data)


@pytest.mark.parametrize("method", ["mle", "sequencematch"])
def test_sizes_of_dropped_examples_are_those_of_all_methods(tmp_path, method):
    path = tmp_path / "lines.jsonl"
    lines = [{"prompt": f"{i}>", "completion": "1" * (1 + i % 12)} for i in range(400)]
    path.write_text("\n".join(map(json.dumps, lines)))
    config = config_with({"task": "jsonl", "data.path": str(path), "data.long": "drop"})
    config.update_from_flattened_dict({"method": method, "noise.eta": 0.2, "data.train": 0})
    config.data.update(validation=40, test=80)
    config.prompt_slots = config.max_actions = config.evaluate.max_actions = 0
    assert len(load_data(config)[2].splits["train"]) == 280 and config.max_actions == 25


def test_examples_that_are_longer_than_the_positions_of_a_network_are_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [{"prompt": f"{i:02}" * (600 * (i == 3) + 1), "completion": str(i)} for i in range(40)]
    path.write_text("\n".join(map(json.dumps, lines)))
    changes = {"task": "jsonl", "data.path": str(path), "model.preset": "gpt2", "method": "mle"}
    changes |= {"data.train": 0, "data.validation": 5, "data.test": 5}
    changes |= {"prompt_slots": 0, "max_actions": 0, "evaluate.max_actions": 0}
    expected = (
        r"12.. .* 1024 positions.*longest prompt, of 1,203 tokens, is that of .*lines.jsonl:4 of "
    )
    with pytest.raises(ValueError, match=expected):
        load_data(config_with(changes))
    changes |= {"prompt_slots": 1000, "max_actions": 20, "evaluate.max_actions": 20}
    _, _, data = load_data(config_with(changes | {"data.long": "drop"}))
    assert sum(data.found["too_long"].values()) == 1


@pytest.mark.parametrize("method", ["mle", "sequencematch"])
def test_what_is_dropped_is_so_for_all_methods(tmp_path, method):
    path = tmp_path / "lines.jsonl"
    lines = [{"prompt": f"{i}>", "completion": "1" * (1 + i % 12)} for i in range(400)]
    path.write_text("\n".join(map(json.dumps, lines)))
    changes = {"task": "jsonl", "data.path": str(path), "data.long": "drop", "method": method}
    changes |= {"data.train": 0, "data.validation": 40, "data.test": 80, "noise.eta": 0.2}
    _, _, data = load_data(config_with(changes | {"max_actions": 11, "evaluate.max_actions": 11}))
    longest = {split: max(len(x.completion) for x in kept) for split, kept in data.splits.items()}
    # An answer has room for <eos>, and to take a slip back; a training text for its noise, too.
    assert longest["test"] == longest["validation"] == 11 - 1 - 2
    assert 1 < longest["train"] < 8 and data.found["too_long"]["train"] > 100
