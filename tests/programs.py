"""What is in a compiled program."""

import re

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def collectives(program, kind):
    """(dtype, shape) of every result of an operation between devices."""
    found = []
    for result in re.findall(rf"= (.*?) {kind}(?:-start)?\(", program.as_text()):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result):
            found.append((dtype, tuple(int(n) for n in shape.split(",") if n)))
    return found
