"""Plausible files of a run, as the training loop leaves them, and the page made from them."""

import html.parser
import json
import math
import pathlib
import random

from sequencematch.evaluate import report
from tests.command_line.shared import shared_programs

VOID = {"meta", "link", "br", "path", "use", "input"}
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
    use |= {"errors_deleted": 0.475, "errors_mended": 0.41, "deleted_right": 0.123}
    share = right / 200
    interval = {"low": share - 0.052, "high": share + 0.043}
    counts = {"n": 200, "right": right, "finished": 0.995, "length": 5.83}
    counts |= {"within": {"6": share - 0.1, "7": share - 0.05}}
    return {"accuracy": share, **interval, **counts, "edits": use}


AUC = {
    "log_likelihood": {"pooled": 0.913, "within": 0.871},
    "log_likelihood_per_action": {"pooled": 0.905, "within": 0.866},
    "reward_sum": {"pooled": 0.78, "within": 0.694},
    "reward_min": {"pooled": 0.823, "within": 0.75},
    "value_end": {"pooled": 0.641, "within": 0.56},
    "value_drops": {"pooled": 0.52, "within": 0.487},
    "return": {"pooled": 0.85, "within": None},
}


def trace(decode: str, index: int) -> dict:
    answer = str(1047 + 391 * index)
    wrong = answer[:-1] + str((index + 3) % 10)
    corrected = [*answer[:2], "8", *["<bkspc>"] * (1 + index % 2), *answer[2 - index % 2 :]]
    actions = ([*answer, "<eos>"], [*corrected, "<eos>"], [*wrong, "<eos>"])[index % 3]
    text = (answer, answer, wrong)[index % 3]
    prompt = f"In base {5 + index % 9}, what is {index * 37 + 12} + {index * 91 + 5}?"
    named = {"decode": decode, "prompt": prompt, "answer": answer, "actions": actions}
    deleted = {2, 2 - index % 2} if index % 3 == 1 else set()
    named |= {"deleted": [time in deleted for time in range(len(actions))]}
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
    "test": {"greedy": score(167), "sampled": score(153) | {"auc": AUC}},
}


def write_run(workdir: pathlib.Path, summary: dict, metrics: list, traces: list) -> pathlib.Path:
    workdir.mkdir(exist_ok=True)
    (workdir / "summary.json").write_text(json.dumps(summary))
    for name, lines in (("metrics", metrics), ("traces", traces)):
        (workdir / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return workdir


def render_page(workdir: pathlib.Path) -> str:
    """The page of a run; equal curves are drawn once."""
    with shared_programs():
        return report.write_report(workdir).read_text(encoding="utf-8")


class Outline(html.parser.HTMLParser):
    """The tags, ids and links of a page; asserts that tags are closed in order."""

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
