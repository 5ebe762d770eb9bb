"""What is written beside an exported model or adapter for its users: a card, and a loop that edits."""

import string
from collections.abc import Mapping, Sequence
from importlib import resources


def card_files(
    name: str,
    edits: Sequence[str],
    rows: int,
    first: int,
    facts: Mapping[str, str],
    adapter_of: str | None = None,
) -> dict[str, str]:
    """Name -> content of README.md and generate.py.

    Args:
      name: of the model.
      edits: names of the edits.
      rows: of the embedding; for an adapter, those that it needs.
      first: id of the first edit.
      facts: what is told of its making, such as "method": "sequencematch".
      adapter_of: the base of an adapter; None for a whole model.
    """
    folder, card = resources.files(__package__), "adapter_card.md" if adapter_of else "card.md"
    loop, card = (folder.joinpath(file).read_text() for file in ("torch_loop.py", card))
    told = {
        "name": name,
        "edits": ", ".join(f"`{edit}`" for edit in edits),
        "rows": str(rows),
        "first": str(first),
        "facts": "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "loop": loop,
        "base": adapter_of or "",
    }
    return {"README.md": string.Template(card).substitute(told), "generate.py": loop}
