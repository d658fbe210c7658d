"""Compiled functions that run again without numba: their machine code is kept in a file.

Importing numba and loading its own cache takes several times as long as decoding a task
(docs/decisions.md). So numba compiles once, through its public ``cfunc``, and the code is kept
where compiled code is (:mod:`hydraopt.compiled` explains why only where it is ours). Later
processes copy it into memory and call it.

That holds for functions that neither raise nor allocate nor call others that are not inlined. Their
code refers to nothing outside itself, so it needs no linker. It is compiled for the baseline of the
architecture, so that computers of different processors may share a folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hydraopt.compiled import check_memory, own_place, private_folder, say_unkept

__all__ = ["INLINED", "address_of", "machine_code"]

INLINED: Final = {"error_model": "numpy", "forceinline": True}
"""Options of numba for every function that one of :func:`machine_code` calls: divisions do not
raise, and no call is left that might."""

_HASH: Final = 32  # bytes of each of the two hashes before the code in its file: key, content
_code: list[mmap.mmap] = []  # memory of the code; never given back


def machine_code(
    names: Sequence[str], sources: Sequence[Path], make: Callable[[], Mapping[str, Any]]
) -> dict[str, int] | None:
    """Return addresses of C functions by name: of kept code, else compiled and kept.

    sources: files whose content the code follows from.  make: numba's cfuncs, by name, called if
    nothing is kept; all that they call has the options :data:`INLINED`.

    None where code is not loaded that way: outside Linux, under NUMBA_DISABLE_JIT, and if the
    functions refer to something outside themselves. The caller then calls them through numba.
    """
    if sys.platform != "linux" or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None
    machine = os.uname().machine
    key = _key(sources, machine)
    if key is None:
        return None
    file = f"{names[0]}-{machine}.code"
    content = _kept(file, key)
    if content is None:
        check_memory()
        content = _compiled(names, make())
        if content is None:
            return None
        _keep(file, key + hashlib.sha256(content).digest() + content)
    return _loaded(content, names)


def address_of(array: NDArray[Any]) -> int:
    """Return the address of an array's data, which the C code takes to be in one piece."""
    assert array.flags.c_contiguous
    return array.ctypes.data


def _key(sources: Sequence[Path], machine: str) -> bytes | None:
    """Return a key of sources and architecture; None if the sources cannot be read."""
    digest = hashlib.sha256(machine.encode())
    try:
        for source in (Path(__file__), *sources):
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    except OSError:
        return None
    return digest.digest()


def _compiled(names: Sequence[str], functions: Mapping[str, Any]) -> bytes | None:
    """Return the place of each function in the code, as 8 bytes a name, and the code.

    None if the code refers to something outside itself.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly("")
    for name, function in functions.items():
        one = llvm.parse_assembly(function.inspect_llvm())
        one.get_function(function.native_name).name = _symbol(name)
        module.link_in(one)
    wanted = {_symbol(name) for name in names}
    for function in module.functions:
        if function.name.startswith("NRT_"):
            function.linkage = "available_externally"  # nothing calls it, so it is left out
        elif not function.is_declaration and function.name not in wanted:
            function.linkage = "internal"  # calls of it need no linker
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(opt=3, reloc="pic", codemodel="small")
    found = llvm.ObjectFileRef.from_data(machine.emit_object(module))
    sections = {x.name(): bytes(x.data()) for x in found.sections() if x.size()}
    # What remains beside the code is for exceptions and debuggers, unless the code refers to it.
    if b".rela.text" in sections:
        return None
    symbols = _symbols(sections[b".symtab"], sections[b".strtab"])
    places = [symbols[_symbol(name)] for name in names]
    return struct.pack(f"<{len(places)}Q", *places) + sections[b".text"]


def _symbols(table: bytes, texts: bytes) -> dict[str, int]:
    """Return the place of each symbol of a 64-bit ELF object in its section."""
    return {
        texts[name : texts.index(b"\0", name)].decode(): value
        for name, _, _, _, value, _ in struct.iter_unpack("=IBBHQQ", table)
    }


def _symbol(name: str) -> str:
    return f"hydraopt_{name}"


def _loaded(content: bytes, names: Sequence[str]) -> dict[str, int] | None:
    """Copy the code into memory that can be executed; None where the system forbids it.

    Linux brings the instruction cache up to date when memory becomes executable.
    """
    places = struct.unpack_from(f"<{len(names)}Q", content)
    code = content[8 * len(names) :]
    memory = mmap.mmap(-1, len(code))
    memory.write(code)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(start, len(code), mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    _code.append(memory)
    return {name: start + place for name, place in zip(names, places, strict=True)}


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
    """Return the content of that key, if one is kept and whole."""
    for folder in _places():
        with suppress(OSError):
            whole = (folder / file).read_bytes()
            digest, content = whole[_HASH : 2 * _HASH], whole[2 * _HASH :]
            if whole[:_HASH] == key and digest == hashlib.sha256(content).digest():
                return content
    return None


def _keep(file: str, content: bytes) -> None:
    """Write the file in the last place, which is the one that can be written."""
    import tempfile

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
