"""How near texts are to given references, word by word: BLEU, chrF, ROUGE; and to each other."""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

_MOST = 200  # texts that are compared with each other: the work grows with their square
ROUGE = ("rouge1", "rouge2", "rougeL")


def bleu_and_chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015), 0 to 100, as sacrebleu has them.

    Raises:
      ValueError: sacrebleu is not installed.
    """
    sacrebleu = load_optional("sacrebleu", "text")
    most = max(map(len, references))
    # One list for each place; a text with fewer references has none there.
    columns = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu([*texts], columns).score,
        "chrf": sacrebleu.corpus_chrf([*texts], columns).score,
    }


def rouge(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, -2 and -L (Lin 2004), by the best reference, as rouge-score has it.

    Raises:
      ValueError: rouge-score is not installed.
    """
    pairs = zip(texts, references, strict=True)
    found = [_rouge_of_one(text, tuple(each)) for text, each in pairs]
    columns = zip(*found, strict=True)
    return {name: sum(x) / len(found) for name, x in zip(ROUGE, columns, strict=True)}


@lru_cache(2**14)  # an interval asks for the same ones many times
def _rouge_of_one(text: str, references: tuple[str, ...]) -> tuple[float, ...]:
    """The F-measures of one text, in the order of `ROUGE`."""
    scorer = load_optional("rouge_score.rouge_scorer", "text").RougeScorer(ROUGE)
    found = scorer.score_multi(references, text)
    return tuple(found[name].fmeasure for name in ROUGE)


def self_bleu(texts: Sequence[str]) -> dict[str, float | None]:
    """Mean BLEU of each text with all others as references (Zhu et al. 2018): high where all are alike.

    Texts without a word are left out: they are like no other. Of more than 200, 200 are taken evenly.
    None for fewer than two.

    Raises:
      ValueError: sacrebleu is not installed.
    """
    sacrebleu = load_optional("sacrebleu", "text")
    texts = [text for text in texts if text.split()]
    count = min(len(texts), _MOST)
    chosen = [texts[i * len(texts) // count] for i in range(count)]
    if count < 2:
        return {"self_bleu": None}
    others = [[*chosen[:i], *chosen[i + 1 :]] for i in range(count)]
    pairs = zip(chosen, others, strict=True)
    scores = [sacrebleu.sentence_bleu(text, rest).score for text, rest in pairs]
    return {"self_bleu": sum(scores) / count}


def load_optional(name: str, extra: str) -> ModuleType:
    """A module of a package that only some metrics need.

    Raises:
      ValueError: it is not installed; says how.
    """
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise ValueError(
            f"this metric needs {name.split('.')[0]}, which is not installed: "
            f"pip install 'sequencematch[{extra}]'"
        ) from cause
