"""A network as a model directory that the Hugging Face world reads.

Inside, the rows of edits stand apart. In a checkpoint they follow those of the tokenizer's ids: they
take the place of spare rows, or are new. In the head they are what was trained. In the embedding they
are its mean row, since no edit is ever fed; in a tied model one row is both, and it is the head's.
"""

import contextlib
import json
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jaxtyping import ArrayLike
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sequencematch.models.config import Lora
from sequencematch.models.lora import merge, merge_kernel, nf4_kernels
from sequencematch.models.pretrained.configs import stored_dtype
from sequencematch.models.pretrained.families import (
    EDITS,
    EMBEDDING,
    HEAD,
    Stored,
    layout,
    leaves_by_path,
)
from sequencematch.models.pretrained.reader import INDEX, Weights, find_tensors, mean_row
from sequencematch.storage.files import expand, flush
from sequencematch.storage.files import write as write_text

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
FILE_BYTES = 2 * 2**30  # of one file of weights, and of the host's memory while it is written


def write_model(
    out: str | Path,
    params: Any,
    family: str,
    config: Mapping[str, Any],
    *,
    lora: Lora | None = None,
    dtype: str | None = None,
    spare: Mapping[str, np.ndarray] | None = None,
    files: Mapping[str, str] | None = None,
    file_bytes: int = FILE_BYTES,
) -> dict[str, Any]:
    """Writes a model directory; returns its config.json.

    The directory appears when it is complete.

    Args:
      out: the directory; it must not exist, or be empty.
      params: the network's parameters.
      family: a key of `families.FAMILIES`.
      config: config.json of the model that the parameters come from.
      lora: its adapters, which are merged into what they adapt; None for none.
      dtype: what weights are stored in, a key of `DTYPES`; None for that of config.json.
      spare: rows after the tokenizer's, from `spare_rows`.
      files: other files, name -> text.
      file_bytes: the most in one file of weights.

    Raises:
      ValueError, OSError: the directory holds something, or cannot be written.
    """
    with make_directory(out) as folder:
        dtype = dtype or stored_dtype(config)
        rows = write_weights(folder, params, family, dtype, lora, spare, file_bytes)
        named = {"dtype", "torch_dtype"} & config.keys() or {"torch_dtype"}
        written = dict(config) | {"vocab_size": rows} | dict.fromkeys(named, dtype)
        text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
        for name, content in {"config.json": text, **(files or {})}.items():
            write_text(folder / name, content)
    return written


@contextlib.contextmanager
def make_directory(out: str | Path) -> Iterator[Path]:
    """A directory to write into, which gets its name when the block has ended well.

    Raises:
      ValueError, OSError: there is one that holds something, or it cannot be written.
    """
    out = expand(out).absolute()  # "." has no name
    check_new(out)
    # A killed process leaves its own behind, which must be in nobody's way.
    unfinished = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if out.exists():
            out.rmdir()  # it is empty
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    with contextlib.suppress(OSError):  # it is there; some file systems flush no folders
        flush(out.parent)


def check_new(out: Path) -> None:
    """Raises ValueError if a directory holds something already, or a file has its name."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty: name a new directory")


def spare_rows(weights: Weights, family: str, like: Any) -> dict[str, np.ndarray]:
    """The rows of a checkpoint's tables of tokens that the network has not, by the table's name.

    Args:
      weights: the checkpoint.
      family: a key of `families.FAMILIES`.
      like: the network's parameters, or their shapes.
    """
    tensors = layout(family, leaves_by_path(like))
    names = find_tensors(weights, family, tensors)
    return {
        name: weights.read(names[name], stored.shape[0], weights.shapes[names[name]][0])
        for name, stored in tensors.items()
        if stored.has_vocabulary and stored.shape[0] < weights.shapes[names[name]][0]
    }


def write_weights(
    folder: Path,
    params: Any,
    family: str,
    dtype: str,
    lora: Lora | None = None,
    spare: Mapping[str, np.ndarray] | None = None,
    file_bytes: int = FILE_BYTES,
) -> int:
    """Writes the weights as safetensors, in files of some size; returns the rows of the embedding.

    Adapters are merged tensor by tensor: a model in 4 bits need not have room in floats.

    Args:
      folder, params, family, lora, spare, file_bytes: as in `write_model`.
      dtype: what they are stored in.
    """
    leaves, kind = leaves_by_path(params) | nf4_kernels(params), np.dtype(DTYPES[dtype])
    shapes_of = partial(merge, lora=lora) if lora else lambda params: params
    tensors = layout(family, leaves_by_path(jax.eval_shape(shapes_of, params)))
    edits = leaves[EDITS].shape[1] if EDITS in leaves else 0
    added = max([edits, *(len(rows) for rows in (spare or {}).values())])
    shapes = {
        name: (stored.shape[0] + added * stored.has_vocabulary, *stored.shape[1:])
        for name, stored in tensors.items()
    }
    sizes = {name: kind.itemsize * math.prod(shape) for name, shape in shapes.items()}
    groups, weight_map = split_names(sizes, file_bytes), {}
    for i, names in enumerate(groups):
        many = f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        file = folder / (many if len(groups) > 1 else "model.safetensors")
        content = {}
        for name in names:
            rows = (spare or {}).get(name, np.zeros((0, *shapes[name][1:])))
            parts = tensor_rows(tensors[name], leaves, rows, lora)
            # safetensors writes the memory as it lies, whatever the order of the axes.
            content[name] = np.ascontiguousarray(np.concatenate([x.astype(kind) for x in parts]))
        save_tensors(content, file)
        weight_map |= dict.fromkeys(names, file.name)
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")
    return next(shapes[name][0] for name, stored in tensors.items() if stored.has_vocabulary)


def save_tensors(tensors: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes a file of safetensors that others may read.

    Raises:
      OSError: it cannot be written, such as on a full disk.
    """
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:  # no kind of OSError
        raise OSError(f"{file} cannot be written: {error}") from error
    file.chmod(0o644)  # safetensors makes it readable by its owner only
    flush(file)


def tensor_rows(
    stored: Stored, leaves: Mapping[str, Any], spare: np.ndarray, lora: Lora | None = None
) -> list[np.ndarray]:
    """A tensor as a checkpoint has it, in parts along its first axis: edits and spare rows follow.

    Args:
      stored: which parameters it holds, and how.
      leaves: the parameters by path; of kernels in 4 bits these, too.
      spare: rows of the checkpoint that the parameters come from; edits take the first of them.
      lora: as in `write_model`.
    """
    merged = [fetch_merged(leaves, path, stored.layer, lora) for path in stored.paths]
    whole = np.concatenate(merged, axis=-1)
    whole = whole.T if stored.transpose else whole
    if not stored.has_vocabulary or EDITS not in leaves:
        return [whole, spare] if stored.has_vocabulary else [whole]
    edits = stored_edit_rows(stored, leaves)
    return [whole, edits, spare[len(edits) :]]


def stored_edit_rows(stored: Stored, leaves: Mapping[str, Any]) -> np.ndarray:
    """The rows of edits in a table of tokens: those trained, or of an untied embedding its mean."""
    edits = fetch(leaves[EDITS], None).T
    if stored.paths == (HEAD,) or HEAD not in leaves:
        return edits
    return np.repeat(mean_row(fetch(leaves[EMBEDDING], None))[None], len(edits), axis=0)


def fetch_merged(
    leaves: Mapping[str, Any], path: str, layer: int | None, lora: Lora | None
) -> np.ndarray:
    """A parameter, or one layer of it, with its adapter merged into it, in the host's memory."""
    one = leaves[path] if layer is None else _layer_of(leaves[path], layer)
    place, both = path.removesuffix("/kernel"), None
    if lora and f"{place}/lora_a" in leaves:
        a, b = (_layer_of(leaves[f"{place}/{name}"], layer) for name in ("lora_a", "lora_b"))
        both = lora.scale * a, b
    return np.asarray(_merge_kernel(one, both))


_merge_kernel = jax.jit(merge_kernel)


def fetch(leaf: jax.Array, layer: int | None) -> np.ndarray:
    """A parameter, or one layer of a stacked one, in the host's memory."""
    return np.asarray(leaf if layer is None else _layer_of(leaf, layer))


@jax.jit
def _layer_of(leaf: Any, layer: ArrayLike) -> Any:
    return jax.tree.map(lambda x: x[layer], leaf)  # one in 4 bits is several arrays


def split_names(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in groups of at most `most` bytes together, or of one name that is larger."""
    groups: list[list[str]] = [[]]
    left = most
    for name, size in sizes.items():
        if groups[-1] and size > left:
            groups.append([])
            left = most
        groups[-1].append(name)
        left -= size
    return groups
