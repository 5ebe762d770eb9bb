"""The report's sections on generated texts, and on text files that were scored."""

import re

from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.text_section import file_scores, texts
from tests.evaluate.run_files import EVIL


def run_with(test):
    return RunFiles("run", {"test": test}, [], [], 0, "overlap")


def test_each_way_to_answer_has_a_column_and_real_texts_a_table():
    real = {"text": {"perplexity": 2.5}, "actions": {"perplexity": 2.75}}
    figures = {"overlap": 0.5, "entropy": 4.567, "zipf": None}
    test = {"sampled": figures | {"real_text": real}, "top_p=0.9 <b>": {"overlap": 0.25}}
    page = texts(run_with(test))
    for shown in (
        "50.0 %",
        "25.0 %",
        "4.57",
        "top_p=0.9 &lt;b&gt;",
        "2.50",
        "2.75",
        "edits masked",
    ):
        assert shown in page
    assert "greedy" not in page and "Diversity" not in page and "<b>" not in page


def test_a_run_that_is_not_of_texts_has_no_such_section():
    assert texts(run_with({"greedy": {"accuracy": 0.5}})) == ""
    assert texts(run_with({"greedy": 3, "sampled": {"real_text": 3}})) == ""


def test_a_figure_has_its_interval_below_it():
    figures = {
        "overlap": 0.5,
        "entropy": 4.5,
        "intervals": {"overlap": [0.4, 0.61], "zipf": [1, 2]},
    }
    page = texts(run_with({"greedy": figures}))
    assert '50.0 %<span class="small">40.0 % to 61.0 %</span>' in page and "<td>4.50</td>" in page


CURVE = [[0.0, 1.0], [0.6, 0.7], [1.0, 0.0]]


def test_scored_files_have_a_table_and_their_divergence_curves():
    made = {"texts": 60, "buckets": 3, "featuriser": "smol"}
    lines = [
        {"file": "a.jsonl", "mauve": 0.75, "mauve_curve": CURVE, "mauve_made_with": made},
        {"file": "b.jsonl", "mauve": 0.5, "mauve_made_with": {"texts": 90, "cut": 4}},
        {"file": EVIL, "texts": 7, "mauve_curve": [[1, 0], [0, 1], "no point", [2, 3]]},
    ]
    page = file_scores(run_with({})._replace(scores=lines))
    assert "a.jsonl" in page and "<td>0.75</td>" in page and "featuriser smol" in page
    assert "MAUVE of b.jsonl was made with texts 90, cut 4" in page
    assert page.count("<svg") == 1 and "<script" not in page
    drawn = re.findall(r'd="(M [^"]*)"[^>]*style="[^"]*var\(--curve-(\d)\)', page.replace("\n", ""))
    assert {colour for _, colour in drawn} == {"0", "1"}
    assert file_scores(run_with({})) == ""
    assert "<svg" not in file_scores(run_with({})._replace(scores=[{"file": "b", "texts": 3}]))
