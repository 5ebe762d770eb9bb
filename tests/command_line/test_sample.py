"""--mode=sample: one prompt is answered."""

import pytest

from sequencematch.cli import sampling
from tests.command_line.command import records, run_command


def test_prints_prompt_symbols_and_surviving_text(finished_run, capsys):
    greedy = [t for t in records(finished_run / "traces.jsonl") if t["decode"] == "greedy"]
    for trace in greedy[:2]:
        prompt = trace["prompt"]
        assert run_command("--mode=sample", f"--workdir={finished_run}", f"--prompt={prompt}") == 0
        printed = capsys.readouterr().out
        assert printed == f"{prompt} {''.join(trace['actions'])}\n{trace['text']}\n"


def test_prints_edits_as_symbols(finished_run, monkeypatch, capsys):
    actions = [3, 4, 8, 5, 2]  # two characters, <bkspc>, another, <eos>
    monkeypatch.setattr(sampling.stream, "actions", lambda *_, **__: iter(actions))
    assert run_command("--mode=sample", f"--workdir={finished_run}", "--prompt=abc>") == 0
    assert capsys.readouterr().out == "abc> >a<bkspc>b<eos>\n>b\n"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("abz>", ["'z'", "alphabet", ">abcd"]),
        ("abcabc", ["'abcabc' is too long", "at most 4"]),
        ("", ["--prompt"]),
    ],
)
def test_prompt_that_cannot_be_answered_is_refused(assert_refused, finished_run, prompt, words):
    flags = ["--mode=sample", f"--workdir={finished_run}", f"--prompt={prompt}"]
    assert_refused(words, *flags, unchanged=[finished_run])
