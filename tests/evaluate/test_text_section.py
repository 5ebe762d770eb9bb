"""The report's section on generated texts."""

from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.text_section import texts


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
