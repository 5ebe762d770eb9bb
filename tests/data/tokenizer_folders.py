"""Tiny tokenizers as the files of model directories: one like GPT-2's, one like Llama 2's."""

import json

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

TEXTS = ["the cat sat on the mat", "that cat, that mat: 12+30=42", "the hat\nthe rat"] * 3


def byte_level(folder, tokens=("<end>", "<start>"), alphabet=None, texts=TEXTS):
    """Bytes, merged within words; a text may begin without `<bos>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*tokens], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return save(tokenizer, folder, config={"eos_token_id": 0})


def sentence_piece(folder):
    """Characters, merged across no space; bytes for what has no token; `<s>` before a text."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    units = [*special, *(f"<0x{b:02X}>" for b in range(256)), *"▁abcehmnorst12+=,"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "t"), ("▁", "c"), ("▁c", "at")]
    merges += [("c", "at"), ("1", "2"), ("▁", "12")]
    vocabulary = {unit: i for i, unit in enumerate([*units, *map("".join, merges)])}
    tokenizer.model = models.BPE(
        vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    names = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": "<unk>"}
    return save(tokenizer, folder, tokenizer_config=names)


def words(folder, texts):
    """Words and signs, and `<unk>` for what is none of the texts'."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    trainer = trainers.WordLevelTrainer(special_tokens=["<end>", "<unk>"], show_progress=False)
    return _train(tokenizer, trainer, texts, folder)


def pieces(folder, texts):
    """Parts of words by likelihood, and `<unk>` for characters that the texts have not."""
    tokenizer = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<end>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    return _train(tokenizer, trainer, texts, folder)


def _train(tokenizer, trainer, texts, folder):
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, trainer)
    return save(tokenizer, folder, config={"eos_token_id": 0})


def save(tokenizer, folder, **files):
    """Writes tokenizer.json, and other files beside it: name -> content."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def change(folder, name, **values):
    """Changes values of a JSON file, which need not be there yet."""
    path = folder / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))
    return folder
