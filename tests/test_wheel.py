"""A wheel, installed and used in an empty folder, runs the configurations that it ships."""

import os
import shutil
import subprocess
import sys
from itertools import product, starmap
from pathlib import Path

import pytest

from tests.marks import exhaustive

REPOSITORY = Path(__file__).parents[1]
SHIPPED = ("sequencematch", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package installed from its wheel, and nothing else of the repository."""
    source, wheels, site = (tmp_path_factory.mktemp(n) for n in ("source", "wheels", "site"))
    for name in SHIPPED:  # a build leaves files in the folder it builds from
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("sequencematch-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    return site


@pytest.mark.stress
@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("arithmetic:mle", True),
        ("jsonl:bc", False),
        *starmap(exhaustive, product(["arithmetic:paper,le_cam", "text:mle"], [True, False])),
    ],
)
def test_it_runs_a_configuration_by_name(site, spellings, tmp_path, name, script):
    call = [site / "bin" / "sequencematch"] if script else ["-m", "sequencematch.main"]
    flags = [f"--config={name}", "--dry_run", "--workdir=run", f"--config.data.dir={tmp_path}/data"]
    if name.startswith("jsonl"):
        flags += [f"--config.data.path={spellings}"]
    if name.startswith("text"):
        texts = tmp_path / "texts"
        texts.mkdir()
        for i in range(80):
            (texts / f"{i}.txt").write_text(f"text number {i} " * 9)
        flags += [f"--config.data.corpus=files:{texts}/*"]
    sizes = [f"--config.data.{split}=8" for split in ("train", "validation", "test")]
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run(
        [sys.executable, *call, *flags, *sizes],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing was trained" in done.stdout
    assert list(empty.iterdir()) == []


@pytest.mark.stress
def test_it_is_the_installed_package_that_runs(site, tmp_path):
    code = "import sequencematch, sequencematch.configs as c; print(sequencematch.__file__, c.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(path.startswith(str(site)) for path in done.stdout.split())
