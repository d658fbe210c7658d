"""Number of rows that the model received, to detect modules with another order of dimensions.

Some models turn their inputs around and have tokens in the first dimension (XLNet, torch's
transformer layers). There a batch of mixed tasks would give tasks to tokens instead of rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hydraopt.errors import UsageError, explain

__all__ = ["Batches"]

# What transformers and diffusers call inputs whose first dimension is the rows.
_NAMES: Final = (
    "input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "pixel_values",
    "input_features", "input_values", "sample", "hidden_states",
)  # fmt: skip


class Batches:
    """Rows of the pass that goes through a model, by thread; none outside of one."""

    def __init__(self) -> None:
        self._own = threading.local()

    def watch(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Register the hooks and yield the handles that remove them."""

        def before(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._own.rows = _rows_of(args, kwargs)

        def after(*_: Any) -> None:
            self._own.rows = frozenset()

        yield model.register_forward_pre_hook(before, with_kwargs=True)
        yield model.register_forward_hook(after, always_call=True)

    def check(self, x: Tensor, name: str) -> None:
        """Raise UsageError if the first dimension of a module's input is not the model's rows.

        It may be a multiple: of windows of an image, or answers of a choice. Tokens are seen by the
        second one, which then is the rows.
        """
        rows: frozenset[int] = getattr(self._own, "rows", frozenset())
        if not rows or x.dim() < 2 or x.shape[0] in rows:
            return
        tokens = x.dim() == 2 and not x.is_floating_point()  # an embedding's input
        turned = (x.dim() > 2 or tokens) and x.shape[1] in rows
        if turned or all(x.shape[0] % count for count in rows if count):
            raise UsageError(
                explain(
                    "the rows of the batch are not the first dimension of a module's input",
                    module=name,
                    got=f"an input of shape {tuple(x.shape)}",
                    expected=f"{' or '.join(map(str, sorted(rows)))} rows first, as in the model's "
                    "inputs, or a multiple",
                    do="Give the model its tasks one after another, with set_task",
                )
            )


def _rows_of(args: Sequence[object], kwargs: Mapping[str, object]) -> frozenset[int]:
    """Return the first dimensions of the model's main inputs, or of its first tensor."""
    named = [x for x in map(kwargs.get, _NAMES) if _is_batch(x)]
    if args and _is_batch(args[0]):
        named.append(args[0])
    others = [x for x in (*args, *kwargs.values()) if _is_batch(x)]
    return frozenset(int(x.shape[0]) for x in named or others[:1])


def _is_batch(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() > 1
