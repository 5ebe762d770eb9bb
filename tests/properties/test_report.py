"""Any files of a run, damaged or strange, give a page, and no text of theirs becomes markup."""

import html
import html.parser
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sequencematch.evaluate import records, report, sections, trace_section
from sequencematch.evaluate.plots import escape_unprintable
from tests.properties.given import NASTY, examples, message_of, numbers, texts, values

some = st.one_of(values, numbers, texts)
keys = ("kind", "step", "phase", "loss", "bc", "accuracy/greedy", "accuracy/greedy_low", "beta")
kinds = st.sampled_from(["train", "validation"])
metrics = st.fixed_dictionaries({"kind": kinds, "step": st.integers(0, 9)}) | st.dictionaries(
    st.sampled_from(keys), some
)
traces = st.fixed_dictionaries(
    {},
    optional={
        "decode": st.sampled_from(sections.DECODES) | some,
        "prompt": some,
        "answer": some,
        "actions": st.lists(some) | some,
        "deleted": st.lists(st.booleans() | some) | some,
        "text": some,
        "values": st.lists(st.floats() | some) | some,
        "rewards": st.lists(st.floats() | some) | some,
        "right": st.booleans() | some,
    },
)
figures = st.dictionaries(
    st.sampled_from(["accuracy", "low", "high", "n", "right", "length", "edits", "return"]), some
)
summaries = st.fixed_dictionaries(
    {},
    optional={
        "name": some,
        "method": some,
        "seed": some,
        "hardware": some,
        "command": some,
        "parameters": some,
        "seconds": st.dictionaries(st.sampled_from(["train", "total"]) | texts, some) | some,
        "versions": st.dictionaries(texts, some) | some,
        "config": st.dictionaries(texts, some) | some,
        "test": st.dictionaries(st.sampled_from(sections.DECODES), figures | some) | some,
    },
)


def lines(values):
    """The bytes of a jsonl file of some values and some lines that are not JSON."""
    objects = values.map(lambda value: json.dumps(value).encode())
    return st.lists(objects | st.binary(), max_size=5).map(b"\n".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


class Elements(html.parser.HTMLParser):
    """The names of a page's elements and attributes."""

    def __init__(self, page):
        super().__init__()
        self.names = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names |= {tag, *(name for name, _ in attrs)}


def render_page(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return report.write_report(folder).read_text(encoding="utf-8")


@examples(5, 500)
@example(b"\0\r" * 6, b"", b"{}")  # a carriage return ends no line
@given(lines(metrics), lines(traces), summaries.map(lambda s: json.dumps(s).encode()) | st.binary())
def test_any_files_give_a_page_or_one_line(folder, metrics, traces, summary):
    files = {"metrics.jsonl": metrics, "traces.jsonl": traces, "summary.json": summary}
    try:
        page = render_page(folder, files)
    except ValueError as error:
        assert message_of(error).startswith(f"{folder / 'summary.json'}: expected a JSON object")
        return
    assert records.read(folder).unreadable <= sum(
        content.count(b"\n") + 1 for content in files.values()
    )
    assert page.startswith("<!doctype html>") and page.endswith("</html>\n")
    assert page.replace("\n", "").isprintable()
    assert not Elements(page).names & {"script", "onerror", "onload", "iframe", "object"}


@pytest.mark.stress
@examples(12, 100)
@example("\ud800\udc00")
@given(st.sampled_from(NASTY) | texts)
def test_any_text_is_on_the_page_and_is_not_markup(folder, text):
    """The page has the same elements whatever the texts of the run are."""

    def page(text):
        trace = {"decode": "greedy", "prompt": text, "answer": text, "actions": [text, "b"]}
        trace |= {"deleted": [True, False], "text": text, "right": False}
        summary = {"name": text, "method": text, "command": text, "hardware": text}
        summary |= {"config": {"data": {"path": text}}, "versions": {text or "a": text}}
        steps = [
            {"kind": "train", "step": i, "loss": 1.0, "phase": p} for i, p in enumerate(["a", text])
        ]
        files = {"summary.json": summary, "traces.jsonl": trace}
        files = {name: json.dumps(content).encode() for name, content in files.items()}
        return render_page(
            folder, files | {"metrics.jsonl": "\n".join(map(json.dumps, steps)).encode()}
        )

    found, plain = page(text), page("word")
    for place in ("<code>{}</code>", "<p>{}</p>", "<pre>{}</pre>"):  # answer, prompt, command
        read = json.loads(json.dumps(text))  # which joins the two halves of a surrogate pair
        assert place.format(html.escape(escape_unprintable(read))) in found
    assert found.replace("\n", "").isprintable()
    names = re.compile(r"<[a-z/!][^\s>]*")
    drawn = re.compile(r"<svg.*?</svg>", re.DOTALL)
    # A mark is drawn as another element, and an empty text leaves some out.
    if text and text not in trace_section.MARKS:
        assert names.findall(drawn.sub("", found)) == names.findall(drawn.sub("", plain))
    assert Elements(found).names <= Elements(plain).names | {"kbd", "title"}
