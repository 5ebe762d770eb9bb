"""Bytes of what a network computes, in closed form.

Symbols: B rows, T slots, L layers, D model, H heads, K key heads, N width of a head, F feed-forward,
V vocabulary, a bytes of an activation.
"""

from sequencematch.models.attention import CHUNK
from sequencematch.models.config import TransformerConfig
from sequencematch.models.readout import chunk_size

FLOAT, BOOL = 4, 1
ACTIVATION = {"float32": 4, "bfloat16": 2}

# Arrays of width F that the feed-forward half of a block stores, by kind.
WIDE = {"swiglu": 6, "geglu": 8, "gelu": 6}


def cast_bytes(network: TransformerConfig) -> int:
    """Bytes of the matrices cast to the activations' dtype; 0 if that is their own.

    Of kernels beneath adapters that are not in float32 those of one layer are cast at a time.
    """
    a, base, block = ACTIVATION[network.dtype], network.lora.base, network.block_matrices
    casts = network.dtype != network.param_dtype
    if base == "float":
        return a * network.matrices * casts
    ends = network.matrices - network.layers * block
    return a * (ends * casts + block * (base != network.dtype))


def replay_bytes(capacity: int, slots: int) -> int:
    """Bytes of the replay buffer: each slot has 5 int32 and 2 bools, each sample 3 int32 and a bool."""
    return capacity * (slots * (5 * FLOAT + 2 * BOOL) + 3 * FLOAT + BOOL)


def activation_bytes(
    network: TransformerConfig, rows: int, slots: int, states: int | None = None
) -> int:
    """Bytes of the forward pass that the backward pass reads, before the compiler optimises.

    For each slot, a layer stores
      in the activations' dtype: 6 F of SwiGLU, 5 D, 2 H N and 2 K N that enter matrix products;
      in float32: 6 D of its norms, 3 H N and 3 K N of those of queries and keys, H T of scores;
      H T of their softmax, in the activations' dtype;
      the rank of each adapter, in that dtype.
    Once for all layers: 2 N for the angles of two rotations and H T of masked scores, in float32, and
    H T of their mask, as bool.
    Chunked attention stores no scores: those of one chunk of queries exist at a time.
    With another model.remat than "none" a layer stores what `STORED` says, and the rest exists for one
    layer at a time.
    The head stores the logits of one chunk of states at a time; a row has `states`, or its slots.
    """
    n, a = network, ACTIVATION[network.dtype]
    heads = (n.heads + n.kv_heads) * n.head_dim
    layer = a * (WIDE[n.mlp] * n.d_ff + 5 * n.d_model + 2 * heads)
    layer += FLOAT * (6 * n.d_model + 3 * heads * n.qk_norm)
    layer += a * n.lora.rank * sum(map(n.lora.adapts, n.linears))
    queries = queries_at_once(n, slots)
    scores, masked = n.heads * queries * (FLOAT + a), n.heads * queries * (FLOAT + BOOL)
    shared = FLOAT * 2 * n.head_dim + masked
    if n.attention == "chunked":
        shared += scores
    else:
        layer += scores
    stored = STORED.get(n.remat)
    layers = n.layers * layer if stored is None else n.layers * stored(n) + layer
    around = 4 * FLOAT * n.d_model
    at_once = min(rows * (states or slots), chunk_size(n.vocab_size))
    logits = (2 * FLOAT + BOOL) * n.vocab_size * at_once
    return rows * slots * (layers + shared + around) + logits


def queries_at_once(network: TransformerConfig, slots: int) -> int:
    """Queries of a row whose scores exist at the same time."""
    return min(slots, CHUNK) if network.attention == "chunked" else slots


def product_bytes(network: TransformerConfig) -> int:
    """Bytes of the input of a layer and of its products with weights, for each slot.

    In the activations' dtype: D of the input, what each linear map puts out but the last, which no
    gradient needs, and the rank of each adapter.
    """
    n, width = network, network.d_model
    for path, (_, outer) in network.linears.items():
        output = 0 if path.endswith("down") else outer
        width += output + n.lora.rank * n.lora.adapts(path)
    return ACTIVATION[n.dtype] * width


# model.remat -> network -> bytes that a layer stores for each slot; "none" stores all.
STORED = {
    "full": lambda network: ACTIVATION[network.dtype] * network.d_model,
    "products": product_bytes,
}


def cache_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """Bytes of the sampler's cache: keys, values and final hidden state of every slot."""
    n, a = network, ACTIVATION[network.dtype]
    return a * rows * slots * (2 * n.layers * n.keys_width + n.d_model)


def forward_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """Bytes of a forward pass without gradients: one layer at a time, the larger of its two halves.

    The residual stream exists four times: in, out and twice between. Attention adds queries, keys,
    values and what it reads, and scores, masked scores and softmax, which are one array in chunks; the
    feed-forward half adds the three wide arrays of SwiGLU.
    """
    n, a = network, ACTIVATION[network.dtype]
    attention = 2 * a * (n.heads + n.kv_heads) * n.head_dim
    arrays = 1 if n.attention == "chunked" else 3
    attention += arrays * FLOAT * n.heads * queries_at_once(n, slots)
    widest = max(3 * a * n.d_ff, attention)
    return rows * slots * (4 * a * n.d_model + widest)


def sampling_bytes(network: TransformerConfig, rows: int, prompt: int, actions: int) -> int:
    """Bytes of reading prompts and completing them."""
    logits = 2 * FLOAT * rows * network.vocab_size
    return (
        cache_bytes(network, rows, prompt + actions) + forward_bytes(network, rows, prompt) + logits
    )


def scoring_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """Bytes of computing the values of whole episodes, without gradients."""
    V = network.vocab_size
    logits = 2 * FLOAT * V * min(rows * slots, chunk_size(V))
    return forward_bytes(network, rows, slots) + logits
