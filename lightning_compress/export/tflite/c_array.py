"""A file as a C array, to be compiled into a program for a microcontroller."""

from __future__ import annotations

import re

PER_LINE = 16
WORDS = """alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const
constexpr continue default delete do double else enum explicit export extern false float for friend goto
if inline int long mutable namespace new not nullptr operator or private protected public register
requires restrict return short signed sizeof static struct switch template this throw true try typedef
typeid typename typeof union unsigned using virtual void volatile while xor"""  # of C and C++, which are no names


def c_array(content: bytes, name: str) -> str:
    """Return a C header that defines the array ``NAME`` and its size ``NAME_bytes``.

    Args:
        content: of the file.
        name: of the array; what C names cannot hold becomes ``_``, and ``model_`` comes before a digit and a word of
            the languages.
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    name = f"model_{name}" if not name or name[0].isdigit() or name in WORDS.split() else name
    lines = (content[i : i + PER_LINE] for i in range(0, len(content), PER_LINE))
    body = ",\n".join("  " + ", ".join(f"0x{byte:02x}" for byte in line) for line in lines)
    return (
        f"#pragma once\n\n#ifdef __cplusplus\n#define {name}_ALIGNED alignas(16)\n#else\n"
        f"#define {name}_ALIGNED _Alignas(16)\n#endif\n\n"
        f"{name}_ALIGNED static const unsigned char {name}[] = {{\n{body}\n}};\n"
        f"static const unsigned int {name}_bytes = {len(content)};\n"
    )
