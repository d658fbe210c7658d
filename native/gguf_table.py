"""Writes src/gguf_table.h: llama.cpp's names of the layers of the architectures that are written.

    python native/gguf_table.py > native/src/gguf_table.h        (needs the gguf package)

Each row is a name that a base model's own files have, with # for the layer's number, what llama.cpp
calls it, and which architectures have it.
"""

import gguf

ARCHITECTURES = ("llama", "qwen2", "gemma3")
LAYERS = 2


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
    print("static const struct {\n    const char *own, *theirs;\n    unsigned char in;\n} LAYERS[] = {")
    for (own, theirs), bits in sorted(rows().items()):
        print(f'    {{"{own}", "{theirs}", {bits}}},')
    print("};")


if __name__ == "__main__":
    main()
