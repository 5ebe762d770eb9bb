"""Which questions the tables count, and which of them belong together."""

import importlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from sequencematch.data.mathematics import are_in_other_bases, numbers_of
from sequencematch.data.tasks import load_task

Rows = Mapping[int, Mapping[str, Any]]  # by seed


class Asked(NamedTuple):
    """The N questions of a split.

    Attributes:
      counts: whether a question counts. One does not that train has in another base, with the same
        answer: twins are of one base, so splits may share such.
      groups: number of each question's group; those about the same numbers are in one.
    """

    counts: Bool[np.ndarray, " N"]
    groups: Int[np.ndarray, " N"]


def questions_of(rows: Rows) -> dict[str, Any]:
    """What decides which questions the runs of a setting answered."""
    changes = next(iter(rows.values()))["changes"]
    return {key: value for key, value in changes.items() if key.startswith("data.")}


def asked_of(rows: Rows) -> Asked:
    """The questions that the runs of a setting answered."""
    row = next(iter(rows.values()))
    return _load(row.get("config", "arithmetic"), json.dumps(questions_of(rows)), row["split"])


@cache
def _load(config: str, changes: str, split: str) -> Asked:
    found = importlib.import_module(f"configs.{config}").get_config()
    found.update_from_flattened_dict(json.loads(changes))
    splits, numbers = load_task(found.task, found.data).splits, {}
    groups = [numbers.setdefault(numbers_of(each), len(numbers)) for each in splits[split]]
    return Asked(~np.array(are_in_other_bases(splits[split], splits["train"])), np.array(groups))
