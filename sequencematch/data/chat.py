"""Chats as texts, by the template that comes with a model."""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Some templates write the date. With that of today a run would not find its own data tomorrow.
TODAY = datetime.date(2024, 7, 26)


def chat_prompt(
    template: str, messages: Sequence[Mapping[str, Any]], tokens: Mapping[str, str]
) -> str:
    """Returns the text before the assistant's next turn.

    Args:
      template: in the language of Jinja; it can reach nothing but what it is given.
      messages: the turns so far, each with a `role` and a `content`.
      tokens: names such as `bos_token` -> the tokens that the template writes by these names.

    Raises:
      ValueError: the template is damaged, or refuses the turns.
    """
    try:
        return _compile(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=True, **tokens
        )
    # A template is a small program: what it asks of the turns can fail in any way.
    except Exception as cause:
        raise ValueError(f"the chat template fails: {type(cause).__name__}: {cause}") from cause


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> jinja2.Template:
    # As in the Hugging Face world, where templates are written for these settings and functions.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _write_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": TODAY.strftime}
    return environment.from_string(template)


def _write_json(value: Any, **layout: Any) -> str:
    """JSON as it is; Jinja's own filter writes it for HTML."""
    return json.dumps(value, **{"ensure_ascii": False, **layout})


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _Generation(ext.Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant wrote, and changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
