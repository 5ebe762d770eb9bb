import ast

from sequencematch.data.tokenizer import EDITS
from sequencematch.models.pretrained.card import card_files

FILES = card_files("mine", ("<bkspc>", "<reset>"), 50, 40, {"method": "bc", "accuracy": "90 %"})


def test_the_loop_is_short_and_in_the_card():
    loop = FILES["generate.py"]
    assert len(loop.splitlines()) <= 40
    assert f"```python\n{loop}```" in FILES["README.md"]


def test_the_loop_decides_as_the_run_does():
    how = "max_actions=256, bias={}, memory={}):"
    assert how.format("0.0", True) in FILES["generate.py"]
    files = card_files("mine", ("<bkspc>",), 50, 49, {}, bias=1.25, memory=False)
    assert how.format("1.25", False) in files["generate.py"]
    assert files["generate.py"].count("bias") == FILES["generate.py"].count("bias")


def test_the_loop_pops_as_we_do():
    body = ast.parse(FILES["generate.py"]).body
    (table,) = [node.value for node in body if isinstance(node, ast.Assign)]
    pops = [eval_power(value) for value in table.values]
    assert dict(zip(map(ast.literal_eval, table.keys), pops, strict=True)) == EDITS


def test_the_loop_of_an_adapter_loads_its_base_with_rows_for_the_edits():
    files = card_files("mine", ("<bkspc>",), 50, 49, {}, "/models/base")
    loop = files["generate.py"]
    assert (
        ast.parse(loop)
        and loop.count("__main__") == 1
        and f"```python\n{loop}```" in files["README.md"]
    )
    for words in ('from_pretrained("/models/base")', "resize_token_embeddings(50)", "PeftModel"):
        assert words in loop
    assert loop.partition("if __name__")[0] == FILES["generate.py"].partition("if __name__")[0]


def eval_power(node):
    """A number, or one to the power of another."""
    if isinstance(node, ast.BinOp):
        return eval_power(node.left) ** eval_power(node.right)
    return ast.literal_eval(node)


def test_a_model_without_edits_is_loaded_as_any_other():
    base = "/models/base"
    for adapter_of, words in (
        (None, 'from_pretrained(".")'),
        (base, f'from_pretrained("{base}"), ".")'),
    ):
        files = card_files("mine", (), 50, 50, {"method": "mle"}, adapter_of)
        assert [*files] == ["README.md"] and "$" not in files["README.md"]
        assert ("GenerationConfig.from_pretrained(" in files["README.md"]) == bool(adapter_of)
        for word in ("# mine\n", "teaches no edits", "- method: mle\n", words):
            assert word in files["README.md"]


def test_the_card_says_what_it_is_about():
    card = FILES["README.md"]
    for words in ("# mine\n", "`<bkspc>`, `<reset>`:", "- method: bc\n- accuracy: 90 %\n"):
        assert words in card
    for words in ("go on attending", "resize_token_embeddings(50)", "from row 40 on"):
        assert words in card
    assert "$" not in card
