"""Comparisons with transformers: `make parity` installs torch for them, `make test` never does."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["*.py"]
