"""--mode=score: figures of files of any system, and what it refuses."""

import json

import pytest

from sequencematch.cli import scoring
from sequencematch.cli.flags import parse_flags
from sequencematch.cli.scoring import prepare_scores
from sequencematch.evaluate import records
from sequencematch.evaluate.intervals import wilson
from sequencematch.main import DONE, REFUSED, main

LINES = [
    {"prompt": "p", "text": "a b a b", "references": ["a b a b", "c"], "right": False},
    {"text": "", "completion": "a", "right": False, "symbols": []},
    {"text": "A c", "references": ["A c"], "right": True},
]


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "a.jsonl"
    found.write_text("".join(json.dumps(line) + "\n\n" for line in LINES))
    return found


def test_each_file_gets_a_line_with_the_figures_asked_for(path, tmp_path, capsys):
    other = tmp_path / "b.jsonl"
    other.write_text('{"text": "x y z w", "right": false}\n')
    files = f"--files={path},{other}"
    assert main(["", "--mode=score", files, "--metrics=repetition, length,accuracy"]) == DONE
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["file"] == str(path) and first["texts"] == 3
    assert first["repetition"] == 2 / 6 and first["empty_texts"] == 1 and first["right"] == 1
    assert (second["repetition"], second["words"]) == (0.0, 4.0)
    assert set(first["intervals"]) == {"repetition", "words", "characters", "accuracy"}
    assert first["intervals"]["accuracy"] == [*wilson(1, 3)] and "low" not in first
    assert set(second["intervals"]) == {"accuracy"}  # one text says nothing of others
    assert main(["", "--mode=score", f"--files={path}", "--metrics=overlap"]) == DONE
    assert json.loads(capsys.readouterr().out)["overlap"] == 1.0


REFUSALS = {
    "no metric": ("{path}", "diversty", None, "did you mean 'diversity'?"),
    "no model": ("{path}", "mauve", None, "--metrics=mauve needs --reference=DIR"),
    "a model for nothing": ("{path}", "length", "/tmp", "is for the metrics mauve and reference"),
    "no such model": (
        "{path}",
        "reference_perplexity",
        "/nowhere",
        "--reference: /nowhere is not",
    ),
    "a name": ("{path}", "reference_perplexity", "no/model", "run `hf download no/model --local"),
    "too few": ("{path}", "length,mauve", "/nowhere", ".jsonl: mauve needs 40 texts or more"),
    "one": ("{plain}", "self_bleu", None, "plain.jsonl: self_bleu compares 2 texts or more"),
    "no file": ("{path}x", "length", None, "cannot be read: No such file"),
    "no JSON": ("{bad}", "length", None, "bad.jsonl:2 is not JSON"),
    "no references": ("{plain}", "length,bleu", None, 'plain.jsonl:1: bleu needs "references"'),
    "no actions": ("{path}", "edits", None, 'a.jsonl:1: edits needs "symbols", the actions'),
    "no text": ("{other}", "length", None, 'other.jsonl:1: expected {{"text": "..."}}'),
    "empty": ("{empty}", "length", None, "empty.jsonl has no texts"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_scored_is_refused_in_one_line(case, path, tmp_path):
    files, metrics, reference, words = REFUSALS[case]
    contents = {
        "bad": '{"text": "a"}\n{',
        "plain": '{"text": "a"}',
        "other": '{"a": 1}',
        "empty": "",
    }
    names = {"path": path}
    for name, content in contents.items():
        names[name] = tmp_path / f"{name}.jsonl"
        names[name].write_text(content)
    with pytest.raises((ValueError, OSError)) as error:
        prepare_scores(files.format(**names), metrics, reference)
    assert words.format() in str(error.value) and "\n" not in str(error.value)


def test_a_text_that_the_model_cannot_read_is_refused_before_any_work(tmp_path, monkeypatch):
    class NoSurrogates:
        def encode(self, pair):
            return 0, [*"".join(pair).encode()]

    monkeypatch.setattr(scoring, "Reference", lambda path: NoSurrogates())
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "completion": "b"}\n\n{"text": "\\ud800", "completion": "b"}')
    with pytest.raises(ValueError, match=f"--files: {path}, text 2: .*surrogates not allowed"):
        prepare_scores(str(path), "reference_perplexity", "model")


def test_a_file_that_nobody_has_judged_has_no_accuracy(path, capsys):
    for line in ({"text": "a"}, {"text": "a", "right": 1}):
        path.write_text(json.dumps(line) + "\n")
        assert main(["", "--mode=score", f"--files={path}", "--metrics=accuracy"]) == REFUSED
        assert f'{path}:1: accuracy needs "right", true or false' in capsys.readouterr().err


def test_edits_are_counted_among_the_actions_of_each_text(path, capsys):
    symbols = [["a", "<bkspc>", "b", "<reset>"], ["a", "<eos>"], []]
    lines = [{"text": "b", "symbols": each} for each in symbols]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["", "--mode=score", f"--files={path}", "--metrics=edits"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["edit_actions"], found["edited_texts"]) == (2 / 3, 1 / 3)
    assert set(found["intervals"]) == {"edit_actions", "edited_texts"}


@pytest.mark.parametrize("damaged", [b'{"file": "\xff"}\n', b'{"file": "whole"}', b'{"fi'])
def test_scores_are_added_to_a_damaged_file(path, tmp_path, damaged):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "scores.jsonl").write_bytes(damaged)
    asked = ["", "--mode=score", f"--files={path}", f"--workdir={tmp_path}", "--metrics=length"]
    assert main(asked) == DONE
    first, second = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert first == damaged.decode(errors="replace").rstrip("\n")
    assert json.loads(second)["file"] == str(path)


def test_a_file_of_no_name_is_refused_and_white_space_is_not(path, capsys):
    assert main(["", "--mode=score", f"--files={path},", "--metrics=length"]) == REFUSED
    assert "one of the names is empty" in capsys.readouterr().err
    assert main(["", "--mode=score", f"--files= {path}", "--metrics=length"]) == DONE


def test_figures_of_what_a_file_held_before_are_not_shown_as_of_now(path, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    asked = ["", "--mode=score", f"--files={path}", f"--workdir={tmp_path}"]
    assert main([*asked, "--metrics=repetition"]) == DONE
    path.write_text('{"text": "one more word than before"}\n')
    assert main([*asked, "--metrics=length"]) == DONE
    (line,) = records.read(tmp_path).scores
    assert line["words"] == 5 and "repetition" not in line and "repetition" not in line["intervals"]
    assert main([*asked, "--metrics=zipf"]) == DONE
    (line,) = records.read(tmp_path).scores
    assert {"words", "zipf"} <= line.keys()


def test_the_mode_needs_files_and_metrics_and_others_take_none(capsys):
    assert main(["", "--mode=score", "--files=a.jsonl"]) == REFUSED
    assert "needs --files=A.jsonl,B.jsonl and --metrics=NAME,NAME" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--metrics is for --mode=score only"):
        parse_flags(["", "--config=arithmetic", "--metrics=length"])


def test_scores_are_kept_beside_a_run_and_shown_in_its_report(path, tmp_path, capsys):
    asked = ["", "--mode=score", f"--files={path}", f"--workdir={tmp_path}"]
    assert main([*asked, "--metrics=length"]) == REFUSED
    assert "has no summary.json" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{}")
    for metrics in ("length", "length,repetition", "zipf"):
        assert main([*asked, f"--metrics={metrics}"]) == DONE
    printed = capsys.readouterr().out.splitlines()
    assert (tmp_path / "scores.jsonl").read_text().splitlines() == printed
    page = (tmp_path / "report.html").read_text()
    # The lines of one file are one column.
    assert "Scores of text files" in page and page.count(f">{path}</th>") == 1
    assert "Repetition" in page and "33.3 %" in page and "Zipf coefficient" in page
    assert json.loads(printed[1])["intervals"].keys() == {"words", "characters", "repetition"}
    (tmp_path / "summary.json").write_text('{"broken')
    assert main([*asked, "--metrics=length"]) == REFUSED
    assert "the file is damaged" in capsys.readouterr().err
    assert (tmp_path / "scores.jsonl").read_text().splitlines() == printed
