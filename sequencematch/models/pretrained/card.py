"""What is written beside an exported model for its users: a model card, and a loop that edits."""

import string
from collections.abc import Mapping, Sequence
from importlib import resources


def card_files(
    name: str, edits: Sequence[str], rows: int, first: int, facts: Mapping[str, str]
) -> dict[str, str]:
    """Name -> content of README.md and generate.py.

    Args:
      name: of the model.
      edits: names of the edits.
      rows: of the embedding.
      first: id of the first edit.
      facts: what is told of its making, such as "method": "sequencematch".
    """
    folder = resources.files(__package__)
    loop, card = (folder.joinpath(file).read_text() for file in ("torch_loop.py", "card.md"))
    told = {
        "name": name,
        "edits": ", ".join(f"`{edit}`" for edit in edits),
        "rows": str(rows),
        "first": str(first),
        "facts": "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "loop": loop,
    }
    return {"README.md": string.Template(card).substitute(told), "generate.py": loop}
