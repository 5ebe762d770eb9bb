"""The report shows what a run's files hold, whatever they hold, and renders in Chromium."""

import html
import html.parser
import json
import math
import pathlib
import random
import re
import shutil
import subprocess

import pytest

from sequencematch.evaluate import report, sections

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --enable-logging=stderr --v=0
"""
VOID = {"meta", "link", "br", "path", "use"}
EVIL = '<script>alert("1")</script>'


def train_line(step: int) -> dict:
    """A plausible line of a run that leaves behavioural cloning at step 1,500."""
    noise = random.Random(step).gauss(0, 0.04)
    progress, bc = step / 3000, 0.35 + 2.6 * math.exp(-step / 350)
    line = {"kind": "train", "step": step, "phase": "bc", "loss": bc + noise, "bc": bc + noise}
    line |= {"value/mean": 9 - 3 * progress + noise, "value/min": 2.0, "value/max": 14.0}
    line |= {"value/start": 7 - 4 * progress, "q/mean": 8 - 3 * progress, "reward/max": 1.5}
    line |= {"reward/capped": max(0.2 - progress, 0.0)}
    line |= {"reward/mean": 0.2 + noise, "reward/min": -6 + 3 * progress, "beta": 1.0}
    line |= {"td/mean": -bc, "td/rms": bc * 1.7, "gradient_norm": 5 * math.exp(-step / 400) + 0.3}
    line |= {"learning_rate": 1e-3 * min(step / 200, 1) * (1 + math.cos(3.14 * progress)) / 2}
    line |= {"tokens_per_second": 21000 * (1 + noise), "tokens": 2000 * step, "seconds": step / 6}
    if step > 1500:
        line |= {"phase": "sequencematch", "beta": 1 - (step - 1500) / 2000}
        line |= {"objective": -1.3 + 0.5 * progress + noise, "policy/reward_mean": -0.4 + noise}
        line |= {"policy/length": 8.4 + 4 * noise, "policy/edits": 0.06 + noise / 10}
        line |= {"replay/age": min((step - 1500) / 2, 120), "sampled_tokens": 90 * step}
    return line


def validation_line(step: int) -> dict:
    line = {"kind": "validation", "step": step}
    for decode, best in (("greedy", 0.86), ("sampled", 0.77)):
        right = best * (1 - math.exp(-step / 700))
        line |= {f"accuracy/{decode}": right, f"accuracy/{decode}_low": right - 0.05}
        line |= {f"accuracy/{decode}_high": right + 0.04}
    return line


def score(right: int) -> dict:
    use = {"answers": 0.195, "per_action": 0.031, "deleted_wrong": 0.884, "errors": 61}
    use |= {"errors_deleted": 0.475, "errors_mended": 0.41}
    share = right / 200
    interval = {"low": share - 0.052, "high": share + 0.043}
    counts = {"n": 200, "right": right, "finished": 0.995, "length": 5.83}
    return {"accuracy": share, **interval, **counts, "edits": use}


def trace(decode: str, index: int) -> dict:
    answer = str(1047 + 391 * index)
    wrong = answer[:-1] + str((index + 3) % 10)
    slip = [*answer[:2], "8", *["<bkspc>"] * (1 + index % 2), *answer[2 - index % 2 :]]
    actions = ([*answer, "<eos>"], [*slip, "<eos>"], [*wrong, "<eos>"])[index % 3]
    text = (answer, answer, wrong)[index % 3]
    prompt = f"In base {5 + index % 9}, what is {index * 37 + 12} + {index * 91 + 5}?"
    named = {"decode": decode, "prompt": prompt, "answer": answer, "actions": actions}
    gone = {2, 2 - index % 2} if index % 3 == 1 else set()
    named |= {"deleted": [time in gone for time in range(len(actions))]}
    return named | {"text": text, "right": text == answer}


SUMMARY = {
    "name": "arithmetic",
    "method": "sequencematch",
    "seed": 0,
    "steps": 3000,
    "parameters": 803_456,
    "tokens": 6_000_000,
    "sampled_tokens": 270_000,
    "seconds": {"data": 6.21, "compile_and_train": 498.4, "evaluate": 22.7, "total": 531.9},
    "hardware": "2 CPU cores",
    "versions": {"jax": "0.10.0", "flax": "0.12.8", "sequencematch": "0.1.0"},
    "command": "python -m sequencematch.main --config=configs/arithmetic.py:sequencematch",
    "config": {"seed": 0, "model": {"width": 128, "layers": 4}, "loss": {"alpha": 0.01, "w": 0.5}},
    "test": {"greedy": score(167), "sampled": score(153)},
}


def write_run(workdir: pathlib.Path, summary: dict, metrics: list, traces: list) -> pathlib.Path:
    workdir.mkdir(exist_ok=True)
    (workdir / "summary.json").write_text(json.dumps(summary))
    for name, lines in (("metrics", metrics), ("traces", traces)):
        (workdir / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return workdir


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    """The directory of a finished SequenceMatch run, as the training loop leaves it."""
    metrics = [train_line(step) for step in range(25, 3001, 25)]
    metrics += [validation_line(step) for step in range(250, 3001, 250)]
    traces = [trace(decode, i) for decode in sections.DECODES for i in range(16)]
    return write_run(tmp_path / "arithmetic-sequencematch-0", SUMMARY, metrics, traces)


def rendered(workdir: pathlib.Path) -> str:
    return report.write_report(workdir).read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """Every tag and id of a page; asserts that what is opened is closed, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.ids, self.links = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        self.links += [v for key, v in attributes if key in ("src", "href", "xlink:href", "srcset")]
        self.open += [tag] * (tag not in VOID)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.handle_starttag(tag, attributes)
        self.open = self.open[: -(tag not in VOID) or None]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_shows_everything_a_finished_run_holds(run: pathlib.Path) -> None:
    page = rendered(run)
    wanted = ("arithmetic", "sequencematch", "seed 0", "2 CPU cores", "8 min 52 s in all", "83.5 %")
    wanted += ("95 % interval 78.3 % to 87.8 %", "167 of 200 right", "803,456", "0.12.8")
    wanted += ("Errors mended", "41.0 %", "88.4 %", "4 more, sampled", "loss.alpha = 0.01")
    wanted += (SUMMARY["command"], *(p.title for ps in report.SECTIONS.values() for p in ps))
    assert [text for text in wanted if text not in page] == []
    assert page.count("<figure>") == page.count("<svg") == 15


def test_is_one_well_formed_page_without_scripts_or_outside_resources(run: pathlib.Path) -> None:
    page = rendered(run)
    outline = Outline(page)
    assert "script" not in outline.tags and "@import" not in page
    assert len(set(outline.ids)) == len(outline.ids)
    local = set(outline.links) - {"data:,"}
    assert local and local <= {f"#{name}" for name in outline.ids}
    assert set(re.findall(r"url\((#[^)]*)\)", page)) <= {f"#{name}" for name in outline.ids}


def test_is_a_function_of_the_files(run: pathlib.Path) -> None:
    assert rendered(run) == rendered(run)
    assert not list(run.glob("*.tmp"))


def test_colours_are_left_to_the_style_sheet(run: pathlib.Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", rendered(run), flags=re.DOTALL)
    assert not re.search(
        r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(id|href)="[^"]*"', "", "".join(drawings))
    )


def test_escapes_all_text(run: pathlib.Path) -> None:
    hostile = trace("greedy", 0) | {"prompt": EVIL, "actions": [EVIL, "<bkspc>", "<b>", "&"]}
    hostile |= {"deleted": [True, False, False, False]}
    hostile |= {"text": EVIL, "answer": EVIL, "right": False}
    keys = ("name", "method", "seed", "hardware", "command")
    summary = SUMMARY | dict.fromkeys(keys, EVIL) | {"config": {EVIL: EVIL}}
    summary |= {"versions": {EVIL: EVIL}, "seconds": {EVIL: 1.0}}
    metrics = [train_line(step) | {"phase": f"{step} {EVIL} $\\x$"} for step in (1, 2)]
    page = rendered(write_run(run, summary, metrics, [hostile]))
    assert "script" not in Outline(page).tags
    assert "<del>&lt;script&gt;" in page and "<span>&lt;b&gt;</span><span>&amp;</span>" in page


def test_numbers_that_are_none_are_told_not_drawn(run: pathlib.Path) -> None:
    values = (math.nan, math.inf, -math.inf, None, "high")
    placed = [{"kind": "train", "step": step, "phase": "bc"} for step in range(len(values))]
    keys = train_line(3000)
    metrics = [dict.fromkeys(keys, v) | p for v, p in zip(values, placed, strict=True)]
    page = rendered(write_run(run, SUMMARY, metrics, []))
    # Nine panels have one training curve, four have two, one has three.
    gaps = [page.count(f"Gaps: {n} values that are not finite.") for n in (5, 10, 15)]
    assert gaps == [9, 4, 1]
    for value in values:
        test = {
            "greedy": dict.fromkeys(score(1), value),
            "sampled": {"accuracy": value, "low": 0.5},
        }
        summary = SUMMARY | {"test": test, "seconds": {"total": value}, "steps": value}
        page += rendered(write_run(run, summary, [], []))
    assert "nan" not in page.lower() and "infinity" not in page.lower()


def test_leaves_out_what_a_run_does_not_have(run: pathlib.Path) -> None:
    bare = {k: v for k, v in score(150).items() if k != "edits"}
    keys = ("kind", "step", "loss", "learning_rate")
    metrics = [{key: train_line(step)[key] for key in keys} for step in (25, 50)]
    page = rendered(write_run(run, {"method": "mle", "test": {"greedy": bare}}, metrics, []))
    assert "75.0 %" in page and page.count("<figure>") == 2
    for absent in ("Edits", "sampled", "Sample traces", "Configuration", "Command", "seed"):
        assert absent not in page.split("</style>")[1]


def test_every_key_may_be_missing(run: pathlib.Path) -> None:
    use = {"test": {"greedy": {"edits": {"errors": 3}}}}
    for summary in ({}, use, *({k: v for k, v in SUMMARY.items() if k != key} for key in SUMMARY)):
        Outline(rendered(write_run(run, summary, [], [{}, {"decode": "greedy"}])))


def test_what_is_of_another_kind_is_left_out(run: pathlib.Path) -> None:
    strange = trace("greedy", 0) | {"actions": 7, "deleted": 2.5, "right": []}
    endless = train_line(1) | {"loss": 10**400}
    deep = "[" * 100_000
    write_run(run, SUMMARY, [endless, train_line(2)], [strange])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(deep + "\n")
    page = rendered(run)
    assert strange["text"] in page and "left out as unreadable: 1." in page


def test_what_cannot_be_seen_is_shown_as_its_escape(run: pathlib.Path) -> None:
    hidden = trace("greedy", 0) | {"actions": ["\0", "\u202e"], "prompt": "\x1b[2J"}
    page = rendered(write_run(run, SUMMARY, [train_line(1)], [hidden]))
    assert page.replace("\n", "").isprintable()
    assert r"<span>\x00</span>" in page and r"\u202e" in page and r"\x1b[2J" in page


def test_a_running_run_says_so(run: pathlib.Path) -> None:
    (run / "summary.json").unlink()
    (run / "traces.jsonl").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    page = rendered(run)
    assert "this run has not finished, 3,000 steps so far" in page
    assert "unreadable: 1" in page and "latest validation" in page and "84.8 %" in page


def test_an_empty_directory_has_a_page(tmp_path: pathlib.Path) -> None:
    page = rendered(tmp_path)
    assert "has not finished" in page and tmp_path.name in page and "<figure>" not in page


def test_a_resumed_run_shows_the_later_line_of_a_step(run: pathlib.Path) -> None:
    metrics = [train_line(step) for step in (25, 50, 75)]
    straight = rendered(write_run(run, SUMMARY, metrics, []))
    killed = [*metrics[:2], metrics[2] | {"loss": 99.0}, metrics[1], metrics[2]]
    assert rendered(write_run(run, SUMMARY, killed, [])) == straight


def test_a_damaged_summary_is_named_and_the_old_page_kept(run: pathlib.Path) -> None:
    before = rendered(run)
    (run / "summary.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"summary\.json"):
        report.write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == before


def test_strikes_what_the_trace_says_was_deleted(run: pathlib.Path) -> None:
    actions = ["1", "2", "<bkspc2>", "3", "<reset>", "4", "<eos>"]
    line = {"decode": "greedy", "actions": actions, "deleted": [True, True, False, True, False]}
    page = rendered(write_run(run, SUMMARY, [], [line]))
    keys = {"<bkspc2>": "⌫2", "<reset>": "↺", "<eos>": "⊣"}
    two, reset, eos = (f'<kbd title="{html.escape(k)}">{mark}</kbd>' for k, mark in keys.items())
    assert f"<del>1</del><del>2</del>{two}<del>3</del>{reset}<span>4</span>{eos}" in page
    assert "⌫2 the last two; ↺ deletes all that was written; ⊣ ends the answer;" in page


def test_the_legend_explains_what_is_there(run: pathlib.Path) -> None:
    assert "<p>⌫ deletes the last token that is left; ⊣ ends the answer; what was" in rendered(run)
    page = rendered(write_run(run, SUMMARY, [], [{"decode": "greedy", "actions": ["1", "<eos>"]}]))
    assert "⌫" not in page and "<p>⊣ ends the answer; what was" in page


def visit(page: pathlib.Path) -> subprocess.CompletedProcess:
    """Chromium's document after loading, and what it logged."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *FLAGS.split(), profile, "--dump-dom", page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@needs_chromium
def test_renders_in_chromium_without_console_errors(run: pathlib.Path) -> None:
    page = report.write_report(run)
    visited = visit(page)
    assert "CONSOLE" not in visited.stderr
    assert visited.stdout.count("<svg") == 15 and "Configuration" in visited.stdout
    page.write_text(f"{page.read_text(encoding='utf-8')}<script>throw 1</script>", encoding="utf-8")
    assert "CONSOLE" in visit(page).stderr
