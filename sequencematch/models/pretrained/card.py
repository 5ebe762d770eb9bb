"""What is written beside an exported model or adapter for its users: a card, and a loop that edits."""

import string
from collections.abc import Mapping, Sequence
from importlib import resources

# How a model without edits is loaded: a whole one, and an adapter of another.
LOAD_MODEL = """\
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")
"""
LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("$base"), ".")
model.generation_config = GenerationConfig.from_pretrained(".")  # which ids are never chosen
"""
DECIDING = "bias=0.0, memory=True"  # in torch_loop.py
# The end of generate.py for an adapter; that of a whole model is torch_loop.py's own.
MAIN = 'if __name__ == "__main__":\n'
MAIN_OF_ADAPTER = (
    MAIN
    + """\
    from peft import PeftModel
    from transformers import GenerationConfig

    model = AutoModelForCausalLM.from_pretrained("$base")
    if model.get_input_embeddings().num_embeddings < $rows:
        model.resize_token_embeddings($rows)
    model = PeftModel.from_pretrained(model, sys.argv[1])
    model.generation_config = GenerationConfig.from_pretrained(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    print(tokenizer.decode(generate(model, tokenizer, sys.argv[2])[0]))
"""
)


def card_files(
    name: str,
    edits: Sequence[str],
    rows: int,
    first: int,
    facts: Mapping[str, str],
    adapter_of: str | None = None,
    bias: float = 0.0,
    memory: bool = True,
) -> dict[str, str]:
    """Name -> content of README.md, and of generate.py where there are edits.

    Args:
      name: of the model.
      edits: names of the edits; none of a model that knows none.
      rows: of the embedding; for an adapter, those that it needs.
      first: id of the first edit.
      facts: what is told of its making, such as "method": "sequencematch".
      adapter_of: the base of an adapter; None for a whole model.
      bias: what generate.py adds to the log-odds of an edit before it compares them with 0.
      memory: whether it does not write a token again where it was deleted.
    """
    told = {
        "name": name,
        "edits": ", ".join(f"`{edit}`" for edit in edits),
        "rows": str(rows),
        "first": str(first),
        "facts": "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "base": adapter_of or "",
    }
    folder = resources.files(__package__)
    if not edits:
        load = string.Template(LOAD_ADAPTER if adapter_of else LOAD_MODEL).substitute(told)
        told |= {"library": "peft" if adapter_of else "transformers", "load": load}
        return {"README.md": _fill(folder.joinpath("plain_card.md").read_text(), told)}
    loop = folder.joinpath("torch_loop.py").read_text()
    loop = loop.replace(DECIDING, f"bias={round(bias, 6)}, memory={memory}")
    if adapter_of:
        loop = loop.partition(MAIN)[0] + _fill(MAIN_OF_ADAPTER, told)
    card = folder.joinpath("adapter_card.md" if adapter_of else "card.md").read_text()
    return {"README.md": _fill(card, told | {"loop": loop}), "generate.py": loop}


def _fill(card: str, told: Mapping[str, str]) -> str:
    return string.Template(card).substitute(told)
