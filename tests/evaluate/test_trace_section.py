"""Answers in the report, action by action, with values and rewards as colours."""

import re

from sequencematch.evaluate.records import RunFiles
from sequencematch.evaluate.trace_section import traces
from tests.evaluate.run_files import trace

TEXT = {
    "decode": "sampled",
    "prompt": "once",
    "answer": " upon a time",
    "actions": [" ", "x", "<bkspc>", "u"],
    "deleted": [False, True, False, False],
    "values": [1.0, 2.0, -5.0, 3.0],
    "rewards": [0.5, -0.25, 0.0, 0.125],
    "text": " u",
}


def page_of(*lines):
    return traces(RunFiles("run", {}, [], [*lines], 0, "overlap"))


def test_a_text_stands_beside_the_real_one_and_is_neither_right_nor_wrong():
    page = page_of(TEXT)
    assert "<h4>generated</h4>" in page and "<h4>real</h4>" in page
    assert "once</span> upon a time</p>" in page and "not checked" not in page and "✗" not in page
    assert "<h4>" not in page_of(trace("greedy", 2)) and "✗" in page_of(trace("greedy", 2))


def test_colours_grow_with_value_and_with_the_size_of_a_reward():
    page = page_of(TEXT)
    found = re.findall(r'<(\w+)( class="loss")? style="--v:(\d+);--r:(\d+)" title="([^"]*)"', page)
    tags, losses, values, rewards, titles = zip(*found, strict=True)
    assert tags == ("span", "del", "kbd", "span")
    assert [bool(loss) for loss in losses] == [False, True, False, False]
    assert sorted(range(4), key=lambda i: int(values[i])) == [2, 0, 1, 3]
    assert sorted(range(4), key=lambda i: int(rewards[i])) == [2, 3, 1, 0]
    assert titles[1] == "V 2.00, reward -0.25" and titles[2].startswith("&lt;bkspc&gt;, V -5.00")


def test_without_values_there_is_nothing_to_choose():
    assert "tint" in page_of(TEXT)
    for odd in ({}, {"values": "x", "rewards": [1.0]}, {"values": [1e300], "rewards": [None]}):
        line = {key: x for key, x in TEXT.items() if key not in ("values", "rewards")} | odd
        assert "tint" not in page_of(line) and "--v" not in page_of(line)
