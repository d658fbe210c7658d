"""A base model from its files, with one task's factors on it.

transformers fills what the weight files lack with random numbers, leaves out what it does not know,
and raises whatever the broken file led it to. Here each of these is a UsageError with the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hydraopt.errors import AlignmentError, HydraoptError, UsageError, explain, require
from hydraopt.files import file_hash, read_regular
from hydraopt.model.cache import key_of
from hydraopt.model.texts import Batch
from hydraopt.notes import listed


def has_bfloat16() -> bool:
    """Return whether the processor has native bfloat16 matrix products."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


@contextmanager
def products_of(kind: str) -> Iterator[None]:
    """Set the number type of float32 matrix products inside the block.

    kind: "float32", or "bfloat16" to round factors where torch gains by it, on processors with
        tiles for such products (AMX).
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if kind == "bfloat16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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


T = TypeVar("T")

BATCH_TOKENS = 1024
"""Padded tokens of a batch: large enough that matrix products run at full speed on a CPU."""

AnyFactors = tuple[NDArray[Any], NDArray[Any]]
"""Factors of any float type: B (m, r) with the scale inside, A (r, n)."""

TaskFactors = Mapping[str, AnyFactors]
"""A task's factors by module path."""


def load_model(
    base: str | Path, dtype: str = "float32", labels: int | None = None
) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a transformers folder or hub name, frozen, in eval mode.

    labels: not a language model, but a classifier of sequences with so many labels. Its head is
    random. Its ``pad_token_id`` is the tokenizer's, or EOS if the tokenizer has none, because
    transformers finds the last token of a row by it.

    Raises UsageError if transformers cannot load it, if its weight files are not those of the
    whole model, and for a name that is neither a folder nor OWNER/NAME: such a name would be
    searched for on the network for a minute.
    """
    if not (Path(base).is_dir() or (str(base).count("/") == 1 and str(base)[0] not in "./~")):
        raise UsageError(
            explain(
                f"there is no base model {base}",
                got="a file" if Path(base).exists() else "no folder of that name",
                expected="a folder that transformers can load, or a hub's OWNER/NAME",
            )
        )
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours stands there
    model, tokenizer = load_whole(base, dtype, labels)
    model.requires_grad_(False)
    model.train(False)
    if labels is not None:
        pad = tokenizer.pad_token_id
        model.config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    return model, tokenizer


Placed = Mapping[str, tuple[Tensor, Tensor]]
"""B and A by module path, as tensors of the model's dtype on its device."""


def factors_key(factors: TaskFactors) -> str:
    """Hash the factors that are attached to the model, in float32."""
    parts: list[bytes | str] = []
    for path in sorted(factors):
        parts.append(path)
        parts += [np.ascontiguousarray(x, np.float32).tobytes() for x in factors[path]]
    return key_of(parts)


def place(model: nn.Module, factors: TaskFactors) -> Placed:
    """Convert the factors to tensors, checked against the model.

    Raises AlignmentError if a module is missing or has another shape.
    """
    modules = dict(model.named_modules())
    placed = {}
    for path, (b, a) in factors.items():
        module = modules.get(path)
        shape = (b.shape[0], a.shape[1])
        own = None if module is None else _linear_shape(module)
        if module is None or own is None:
            kind = "no such module" if module is None else type(module).__name__
            raise misfit(model, f"has no linear module {path}", kind, shape)
        if own != shape:
            raise misfit(model, f"has module {path} in another shape", own, shape)
        first, second = (torch.from_numpy(np.array(x, np.float32)) for x in (b, a))
        weight: Any = module.weight
        placed[path] = (first.to(weight), second.to(weight))
    return placed


def _linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a linear module; None of another one."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    # GPT-2's linear layers, which keep their weight as (inputs, outputs).
    return (module.nf, module.nx) if isinstance(module, Conv1D) else None


def misfit(
    model: Any,
    what: str,
    got: object,
    expected: object,
    do: str = "Give the base model that the adapters were trained on",
) -> AlignmentError:
    """Return the error that says which base model does not fit, and what it has instead."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return AlignmentError(
        explain(
            f"the base model ({type(model).__name__}) {what}",
            file=name or None,
            got=got,
            expected=expected,
            do=do,
        )
    )


@contextmanager
def attached(model: nn.Module, placed: Placed) -> Iterator[None]:
    """Add ``B (A x)`` to each named module's output inside the block, as PEFT does."""
    handles = []
    try:
        for path, (b, a) in placed.items():
            handles.append(model.get_submodule(path).register_forward_hook(_adder(b, a)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(b: Tensor, a: Tensor) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(args[0], a), b)

    return hook


def hidden_states(model: Any, batch: Batch) -> Tensor:
    """Return the inputs of the output layer at the target positions, (N, width)."""
    return states_of(model, batch.ids, batch.parents).flatten(0, 1)[batch.where]


def states_of(model: Any, ids: Tensor, parents: Tensor | None) -> Tensor:
    """Return the inputs of the output layer at all positions, (rows, length, width).

    ids, parents: as in a Batch.

    Rows of plain text need no mask: with causal attention, padding on the right cannot reach a real
        token.
    """
    more = {}
    if parents is not None:
        hidden, places = _hidden_from(parents)
        dtype = next(model.parameters()).dtype
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
        more = {"attention_mask": mask[:, None], "position_ids": places}
    body = model.base_model  # under whatever name the architecture has it
    states: Tensor = body(input_ids=ids, use_cache=False, **more).last_hidden_state
    return states


def _hidden_from(parents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masks and positions of texts that share a tree of tokens.

    A token sees itself and its ancestors.

    Returns whether the second token is hidden from the first, (rows, length, length), and the
    position of each token in its own text, (rows, length).
    """
    above = parents.numpy()  # an operation of torch takes several times as long
    rows, length = above.shape
    every = np.arange(rows)
    visible = np.tile(np.eye(length, dtype=bool), (rows, 1, 1))
    places = np.zeros_like(above)
    for node in range(1, length):
        before = above[:, node]
        some = before >= 0
        visible[:, node] |= visible[every, before] & some[:, None]
        places[:, node] = (places[every, before] + 1) * some
    return torch.from_numpy(~visible), torch.from_numpy(places)


def of_head(model: Any, by_path: Mapping[str, T]) -> dict[str, T]:
    """Return the entries of the output layer, whose effect hidden states do not include."""
    head = model.get_output_embeddings()
    known = dict(model.named_modules()) if by_path else {}
    return {path: x for path, x in by_path.items() if known.get(path) is head}
