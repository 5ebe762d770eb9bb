"""--mode=sample: one prompt is answered."""

import json
import os

import pytest

from sequencematch.cli import sampling
from tests.command_line.command import TINY, records, run_command


def test_prints_prompt_symbols_and_surviving_text(finished_run, capsys):
    greedy = [t for t in records(finished_run / "traces.jsonl") if t["decode"] == "greedy"]
    for trace in greedy[:2]:
        prompt = trace["prompt"]
        assert run_command("--mode=sample", f"--workdir={finished_run}", f"--prompt={prompt}") == 0
        printed = capsys.readouterr().out
        assert printed == f"{prompt} {''.join(trace['actions'])}\n{trace['text']}\n"


def test_a_prompt_needs_no_memory_for_others_and_no_room_for_test_questions(finished_run, capsys):
    """Of the rows that an evaluation would take at once, and the longest of its answers."""
    flags = [f"--workdir={finished_run}", "--mode=sample", "--prompt=abc>", "--temperature=1"]
    huge = ["--config.evaluate.rows=1000000000", "--config.evaluate.max_actions=2"]
    assert run_command(*flags, *huge) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "abc>"


def test_nor_do_the_prompts_of_a_file(finished_run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("abc>\n\nab>\n")
    flags = [f"--workdir={finished_run}", "--mode=sample", f"--prompts={tmp_path}/prompts.txt"]
    assert run_command(*flags, "--config.evaluate.rows=1000000000") == 0
    printed = [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["abc>", "ab>"]


def test_prompts_may_come_through_a_pipe(finished_run, capsys):
    """It can be read once only."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.write("abc>\nab>\n")
    flags = [f"--workdir={finished_run}", "--mode=sample", f"--prompts=/dev/fd/{reader}"]
    assert run_command(*flags) == 0
    os.close(reader)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_prompt_may_be_empty(finished_run, capsys):
    assert run_command("--mode=sample", f"--workdir={finished_run}", "--prompt=") == 0
    assert capsys.readouterr().out.startswith(" ")


def test_prints_edits_as_symbols(finished_run, monkeypatch, capsys):
    actions = [3, 4, 8, 5, 2]  # two characters, <bkspc>, another, <eos>
    monkeypatch.setattr(sampling.stream, "actions", lambda *_, **__: iter(actions))
    assert run_command("--mode=sample", f"--workdir={finished_run}", "--prompt=abc>") == 0
    assert capsys.readouterr().out == "abc> >a<bkspc>b<eos>\n>b\n"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("abz>", ["'z'", "alphabet", ">abcd"]),
        ("abcabc", ["'abcabc' is too long", "at most 5"]),
    ],
)
def test_prompt_that_cannot_be_answered_is_refused(assert_refused, finished_run, prompt, words):
    flags = ["--mode=sample", f"--workdir={finished_run}", f"--prompt={prompt}"]
    assert_refused(words, *flags, unchanged=[finished_run])


@pytest.mark.stress
def test_many_answers_are_those_of_the_evaluation_and_go_on_where_they_stopped(
    finished_run, tmp_path, capsys
):
    traces = [t for t in records(finished_run / "traces.jsonl") if t["decode"] == "greedy"]
    out, flags = tmp_path / "o.jsonl", ["--mode=sample", f"--workdir={finished_run}"]
    assert run_command(*flags, f"--num={TINY['data.test']}", f"--out={out}") == 0
    text = out.read_text()
    found = {line["prompt"]: line for line in records(out)}
    assert [line["sample"] for line in records(out)] == [0] * TINY["data.test"]
    for trace in traces:
        line = found[trace["prompt"]]
        assert (line["text"], line["right"]) == (trace["text"], trace["right"])
        assert line["symbols"] == trace["actions"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abc>\nbad>\n\n")
    drawn = [*flags, f"--prompts={prompts}", "--samples=3", "--temperature=2"]
    assert run_command(*drawn, f"--out={out.with_name('whole')}") == 0
    whole = out.with_name("whole").read_text()
    out.write_text(whole[: whole.index("\n") + 5])  # one line, and what a kill left of the next
    assert run_command(*drawn, f"--out={out}") == 0
    assert out.read_text() == whole and len({line["text"] for line in records(out)}) > 1
    capsys.readouterr()
    assert run_command(*drawn) == 0
    assert capsys.readouterr().out == whole
    assert run_command(*drawn, f"--out={out}", "--temperature=1") == 2
    assert f"--out={out}:1 answers something else" in capsys.readouterr().err
    assert out.read_text() == whole != text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num=9"], ["--num=9", "only 8 test questions"]),
        (["--num=0"], ["num"]),
        (["--num=2", "--prompt=abc>"], ["one of", "--prompt and --num"]),
        (["--num=2", "--temperature=0"], ["--temperature=0.0 must be > 0", "greedy"]),
        (["--num=2", "--temperature=1e-50"], ["--temperature=1e-50 must be > 0, as a float32"]),
        (
            ["--num=2", "--decode=greedy", "--temperature=0.7"],
            ["--temperature=0.7 plays no part in --decode=greedy"],
        ),
        (
            ["--num=2", "--decode=top_p=0.9,temperature=2", "--temperature=0.7"],
            ["--temperature=0.7 plays no part in --decode=top_p=0.9,temperature=2"],
        ),
        (["--num=2", "--decode=greedy", "--samples=4"], ["--samples=4", "equal answers"]),
        (["--num=2", "--data=x"], ["--data is for --mode=evaluate only"]),
        (["--prompts=nowhere.txt"], ["--prompts=nowhere.txt", "No such file"]),
        (["--num=2", "--out=/nowhere/x.jsonl"], ["--out=/nowhere/x.jsonl cannot be written"]),
    ],
)
def test_what_cannot_be_asked_for_is_refused(assert_refused, finished_run, flags, words):
    run = ["--mode=sample", f"--workdir={finished_run}"]
    assert_refused(words, *run, *flags, unchanged=[finished_run])
