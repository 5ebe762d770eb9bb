import html
import pathlib
import re

from sequencematch.data.facts import SENTENCES
from sequencematch.evaluate.sections import SCORE_ROWS
from tests.evaluate.run_files import (
    EVIL,
    SUMMARY,
    Outline,
    render_page,
    score,
    trace,
    train_line,
    write_run,
)


def test_sections_without_content_are_left_out(finished_run: pathlib.Path) -> None:
    bare = {k: v for k, v in score(150).items() if k != "edits"}
    keys = ("kind", "step", "loss", "learning_rate")
    metrics = [{key: train_line(step)[key] for key in keys} for step in (25, 50)]
    page = render_page(
        write_run(finished_run, {"method": "mle", "test": {"greedy": bare}}, metrics, [])
    )
    assert "75.0 %" in page and page.count("<figure>") == 2
    for absent in (
        "Edits",
        "Scores",
        "sampled",
        "Sample traces",
        "Configuration",
        "Command",
        "seed",
    ):
        assert absent not in page.split("</style>")[1]


def test_all_text_is_escaped(finished_run: pathlib.Path) -> None:
    hostile = trace("greedy", 0) | {"prompt": EVIL, "actions": [EVIL, "<bkspc>", "<b>", "&"]}
    hostile |= {"deleted": [True, False, False, False]}
    hostile |= {"text": EVIL, "answer": EVIL, "right": False}
    keys = ("name", "method", "seed", "hardware", "command")
    summary = SUMMARY | dict.fromkeys(keys, EVIL) | {"config": {EVIL: EVIL}}
    summary |= {"versions": {EVIL: EVIL}, "seconds": {EVIL: 1.0}}
    metrics = [train_line(step) | {"phase": f"{step} {EVIL} $\\x$"} for step in (1, 2)]
    page = render_page(write_run(finished_run, summary, metrics, [hostile]))
    assert "script" not in Outline(page).tags
    assert "<del>&lt;script&gt;" in page and "<span>&lt;b&gt;</span><span>&amp;</span>" in page


def test_unprintable_characters_are_shown_as_escapes(finished_run: pathlib.Path) -> None:
    hidden = trace("greedy", 0) | {"actions": ["\0", "\u202e"], "prompt": "\x1b[2J"}
    page = render_page(write_run(finished_run, SUMMARY, [train_line(1)], [hidden]))
    assert page.replace("\n", "").isprintable()
    assert r"<span>\x00</span>" in page and r"\u202e" in page and r"\x1b[2J" in page


def test_deleted_tokens_are_struck_through(finished_run: pathlib.Path) -> None:
    actions = ["1", "2", "<bkspc2>", "3", "<reset>", "4", "<eos>"]
    line = {"decode": "greedy", "actions": actions, "deleted": [True, True, False, True, False]}
    page = render_page(write_run(finished_run, SUMMARY, [], [line]))
    keys = {"<bkspc2>": "⌫2", "<reset>": "↺", "<eos>": "⊣"}
    two, reset, eos = (f'<kbd title="{html.escape(k)}">{mark}</kbd>' for k, mark in keys.items())
    assert f"<del>1</del><del>2</del>{two}<del>3</del>{reset}<span>4</span>{eos}" in page
    assert "⌫2 the last two; ↺ deletes all that was written; ⊣ ends the answer;" in page


def test_legend_explains_only_marks_that_occur(finished_run: pathlib.Path) -> None:
    assert "<p>⌫ deletes the last token that is left; ⊣ ends the answer; what was" in render_page(
        finished_run
    )
    page = render_page(
        write_run(finished_run, SUMMARY, [], [{"decode": "greedy", "actions": ["1", "<eos>"]}])
    )
    assert "⌫" not in page and "<p>⊣ ends the answer; what was" in page


def test_scores_are_shown_pooled_and_within_a_question(finished_run: pathlib.Path) -> None:
    table = render_page(finished_run).split("Scores of right and wrong answers")[1]
    rows = table.split("</table>")[0].split("<tr>")[2:]
    cells = {row.split(">")[1].split("<")[0]: re.findall("<td>(.*?)</td>", row) for row in rows}
    assert cells["Log-likelihood"] == ["0.91", "0.87"]
    assert cells["Recovered return"] == ["0.85", "–"]  # no question has both kinds of answers
    assert len(cells) == len(SCORE_ROWS)


def test_accuracy_within_budgets_is_shown(finished_run: pathlib.Path) -> None:
    page = render_page(finished_run)
    assert "5.8 actions each · 73.5 % right within 6 · 78.5 % right within 7" in page
    assert "Right tokens deleted" in page and "<td>12.3 %</td>" in page


def test_answers_without_edits_are_shown_beside_the_others(finished_run: pathlib.Path) -> None:
    summary = SUMMARY | {"test": SUMMARY["test"] | {"unedited": score(160)}}
    page = render_page(write_run(finished_run, summary, [], []))
    assert "<h3>unedited</h3>" in page and "160 of 200 right" in page
    assert "<h3>unedited</h3>" not in render_page(write_run(finished_run, SUMMARY, [], []))


def judged_by_perplexity(score: dict) -> dict:
    kept = {key: score[key] for key in ("finished", "length", "edits")}
    return kept | {"perplexity": 12.345, "low": 11.5, "high": 13.25}


def test_a_figure_that_is_no_share_is_shown_as_a_number(finished_run: pathlib.Path) -> None:
    test = {"greedy": judged_by_perplexity(score(1))}
    metrics = [
        {"kind": "validation", "step": step, "perplexity/greedy": 40.0 - step} for step in (10, 20)
    ]
    page = render_page(
        write_run(finished_run, {"judged_by": "perplexity", "test": test}, metrics, [])
    )
    assert "Perplexity on the test questions" in page and "Validation perplexity" in page
    assert '<p class="big">12.35</p>' in page and "95 % interval 11.5 to 13.25" in page
    assert "ccuracy" not in page.split("</style>")[1] and '<p class="bar">' not in page


def test_before_there_is_a_summary_a_validation_says_what_the_run_is_judged_by(
    finished_run: pathlib.Path,
) -> None:
    line = {"kind": "validation", "step": 3, "mauve/greedy": 0.5, "mauve/sampled": 0.75}
    page = render_page(write_run(finished_run, {}, [line], []))
    assert "Mauve in the latest validation" in page and "75.0 %" in page
    # A run of before tasks named what judges them.
    assert "Accuracy on the test questions" in render_page(
        write_run(finished_run, {"test": {"greedy": score(150)}}, [], [])
    )


def test_examples_that_are_encoded_apart_are_told_of_if_there_are_any(
    finished_run: pathlib.Path,
) -> None:
    for count, told in ((1234, True), (0, False)):
        page = render_page(write_run(finished_run, SUMMARY | {"encoded_apart": count}, [], []))
        assert ("completion is encoded without its prompt: 1,234." in page) == told


def test_all_facts_of_the_data_are_told_of(finished_run: pathlib.Path) -> None:
    page = render_page(write_run(finished_run, SUMMARY | dict.fromkeys(SENTENCES, 7), [], []))
    for sentence in SENTENCES.values():
        assert html.escape(sentence.format(7)) in page
