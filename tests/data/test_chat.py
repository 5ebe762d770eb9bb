import pytest

from sequencematch.data.chat import chat_prompt

TURNS = [{"role": "user", "content": "<é>"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é>"}'),
        ("{% generation %}a{{ eos_token }}{% endgeneration %}b", "a</s>b"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% if add_generation_prompt and tools is none %}yes{% endif %}", "yes"),
        ("  {% if true %}\nline\n  {% endif %}\nend", "line\nend"),
    ],
)
def test_templates_have_what_they_are_written_for(template, text):
    assert chat_prompt(template, TURNS, {"eos_token": "</s>"}) == text


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ raise_exception('turns must alternate') }}", "TemplateError: turns must alternate"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        # It can reach nothing of Python, and change nothing that it is given.
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
    ],
)
def test_what_fails_is_said_in_one_line(template, fault):
    with pytest.raises(ValueError, match=f"^the chat template fails: {fault}") as raised:
        chat_prompt(template, TURNS, {})
    assert len(str(raised.value).splitlines()) == 1
