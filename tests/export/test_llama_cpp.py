"""LoRA GGUF files in llama.cpp itself: the tokens are those of transformers with the same adapter.

The base is the packaged GGUF with every tensor dequantised, so that both engines compute with the
same weights: transformers has them from zoo.bases, llama.cpp from a file written here.
Needs llama-cpp-python, which is compiled from source; .ci/llama says how.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hydraopt.bundle import Bundle
from hydraopt.export import export_gguf
from hydraopt.model import attached, place
from tests.export.targets import bundled

pytestmark = [
    pytest.mark.slow,
    # What torch, transformers and the engine deprecate or leave open is not ours to answer for.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
SETS = {
    "smollm2-135m-instruct": ("examples/adapters", ("dates-de", "numbers-en")),
    "gemma-3-270m": ("zoo/adapters/gemma3-5x8", ("number_words-de", "date_format-en")),
}
PROMPTS = {
    "dates-de": "Write the date in words.\n2011-09-01\n=>",
    "numbers-en": "Write the number in words.\n4711\n=>",
    "number_words-de": "Write the number in words.\n4711\n=>",
    "date_format-en": "Write the date in words.\n2011-09-01\n=>",
}
NEW = 8


def dequantised(source: Path, target: Path) -> Path:
    """A GGUF file with every tensor of ``source`` in f32 and all else as it was."""
    reader = gguf.GGUFReader(source)
    name = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    writer = gguf.GGUFWriter(target, name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = gguf.GGUFValueType.UINT32, 0
        if key != "general.file_type":
            value = kind, field.contents()
        writer.add_key_value(key, value[1], value[0], sub_type=inner)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, data.reshape(tuple(reversed(tensor.shape.tolist()))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


class Engine:
    """llama.cpp with one context, whose adapter changes while it runs."""

    def __init__(self, engine: Any, model: Path) -> None:
        self._engine = engine
        self._llama = engine.Llama(
            str(model), n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False
        )
        self._adapters: dict[Path, Any] = {}

    def use(self, file: Path | None) -> None:
        engine = self._engine
        found = []
        if file is not None:
            if file not in self._adapters:
                made = engine.llama_adapter_lora_init(self._llama.model, str(file).encode())
                assert made, f"llama.cpp refuses {file}"
                self._adapters[file] = made
            found = [self._adapters[file]]
        array = (engine.llama_adapter_lora_p_ctypes * max(len(found), 1))(*found)
        scales = (ctypes.c_float * max(len(found), 1))(*([1.0] * len(found)))
        context = self._llama._ctx.ctx
        assert engine.llama_set_adapters_lora(context, array, len(found), scales) == 0
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()

    def logits(self, tokens: list[int]) -> Any:
        """Of the token after ``tokens``."""
        self._llama.eval(tokens)
        pointer = self._engine.llama_get_logits_ith(self._llama._ctx.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),)).copy()

    def greedy(self, prompt: list[int]) -> tuple[list[int], Any]:
        first = logits = self.logits(prompt)
        tokens = []
        for _ in range(NEW):
            tokens.append(int(logits.argmax()))
            logits = self.logits(tokens[-1:])
        return tokens, first

    def close(self) -> None:
        self.use(None)
        for adapter in self._adapters.values():
            self._engine.llama_adapter_lora_free(adapter)
        self._llama.close()


@dataclass(frozen=True)
class Case:
    """A base in both engines, two tasks, and what transformers answers with each and with none.

    answers: by (task whose adapter is on, or None; task whose prompt it is): tokens and the
        logits of the first.
    """

    name: str
    engine: Engine
    base: Path
    bundle: Bundle
    prompts: dict[str, list[int]]
    answers: dict[tuple[str | None, str], tuple[list[int], Any]]


@pytest.fixture(scope="module", params=sorted(SETS))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed; .ci/llama builds it"
    )
    from zoo.bases import BaseError, find_base, gguf_parts, load_base

    name = request.param
    try:
        parts = gguf_parts(find_base(name))
        model, tokenizer = load_base(name)
    except BaseError as error:
        pytest.skip(f"the base model's packages are not installed: {error}")
    where, tasks = SETS[name]
    if not (ROOT / where).is_dir():
        pytest.skip(f"{where} is missing: python -m zoo.fetch unpacks it")
    folder = tmp_path_factory.mktemp("llama")
    bundle = bundled(folder, *(ROOT / where / task for task in tasks), step=64)
    prompts = {task: tokenizer(PROMPTS[task])["input_ids"] for task in tasks}
    answers = {(None, task): answer(model, prompts[task], {}) for task in tasks}
    for task in tasks:
        answers[task, task] = answer(model, prompts[task], bundle[task].factors())
    del model
    packed = folder / "packed.gguf"
    packed.write_bytes(b"".join(part.read_bytes() for part in parts))
    base = dequantised(packed, folder / "base.gguf")
    packed.unlink()
    engine = Engine(llama_cpp, base)
    yield Case(name, engine, base, bundle, prompts, answers)
    engine.close()
    base.unlink()


def answer(model: Any, prompt: list[int], factors: Any) -> tuple[list[int], Any]:
    """Greedy tokens of transformers, and the logits of the first."""
    pairs = {path: (x.B, x.A) for path, x in factors.items()}
    tokens: list[int] = []
    with torch.inference_mode(), attached(model, place(model, pairs)):
        found = model(torch.tensor([prompt]), use_cache=True)
        first = found.logits[0, -1].float().numpy()
        for _ in range(NEW):
            tokens.append(int(found.logits[0, -1].argmax()))
            ids = torch.tensor([tokens[-1:]])
            found = model(ids, past_key_values=found.past_key_values, use_cache=True)
    return tokens, first


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_same_greedy_tokens_and_tasks_switch(case: Case, dtype: str, tmp_path: Path) -> None:
    files = {}
    for task in case.prompts:
        files[task] = tmp_path / f"{task}.gguf"
        export_gguf(case.bundle[task], files[task], base=case.base, dtype=dtype)
    one, two = case.prompts
    # There and back, with the base between: what one task leaves behind would show in the next.
    for active, asked in ((one, one), (two, two), (None, one), (None, two), (one, one)):
        tokens, first = case.answers[active, asked]
        case.engine.use(files[active] if active else None)
        found, logits = case.engine.greedy(case.prompts[asked])
        error = float(np.abs(logits - first).max() / np.std(first))
        print(f"{case.name} {dtype} {active}: logits within {error:.1e} deviations")
        assert error < (0.2 if dtype == "q8_0" and active else 0.02)
        assert found == tokens
    for task in case.prompts:
        changed = case.answers[task, task][0] != case.answers[None, task][0]
        assert changed, "the adapter changes nothing here"
