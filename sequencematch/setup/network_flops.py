"""FLOPs of the matrix products that training needs, in closed form: a product and its sum are two.

Element-wise work, the optimiser and what is computed a second time (model.remat, the logits that the
backward pass reads again) are not counted; attention is counted whole, although half of it is masked
(Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

Symbols: T slots, S states whose logits are read, L layers, D model, H heads, N width of a head,
V vocabulary, W weights in the matrices of all blocks, adapters included.
"""

import math

import jax
from flax import nnx

from sequencematch.models.config import TransformerConfig
from sequencematch.models.sharding import path_name


def block_weights(network: TransformerConfig) -> int:
    """W: each token is multiplied by all of them."""
    n = network
    adapters = sum(
        n.lora.rank * (inner + outer)
        for path, (inner, outer) in n.linears.items()
        if n.lora.adapts(path)
    )
    return n.layers * (n.block_matrices + adapters)


def forward_flops(network: TransformerConfig, slots: int, states: int) -> int:
    """FLOPs of one row without gradients: 2 W T + 4 L H N T² + 2 V D S.

    Args:
      network: its sizes.
      slots: T.
      states: S.
    """
    n = network
    attention = 4 * n.layers * n.heads_width * slots**2  # scores, and their products with values
    return 2 * block_weights(n) * slots + attention + 2 * n.vocab_size * n.d_model * states


def training_flops(network: TransformerConfig, trained: nnx.State, slots: int, states: int) -> int:
    """FLOPs of one row with gradients: 3 times those without, less 2 for each frozen weight it meets.

    The backward pass has two products for each of the forward pass, the gradient of what went in and
    that of the weight; a frozen weight has no gradient.

    Args:
      network: its sizes.
      trained: the parameters that are trained, or their shapes.
      slots, states: T and S.
    """
    heads = ("embedding/embedding",) if network.tied else ("head/kernel",)
    blocks = head = 0
    for path, array in jax.tree_util.tree_leaves_with_path(trained):
        name = path_name(path)
        # The matrices of blocks have an axis of layers before their two, which tells them from vectors.
        blocks += math.prod(array.shape) * (name.startswith("blocks/") and len(array.shape) > 2)
        head += math.prod(array.shape) * name.startswith((*heads, "edits/kernel"))
    frozen = (block_weights(network) - blocks) * slots
    frozen += (network.vocab_size * network.d_model - head) * states
    return 3 * forward_flops(network, slots, states) - 2 * frozen
