"""CLIP's loss (Radford et al. 2021, section 2.3 and figure 3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def symmetric(logits: Tensor, same: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy over both directions of the N x N matrix of a batch.

    Args:
        logits: scaled cosines of N vectors with N others, of which the diagonal belongs together: float32 [N, N].
        same: pairs that show the same concept, or nearly: bool [N, N]. Off the diagonal they are no negatives.
        reduction: ``mean``: one number; ``none``: float32 [N].
    """
    own = torch.arange(len(logits))
    logits = logits.masked_fill(same & (own[:, None] != own), -torch.inf)
    return (cross_entropy(logits, own, reduction=reduction) + cross_entropy(logits.T, own, reduction=reduction)) / 2
