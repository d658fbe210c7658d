"""Writes src/gguf_table.h: llama.cpp's names of the layers of the architectures that are written.

    python native/gguf_table.py > native/src/export/gguf_table.h        (needs the gguf package)

Few texts, since a C compiler takes 4095 characters, and pointers cost more: for each name of
llama.cpp's, with # for the layer's number, that name and the names that base models' own files have
for it. Each of these ends with a character for the
architectures that have it, from @ on; a zero byte ends every name, and an empty one a row.
"""

import gguf

ARCHITECTURES = ("llama", "qwen2", "gemma3")
LAYERS = 2
_MOST = 4000


def rows() -> dict[tuple[str, str], int]:
    """(name, llama.cpp's name) to the bits of the architectures that have it."""
    names = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    result: dict[tuple[str, str], int] = {}
    for bit, architecture in enumerate(ARCHITECTURES):
        mapping = gguf.get_tensor_name_map(names[architecture], LAYERS).mapping
        for own, (_, theirs) in mapping.items():
            if ".0." in theirs:
                continue
            numbered = own.replace(".1.", ".#.") if ".1." in theirs else own
            if (numbered.count("#") == 1) != (".1." in theirs):
                raise SystemExit(f"{own} has no single number for its layer")
            row = numbered, theirs.replace(".1.", ".#.")
            result[row] = result.get(row, 0) | 1 << bit
    return result


def main() -> None:
    print("/* Made by native/gguf_table.py: bits are", ", ".join(ARCHITECTURES), "*/")
    print("static const char *const LAYERS[] = {")
    groups: dict[str, list[str]] = {}
    for (own, theirs), bits in sorted(rows().items()):
        groups.setdefault(theirs, []).append(own + chr(ord("@") + bits))
    size = 0
    for theirs, names in sorted(groups.items()):
        own = sum(len(x) + 1 for x in (theirs, *names)) + 1
        if size + own > _MOST:
            print("    ,")
            size = 0
        size += own
        for name in (theirs, *names, ""):
            print(f'    "{name}\\0"')
    print("};")


if __name__ == "__main__":
    main()
