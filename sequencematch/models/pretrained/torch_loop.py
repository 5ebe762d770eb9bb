"""Writes with edits, greedily: python generate.py DIRECTORY PROMPT."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

POPS = {"<bkspc>": 1, "<bkspc2>": 2, "<bkspc4>": 4, "<reset>": 2**30}


@torch.no_grad()
def generate(model, tokenizer, prompt, max_actions=256):
    """Returns (ids of the text after the prompt, ids of all actions)."""
    ids, end = tokenizer.get_vocab(), tokenizer.eos_token_id
    pops = {ids[name]: count for name, count in POPS.items() if name in ids}
    edits, never = [*pops], [*pops, *(model.generation_config.suppress_tokens or [])]
    feed, cache, tops, text, actions = tokenizer(prompt).input_ids, DynamicCache(), [], [], []
    while len(actions) < max_actions and end not in actions[-1:]:
        if feed:
            output = model(torch.tensor([feed], device=model.device), past_key_values=cache)
            tops.append((output.logits[0, -1].float(), []))  # and tokens deleted from this text
        (logits, deleted), feed = tops[-1], []
        tokens = logits.clone()
        tokens[never] = -torch.inf
        if text and logits[edits].logsumexp(0) > tokens.logsumexp(0):
            actions.append(edits[logits[edits].argmax()])
            kept = max(len(text) - pops[actions[-1]], 0)
            cache.crop(kept - len(text))  # so many tokens leave it
            tops[kept][1].append(text[kept])
            del text[kept:], tops[kept + 1 :]
        else:
            tokens[deleted] = -torch.inf
            actions.append(int(tokens.argmax()))
            text += (feed := [i for i in actions[-1:] if i != end])
    return text, actions


if __name__ == "__main__":
    parts = [kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer)]
    print(parts[1].decode(generate(*parts, sys.argv[2])[0]))
