"""Tables in Markdown."""

from collections.abc import Sequence


def print_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    for line in (header, ["---"] * len(header), *lines):
        print(f"| {' | '.join(line)} |")
