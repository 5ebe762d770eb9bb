"""AdamW with warm-up, cosine decay and clipped gradients."""

import jax
import optax
from jaxtyping import ArrayLike
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, steps: int, peak: ArrayLike) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine decay to `final` times the peak, one step after the last.

    Args:
      config: the configuration's `optimizer`.
      steps: length of the run.
      peak: the largest learning rate; it may be traced.
    """
    shape = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=1.0,
        warmup_steps=config.warmup,
        decay_steps=steps,
        end_value=config.final,
    )
    return lambda step: peak * shape(step)


def make_optimizer(config: ConfigDict, steps: int, peak: ArrayLike) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) on gradients clipped by their global norm.

    Args:
      config: the configuration's `optimizer`.
      steps: length of the run.
      peak: the largest learning rate; it may be traced.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            learning_rate(config, steps, peak),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=is_matrix,
        ),
    )


def is_matrix(params: object) -> object:
    """Which parameters decay: matrices do, the gains of norms and other vectors do not."""

    def is_one(path, x) -> bool:
        # By name as well: where layers are stacked, their gains have two axes.
        return x.ndim >= 2 and not {"scale", "bias"} & {getattr(key, "key", None) for key in path}

    return jax.tree_util.tree_map_with_path(is_one, params)
