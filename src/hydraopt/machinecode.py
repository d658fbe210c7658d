"""Compiled functions that run again without numba: what LLVM made of them is kept as object code.

To import numba and have it load its own cache takes several times as long as to decode a task;
llvmlite, on which it stands, loads an object file in a fraction (docs/decisions.md). So numba
compiles once, through its public ``cfunc``; the object is kept where compiled code is
(:mod:`hydraopt.compiled` says why only where it is ours); later processes load it with llvmlite
alone.

That holds for functions that neither raise nor allocate, all of them inlined: then nothing in the
object refers to numba or to Python.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from hydraopt.compiled import check_memory, own_place, private_folder, say_unkept

__all__ = ["INLINED", "address_of", "machine_code"]

INLINED: Final = {"error_model": "numpy", "forceinline": True}
"""Options of numba for every function that one of :func:`machine_code` calls: divisions do not
raise, and no call is left that might."""

_HASH: Final = 32  # bytes of each of the two hashes before the object in its file: key, content
_engines: list[Any] = []  # what holds the code in memory; never given back


def machine_code(
    names: Sequence[str], sources: Sequence[Path], make: Callable[[], Mapping[str, Any]]
) -> dict[str, int] | None:
    """Return addresses of C functions by name: of kept code, else compiled and kept.

    sources: files whose content the code follows from.  make: numba's cfuncs, by name, called if
    nothing is kept; all that they call has the options :data:`INLINED`.

    None where code is not loaded that way: outside Linux, under NUMBA_DISABLE_JIT, and if the
    functions still refer to numba. The caller then calls its functions through numba.
    """
    if sys.platform != "linux" or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None
    check_memory()
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu = (llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())
    host = "\n".join([llvmlite.__version__, llvm.get_default_triple(), *cpu]).encode()
    file = f"{names[0]}-{hashlib.sha256(host).hexdigest()[:8]}.o"
    key = _key(sources, host)
    if key is None:
        return None
    code = _kept(file, key)
    if code is None:
        code = _compiled(llvm, cpu, make())
        if code is None:
            return None
        _keep(file, key + hashlib.sha256(code).digest() + code)
    return _loaded(llvm, code, names)


def address_of(array: NDArray[Any]) -> int:
    """Return the address of an array's data, which the C code takes to be in one piece."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def _key(sources: Sequence[Path], host: bytes) -> bytes | None:
    """Return a key of sources, LLVM and processor; None if the sources cannot be read."""
    digest = hashlib.sha256(host)
    try:
        for source in (Path(__file__), *sources):
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    except OSError:
        return None
    return digest.digest()


def _compiled(llvm: Any, cpu: tuple[str, str], functions: Mapping[str, Any]) -> bytes | None:
    """Return the object code of cfuncs under their names, without numba's.

    None if the code needs numba.
    """
    module = llvm.parse_assembly("")
    for name, function in functions.items():
        one = llvm.parse_assembly(function.inspect_llvm())
        one.get_function(function.native_name).name = _symbol(name)
        module.link_in(one)
    for function in module.functions:
        if function.is_declaration:
            # Intrinsics become instructions. The other one is called by NRT_decref alone.
            if not function.name.startswith("llvm.") and function.name != "NRT_MemInfo_call_dtor":
                return None
        elif function.name.startswith("NRT_"):
            function.linkage = "available_externally"  # nothing calls it, so it is left out
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu[0], features=cpu[1], opt=3, jit=True)
    return bytes(machine.emit_object(module))


def _symbol(name: str) -> str:
    return f"hydraopt_{name}"


def _loaded(llvm: Any, code: bytes, names: Sequence[str]) -> dict[str, int]:
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return {name: int(engine.get_function_address(_symbol(name))) for name in names}


def _places() -> Iterator[Path]:
    """Yield folders that code may be kept in, the best first, down to a writable one."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named) / "hydraopt"] if named else [Path(__file__).parent / "__pycache__"]
    if own_place():
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hydraopt")
    for folder in places:
        yield folder
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return
    private = private_folder()
    if private is not None:
        yield private


def _kept(file: str, key: bytes) -> bytes | None:
    """Return the object of that key, if one is kept and whole."""
    for folder in _places():
        with suppress(OSError):
            content = (folder / file).read_bytes()
            told, code = content[_HASH : 2 * _HASH], content[2 * _HASH :]
            if content[:_HASH] == key and told == hashlib.sha256(code).digest():
                return code
    return None


def _keep(file: str, content: bytes) -> None:
    """Write the file in the last place, which is the one that can be written."""
    places = list(_places())
    if not places:
        return
    try:
        handle, made = tempfile.mkstemp(dir=places[-1])
        try:
            with open(handle, "wb") as out:
                out.write(content)
            os.replace(made, places[-1] / file)
        except OSError:
            with suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        say_unkept(error.strerror or str(error))
