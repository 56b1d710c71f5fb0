"""Keeping the matrix products of a block for the backward pass, and computing again what is cheap: norms, GELU, scales.

Chen et al. 2016 (recomputation), Korthikanti et al. 2023 (choosing by cost). Of a transformer block's activations two
in five are results of elementwise operations, which take few percent of its time. torch.compile does this by itself.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_PRODUCTS = {
    "aten": (
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "linear",
        "convolution",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    ),
    "mkldnn": ("_linear_pointwise",),
}


def keep_products() -> Any:
    """The ``context_fn`` for :func:`torch.utils.checkpoint.checkpoint`."""
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    kept = getattr(operator, "overloadpacket", operator) in _products()
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@cache
def _products() -> frozenset[Any]:
    """Those that this PyTorch has."""
    found = set()
    for namespace, names in _PRODUCTS.items():
        for name in names:
            operator = getattr(getattr(torch.ops, namespace), name, None)
            if operator is not None:
                found.add(operator)
    return frozenset(found)
