"""SequenceMatch: language models trained against their own mistakes, which can take a token back."""

__version__ = "0.1.0"
