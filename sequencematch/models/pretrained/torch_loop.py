"""Writes with edits, greedily: python generate.py DIRECTORY PROMPT."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

POPS = {"<bkspc>": 1, "<bkspc2>": 2, "<bkspc4>": 4, "<reset>": 2**30}


@torch.no_grad()
def generate(model, tokenizer, prompt, max_actions=256, bias=0.0, memory=True):
    """Returns (ids of the text after the prompt, ids of all actions)."""
    ids, end, bos = tokenizer.get_vocab(), tokenizer.eos_token_id, tokenizer.bos_token_id
    pops = {ids[name]: count for name, count in POPS.items() if name in ids}
    edits, never = [*pops], [*pops, *(model.generation_config.suppress_tokens or [])]
    feed = tokenizer(prompt).input_ids  # with two where a chat template writes it, too
    feed, cache, tops, text, actions = feed[feed[:2] == [bos, bos] :], DynamicCache(), [], [], []
    while len(actions) < max_actions and end not in actions[-1:]:
        if feed:
            output = model(torch.tensor([feed], device=model.device), past_key_values=cache)
            tops.append((output.logits[0, -1].float(), []))  # and tokens deleted from this text
        (logits, deleted), feed = tops[-1], []
        tokens = logits.index_fill(0, torch.tensor(never, device=logits.device), -torch.inf)
        if (text or not memory) and logits[edits].logsumexp(0) + bias > tokens.logsumexp(0):
            actions.append(edits[logits[edits].argmax()])
            kept = max(len(text) - pops[actions[-1]], 0)
            cache.crop(kept - len(text)) if text else None  # so many tokens leave it
            tops[kept][1].extend(text[kept : kept + 1])
            del text[kept:], tops[kept + 1 :]
        else:
            tokens[deleted if memory else []] = -torch.inf
            actions.append(int(tokens.argmax()))
            text += (feed := [i for i in actions[-1:] if i != end])
    return text, actions


if __name__ == "__main__":
    parts = [kind.from_pretrained(sys.argv[1]) for kind in (AutoModelForCausalLM, AutoTokenizer)]
    print(parts[1].decode(generate(*parts, sys.argv[2])[0]))
