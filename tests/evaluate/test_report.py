import pathlib
import re
import shutil
import subprocess

import pytest

from sequencematch.evaluate import plots, report
from tests.evaluate.run_files import (
    SUMMARY,
    Outline,
    render_page,
    write_run,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --enable-logging=stderr --v=0
"""


def test_page_shows_all_that_is_in_the_files(finished_run: pathlib.Path) -> None:
    page = render_page(finished_run)
    wanted = ("arithmetic", "sequencematch", "seed 0", "2 CPU cores", "8 min 52 s in all", "83.5 %")
    wanted += ("95 % interval 78.3 % to 87.8 %", "167 of 200 right", "803,456", "0.12.8")
    wanted += ("Errors mended", "41.0 %", "88.4 %", "4 more, sampled", "loss.alpha = 0.01")
    wanted += (SUMMARY["command"], *(p.title for ps in plots.SECTIONS.values() for p in ps))
    assert [text for text in wanted if text not in page] == []
    assert page.count("<figure>") == page.count("<svg") == 15


def test_page_is_well_formed_without_scripts_or_external_resources(
    finished_run: pathlib.Path,
) -> None:
    page = render_page(finished_run)
    outline = Outline(page)
    assert "script" not in outline.tags and "@import" not in page
    assert len(set(outline.ids)) == len(outline.ids)
    local = set(outline.links) - {"data:,"}
    assert local and local <= {f"#{name}" for name in outline.ids}
    assert set(re.findall(r"url\((#[^)]*)\)", page)) <= {f"#{name}" for name in outline.ids}


@pytest.mark.stress
def test_page_is_a_function_of_the_files(finished_run: pathlib.Path) -> None:
    pages = [report.write_report(finished_run).read_text() for _ in range(2)]
    assert pages[0] == pages[1]
    assert not list(finished_run.glob("*.tmp"))


def test_every_key_may_be_missing(finished_run: pathlib.Path) -> None:
    use = {"test": {"greedy": {"edits": {"errors": 3}}}}
    for summary in ({}, use, *({k: v for k, v in SUMMARY.items() if k != key} for key in SUMMARY)):
        Outline(render_page(write_run(finished_run, summary, [], [{}, {"decode": "greedy"}])))


def test_page_of_a_running_run_says_that_it_has_not_finished(finished_run: pathlib.Path) -> None:
    (finished_run / "summary.json").unlink()
    (finished_run / "traces.jsonl").unlink()
    with (finished_run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    page = render_page(finished_run)
    assert "this run has not finished, 3,000 steps so far" in page
    assert "unreadable: 1" in page and "latest validation" in page and "84.8 %" in page


def test_empty_directory_has_a_page(tmp_path: pathlib.Path) -> None:
    page = render_page(tmp_path)
    assert "has not finished" in page and tmp_path.name in page and "<figure>" not in page


def test_damaged_summary_is_named_and_leaves_the_old_page(finished_run: pathlib.Path) -> None:
    before = render_page(finished_run)
    (finished_run / "summary.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"summary\.json"):
        report.write_report(finished_run)
    assert (finished_run / "report.html").read_text(encoding="utf-8") == before


def load_in_chromium(page: pathlib.Path) -> subprocess.CompletedProcess:
    """The document after loading, on stdout, and Chromium's log, on stderr."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *FLAGS.split(), profile, "--dump-dom", page.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.stress
@needs_chromium
def test_renders_in_chromium_without_console_errors(finished_run: pathlib.Path) -> None:
    page = report.write_report(finished_run)
    loaded = load_in_chromium(page)
    assert "CONSOLE" not in loaded.stderr
    assert loaded.stdout.count("<svg") == 15 and "Configuration" in loaded.stdout
    page.write_text(f"{page.read_text(encoding='utf-8')}<script>throw 1</script>", encoding="utf-8")
    assert "CONSOLE" in load_in_chromium(page).stderr
