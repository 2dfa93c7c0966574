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
_SAME = 1e-5
"""Largest difference of two components that counts as rounding; no two texts a model tells apart come as close."""


def class_weights(ensembles: Sequence[Float32]) -> Float32:
    """One unit vector a label: the normalised mean of the unit vectors of its prompts.

    Args:
        ensembles: for each of L labels its prompts' embeddings, float32 [prompts, D].

    Returns:
        float32 [L, D], unit rows.
    """
    return _unit(np.stack([_unit(prompts).mean(axis=0) for prompts in ensembles]))


def merged(weights: Float32, label_of: Sequence[int]) -> Float32:
    """One unit vector a label where it has several names: the normalised mean of its names' class weights.

    Args:
        weights: one row a name, float32 [N, D], unit rows.
        label_of: each name's label, 0 to L - 1 in ascending order, length N.

    Returns:
        float32 [L, D], unit rows.
    """
    return class_weights(np.split(weights, _starts(label_of)[1:]))


def best_of_names(scores: Float64, label_of: Sequence[int]) -> Float64:
    """Each label's score as that of its best name.

    Args:
        scores: of every name, float64 [n, N].
        label_of: see ``merged``.

    Returns:
        float64 [n, L].
    """
    return np.asarray(np.maximum.reduceat(scores, _starts(label_of), axis=1))


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
        return _sigmoid(logits)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def against_neutral(cosines: Float64, neutral: Float64, logit_scale: float) -> Float64:
    """What a softmax model makes of each label alone: a softmax over the label and a prompt that names nothing.

    Args:
        cosines: float64 [n, L].
        neutral: cosine with the neutral prompt of each label's language, float64 [n, L].
        logit_scale: factor on the cosine, already exponentiated.

    Returns:
        float64 [n, L], 0 to 1; 0.5 where a label fits no better than the neutral prompt.
    """
    return _sigmoid(logit_scale * (cosines - neutral))


def alike(weights: Float32) -> list[list[int]]:
    """Rows that are the same vector but for rounding: texts that the model cannot tell apart.

    Args:
        weights: float32 [N, D], unit rows.

    Returns:
        Row numbers of two or more rows that are the same, each list ascending.
    """
    # Equal rows lie side by side once sorted by their product with any fixed vector.
    line = weights @ np.cos(np.arange(weights.shape[1]))
    clusters: list[list[int]] = []
    for row in map(int, np.argsort(line)):
        if clusters and np.abs(weights[row] - weights[clusters[-1][0]]).max() < _SAME:
            clusters[-1].append(row)
        else:
            clusters.append([row])
    return sorted(sorted(rows) for rows in clusters if len(rows) > 1)


def best(cosines: Float64) -> npt.NDArray[np.intp]:
    """The best label of every image, as ``top_k`` ranks them: label indices, [n]."""
    return np.asarray(np.round(cosines, _TIE).argmax(axis=1))


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


def _sigmoid(logits: Float64) -> Float64:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def _starts(label_of: Sequence[int]) -> list[int]:
    return [at for at, label in enumerate(label_of) if at == 0 or label != label_of[at - 1]]


def _unit(vectors: Float32) -> Float32:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
