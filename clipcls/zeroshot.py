"""The arithmetic of a zero-shot classifier, in numpy: class weights, logits, probabilities, top-k.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", sections 3.1.2-3.1.4;
the sigmoid rule is Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipcls.records import Activation

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_TIE = 9
"""Decimals of a cosine that count in a ranking: float32 embeddings carry about seven, the rest is rounding."""


def class_weights(ensembles: Sequence[Float32]) -> Float32:
    """One unit vector a label: the normalised mean of the unit vectors of its prompts.

    Args:
        ensembles: for each of L labels its prompts' embeddings, float32 [prompts, D].

    Returns:
        float32 [L, D], unit rows.
    """
    return _unit(np.stack([_unit(prompts).mean(axis=0) for prompts in ensembles]))


def cosines(images: Float32, weights: Float32) -> Float64:
    """Cosine similarity of every image with every label.

    Computed in float64, where the products of float32 numbers are exact: an image's scores then do not depend on
    which other images were scored with it.

    Args:
        images: float32 [n, D], unit rows.
        weights: float32 [L, D], unit rows.

    Returns:
        float64 [n, L], -1 to 1.
    """
    return np.clip(images.astype(np.float64) @ weights.astype(np.float64).T, -1.0, 1.0)


def probabilities(cosines: Float64, logit_scale: float, logit_bias: float | None, activation: Activation) -> Float64:
    """What the model makes of the cosines: a softmax over the labels, or a sigmoid for each alone.

    Args:
        cosines: float64 [n, L].
        logit_scale: factor on the cosine, already exponentiated.
        logit_bias: added to the scaled cosine; None counts as 0.
        activation: how the model was trained.

    Returns:
        float64 [n, L], 0 to 1; rows sum to 1 for a softmax.
    """
    logits = logit_scale * cosines + (logit_bias or 0.0)
    if activation == "sigmoid":
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def top_k(cosines: Float64, k: int) -> npt.NDArray[np.intp]:
    """The k best labels of every image, best first; ties keep label order.

    Cosines decide, not probabilities: these reach exactly 0 and 1 long before the order is settled.

    Args:
        cosines: float64 [n, L].
        k: how many; at most L are returned.

    Returns:
        Label indices, [n, min(k, L)].
    """
    return np.argsort(-np.round(cosines, _TIE), axis=1, kind="stable")[:, :k]


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
