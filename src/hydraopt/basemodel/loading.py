"""A base model from its files, whole or not at all.

transformers fills what the weight files lack with random numbers, leaves out what it does not know,
and raises whatever the broken file led it to. Here each of these is a UsageError with the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import torch

from hydraopt.basemodel.memory import key_of
from hydraopt.errors import HydraoptError, UsageError, explain
from hydraopt.extras import require
from hydraopt.files.reading import file_hash, read_regular
from hydraopt.values import listed

__all__ = ["base_hash", "files_of", "load_whole"]

_JSON: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_MOST_JSON: Final = 1 << 28  # bytes; a vocabulary of 262,144 tokens takes 33 MB of tokenizer.json
_EVERY_WEIGHT: Final = ("*.safetensors", "*.bin")
_TEXTS: Final = ("*.json", "*.txt", "*.model", "*.jinja")
# Buffers that older versions stored and newer ones compute: rotary tables, masks, positions.
_COMPUTED: Final = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|position_ids)$")
_KEYS: Final = ("missing_keys", "unexpected_keys")
_MOST_SAID: Final = 240
_AGAIN: Final = "Fetch the base model again, or give the folder of a complete one"


def load_whole(base: str | Path, dtype: str, labels: int | None = None) -> tuple[Any, Any]:
    """Load (model, tokenizer) with transformers, on the CPU.

    labels: not a language model, but a classifier of sequences with so many labels; its head is
    random, for an adapter brings its own.

    Raises UsageError, with the file where it can be told, if transformers cannot load the base, and
    if its weight files lack tensors of the model, hold others, or hold some in another shape.
    """
    require("transformers")
    folder = Path(base) if Path(base).is_dir() else None
    try:
        if folder is not None:
            _check_folder(folder)
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForSequenceClassification,
            AutoTokenizer,
        )

        loader: Any = (
            AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
        )  # its stubs know nothing of the loading info
        with _quiet():
            model, info = loader.from_pretrained(
                base,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **({} if labels is None else {"num_labels": labels}),
            )
            _check_whole(base, model, info if labels is None else _of_body(model, info))
            return model, AutoTokenizer.from_pretrained(base)
    except (HydraoptError, MemoryError):
        raise
    except Exception as error:  # of a broken file: of any kind
        raise UsageError(
            explain(
                f"cannot load the base model {base}",
                got=_line(error),
                expected=None if folder is None else "config.json, weights and a tokenizer",
                do="Give a folder that transformers can load, or a name that it can fetch",
            )
        ) from error


def files_of(base: str | Path) -> Path | None:
    """Return the folder of a base model's files; None where there is none.

    For a name on the hub this is the snapshot in the cache of transformers, if it has any
    weights.
    """
    if Path(base).exists():
        return Path(base)
    from transformers.utils.hub import cached_file

    with suppress(OSError):
        config = cached_file(str(base), "config.json", local_files_only=True)
        folder = Path(config).parent if config else None
        if folder and any(x for pattern in _EVERY_WEIGHT for x in folder.glob(pattern)):
            return folder
    return None


def base_hash(base: str | Path) -> str | None:
    """Hash a base model's files: its weights, its config and its tokenizer.

    None where :func:`files_of` returns None.
    """
    folder = files_of(base)
    if folder is None or not folder.is_dir():
        return None
    files = sorted({f for x in (*_EVERY_WEIGHT, *_TEXTS) for f in folder.glob(x) if f.is_file()})
    return key_of(f"{file.name} {file_hash(file)}" for file in files)


def _check_folder(folder: Path) -> None:
    """Raise UsageError for what transformers would stumble over or go on without."""
    if (folder / "adapter_config.json").exists():
        raise UsageError(
            explain(
                "an adapter lies beside or in place of the base model",
                file=folder / "adapter_config.json",
                do="Give the folder of the base model alone",
            )
        )
    for name in _JSON:
        file = folder / name
        if not file.exists():
            continue
        try:
            content = json.loads(read_regular(file, _MOST_JSON).decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _broken(file, error) from error
        if not isinstance(content, dict):
            raise _broken(file, f"{type(content).__name__}, no JSON object")
    from safetensors import safe_open

    for file in folder.glob("model*.safetensors"):
        try:
            with safe_open(file, framework="np"):
                pass
        except Exception as error:  # safetensors' own kind is no public class of every version
            raise _broken(file, error) from error


def _check_whole(base: str | Path, model: Any, info: Mapping[str, Any]) -> None:
    """Raise UsageError if transformers made up, left out or could not place a tensor."""
    unknown = [x for x in info.get("unexpected_keys", ()) if not _COMPUTED.search(x)]
    shapes = {
        str(key): f"{key} {tuple(there)} for {tuple(asked)}"
        for key, there, asked in info.get("mismatched_keys", ())
    }
    # A tensor of another shape is made up too, and may count as missing.
    missing = [x for x in info.get("missing_keys", ()) if x not in shapes]
    other = [*info.get("error_msgs", ()), *map(str, info.get("conversion_errors") or ())]
    for what, names in (
        ("lack tensors of the model", missing),
        ("hold tensors of other shapes than the model's", list(shapes.values())),
        ("hold tensors that the model does not have", unknown),
        ("cannot be put into the model", other),
    ):
        if names:
            kind = type(model).__name__
            raise UsageError(
                explain(
                    f"the weight files of the base model {what} ({kind})",
                    file=base,
                    got=f"{len(names)}: {listed(sorted(names), 4)}",
                    do=_AGAIN,
                )
            )


def _of_body(model: Any, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loading info for the body only, because files may have another head or none."""
    body = f"{model.base_model_prefix}."
    keys = {key: [x for x in info.get(key, ()) if x.startswith(body)] for key in _KEYS}
    placed = [x for x in info.get("mismatched_keys", ()) if str(x[0]).startswith(body)]
    return {**info, **keys, "mismatched_keys": placed}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' own table of missing tensors, which our error reports."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _broken(file: Path, got: object) -> UsageError:
    return UsageError(
        explain("a file of the base model cannot be read", file=file, got=_line(got), do=_AGAIN)
    )


def _line(error: object) -> str:
    """Return the first line of an error that says something, with its kind if there is any."""
    lines = [x for x in str(error).splitlines() if x.strip() and not x.rstrip().endswith(":")]
    text = (lines[0].strip() if lines else "")[:_MOST_SAID].rstrip(".")
    if not isinstance(error, Exception) or (isinstance(error, OSError | ValueError) and text):
        return text
    return f"{type(error).__name__}: {text}"
