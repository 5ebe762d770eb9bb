"""The grids of experiments: their cells are valid, and a branch is what a whole run would be."""

import importlib
import json
import re
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import (
    arithmetic_grids,
    asked,
    cell,
    gpu_check,
    smollm2_grids,
    tables,
    text_pairs,
    text_tables,
    texts,
)
from experiments.cell import Cell
from experiments.cells import (
    advance,
    answer_again,
    begin,
    folder_of,
    row,
    run,
    stem,
    stem_cell,
    tokens_of,
    trainers,
)
from experiments.figures import (
    Figures,
    mean_metrics,
    pack,
    pack_numbers,
    unpack,
    unpack_numbers,
    write_metrics,
    write_texts,
)
from experiments.grids import GRIDS
from experiments.order import check_rows, next_cells
from sequencematch.cli.figures import policy_draws
from sequencematch.cli.scoring import prepare_scores
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.evaluate.auc import auc, auc_within
from sequencematch.evaluate.generate import Answer
from sequencematch.setup.build import make_plan
from sequencematch.setup.check import check_config
from sequencematch.setup.judges import make_generator, make_scorer

SMALL = {
    "data.train": 64,
    "data.validation": 4,
    "data.test": 8,
    "evaluate.examples": 8,
    "evaluate.rows": 8,
    "model.layers": 1,
    "model.d_model": 16,
    "model.d_ff": 16,
    "train.batch_size": 8,
    "train.steps": 6,
    "train.bc_steps": 3,
    "optimizer.warmup": 1,
    "rollout.rows": 8,
    "rollout.batch_size": 8,
}


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_is_a_valid_configuration_of_its_own(grid, monkeypatch):
    chosen = cell.frozen

    def chosen_by_then(name, grid):
        try:
            return chosen(name, grid)
        except ValueError as error:  # that grid has not been run yet
            assert f"run --grid={grid} first" in str(error) and grid in GRIDS
            return {"data.entropy": (2.0, 4.0)} if name == "smollm2" else {"objective.alpha": 0.1}

    for module in (arithmetic_grids, smollm2_grids):
        monkeypatch.setattr(module, "frozen", chosen_by_then)
    cells = GRIDS[grid]()
    assert len({(each.name, each.seed) for each in cells}) == len(cells)
    for each in cells:
        config = importlib.import_module(f"configs.{each.config}").get_config(each.method)
        if config.model.path:  # the directory may not be there
            config.model.update(path="", preset="smollm2-135m")
        config.update_from_flattened_dict({**each.changes, **each.last_changes})
        check_config(config)


def ranked_run(cells, accuracy):
    """The cells that a grid runs, in order, where `accuracy` is that of a name."""
    done = {}
    while missing := next_cells(cells, done):
        done[missing[0].name, missing[0].seed] = accuracy(missing[0].name)
    return list(done)


def test_choosing_grids_keep_the_better_half_of_each_method_with_every_seed():
    cells = [
        Cell(f"{m}{i}", m, s, "validation", {}) for s in range(3) for m in "ab" for i in range(8)
    ]
    runs = ranked_run(cells, lambda name: float(name[1:]) + (100 if name[0] == "a" else 0))
    for seed, n in enumerate([8, 4, 2]):
        names = {name for name, s in runs if s == seed}
        assert names == {f"{m}{i}" for m in "ab" for i in range(8 - n, 8)}


def test_the_grids_of_tables_run_every_cell():
    cells = GRIDS["table_5000"]()
    assert next_cells(cells, {}) == cells  # by as many processes as there are
    assert ranked_run(cells, len) == [(cell.name, cell.seed) for cell in cells]


def test_a_row_of_other_settings_is_not_taken_for_a_cells():
    cells = [Cell("a", "bc", 0, "test", {"data.entropy": (2.0, 4.0)})]
    found = json.loads(json.dumps(cells[0]._asdict()))
    check_rows(cells, [found, found | {"name": "of another time"}], "grid")
    words = r"seed 0 was made with data.entropy=\[1.0, 3.0\], and the grid has \[2.0, 4.0\]: move"
    with pytest.raises(ValueError, match=words):
        check_rows(cells, [found | {"changes": {"data.entropy": [1.0, 3.0]}}], "grid")


def test_no_figure_is_made_twice(tmp_path):
    for making in (lambda: {"accuracy": 0.5}, lambda: pytest.fail("made twice")):
        figures = Figures(tmp_path)
        figures.add("greedy", making)
        assert figures.found == {"greedy": {"accuracy": 0.5}}
    assert Figures(tmp_path, "of other code").found == {}
    figures.forget()
    assert Figures(tmp_path).found == {}


@pytest.mark.parametrize("n", [1, 8, 13])
def test_unpacked_bits_are_those_packed(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    np.testing.assert_array_equal(unpack(pack(bits), n), bits)


@pytest.mark.parametrize("kind", ["u1", "<f4"])
def test_unpacked_numbers_are_those_packed(kind):
    numbers = np.arange(7).astype(kind)
    np.testing.assert_array_equal(unpack_numbers(pack_numbers(numbers, kind), kind), numbers)


class Answers:
    """Answers with an edit, whose id is 1, to every third example; without edits to none."""

    mdp = SimpleNamespace(pops=np.array([0, 1]))

    def answers(self, params, examples, choice):
        for i in examples:
            actions = [0, 1, 0] if choice == "greedy" and i % 3 == 0 else [0]
            yield Answer(i, actions, choice, False, True, len(actions))


def test_without_edits_only_what_had_some_is_answered_again():
    found = [answer_again(Answers(), None, range(8), way, []) for way in ("greedy", "unedited")]
    again = answer_again(Answers(), None, range(8), "unedited", found[0])
    assert [a.actions for a in again] == [a.actions for a in found[1]]
    assert [a.text for a in again] == ["greedy" if i % 3 else "unedited" for i in range(8)]


WAYS = {"temperature=0.4": (0.2, 60.0), "sampled": (0.4, 30.0)}


def text_row(factor):
    """A row of a grid of texts, as far as tables read it."""
    nats, tokens = np.linspace(factor, 4, 40), np.full(40, 128)
    figures = {
        way: {"mauve": factor * m, "self_bleu": b, **text_of_nats(nats, tokens)}
        for way, (m, b) in WAYS.items()
    }
    nothing = {"pooled": None, "within": None}
    known = {"chrf": {"pooled": 0.1 * factor, "within": None}, "reader": nothing}
    pairs = {"return": known, "reward_sum": {"chrf": nothing, "reader": nothing}}
    rewards = {"correlations": pairs, "samples": 4}
    known = {name: {"perplexity": 5.0 * factor} for name in ("text", "actions")}
    figures |= {"perplexity": known, "rewards": rewards, "real": {"self_bleu": 25.0}}
    return {"figures": figures}


def text_of_nats(nats, tokens):
    """The figures of a way to answer that tables of pairs read: what a token of each text costs.

    Each was written in 128 tokens, whatever number of `tokens` it is to the reader.
    """
    sums = pack_numbers(-np.asarray(nats) * 128, "<f4")
    each = {"log_likelihoods": sums, "tokens": pack_numbers(tokens, "<u2")}
    return {"each": each, "tokens": 128.0}


def test_texts_are_compared_with_those_that_answer_the_same_prompt_in_the_same_run():
    """Texts of one prompt and run share most of their luck, which a difference is free of."""
    rng = np.random.default_rng(0)
    tokens, luck = rng.integers(20, 200, 60), rng.normal(4, 2, (3, 60))
    shift = rng.normal(0.2, 0.1, (3, 60))
    masked = text_pairs.UNEDITED_SAMPLES

    def rows(seeds, **ways):
        made = {way.replace("masked", masked): nats for way, nats in ways.items()}
        return {
            s: {"figures": {way: text_of_nats(nats[s], tokens) for way, nats in made.items()}}
            for s in seeds
        }

    settings = {
        "mle": rows([0], sampled=luck + 1) | rows([2], sampled=luck + 1, cool=luck),
        "bc": rows([0, 1, 2], sampled=luck, masked=luck + shift),
        "other": rows([1], sampled=luck + np.log(2)),
    }
    lines = {what: rest for what, *rest in text_pairs.ratio_lines(settings)}
    # other and mle have no seed in common.
    assert [*lines] == [
        f"bc, sampled / {masked}",
        f"bc, {masked} / mle, sampled",
        "bc / mle, sampled",
        "other / bc, sampled",
        "mle, cool / sampled",
    ]
    assert lines["mle, cool / sampled"][::2] == ["1", "0.368"]  # of the one run that was asked so
    ratio = np.exp((shift - 1)[[0, 2]].mean())
    assert lines[f"bc, {masked} / mle, sampled"][1].startswith(f"{ratio:.3g} [")
    seeds, ratio, each = lines[f"bc, sampled / {masked}"]
    assert seeds == "3" and each == ", ".join(f"{x:.3g}" for x in np.exp(-shift.mean(axis=1)))
    middle, low, high = map(float, re.findall(r"[\d.]+", ratio.partition(", p")[0]))
    assert middle == pytest.approx(np.exp(-shift.mean()), rel=1e-2)
    assert middle - 0.05 < low < middle < high < middle + 0.05
    assert lines["bc / mle, sampled"][:2] == ["2", "0.368 [0.368, 0.368]"]
    assert lines["other / bc, sampled"] == ["1", "2 [2, 2]", "2"]


def test_an_interval_of_pairs_is_wider_where_neighbours_are_alike():
    alike, zero = np.repeat(np.random.default_rng(1).normal(size=20), 50)[None], np.zeros((1, 1000))
    shuffled = np.random.default_rng(2).permutation(alike[0])[None]
    widths = [x.high - x.low for x in (text_pairs.compare(y, zero) for y in (alike, shuffled))]
    assert widths[0] > 4 * widths[1]


def test_tables_of_texts_have_means_over_seeds_and_the_drawing_a_line_for_each_setting(tmp_path):
    settings = {"a": {0: text_row(1), 1: text_row(2)}, "b": {0: text_row(1)}}
    lines = {line[0]: line[1:] for line in text_tables.metric_lines(settings)}
    column = 1 + list(text_tables.COLUMNS).index("MAUVE")
    assert (
        lines["a, sampled"][column] == f"{(0.4 + 0.8) / 2:.3g} ± {np.std([0.4, 0.8], ddof=1):.2g}"
    )
    assert lines["a, real"][column] == "" and len(lines) == 6
    nats = 1 + list(text_tables.COLUMNS).index("nats by SmolLM2")
    assert lines["a, sampled"][nats] == "2.75 ± 0.35" and lines["a, real"][nats] == ""
    once = [{"mauve": 0.4, "zipf": 1.0, "intervals": {"mauve": [0.31, 0.5]}}]
    assert [text_tables.cell(once, key) for key in ("mauve", "zipf")] == ["0.4 [0.31, 0.5]", "1"]
    assert text_tables.cell(2 * once, "mauve") == "0.4 ± 0"
    correlations = {line[0]: line[1:] for line in text_tables.correlation_lines(settings)}
    assert correlations["a, chrf, pooled"] == ["0.15 ± 0.071", ""]
    assert correlations["b, chrf, pooled"] == ["0.1", ""] and len(correlations) == 2 * 4
    *_, difference = text_tables.difference_lines(settings)
    assert difference[:2] == ["b, sampled - a, sampled", "1"] and difference[column + 1] == ""
    names = [line[0] for line in text_tables.difference_lines(settings)]
    assert names == [
        "a, temperature=0.4 - a, sampled",
        "b, temperature=0.4 - a, temperature=0.4",  # like with like
        "b, sampled - a, sampled",
    ]
    other = {"figures": text_row(1)["figures"] | {"top_p=0.95": {"mauve": 0.9}}}
    nats = 2 + list(text_tables.COLUMNS).index("nats by SmolLM2")
    of_nats = text_tables.difference_lines(
        {"a": settings["a"], "b": {0: text_row(3), 1: text_row(4)}}
    )
    assert of_nats[-1][nats].startswith("+1 [")  # 3.5 - 2.5 and 4 - 3
    *_, line = text_tables.difference_lines({"a": {0: text_row(1)}, "b": {0: other}})
    assert line[0] == "b, top_p=0.95 - a, sampled"  # a has no other
    both = {"a": {0: text_row(1), 1: other}}  # the second run was asked in one way more
    *_, line = text_tables.metric_lines(both)
    assert line[:2] == ["a, top_p=0.95", "1"] and line[column + 1] == "0.9"
    twice = settings | {"b": {0: text_row(2), 1: text_row(2)}}
    *_, difference = text_tables.difference_lines(twice)
    pairs = np.array([0.8 - 0.4, 0.8 - 0.8])
    half = stats.t.ppf(0.975, 1) * pairs.std(ddof=1) / 2**0.5
    assert difference[column + 1] == f"+0.2 [{0.2 - half:+.3g}, {0.2 + half:+.3g}]"
    assert text_tables.perplexity_lines(settings) == [["a", *["7.5 ± 3.5"] * 2], ["b", "5", "5"]]
    figure = text_tables.draw(settings)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[60, 0.3], [30, 0.6]])
    figure.savefig(tmp_path / "drawn.svg")


def test_every_line_of_a_table_of_texts_has_the_columns_of_its_header(capsys):
    both = {0: text_row(1), 1: text_row(2)}
    text_tables.print_texts({"a": both, "b": both})
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    printed = [block for block in blocks if block[0].startswith("|")]
    assert [len({line.count("|") for line in block}) for block in printed] == [1] * 5
    assert "| setting | return | reward_sum |" in printed[4]
    assert printed[2][2] == "| b / a, sampled | 2 | 1 [1, 1] | 1, 1 |"
    # A difference of one run has no interval.
    text_tables.print_texts({"a": {0: text_row(1)}, "b": {0: text_row(1)}})
    assert "Against" not in capsys.readouterr().out


def test_areas_are_of_the_questions_that_count():
    """Equal to those that were kept where all count; of the others no answer matters."""
    rng, counts = np.random.default_rng(0), np.arange(8) != 5
    scores, right = rng.normal(size=32).astype(np.float32), rng.random(32) < 0.5

    def figures(scores):
        each = {"n": 32, "samples": 4, "right": pack(right)}
        return {"draws": each | {"scores": {"return": pack_numbers(scores, "<f4")}}, "auc": "kept"}

    others = counts[np.arange(32) // 4]
    assert tables.areas(figures(scores), np.ones(8, bool)) == "kept"
    found = tables.areas(figures(scores), counts)["return"]
    assert found["pooled"] == auc(scores[others], right[others])
    assert found == tables.areas(figures(np.where(others, scores, 99)), counts)["return"]
    assert found["within"] == auc_within(scores[others], right[others], np.arange(32)[others] // 4)


def test_rank_correlation_does_not_change_under_rising_functions():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    found = texts.rank_correlation(x, y)
    assert -0.9 < found < 0.9 and texts.rank_correlation(np.exp(x), y**3) == found
    assert texts.rank_correlation(x, x**3) == pytest.approx(1)
    assert texts.rank_correlation(x, 0 * y) is None


def test_correlations_within_prompts_do_not_know_how_hard_prompts_are():
    rng, prompts = np.random.default_rng(0), np.repeat(np.arange(50), 4)
    x, y = rng.normal(size=(2, 200))
    found, hard = texts.correlations(x, y, prompts), 9 * rng.normal(size=50)[prompts]
    apart = texts.correlations(x + hard, y + hard, prompts)
    assert apart["within"] == pytest.approx(found["within"]) and abs(found["within"]) < 0.2
    assert found["pooled"] < 0.2 and apart["pooled"] > 0.9
    assert texts.correlations(x, x, prompts) == pytest.approx({"pooled": 1, "within": 1})
    assert texts.correlations(x[:50], y[:50], np.arange(50))["within"] is None


def test_metrics_of_a_killed_run_count_once(tmp_path):
    assert mean_metrics(tmp_path) == {}
    for step, loss in ((0, 4.0), (25, 2.0), (25, 2.0), (50, 0.0)):
        write_metrics(tmp_path, step, {"loss": np.float32(loss)})
    assert mean_metrics(tmp_path) == {"loss": 2.0}


def test_a_difference_of_few_runs_is_shown_run_by_run():
    ours, theirs = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool), np.zeros((2, 4), bool)
    assert tables.of_each_run(ours, theirs) == " (+75.0, +0.0)"
    assert tables.of_each_run(*(np.repeat(x, 3, axis=0) for x in (ours, theirs))) == ""


@pytest.mark.stress
@pytest.mark.exhaustive
def test_what_edits_do_is_a_share_of_all_runs_together():
    """A run with two deletions does not count as much as one with eight."""
    shares = {"answers": 0.5, "per_action": 0.1, "errors_deleted": 0.5, "errors_mended": None}
    few = shares | {"deletions": 2, "deleted_wrong": 1.0, "deleted_right": 0.0, "errors": 4}
    many = shares | {"deletions": 8, "deleted_wrong": 0.5, "deleted_right": 0.5, "errors": 0}
    none = few | {"deletions": 0, "deleted_wrong": None, "deleted_right": None}
    rows = [
        {"figures": {"greedy": {"n": 10, "length": 4.0, "edits": x}}} for x in (few, many, none)
    ]
    found = dict(zip(tables.EDITS, tables.edit_cells(dict(enumerate(rows))), strict=True))
    assert found["of them while wrong"] == "60.0%" and found["of them of a right token"] == "40.0%"
    assert (found["errors deleted"], found["errors mended"]) == ("50.0%", "0.0%")
    assert (found["answers with edits"], found["edits per action"]) == ("50.0%", "10.0%")
    older = {"n": 10, "length": 4.0, "edits": {k: x for k, x in few.items() if k != "deletions"}}
    assert tables.edit_counts(older)["deleted_wrong"] == (4.0, 4.0)


def test_scores_of_one_discount_are_compared():
    """What a default was is in no setting's changes."""

    def rows(**discounts):
        return {int(seed[1:]): {"gamma": gamma} for seed, gamma in discounts.items()}

    settings = {"bc": rows(s3=0.9, s4=0.998, s5=0.9), "le_cam": rows(s3=0.998, s4=0.998, s5=0.9)}
    found = tables.with_one_discount(settings | {"mle": rows(s3=0.9)})
    assert {name: list(seeds) for name, seeds in found.items()} == {"bc": [4, 5], "le_cam": [4, 5]}


def test_a_row_names_all_revisions_that_trained_it(tmp_path):
    """A stem may have been trained by an earlier one."""
    cell = Cell("bc", "bc", 0, "test", {})
    for each, names in ((stem_cell(cell), "a\nb\n"), (cell, "b\nc\n")):
        folder_of(each, tmp_path).mkdir()
        (folder_of(each, tmp_path) / "trained_by").write_text(names)
    assert trainers(cell, tmp_path) == ["a", "b", "c"]
    alone = Cell("mle", "mle", 0, "test", {})
    assert trainers(alone, tmp_path) == []


def test_a_run_without_edits_whose_batches_grow_takes_the_same_steps_one_after_the_other(tmp_path):
    changes = SMALL | {"data.dir": str(tmp_path / "data")}
    cell = Cell("mle", "mle", 0, "test", changes, {"train.batch_size": 16})
    _, _, found = run(cell, tmp_path / "runs")
    small, state = begin(cell._replace(last_changes={}))
    state = advance(small, make_plan(small), state, 3, tmp_path / "small")
    large, _ = begin(cell)
    expected = advance(large, make_plan(large), state, 6, tmp_path / "large")
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    tokens = [tokens_of(each) for each in (cell, cell._replace(last_changes={}))]
    assert tokens[0] / tokens[1] == (3 * 8 + 3 * 16) / (6 * 8)


@pytest.mark.stress
@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["bc", "sequencematch"])
def test_a_branch_equals_a_run_of_its_own(tmp_path, capsys, method):
    changes = SMALL | {"data.dir": str(tmp_path / "data"), "objective.alpha": 0.1}
    cell = Cell(method, method, 0, "test", changes)
    parts, first = begin(cell)
    plan = make_plan(parts)
    whole = advance(parts, plan, first, 6, tmp_path / "whole")
    for folder in (tmp_path / "once", tmp_path / "resumed"):
        if folder.name == "resumed":  # after a kill at step 4
            parts, first = begin(cell)  # a state is used up by the steps that begin with it
            start = stem(cell, folder)._replace(replay=first.replay)
            advance(parts, plan, start, 4, folder_of(cell, folder))
        _, _, branch = run(cell, folder)
        jax.tree.map(np.testing.assert_array_equal, branch.params, whole.params)
        expected = {folder_of(each, folder).name for each in (cell, stem_cell(cell))}
        assert {path.name for path in folder.iterdir()} == expected
    found = row(cell, tmp_path / "once")  # trained already
    figures = found["figures"]
    kept = Figures(folder_of(cell, tmp_path / "once"), found["revision"])
    assert figures == kept.found and found["steps"] == 6 and len(found["trained_by"]) == 1
    tables.print_test_figures({"a": {0: json.loads(json.dumps(found))}})
    printed = capsys.readouterr().out
    rights = [unpack(x["questions"], x["n"]).mean() for x in figures["wrong_starts"]["greedy"]]
    assert len(rights) == 4 and f"| a | {rights[0]:.1%} [" in printed
    parts, _, state = run(cell, tmp_path / "once")
    ways = make_generator(parts).answers
    asked = [*ways(parts.whole(state.params), parts.task.splits["test"], "unedited")]
    assert unpack(figures["unedited"]["questions"], 8).tolist() == [a.right for a in asked]
    draws, scorer = figures["draws"], make_scorer(parts)
    scores, drawn, _ = policy_draws(parts, scorer, parts.whole(state.params), lambda: None)
    right = [answer.right for answer in drawn]
    assert unpack(draws["right"], draws["n"]).tolist() == right and len(right) == 8 * 4
    actions = unpack_numbers(figures["unedited"]["actions"], "<u2")
    assert actions.tolist() == [i for answer in asked for i in answer.actions]
    returns = np.float32([score.recovered_return for score in scores])
    np.testing.assert_array_equal(unpack_numbers(draws["scores"]["return"], "<f4"), returns)


def test_questions_that_train_has_in_another_base_do_not_count(monkeypatch):
    def ask(base, text, answer):
        return Example(f"In base {base}, what is {text}?", answer)

    train = [ask(9, "12 + 5", "17"), ask(3, "1 + 1", "2")]
    test = [
        ask(10, "12 + 5", "17"),
        ask(7, "12 + 5", "20"),
        ask(16, "a - 5", "5"),
        ask(16, "5 - a", "-5"),
    ]
    monkeypatch.setattr(
        asked, "load_task", lambda *_: Task("", {"train": train, "test": test}, None)
    )
    answered = {"greedy": {"n": 4, "questions": pack([True, False, True, True])}}
    row = {"changes": {"data.seed": 81}, "split": "test", "figures": answered}
    rows = {0: row | {"method": "sequencematch"}}
    found = asked.asked_of(rows)
    assert found.counts.tolist() == [False, True, True, True]
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert tables.right(rows, [0], "greedy").tolist() == [[False, True, True]]
    assert tables.accuracy_cells(rows, tables.choices_of([rows]))[0].startswith("66.7% [")


def test_a_way_to_answer_that_a_run_was_not_asked_in_has_no_column():
    """Without edits the greedy answer is the unedited one; of other runs it is unknown."""
    asked_ways = {"greedy": {"n": 1}, "sampled": {"n": 2}}
    edits, without = ({"changes": c, "figures": asked_ways} for c in ({}, {"edits": []}))
    for method, run_of, columns in (
        ("mle", edits, ["greedy", "unedited", "sampled"]),
        ("le_cam", without, ["greedy", "unedited", "sampled"]),
        ("le_cam", edits, ["greedy", "sampled"]),
        ("le_cam", edits | {"figures": {"greedy": {"n": 1}}}, ["greedy"]),
    ):
        assert tables.choices_of([{0: run_of | {"method": method}}]) == columns
    old = [{"name": "of another time", "seed": 0}, {"name": "a", "seed": 1}]
    assert tables.by_setting(old, ["a"]) == {"a": {1: old[1]}}


def test_kept_texts_can_be_scored(tmp_path, capsys):
    tokenizer = CharTokenizer("12")
    actions = tokenizer.parse(["1", "<bkspc>", "2", "<eos>"])
    answers = [Answer(Example("1", "2"), actions, "2", True, True, 4)] * 2
    for choice in ("top_k=4,contrastive=0.6", "sampled, edits masked"):
        write_texts(tmp_path, choice, answers, tokenizer)
    paths = sorted((tmp_path / "texts").iterdir())
    prepare_scores(",".join(map(str, paths)), "overlap,edits", None).run()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["edited_texts"] for line in lines] == [1.0, 1.0]


def test_a_part_of_the_check_ends_with_it(monkeypatch):
    """Ctrl-C reaches the parent alone: the part has a session of its own."""
    killed = []

    def interrupt(**_):
        raise KeyboardInterrupt

    part = SimpleNamespace(pid=123, communicate=interrupt)
    monkeypatch.setattr(gpu_check.subprocess, "Popen", lambda *_, **__: part)
    monkeypatch.setattr(gpu_check.os, "killpg", lambda *what: killed.append(what))
    monkeypatch.setattr(gpu_check, "REHEARSE", SimpleNamespace(value=True))
    monkeypatch.setattr(gpu_check, "PATIENCE", SimpleNamespace(value=1.0))
    with pytest.raises(KeyboardInterrupt):
        gpu_check.run_part("tests")
    assert killed == [(123, signal.SIGKILL)]
