"""Every variant of configs/text.py and text_pretrained.py is a configuration, and differs in what it
says."""

import pytest

from configs import arithmetic, llama_arithmetic, text_pretrained
from configs import text as configuration
from sequencematch.setup.check import check_config

METHODS = ["sequencematch", "mle", "bc", "unlikelihood", "le_cam", "iql_offline"]


@pytest.mark.parametrize("variant", [*METHODS, "paper", "paper,mle"])
def test_a_variant_is_valid(variant):
    config = configuration.get_config(variant)
    if variant.startswith("paper"):  # sizes alone: the directory is not there
        config.model.update(path="", preset="llama2-7b")
    check_config(config)
    assert config.task == "text"
    assert config.method == (variant.removeprefix("paper").strip(",") or "sequencematch")


def test_the_paper_is_followed_where_it_says_so():
    config = configuration.get_config("paper")
    assert config.data.prompt + config.data.window == 1024
    paper = (config.noise.eta, config.objective.gamma, config.objective.alpha)
    assert paper == (0.001, 0.998, 0.01)
    adapters = (config.model.lora_rank, config.model.lora_alpha, config.model.lora_base)
    assert adapters == (64, 16, "nf4")


@pytest.mark.parametrize("method", METHODS)
def test_a_pretrained_variant_is_valid_but_for_its_directory(method):
    config = text_pretrained.get_config(method)
    assert config.method == method and config.model.lora_rank == 64
    config.model.update(path="", preset="smollm2-135m")  # its sizes; the directory may not be there
    check_config(config)


@pytest.mark.parametrize(
    "config, variant",
    [(configuration, "paper-mle"), (arithmetic, "paper_mle"), (llama_arithmetic, "qlora-bc")],
)
def test_a_variant_that_is_none_is_refused(config, variant):
    with pytest.raises(ValueError, match=f"config.method='{variant}' must be"):
        check_config(config.get_config(variant))
