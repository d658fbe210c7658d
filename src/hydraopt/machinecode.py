"""Compiled functions that run again without numba: their machine code is kept in a file.

Importing numba and loading its own cache takes several times as long as decoding a task
(docs/decisions.md). So numba compiles once, through its public ``cfunc``, and the code is kept in a
folder that only this user can write (:mod:`hydraopt.compiled`). Later processes load and call it.

Such functions neither raise nor allocate, and all functions that they call are inlined. Code that
refers to nothing outside itself, such as the decoder's, is copied into memory and needs no linker.
Code with constants or calls of the C library is linked by llvmlite, which loads in a fraction of
numba's time. The code is for the baseline of the architecture, so that computers with different
processors may share a folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from hydraopt.compiled import check_memory, private_folder, say_unkept

__all__ = ["kept_in", "machine_code"]

_HASH: Final = 32  # bytes of each of the two hashes before the code in its file: key, content
_BARE, _OBJECT = b"b", b"o"  # first byte of a content: place and code, or an object to link
_ENTRY: Final = "hydraopt_entry"
_code: list[Any] = []  # memory and engines that hold code; never given back


def machine_code(name: str, sources: Sequence[Path], make: Callable[[], Any]) -> int | None:
    """Return the address of a C function, from kept code or else compiled and kept.

    sources: files that determine the code.  make: returns numba's cfunc; called if no code of these
    sources is kept. All that it calls has the options :data:`hydraopt.compiled.INLINED`.

    None where code is not loaded like this: outside Linux, under NUMBA_DISABLE_JIT, and if the
    function refers to a symbol that the C library lacks. The caller then calls it through numba.
    """
    if sys.platform != "linux" or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None
    machine = os.uname().machine
    key = _key((Path(__file__), *sources), machine)
    if key is None:
        return None
    file = _file(name)
    content = _kept(file, key)
    if content is None:
        check_memory()
        content = _compiled(make())
        if content is None:
            return None
        _keep(file, key + hashlib.sha256(content).digest() + content)
    kind, code = content[:1], content[1:]
    return _linked(code) if kind == _OBJECT else _copied(code)


def kept_in(name: str) -> Path | None:
    """Return the folder that keeps the code of a function; None if none does."""
    return next((x for x in _places() if (x / _file(name)).is_file()), None)


def _file(name: str) -> str:
    return f"{name}-{os.uname().machine}.code"


@cache
def _key(sources: Sequence[Path], machine: str) -> bytes | None:
    """Return a key of sources and architecture; None if the sources cannot be read."""
    digest = hashlib.sha256(machine.encode())
    try:
        for source in sources:
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    except OSError:
        return None
    return digest.digest()


def _compiled(function: Any) -> bytes | None:
    """Return the content to keep: code that needs no linker if possible, else an object.

    None if the code refers to a symbol that the C library lacks.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(function.inspect_llvm())
    entry = module.get_function(function.native_name)
    entry.name = _ENTRY
    for other in module.functions:
        if other.name.startswith("NRT_"):
            other.linkage = "available_externally"  # nothing calls it, so it is left out
        elif not other.is_declaration and other.name != _ENTRY:
            other.linkage = "internal"  # calls of it need no linker
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(opt=3, reloc="pic", codemodel="small")
    found = llvm.ObjectFileRef.from_data(machine.emit_object(module))
    sections = {x.name(): bytes(x.data()) for x in found.sections() if x.size()}
    symbols = _symbols(sections[b".symtab"], sections[b".strtab"])
    # What remains beside the code is for exceptions and debuggers, unless the code refers to it.
    if b".rela.text" not in sections:
        return _BARE + struct.pack("<Q", symbols[_ENTRY][1]) + sections[b".text"]
    library = ctypes.CDLL(None)
    if not all(section or hasattr(library, name) for name, (section, _) in symbols.items() if name):
        return None
    # The large code model: code, constants and the C library may lie far from one another.
    far = target.create_target_machine(opt=3, reloc="static", codemodel="large")
    return _OBJECT + bytes(far.emit_object(module))


def _symbols(table: bytes, texts: bytes) -> dict[str, tuple[int, int]]:
    """Return each symbol's section (0: outside) and place in it, of a 64-bit ELF object."""
    return {
        texts[name : texts.index(b"\0", name)].decode(): (section, value)
        for name, _, _, section, value, _ in struct.iter_unpack("=IBBHQQ", table)
    }


def _linked(content: bytes) -> int:
    """Link an object into memory and return the function's address."""
    check_memory()
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    _code.append(engine)
    return int(engine.get_function_address(_ENTRY))


def _copied(content: bytes) -> int | None:
    """Copy bare code into memory that can be executed and return the function's address.

    None where the system forbids new code. Linux brings the instruction cache up to date when
    memory becomes executable.
    """
    (place,) = struct.unpack_from("<Q", content)
    code = content[8:]
    memory = mmap.mmap(-1, len(code))
    memory.write(code)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(start, len(code), mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    _code.append(memory)
    return int(start + place)


def _places() -> Iterator[Path]:
    """Yield folders that code may be kept in, the best first, down to a writable one."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(named) / "hydraopt"] if named else [Path(__file__).parent / "__pycache__"]
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(caches):  # without a home folder it is not
        places.append(Path(caches) / "hydraopt")
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
                os.fchmod(handle, 0o644)  # one user may install it and others run it
                out.write(content)
            os.replace(made, places[-1] / file)
        except OSError:
            with suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        say_unkept(error.strerror or str(error))
