"""What is told of the data: when a run starts, in summary.json and in the report.

A fact is a number, a share (a float), or numbers by name; 0, and no names, are not told of.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Name of a fact, also in summary.json -> its sentence.
SENTENCES = {
    "left_out": "Prompts beyond the sizes data.train, data.validation and data.test, left out: {}.",
    "shared_prompts": "Prompts that a file shares with the file of the test or validation questions, "
    "left out of it: {}.",
    "too_long": "Examples that do not fit, left out (data.long='drop'): {}.",
    "unread_keys": "Keys that are not read, and the number of lines that have them: {}.",
    "repeated_lines": "Lines that repeat an earlier one: {}. In training each of them teaches.",
    "documents": "Documents of the corpus: {}.",
    "repeated_documents": "Documents that repeat an earlier one but for case and white space, left "
    "out: {}.",
    "special_documents": "Documents that spell a special token of the tokenizer, left out: {}.",
    "foreign_documents": "Documents with something that the tokenizer has no ids for, left out: {}.",
    "short_documents": "Documents of test and validation no longer than a prompt (data.prompt), left "
    "out: {}.",
    "empty_completions": "Lines with an empty completion: {}.",
    "ends_lost": "Share of the training texts that lose their <eos>, because noise makes them longer "
    "than max_actions: {}.",
    "unread_ends": "Share of the tokens of training windows that are not learnt, because noise and its "
    "mending take their place among max_actions: {}.",
    "changed_completions": "Completions that the tokenizer changes (it may lower case, or compose "
    "accents), so that no answer equals them: {}.",
    "encoded_apart": "Examples of which the tokenizer would join prompt and completion, so that the "
    "completion is encoded without its prompt: {}.",
}
_NAMES = 8  # that a sentence lists at most


def describe(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the sentence of each fact.

    Args:
      found: facts by name; other entries, and what is no fact, are passed over, so it may be a
        summary.json that somebody else wrote.
    """
    for name, sentence in SENTENCES.items():
        if shown := _show(found.get(name)):
            yield sentence.format(shown)


def _show(value: Any) -> str:
    """A fact in words; "" for one that is not told of."""
    if isinstance(value, Mapping):
        parts = [f"{key} {shown}" for key, each in value.items() if (shown := _show_number(each))]
        more = f" and {len(parts) - _NAMES} more" if len(parts) > _NAMES else ""
        return ", ".join(parts[:_NAMES]) + more
    return _show_number(value)


def _show_number(value: Any) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        return ""
    return f"{value:.2%}" if isinstance(value, float) else f"{value:,}"
