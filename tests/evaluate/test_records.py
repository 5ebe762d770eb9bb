import pathlib

from tests.evaluate.run_files import SUMMARY, render_page, trace, train_line, write_run


def test_values_of_another_type_are_left_out(finished_run: pathlib.Path) -> None:
    strange = trace("greedy", 0) | {"actions": 7, "deleted": 2.5, "right": []}
    endless = train_line(1) | {"loss": 10**400}
    deep = "[" * 100_000
    write_run(finished_run, SUMMARY, [endless, train_line(2)], [strange])
    with (finished_run / "metrics.jsonl").open("a") as file:
        file.write(deep + "\n")
    page = render_page(finished_run)
    assert strange["text"] in page and "left out as unreadable: 1." in page


def test_later_line_of_a_step_counts(finished_run: pathlib.Path) -> None:
    metrics = [train_line(step) for step in (25, 50, 75)]
    straight = render_page(write_run(finished_run, SUMMARY, metrics, []))
    killed = [*metrics[:2], metrics[2] | {"loss": 99.0}, metrics[1], metrics[2]]
    assert render_page(write_run(finished_run, SUMMARY, killed, [])) == straight
