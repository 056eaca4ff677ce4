"""Reads the file of an SAE checkpoint, and the JSON beside it. What they mean is said in `layouts.py`."""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.source.base import widen
from streamumap.source.checks import short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import is_zip
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.safetensors import DTYPES, read_tensors
from streamumap.source.formats.torch_file import is_torch, load_content

WEIGHT_FILES = ("sae_weights.safetensors", "sae.safetensors", "model.safetensors", "ae.pt")
CONFIG_FILES = ("cfg.json", "config.json")
MAX_JSON_BYTES = 1 << 20
FROM_NPZ = (
    "save its arrays with safetensors.numpy.save_file and put a cfg.json beside them, for Gemma Scope "
    '{"architecture": "jumprelu", "apply_b_dec_to_input": false}'
)


@dataclass(frozen=True)
class SaeCheckpoint:
    """The float32 arrays of a checkpoint by name, and its configuration, flattened. `values`: what else the file holds, by name: a
    number or text, or the shape of a tensor with more than two dimensions."""

    name: str
    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    config: dict[str, Any]
    fingerprint: dict


def read_checkpoint(path: str | os.PathLike) -> SaeCheckpoint:
    """Reads a file of weights, or the one in a folder, and the JSON beside it. Raises InputError."""
    path = os.fspath(path)
    file = _weight_file(path) if os.path.isdir(path) else path
    config = _config(file)
    with OpenFile(file, "an SAE checkpoint (.safetensors or .pt)") as opened:
        fingerprint = {"blake2b": opened.sampled_hash(0, 0, opened.n_bytes), "config": config} | opened.identity
        if is_zip(opened) and not is_torch(opened):
            raise wrong(
                file, "content", "safetensors or a file of torch.save", "another zip file, such as .npz", FROM_NPZ
            )
        arrays, values = _pt_arrays(opened) if is_zip(opened) else _safetensors_arrays(opened)
    return SaeCheckpoint(file, arrays, values, config, fingerprint)


def _weight_file(folder: str) -> str:
    names = sorted(os.listdir(folder))
    found = [name for name in WEIGHT_FILES if name in names]
    found = found or [name for name in names if name.endswith((".safetensors", ".pt", ".pth"))]
    if len(found) != 1:
        expected = f"one checkpoint, such as {WEIGHT_FILES[0]}"
        raise wrong(folder, "--sae", expected, ", ".join(found) or "none", "name the file")
    return os.path.join(folder, found[0])


def _config(file: str) -> dict[str, Any]:
    """Reads the JSON beside the weights, or one folder up where that is dictionary_learning's (it keeps its checkpoints in a
    folder of their own), with the fields of its trainer or SAE moved to the top level."""
    folder, stem = os.path.dirname(file), os.path.splitext(os.path.basename(file))[0]
    for name in (f"{stem}.json", *CONFIG_FILES):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return _flattened(_read_json(path))
    above = os.path.join(os.path.dirname(os.path.abspath(folder)), "config.json")
    try:
        config = _flattened(_read_json(above)) if os.path.isfile(above) else {}
    except InputError:  # it may belong to anything
        return {}
    return config if "dict_class" in config else {}


def _flattened(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("trainer", config.get("sae"))
    return config | (inner if isinstance(inner, dict) else {})


def _read_json(path: str) -> dict[str, Any]:
    try:
        if os.path.getsize(path) > MAX_JSON_BYTES:
            raise ValueError("too large")
        with open(path, encoding="utf-8") as opened:
            config = json.load(opened)
    except (OSError, ValueError, RecursionError) as error:
        raise wrong(path, "config", "JSON", short(str(error)), "mend it or take it away") from error
    if not isinstance(config, dict):
        raise wrong(path, "config", "names and values", short(config), "mend it or take it away")
    return config


def _safetensors_arrays(file: OpenFile) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, values = {}, {}
    for name, tensor in read_tensors(file).items():
        if tensor.dtype not in DTYPES:
            found = f"{tensor.dtype} in {short(name)}"
            raise wrong(file.name, "dtype", f"one of {', '.join(DTYPES)}", found, "convert it to F16 or F32 first")
        if len(tensor.shape) > 2:
            values[name] = tensor.shape
            continue
        shape = (int(np.prod(tensor.shape[:-1], dtype=np.int64)), tensor.shape[-1]) if tensor.shape else (1, 1)
        dtype = "bfloat16" if tensor.dtype == "BF16" else None
        rows = FileRows(file, name, tensor.start, shape, np.dtype(DTYPES[tensor.dtype]), dtype)
        arrays[name] = widen(rows.read(0, rows.n_rows), rows.dtype).reshape(tensor.shape)
    return arrays, values


def _pt_arrays(file: OpenFile) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, values = {}, {}
    try:
        for name, value in _leaves(load_content(file), ""):
            if not hasattr(value, "untyped_storage"):
                values[name] = value
            elif value.ndim > 2:
                values[name] = tuple(value.shape)
            else:
                arrays[name] = value.float().numpy().copy()
    except (TypeError, RuntimeError) as error:
        remedy = "save the state_dict of the autoencoder"
        raise wrong(file.name, "tensors", "dense ones", short(str(error)), remedy) from error
    return arrays, values


def _leaves(value: Any, name: str):
    """Yields the parts of nested dictionaries, with names joined by dots."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name or "tensor", value
