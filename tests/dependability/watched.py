"""The main job in a process of its own that reports what it is doing.

    python -m tests.dependability.watched FILE [flags of sequencematch.main]

The child is the main job and one thread more, which writes the stack of the main thread and some counts
to FILE every 10 ms.
"""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
INTERVAL = 0.01  # seconds between notes
NOTE_SIZE = 1 << 14  # bytes; constant, so that a note is replaced in one write
MODULES = ("sequencematch", "tensorflow_datasets", "jax._src.pjit", "__main__")  # in the stack
SAVING = "checkpoints/*orbax-checkpoint-tmp*"  # orbax renames it when everything is written

# The moments, and what the stack has in each: "module function", or the line of the training loop. The
# first that matches counts.
MOMENTS = [
    ("data", "prepared open_or_prepare "),
    ("compilation", "plan compile_ahead "),
    ("compilation", "pjit cache_miss "),  # tracing, and the compiler or its cache
    ("restore", "checkpoint restore "),
    ("save", "checkpoint save "),
    ("save", "checkpoint __exit__ "),
    ("sampling", "loop time_sampling "),
    ("validation", "figures validation_figures "),
    ("test", "figures evaluate_test_set "),
    ("results", "results evaluate_and_report "),
    ("step", "loop train "),
    ("start", "__main__ main "),
    ("end", ""),
]

# A network and a replay buffer so small that everything else takes its share of the time.
SMALL = {
    "model.layers": 2,
    "model.d_model": 64,
    "model.d_ff": 128,
    "rollout.every": 5,
    "rollout.rows": 32,
    "rollout.capacity": 128,
}


class Note(NamedTuple):
    """What the child wrote last.

    Attributes:
      stack: of its main thread, "module function line" for frames of MODULES, the innermost first.
      compilations: so far, including those that a cache saved.
      blocks: memory blocks of Python's objects, the minimum of the last second.
      allocated: bytes that malloc has allocated, at most a second old; None where malloc does not say.
    """

    stack: Sequence[str] = ("__main__ main ",)
    compilations: int = 0
    blocks: int = 0
    allocated: int | None = None


def new_folder(name: str, requested: str | None) -> Path:
    """The folder requested, or runs/NAME-<now>: every measurement starts in a new one.

    Raises:
      FileExistsError: it exists already.
    """
    folder = Path(requested or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists():
        raise FileExistsError(f"--folder={folder} is there already: name another")
    return folder


def last_saved_step(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    names = [path.name for path in run.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def last_recorded_step(run: Path) -> int:
    """The step of the last record in metrics.jsonl; a line that a kill cut short does not count."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def metrics_mtime(run: Path) -> int:
    """When metrics.jsonl was last written, in ns; a session that is killed early does not write it."""
    path = run / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.is_file() else 0


def moment(note: Note, run: Path) -> str:
    """What the job in the folder `run` is doing; "save" also while orbax writes in the background."""
    text = "\n".join(note.stack) + "\n"
    found = next(name for name, sign in MOMENTS if sign in text)
    return "save" if found == "step" and any(run.glob(SAVING)) else found


class Child:
    """The main job in a process of its own.

    Args:
      folder: for its notes and its output.
      flags: of sequencematch.main.
      env: the whole environment.
    """

    def __init__(self, folder: Path, flags: Sequence[str], env: dict[str, str]):
        self.output, self._file, self._note = folder / "printed.txt", folder / "note.json", Note()
        self._file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.dependability.watched", str(self._file), *flags]
        with self.output.open("a") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)

    def note(self) -> Note:
        """The newest note that could be read."""
        # If there is none yet, or it was read while it was replaced, the one before holds.
        with contextlib.suppress(OSError, ValueError):
            self._note = Note(**json.loads(self._file.read_text()))
        return self._note

    def last_words(self) -> str:
        """The end of its output."""
        return self.output.read_text(errors="replace")[-4000:]


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(MODULES):
            number = frame.f_lineno or 0  # None between lines
            line = getline(frame.f_code.co_filename, number).strip()
            yield f"{module.rpartition('.')[2]} {frame.f_code.co_name} {line}"
        frame = frame.f_back


class _Malloc(ctypes.Structure):
    """struct mallinfo2 of glibc: ten counts."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *(
            (name, ctypes.c_size_t)
            for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keep")
        ),
    ]


_mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # only glibc has it
if _mallinfo:
    _mallinfo.restype = _Malloc


def _allocated_bytes() -> int | None:
    """Bytes that malloc has allocated and that are not freed."""
    counts = _mallinfo and _mallinfo()
    return counts and counts.uordblks + counts.hblkhd


class _Watch:
    """What the main thread is doing; made by that thread.

    A signal makes it look at its own stack: Python 3.11 may crash when one thread walks the frames of
    another that runs. In compiled code it does not look, and what it saw before holds.
    """

    def __init__(self):
        self.stack, self._thread = list(Note().stack), threading.get_ident()
        # By default SIGURG is ignored: it harms nothing while Python starts or shuts down.
        signal.signal(signal.SIGURG, self._look)
        signal.siginterrupt(signal.SIGURG, False)

    def ask(self) -> None:
        """Makes the main thread look, soon."""
        signal.pthread_kill(self._thread, signal.SIGURG)

    def _look(self, number: int, frame: FrameType | None) -> None:
        self.stack = list(_stack(frame))[-40:]


def _write_notes(file: Path, watch: _Watch, compilations: list[str]) -> None:
    """Writes notes until the process ends."""
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    blocks = deque[int](maxlen=round(1 / INTERVAL))
    for count in itertools.count():
        watch.ask()
        blocks.append(sys.getallocatedblocks())
        if count % blocks.maxlen == 0:  # once a second: mallinfo2 visits every free piece of memory
            allocated = _allocated_bytes()
        note = Note(watch.stack, len(compilations), min(blocks), allocated)
        os.pwrite(descriptor, json.dumps(note._asdict()).encode().ljust(NOTE_SIZE), 0)
        time.sleep(INTERVAL)


def main() -> int:
    """Runs the main job and writes notes about it."""
    compilations: list[str] = []
    notes = threading.Thread(
        target=_write_notes, args=(Path(sys.argv[1]), _Watch(), compilations), daemon=True
    )
    notes.start()
    from jax import monitoring  # imported now, so that a signal can come during the import

    from sequencematch.main import main

    def count_compilation(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    monitoring.register_event_duration_secs_listener(count_compilation)
    return main(["main.py", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
