"""Writes tests/models/figures/pretrained.json: the last logits of tiny models, by transformers.

    python -m tests.parity.make_figures

A test of `make test` compares ours with them, without torch. Configurations and weights are those of
tests/models/pretrained/tiny.py; float32, 40 tokens, the logits at the last three of each of two texts.
"""

import json

import torch
import transformers

from tests.models.pretrained import tiny


def torch_model(config: dict) -> torch.nn.Module:
    """The model of a config.json in transformers, with the weights of `tiny`."""
    kind = getattr(transformers, config["architectures"][0])
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.tensor(tiny.values(name, tuple(parameter.shape), config)))
    return model


def torch_logits(model: torch.nn.Module) -> torch.Tensor:
    """Its logits at `tiny.TOKENS`."""
    with torch.no_grad():
        return model(torch.tensor(tiny.TOKENS, dtype=torch.long)).logits


def main():
    found = {}
    for name, config in tiny.CASES.items():
        last = torch_logits(torch_model(config))[:, -3:]
        found[name] = [[[round(x, 5) for x in row] for row in text] for text in last.tolist()]
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(x)}" for name, x in found.items())
    tiny.FILE.write_text(f"{{\n{rows}\n}}\n")


if __name__ == "__main__":
    main()
