"""The main job, watched from outside: where it stands at any moment, and how often it compiled.

    python -m tests.dependability.watched FILE [flags of sequencematch.main]

The child is the main job and nothing else but a thread that notes its stack in FILE every 10 ms. A
thread of Python's, not faulthandler's: that one reads the frames of a thread that runs, and may crash.
"""

import contextlib
import ctypes
import itertools
import json
import os
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
EVERY, SIZE = 0.01, 1 << 14  # seconds; bytes, so that a note is replaced in one write
NOTED = ("sequencematch", "tensorflow_datasets", "jax._src.pjit", "__main__")
SAVING = "checkpoints/*orbax-checkpoint-tmp*"  # orbax renames it when all is written

# The first that the stack shows: functions, or the line of the training loop.
MOMENTS = [
    ("data", "prepared open_or_prepare "),
    ("compilation", "plan compile_ahead "),
    ("compilation", "pjit cache_miss "),  # tracing, and the compiler or its cache
    ("restore", "checkpoint restore "),
    ("save", "checkpoint save "),
    ("save", "checkpoint __exit__ "),
    ("sampling", "plan.refresh("),
    ("validation", "results validation_figures "),
    ("test", "results evaluate_test_set "),
    ("results", "results publish "),
    ("step", "loop train "),
    ("start", "__main__ main "),
    ("end", ""),
]


# A network and a buffer of a size that leaves time for everything else.
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
      stack: of its main thread, "module function line" of what is ours, the innermost first.
      compilations: so far, those that a cache spared included.
      blocks: those that Python's objects take, the fewest in the last second.
      allocated: bytes that malloc has given, as of this second; None where it does not tell.
    """

    stack: Sequence[str] = ("__main__ main ",)
    compilations: int = 0
    blocks: int = 0
    allocated: int | None = None


def new_folder(name: str, asked: str | None) -> Path:
    """The folder asked for, else runs/NAME-<now>, for whatever is measured is measured anew.

    Raises:
      FileExistsError: it is there already.
    """
    folder = Path(asked or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists():
        raise FileExistsError(f"--folder={folder} is there already: name another")
    return folder


def saved(run: Path) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    names = [path.name for path in run.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def recorded(run: Path) -> int:
    """The last step of which metrics.jsonl tells; a line that the kill cut short does not count."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0


def touched(run: Path) -> int:
    """When metrics.jsonl was last written: a session killed early has done nothing again."""
    path = run / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.is_file() else 0


def moment(note: Note, run: Path) -> str:
    """What the job in the folder `run` is doing; "save" while orbax writes beside training."""
    text = "\n".join(note.stack) + "\n"
    found = next(name for name, sign in MOMENTS if sign in text)
    return "save" if found == "step" and any(run.glob(SAVING)) else found


class Child:
    """The main job in a process of its own.

    Args:
      folder: where its notes and what it prints go.
      flags: of sequencematch.main.
      env: the whole environment.
    """

    def __init__(self, folder: Path, flags: Sequence[str], env: dict[str, str]):
        self.printed, self._file, self._note = folder / "printed.txt", folder / "note.json", Note()
        self._file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.dependability.watched", str(self._file), *flags]
        with self.printed.open("a") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)

    def note(self) -> Note:
        """The newest note that could be read."""
        # Not there yet, or read while it was replaced: the one before holds.
        with contextlib.suppress(OSError, ValueError):
            self._note = Note(**json.loads(self._file.read_text()))
        return self._note

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.printed.read_text(errors="replace")[-4000:]


def _stack(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(NOTED):
            line = getline(frame.f_code.co_filename, frame.f_lineno).strip()
            yield f"{module.rpartition('.')[2]} {frame.f_code.co_name} {line}"
        frame = frame.f_back


class _Malloc(ctypes.Structure):
    """What glibc tells of its memory: ten counts."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *(
            (name, ctypes.c_size_t)
            for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keep")
        ),
    ]


_mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc alone has it
if _mallinfo:
    _mallinfo.restype = _Malloc


def _allocated() -> int | None:
    """Bytes that malloc has given and not got back."""
    told = _mallinfo and _mallinfo()
    return told and told.uordblks + told.hblkhd


def _watch(file: Path, compilations: list[str]) -> None:
    """Notes until the process ends."""
    descriptor, main_thread = os.open(file, os.O_CREAT | os.O_WRONLY), threading.main_thread()
    blocks = deque[int](maxlen=round(1 / EVERY))
    for count in itertools.count():
        stack = list(_stack(sys._current_frames().get(main_thread.ident)))
        blocks.append(sys.getallocatedblocks())
        if count % blocks.maxlen == 0:  # it looks at every free piece of memory
            allocated = _allocated()
        note = Note(stack[-40:], len(compilations), min(blocks), allocated)
        os.pwrite(descriptor, json.dumps(note._asdict()).encode().ljust(SIZE), 0)
        time.sleep(EVERY)


def main() -> int:
    """Runs the main job under watch."""
    compilations: list[str] = []
    threading.Thread(target=_watch, args=(Path(sys.argv[1]), compilations), daemon=True).start()
    from jax import monitoring  # imported under watch: a kill can fall here, too

    from sequencematch.main import main

    def note(event: str, seconds: float, **_) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    monitoring.register_event_duration_secs_listener(note)
    return main(["main.py", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
