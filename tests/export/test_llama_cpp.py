"""LoRA GGUF files in llama.cpp itself: the tokens are those of transformers with the same adapter.

The base is the packaged GGUF with every tensor dequantised, so that both engines compute with the
same weights: transformers has them from zoo.bases, llama.cpp from a file written here.
Needs llama-cpp-python, which is compiled from source; .ci/llama says how.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hydraopt.evaluate.model import attached, place
from hydraopt.export import export_gguf
from tests.export.targets import bundled

pytestmark = pytest.mark.slow

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
NEW = 12


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
        self._llama = engine.Llama(str(model), n_ctx=128, n_threads=2, verbose=False)
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


@pytest.fixture(scope="module", params=sorted(SETS))
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Engine, Any, Any, Path]]:
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
    folder = tmp_path_factory.mktemp("llama")
    packed = folder / "packed.gguf"
    packed.write_bytes(b"".join(part.read_bytes() for part in parts))
    base = dequantised(packed, folder / "base.gguf")
    packed.unlink()
    engine = Engine(llama_cpp, base)
    yield name, engine, model, tokenizer, base
    engine.close()
    base.unlink()


def expected(model: Any, prompt: list[int], factors: Any) -> tuple[list[int], Any]:
    pairs = {path: (x.B, x.A) for path, x in factors.items()}
    with torch.inference_mode(), attached(model, place(model, pairs)):
        ids = torch.tensor([prompt])
        first = model(ids).logits[0, -1].float().numpy()
        for _ in range(NEW):
            best = model(ids).logits[0, -1].argmax().reshape(1, 1)
            ids = torch.cat([ids, best], 1)
    return ids[0, len(prompt) :].tolist(), first


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_same_greedy_tokens_and_tasks_switch(both: Any, dtype: str, tmp_path: Path) -> None:
    name, engine, model, tokenizer, base = both
    folder, tasks = SETS[name]
    bundle = bundled(tmp_path, *(ROOT / folder / task for task in tasks), step=64)
    files, wanted = {}, {}
    for task in tasks:
        files[task] = tmp_path / f"{task}.gguf"
        export_gguf(bundle[task], files[task], base=base, dtype=dtype)
        prompt = tokenizer(PROMPTS[task])["input_ids"]
        wanted[task] = prompt, expected(model, prompt, bundle[task].factors())
    plain = {task: expected(model, prompt, {}) for task, (prompt, _) in wanted.items()}
    # There and back, with the base between: what one task leaves behind would show in the next.
    for task in (*tasks, None, *reversed(tasks)):
        engine.use(files[task] if task else None)
        for other in [task] if task else tasks:
            prompt, (tokens, first) = wanted[other]
            if task is None:
                engine.use(None)
                tokens, first = plain[other]
            found, logits = engine.greedy(prompt)
            spread = float(np.std(first))
            error = float(np.abs(logits - first).max()) / spread
            print(f"{name} {dtype} {task}: largest difference of a logit {error:.2e} deviations")
            assert error < (0.2 if dtype == "q8_0" else 0.02)
            assert found == tokens, tokenizer.decode(found)
    for task in tasks:
        assert wanted[task][1][0] != plain[task][0], "the adapter changes nothing here"
