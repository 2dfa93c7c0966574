from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls import zeroshot


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def random_rows(seed: int, n: int, dim: int = 32) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(n, dim)))


def test_class_weights_are_the_normalised_mean() -> None:
    one, two = np.eye(4, dtype=np.float32)[:2], random_rows(0, 1, 4)
    weights = zeroshot.class_weights([one, two])
    np.testing.assert_allclose(weights[0], [0.5**0.5, 0.5**0.5, 0, 0], atol=1e-7)
    np.testing.assert_allclose(weights[1], two[0], atol=1e-7)
    assert weights.dtype == np.float32


def test_prompts_count_by_direction_not_by_length() -> None:
    rows = random_rows(1, 3)
    np.testing.assert_allclose(
        zeroshot.class_weights([rows * [[1], [5], [0.1]]]), zeroshot.class_weights([rows]), atol=1e-6
    )


def test_class_weights_are_float32_whatever_the_embeddings_are() -> None:
    assert zeroshot.class_weights([random_rows(1, 3).astype(np.float64)]).dtype == np.float32


def test_cosines_are_the_products_of_unit_rows_in_float64() -> None:
    images, weights = np.array([[0.6, 0.8], [-1, 0]], np.float32), np.array([[1, 0], [0, -1], [0.8, 0.6]], np.float32)
    found = zeroshot.cosines(images, weights)
    np.testing.assert_allclose(found, [[0.6, -0.8, 0.96], [-1, 0, -0.8]], atol=1e-7)
    assert found.dtype == np.float64


def test_cosines_of_rows_a_little_too_long_stay_within_bounds() -> None:
    rows = random_rows(0, 50)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert lengths.max() > 1.0, "rounding to float32 makes some rows longer than 1"
    found = zeroshot.cosines(rows, np.concatenate([rows, -rows]))
    assert (found.min(), found.max()) == (-1.0, 1.0)


def test_softmax_and_sigmoid_with_scale_and_bias() -> None:
    cosines = np.array([[0.3, 0.1, -0.2]])
    logits = 50 * cosines - 10
    softmax = zeroshot.probabilities(cosines, 50.0, -10.0, "softmax")
    np.testing.assert_allclose(softmax, np.exp(logits) / np.exp(logits).sum())
    sigmoid = zeroshot.probabilities(cosines, 50.0, -10.0, "sigmoid")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(zeroshot.probabilities(cosines, 50.0, None, "softmax"), softmax)
    np.testing.assert_array_equal(
        zeroshot.probabilities(cosines, 50.0, None, "sigmoid"), zeroshot.probabilities(cosines, 50.0, 0.0, "sigmoid")
    )
    assert zeroshot.probabilities(np.zeros((1, 1)), 50.0, None, "sigmoid") == 0.5


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_extreme_scales_overflow_nothing(activation: str) -> None:
    found = zeroshot.probabilities(np.array([[1.0, -1.0]]), 1e6, None, activation)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, [[1.0, 0.0]])


def test_an_image_that_nothing_fits_has_probabilities_beside_one_that_fits() -> None:
    found = zeroshot.probabilities(np.array([[1.0, 0.9], [-1.0, -1.0]]), 1e4, None, "softmax")
    np.testing.assert_array_equal(found, [[1.0, 0.0], [0.5, 0.5]])


def test_ties_keep_label_order_even_when_probabilities_saturate() -> None:
    cosines = np.array([[0.5, 0.9, 0.5 + 1e-12, 0.9, 0.1]])
    assert zeroshot.top_k(cosines, 5).tolist() == [[1, 3, 0, 2, 4]]
    assert zeroshot.top_k(cosines, 2).tolist() == [[1, 3]]
    assert zeroshot.top_k(cosines, 99).shape == (1, 5)


def test_the_smallest_difference_that_float32_can_tell_decides() -> None:
    cosines = np.array([[0.5, 0.5 + 2e-8], [0.5 + 2e-8, 0.5]])
    assert zeroshot.top_k(cosines, 1).tolist() == [[1], [0]] and zeroshot.best(cosines).tolist() == [1, 0]


def test_scores_do_not_depend_on_company() -> None:
    images, weights = random_rows(2, 301), random_rows(3, 17)
    together = zeroshot.cosines(images, weights)
    alone = np.concatenate([zeroshot.cosines(image[None], weights) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-14)
    assert [f"{x:.6f}" for x in together.ravel()] == [f"{x:.6f}" for x in alone.ravel()]


@given(st.integers(0, 10**6), st.integers(2, 12))
def test_permuting_labels_permutes_scores_only(seed: int, labels: int) -> None:
    images, weights = random_rows(seed, 3), random_rows(seed + 1, labels)
    order = np.random.default_rng(seed).permutation(labels)
    plain = zeroshot.probabilities(zeroshot.cosines(images, weights), 30.0, None, "softmax")
    moved = zeroshot.probabilities(zeroshot.cosines(images, weights[order]), 30.0, None, "softmax")
    np.testing.assert_allclose(plain[:, order], moved, atol=1e-12)
    np.testing.assert_allclose(plain.sum(axis=1), 1.0)


def test_merged_names_are_the_normalised_mean_of_each_label() -> None:
    names = random_rows(4, 6)
    weights = zeroshot.merged(names, [0, 0, 1, 2, 2, 2])
    np.testing.assert_allclose(
        weights, unit(np.stack([names[:2].mean(axis=0), names[2], names[3:].mean(axis=0)])), atol=1e-6
    )
    np.testing.assert_allclose(zeroshot.merged(names, range(6)), names, atol=1e-7)


def test_a_label_scores_as_its_best_name() -> None:
    scores = np.array([[0.1, 0.3, -0.5, -0.2], [0.9, 0.3, -0.1, -0.2]])
    assert zeroshot.best_of_names(scores, [0, 0, 1, 1]).tolist() == [[0.3, -0.2], [0.9, -0.1]]
    assert zeroshot.best_of_names(scores, [0, 1, 2, 3]).tolist() == scores.tolist()


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_the_best_name_never_scores_less_than_any_other(seed: int, sizes: list[int]) -> None:
    label_of = [label for label, size in enumerate(sizes) for _ in range(size)]
    scores = zeroshot.cosines(random_rows(seed, 3), random_rows(seed + 1, len(label_of)))
    best = zeroshot.best_of_names(scores, label_of)
    assert best.shape == (3, len(sizes))
    assert (best[:, label_of] >= scores).all() and np.isin(best, scores).all()


def test_against_a_neutral_prompt_the_probability_is_the_softmax_of_two() -> None:
    cosines, neutral = np.array([[0.3, 0.2, 0.1]]), np.array([[0.2, 0.2, 0.2]])
    alone = zeroshot.against_neutral(cosines, neutral, 50.0)
    pairs = [zeroshot.probabilities(np.array([[c, 0.2]]), 50.0, None, "softmax")[0, 0] for c in cosines[0]]
    np.testing.assert_allclose(alone, [pairs])
    assert alone[0, 1] == 0.5 and (zeroshot.against_neutral(cosines, neutral, 1e9) == [[1.0, 0.5, 0.0]]).all()


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("seed", range(5))
def test_rows_that_are_the_same_but_for_rounding_are_found(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([random_rows(seed, 300), np.zeros((4, 32), np.float32)])
    rows[[300, 301]], rows[[302, 303]] = rows[7], rows[[7, 250]]
    rows = unit(rows + rng.normal(size=rows.shape) * noise)
    assert zeroshot.alike(rows) == [[7, 300, 301, 302], [250, 303]]


def test_rows_that_are_merely_close_are_not_alike() -> None:
    rows = random_rows(0, 2)
    assert zeroshot.alike(unit(np.stack([rows[0], rows[0] + 1e-3 * rows[1], rows[1]]))) == []
    assert zeroshot.alike(rows[:1]) == [] and zeroshot.alike(np.empty((0, 32), np.float32)) == []


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_best_is_the_first_of_top_k(seed: int, labels: int) -> None:
    cosines = np.random.default_rng(seed).integers(-3, 3, (5, labels)) / 10
    assert zeroshot.best(cosines).tolist() == zeroshot.top_k(cosines, labels)[:, 0].tolist()
