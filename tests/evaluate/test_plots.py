import math
import pathlib
import re

from tests.evaluate.run_files import SUMMARY, render_page, score, train_line, write_run


def test_colours_are_variables_of_the_style_sheet(finished_run: pathlib.Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render_page(finished_run), flags=re.DOTALL)
    assert not re.search(
        r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(id|href)="[^"]*"', "", "".join(drawings))
    )


def test_values_that_are_not_finite_are_counted_and_not_drawn(finished_run: pathlib.Path) -> None:
    values = (math.nan, math.inf, -math.inf, None, "high")
    placed = [{"kind": "train", "step": step, "phase": "bc"} for step in range(len(values))]
    keys = train_line(3000)
    metrics = [dict.fromkeys(keys, v) | p for v, p in zip(values, placed, strict=True)]
    page = render_page(write_run(finished_run, SUMMARY, metrics, []))
    # Nine panels have one training curve, four have two, one has three.
    gaps = [page.count(f"Gaps: {n} values that are not finite.") for n in (5, 10, 15)]
    assert gaps == [9, 4, 1]
    for value in values:
        test = {
            "greedy": dict.fromkeys(score(1), value),
            "sampled": {"accuracy": value, "low": 0.5},
        }
        summary = SUMMARY | {"test": test, "seconds": {"total": value}, "steps": value}
        page += render_page(write_run(finished_run, summary, [], []))
    assert "nan" not in page.lower() and "infinity" not in page.lower()
