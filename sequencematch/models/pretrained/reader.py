"""Weights of a pretrained model, read tensor by tensor onto the devices that hold them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import qwix
from safetensors import SafetensorError, safe_open

from sequencematch.models.pretrained.families import (
    EDITS,
    EMBEDDING,
    FAMILIES,
    HEAD,
    Stored,
    layout,
    leaves_by_path,
)
from sequencematch.models.pretrained.filling import fill, fill_nf4, place
from sequencematch.storage.files import expand

Tree = TypeVar("Tree")

READABLE = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"
# Buffers that older checkpoints hold: masks and frequencies, which follow from the sizes.
BUFFERS = re.compile(r"(\.rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$")


class Weights(NamedTuple):
    """Tensors of a pretrained model by name.

    Attributes:
      source: where they are, for messages.
      shapes: of each, without reading it.
      read: (name, first row, row after the last) -> these rows of a tensor; nothing else is read.
    """

    source: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str, int, int | None], np.ndarray]


def open_weights(folder: str | Path) -> Weights:
    """The weights of a model directory: model.safetensors, or several files and their index.

    Raises:
      ValueError, OSError: there are none, or a file is damaged; says which.
    """
    path = expand(folder)
    files = [path / name for name in _file_names(path)]
    opened = {file: _open(file) for file in files}
    place = {name: file for file, tensors in opened.items() for name in tensors.offset_keys()}
    slices = {name: opened[file].get_slice(name) for name, file in place.items()}
    for name, tensor in slices.items():
        if tensor.get_dtype() not in READABLE:
            raise ValueError(
                f"{name} in {place[name]} is stored as {tensor.get_dtype()}; weights may be "
                f"{', '.join(READABLE.values())}"
            )

    def read(name: str, first: int = 0, end: int | None = None) -> np.ndarray:
        # A tensor as a whole is read without the copy that a slice takes.
        if first == 0 and end is None:
            return opened[place[name]].get_tensor(name)
        return slices[name][first:end]

    shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
    return Weights(str(path), shapes, read)


def _file_names(path: Path) -> list[str]:
    """The files of a directory that hold its weights."""
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if (path / INDEX).is_file():
        try:
            return sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path / INDEX} is damaged: it has no weight_map") from error
    pickled = sorted(file.name for kind in PICKLED for file in path.glob(kind))
    if pickled:
        raise ValueError(
            f"{path} holds pickled weights ({pickled[0]}), which can run any code when they are read: "
            "where you trust them, convert them with transformers, "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR), and name NEW_DIR"
        )
    raise ValueError(f"{path} has no weights: neither model.safetensors nor {INDEX}")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="np")
    except FileNotFoundError as error:
        raise ValueError(
            f"{file} is missing, though {INDEX} names it: download it again"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or damaged ({error}): download it again") from error


def read_params(
    weights: Weights,
    family: str,
    like: Tree,
    edit_rows: Sequence[int | None] = (),
    nf4_kernels: Mapping[str, qwix.QArray] | None = None,
) -> Tree:
    """The parameters of a pretrained model, placed and sharded as `like`.

    The host holds one tensor at a time, and so do the devices of those that are stored in 4 bits.

    Args:
      weights: from `open_weights`, or from a GGUF file.
      family: a key of `families.FAMILIES`.
      like: shapes, dtypes and shardings of the parameters; their vocabulary has no spare rows.
      edit_rows: of each edit the row after the tokenizer's own that is its, where `writer` puts it.
        An edit without one, None or left out, starts from the mean row of the head.
      nf4_kernels: path -> shapes and shardings of the kernels that are to be in 4 bits.

    Raises:
      ValueError: tensors are missing, left over or of another shape; names all of them.
    """
    leaves, nf4_kernels = leaves_by_path(like), nf4_kernels or {}
    tensors = layout(family, leaves)
    names = find_tensors(weights, family, tensors)
    found: dict[str, Any] = {}
    for name, stored in tensors.items():
        # In a call of its own, which lets go of a tensor before the next is read.
        found |= read_tensor(weights, names[name], stored, leaves, found, nf4_kernels)
    if EDITS in leaves:
        head = head_name(tensors)
        rows = read_edits(weights, names[head], tensors[head], leaves[EDITS], edit_rows)
        found[EDITS] = place(rows.astype(leaves[EDITS].dtype), leaves[EDITS].sharding)
    return jax.tree.unflatten(jax.tree.structure(like), [found[path] for path in leaves])


def find_tensors(weights: Weights, family: str, tensors: Mapping[str, Stored]) -> dict[str, str]:
    """Name in the family's table -> name in the checkpoint, of all tensors; checks their shapes.

    Raises:
      ValueError: tensors are missing, left over or of another shape; names all of them.
    """
    prefix = FAMILIES[family].prefix
    names = {name if name in tensors else prefix + name: name for name in weights.shapes}
    names = {ours: name for ours, name in names.items() if not BUFFERS.search(name)}
    wrong = [
        f"{names[name]} is {weights.shapes[names[name]]}, not {stored.shape}"
        for name, stored in tensors.items()
        if name in names and not _fits(weights.shapes[names[name]], stored)
    ]
    surplus = [name for ours, name in names.items() if ours not in tensors]
    if not wrong and surplus == ["lm_head.weight"] and _is_tied(weights, names[head_name(tensors)]):
        surplus = []
    missing = [name for name in tensors if name not in names]
    if missing or surplus or wrong:
        lists = {"missing": missing, "left over": surplus, "of another shape": wrong}
        words = "; ".join(f"{what}: {', '.join(found)}" for what, found in lists.items() if found)
        raise ValueError(
            f"the tensors of {weights.source} are not those of its config.json: {words}"
        )
    return names


def head_name(tensors: Mapping[str, Stored]) -> str:
    """The tensor whose rows logits are read with: the head, or the embedding that is tied to it."""
    tables = {stored.paths: name for name, stored in tensors.items() if stored.has_vocabulary}
    return tables.get((HEAD,), tables.get((EMBEDDING,), ""))


def _fits(shape: tuple[int, ...], stored: Stored) -> bool:
    """Whether a shape is what is expected; a table of tokens may have spare rows."""
    if not stored.has_vocabulary:
        return shape == stored.shape
    return shape[1:] == stored.shape[1:] and shape[0] >= stored.shape[0]


def _is_tied(weights: Weights, embedding: str) -> bool:
    """Whether the head that a checkpoint of a tied model holds is its embedding once more."""
    head, rows, step = "lm_head.weight", weights.shapes[embedding][0], 4096
    return weights.shapes[head] == weights.shapes[embedding] and all(
        np.array_equal(*(weights.read(name, i, min(i + step, rows)) for name in (head, embedding)))
        for i in range(0, rows, step)
    )


def read_tensor(
    weights: Weights,
    name: str,
    stored: Stored,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    found: Mapping[str, Any],
    nf4_kernels: Mapping[str, qwix.QArray],
) -> dict[str, Any]:
    """The parameters that a tensor holds, with what it holds of them; spare rows are not read.

    Args:
      weights, name: the tensor.
      stored: what it holds.
      leaves: what the parameters are to be.
      found: what of them has been filled; it is used up.
      nf4_kernels: as of `read_params`.
    """
    rows, shapes = stored.shape[0], [leaves[path] for path in stored.paths]
    tensor = weights.read(name, 0, None if weights.shapes[name][0] == rows else rows)
    # Only a view: the copy to the device transposes faster than numpy or a program there.
    tensor = tensor.T if stored.transpose else tensor
    parts = np.split(tensor, np.cumsum([leaf.shape[-1] for leaf in shapes])[:-1], axis=-1)
    filled = {}
    for path, leaf, part in zip(stored.paths, shapes, parts, strict=True):
        if path in nf4_kernels:
            kernel = nf4_kernels[path]
            filled[path] = fill_nf4(kernel, leaf, found.get(path), part, stored.layer)
        else:
            filled[path] = fill(leaf, found.get(path), part, stored.layer)
    return filled


def read_edits(
    weights: Weights,
    name: str,
    stored: Stored,
    leaf: jax.ShapeDtypeStruct,
    edit_rows: Sequence[int | None],
) -> np.ndarray:
    """The head rows of edits, [D, edits]: each that is stored, or the mean of the tokens' rows."""
    ids, (_, edits) = stored.shape[0], leaf.shape
    known = {edit: row for edit, row in enumerate(edit_rows) if row is not None}
    last = max(known.values(), default=-1) + 1
    if weights.shapes[name][0] < ids + last:
        raise ValueError(
            f"{weights.source} has {ids} tokens and {last} edits in its tokenizer, but "
            f"{weights.shapes[name][0]} rows in {name}"
        )
    if len(known) < edits:
        rows = np.repeat(mean_row(weights.read(name, 0, ids))[None], edits, axis=0)
    else:
        rows = np.empty((edits, stored.shape[1]), np.float32)
    if known:
        rows[[*known]] = weights.read(name, ids, ids + last)[[*known.values()]]
    return rows.T


def mean_row(rows: np.ndarray) -> np.ndarray:
    """The mean of the rows of a table, summed in float64."""
    return np.mean(rows, axis=0, dtype=np.float64).astype(np.float32)
