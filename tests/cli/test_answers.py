"""Prompts from files, and files of answers that are continued."""

import io
import json
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from sequencematch.cli import answers
from sequencematch.cli.answers import (
    answer_progress,
    count_answers,
    open_output,
    settings_checksum,
)
from tests.setup.configs import valid_config_with

HEADS = [{"prompt": "é", "sample": i, "step": 5, "temperature": None} for i in range(3)]


def line(head):
    return json.dumps({**head, "text": "x"}).encode() + b"\n"


@pytest.mark.parametrize("whole", range(4))
@pytest.mark.parametrize("end", [0, 1, 12, -2])
def test_whole_lines_count_and_a_torn_one_is_written_again(tmp_path, whole, end):
    path, lines = tmp_path / "o.jsonl", [*map(line, HEADS)]
    path.write_bytes(b"".join(lines[:whole]) + b"".join(lines[whole : whole + 1])[:end])
    done, size = count_answers(path, HEADS)
    assert done == whole
    with open_output(path, size) as file:
        file.writelines(each.decode() for each in lines[done:])
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize(
    "lines", [[HEADS[1]], [HEADS[0] | {"step": 6}], [*HEADS, HEADS[0]], [{}], [HEADS[0], {}]]
)
def test_a_file_of_other_answers_is_left_alone(tmp_path, lines):
    path = tmp_path / "o.jsonl"
    path.write_bytes(b"".join(map(line, lines)))
    with pytest.raises(ValueError, match=rf"{path}:{len(lines)} answers something else"):
        count_answers(path, HEADS)


@pytest.mark.parametrize(
    "content", ['{"my": "results"}', "a prompt", line(HEADS[0]).decode() + "{1"]
)
def test_a_last_line_that_no_kill_has_cut_short_is_left_alone(tmp_path, content):
    """A file of somebody else's may have no newline at its end."""
    path = tmp_path / "o.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="answers something else"):
        count_answers(path, HEADS)
    assert path.read_text() == content


@pytest.mark.parametrize("is_shared", [False, True])
def test_no_bar_stands_where_answers_are_printed(monkeypatch, capsys, is_shared):
    """A terminal shows both on the same lines."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, stderr is a terminal
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: is_shared, raising=False)
    with answer_progress(3, 0, file) as advance:
        advance()
    assert bool(capsys.readouterr().err) != is_shared
    monkeypatch.setenv("FORCE_COLOR", "")  # a log: nothing is shared with it
    monkeypatch.setattr(answers, "SECONDS", -1)
    with answer_progress(3, 0, file) as advance:
        advance()
    assert "1 of 3 answers" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "o.jsonl"):
        with pytest.raises(ValueError, match="cannot be written"):
            count_answers(path, HEADS)


def test_answers_of_runs_that_were_trained_otherwise_do_not_share_a_file():
    def checksum(changes):
        data = SimpleNamespace(checksum=5)
        return settings_checksum(SimpleNamespace(config=valid_config_with(changes), data=data))

    trained = [
        {"rollout.noise": True},
        {"edits": ("<reset>",)},
        {"model.layers": 1},
        {"objective.alpha": 0.2},
        {"init": "run:other"},
        {"evaluate.edit_bias": 1.0},
    ]
    assert len({checksum(changes) for changes in [{}, *trained]}) == 1 + len(trained)
    for changes in ({"log_every": 3}, {"mesh.data": 2}, {"evaluate.rows": 7}):
        assert checksum(changes) == checksum({})
    # As a run keeps it: lists for tuples, keys by alphabet; and its model may have moved.
    given = valid_config_with({})
    kept = ConfigDict(json.loads(json.dumps(given.to_dict(), sort_keys=True)))
    given.model.path, kept.model.path = "/there/model", "/elsewhere/model"
    data = SimpleNamespace(checksum=5)
    runs = [SimpleNamespace(config=config, data=data) for config in (given, kept)]
    assert settings_checksum(runs[0]) == settings_checksum(runs[1]) != checksum({})
