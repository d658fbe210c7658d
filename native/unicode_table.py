"""Writes src/unicode_table.h: which characters are printable, as Python's str.isprintable has them.

    python native/unicode_table.py > native/src/unicode_table.h

The table alternates lengths of printable and other runs of code points, from 0 on, in LEB128.
"""

import sys
import unicodedata


def runs() -> list[int]:
    """Lengths of the runs, the first of what is printable (which is 0 long)."""
    lengths, printable, since = [], True, 0
    for code in range(sys.maxunicode + 2):
        now = code <= sys.maxunicode and chr(code).isprintable()
        if now != printable:
            lengths.append(code - since)
            printable, since = now, code
    return lengths


def main() -> None:
    data = bytearray()
    for length in runs():
        while length > 127:
            data.append(length & 127 | 128)
            length >>= 7
        data.append(length)
    print("/* Made by native/unicode_table.py, of Unicode", unicodedata.unidata_version, "*/")
    print("static const unsigned char PRINTABLE[] = {")
    for i in range(0, len(data), 24):
        print("    " + ",".join(str(x) for x in data[i : i + 24]) + ",")
    print("};")


if __name__ == "__main__":
    main()
