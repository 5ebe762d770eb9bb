"""A task of copying, its edits, and answers written as strings."""

import itertools

from sequencematch.core import mdp
from sequencematch.data.task import Example, character_task
from sequencematch.data.tokenizer import CharTokenizer
from sequencematch.evaluate.generate import Answer, surviving_text

PLAIN = CharTokenizer("abc>")
TOKENIZER = CharTokenizer("abc>", ("<bkspc>", "<bkspc2>", "<reset>"))
BKSPC, POP2, RESET = TOKENIZER.pops
BOS, EOS, PAD = TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad
MDP = mdp.make(TOKENIZER.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits=TOKENIZER.pops)
POPS = {BKSPC: 1, POP2: 2, RESET: 99}  # numbers that a loop can count to
EXAMPLES = [Example("".join(w) + ">", "".join(w)) for w in itertools.product("abc", repeat=2)]
TASK = character_task("copy", "abc>", {"test": EXAMPLES}, "abc")


def ids(text):
    """Actions from a text: < pops one token, 2 pops two, R all, $ ends."""
    special = {"<": BKSPC, "2": POP2, "R": RESET, "$": EOS}
    return [special[c] if c in special else TOKENIZER.encode(c)[0] for c in text]


def answer(completion, actions, right=False):
    taken, edits = ids(actions), sum(a in POPS for a in ids(actions))
    text = TOKENIZER.decode(surviving_text(MDP, taken))
    is_finished = actions.endswith("$")
    return Answer(Example("a>", completion), taken, text, right, is_finished, len(taken), edits)
