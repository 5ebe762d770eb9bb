"""The metrics of a run in Weights & Biases, beside TensorBoard's."""

import importlib.metadata
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sequencematch.storage import files
from sequencematch.storage.console import to_stderr
from sequencematch.storage.metrics_log import numbers, read_records

LEAST = (0, 27)  # the first that gives up on a network
ID = "wandb.json"  # in the work directory: the run at W&B, and how many of the records it has


def check_installed(project: str) -> None:
    """Raises ValueError if a project is named and there is no package to write to it with."""
    if project and installed_version() < LEAST:
        raise ValueError(
            f"config.wandb={project!r} needs the package wandb, {LEAST[0]}.{LEAST[1]} or newer: pip "
            "install 'sequencematch[wandb]', or leave it out with --config.wandb="
        )


def installed_version() -> tuple[int, int]:
    """The first two numbers of wandb's version; zeros if it is not installed."""
    try:
        major, minor, *_ = importlib.metadata.version("wandb").split(".")
    except importlib.metadata.PackageNotFoundError:
        return 0, 0
    return int(major), int(minor)


class WandbBoard:
    """A run at W&B, the same for all parts of a run here; WANDB_MODE=offline keeps it in the folder.

    Each record is a row with its step, so that a record that comes after a later one is not lost, as it
    would be if W&B counted the steps. What an earlier part of the run has sent is not sent again; what
    it has not sent, where W&B failed or was left out, is.

    Args:
      workdir: the run's folder.
      project: PROJECT or ENTITY/PROJECT.
      config: the configuration, for its page.
      records: those that the metrics log starts with.

    Raises:
      OSError: W&B cannot be reached, or refuses.
    """

    def __init__(
        self, workdir: Path, project: str, config: Mapping[str, Any], records: Sequence[dict] = ()
    ):
        import wandb  # only here: it takes a second, and is an extra

        self._path, (entity, _, name) = workdir / ID, project.rpartition("/")
        found = json.loads(self._path.read_text()) if self._path.is_file() else {}
        known = found.get("project") == project  # another has nothing of the run yet
        found = found if known else {"id": secrets.token_hex(4), "project": project}
        # Read before the metrics log is opened, which drops what comes after the newest checkpoint.
        sent = read_records(workdir, 2**63)[: found.get("sent")] if known else []
        self._facts, self._place = found | {"sent": len(sent)}, 0
        self._sent = {(record["kind"], record["step"]) for record in sent}
        # Its own lines would be between ours; what the machine does meanwhile is not ours to send.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            init_timeout=30,
            finish_timeout=60,  # by default it waits for a network for ever
            finish_timeout_raises=True,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        try:
            self._run = wandb.init(
                project=name,
                entity=entity or None,
                dir=workdir,
                id=found["id"],
                resume="allow",
                name=workdir.resolve().name,
                config=dict(config),
                settings=quiet,
            )
            self._run.define_metric("*", step_metric="step")
        except (wandb.Error, ValueError, KeyError) as error:
            raise OSError(f"config.wandb={project!r}: {error}") from error
        self._note()  # only now that it is there
        for record in records:
            self.write(record)

    def write(self, record: dict) -> None:
        """Sends the numbers of one record, unless it was sent before.

        If W&B fails that is printed, and nothing more is sent: metrics.jsonl has all.
        """
        self._place += 1  # among the records of metrics.jsonl
        if self._run is not None and (record["kind"], record["step"]) not in self._sent:
            self._try(lambda: self._run.log({"step": record["step"], **numbers(record)}))
        if self._run is not None and self._place > self._facts["sent"]:
            self._facts["sent"] = self._place
            self._note()

    def _note(self) -> None:
        files.write(self._path, json.dumps(self._facts) + "\n")

    def close(self) -> None:
        """Sends what is left, as far as that takes no longer than a minute; prints if W&B fails."""
        if self._run is not None:
            self._try(self._run.finish)

    def _try(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # of its service, of any type
            to_stderr(f"W&B has failed ({error}): metrics.jsonl has all, and goes on without it")
            self._run = None
