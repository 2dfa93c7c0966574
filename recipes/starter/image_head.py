"""The image tower's head: contrastive learning against the text tower's vectors, with the trunk locked.

What carries over to classes without pictures is the image classifier's own opinion of a picture, "somewhat a wolf, a
little a fox", taken as the mean of those classes' vectors (ConSE: Norouzi et al. 2014); the head imitates it. What
tells the trained classes apart is CLIP's symmetric contrastive loss over pictures and prompts (Radford et al. 2021,
section 2.3), and what a linear probe of the trunk (there, section 3.2) says of pictures and of what lies between them:
it knows how alike two classes look, the one right prompt of a picture does not (distillation: Hinton et al. 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from concepts import DIM
from contrast import symmetric
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, kl_div, log_softmax, normalize, one_hot

POOLED = 1280
HIDDEN = 2 * DIM  # what open_clip's "mlp" projection has
_SCALE = 20.0
"""Of the cosines in the contrastive loss."""
_RATE = 5e-4
"""AdamW's largest learning rate."""
SOFTNESS = 1.5
"""Temperature of the classifier's opinion: the less sure it is, the more it says of what a class is like."""
EACH = 256
"""Pictures of every album in a batch."""
_ALIKE = 0.9
"""Cosine of two classes' prompts from which on neither is the other's negative."""
_SAME = 0.995
"""The same within an album, whose pictures tell close classes apart."""
_PROBE = 0.5
"""Weight of what an album's probe says."""
_PROBE_STEPS = 400
CHOICES = (SOFTNESS, _ALIKE, _SAME, _PROBE, _PROBE_STEPS)
"""What a head changes with."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """The published network's last layer, and where the classes that it may use lie."""

    weight: Tensor
    """float32 [n, 1280]."""
    bias: Tensor
    """float32 [n]."""
    vectors: Tensor
    """float32 [n, 384], unit rows."""

    def opinion(self, pooled: Tensor) -> Tensor:
        """Mean of the classes' vectors by their probabilities: float32 [pictures, 384], unit rows."""
        probabilities = torch.softmax((pooled @ self.weight.T + self.bias) / SOFTNESS, dim=1)
        return normalize(probabilities @ (self.vectors - self.vectors.mean(0)), dim=1)


@dataclass(frozen=True, slots=True)
class Album:
    """Pictures of known classes, as the trunk sees them."""

    pooled: Tensor
    """float32 [views, pictures, 1280]."""
    classes: Tensor
    """int64 [pictures], rows of the prompts."""
    contrast: float
    """Weight of the contrastive loss of its pictures against imitation."""


class Head(nn.Module):
    """1280 numbers of the trunk to 384 of the shared space; laid out as timm's Mlp in open_clip's TimmModel."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(POOLED, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, DIM)

    def forward(self, pooled: Tensor) -> Tensor:
        return normalize(self.fc2(gelu(self.fc1(pooled))), dim=1)

    @torch.no_grad()
    def start_from(self, classifier: Classifier) -> None:
        """Hidden units see the published classes, merged where they lie close together."""
        groups = min(HIDDEN, len(classifier.vectors))
        merged = AgglomerativeClustering(groups, metric="cosine", linkage="average")
        member = one_hot(torch.as_tensor(merged.fit_predict(classifier.vectors.numpy())), groups).float()
        member /= member.sum(0)
        weight, bias = classifier.weight - classifier.weight.mean(0), classifier.bias - classifier.bias.mean()
        vectors = classifier.vectors - classifier.vectors.mean(0)
        self.fc1.weight[:groups] = member.T @ weight
        self.fc1.bias[:groups] = member.T @ bias - 2.0
        self.fc2.weight[:, :groups] = 0.3 * (member.T @ vectors).T
        self.fc2.bias.zero_()


def train(
    classifier: Classifier,
    albums: list[Album],
    plain_views: int,
    prompts: Tensor,
    steps: int,
    seed: int,
) -> Head:
    """Teach a head.

    Args:
        classifier: the seen classes.
        albums: pictures of the classifier's classes first, of which its opinion is imitated as it is; then others.
        plain_views: how many of the first views of the first album show the picture as it is.
        prompts: the text tower's vectors, float32 [classes, prompts, 384], unit rows; many prompts a class.
        steps: how many batches.
        seed: of all chance.
    """
    torch.manual_seed(seed)
    head = Head()
    head.start_from(classifier)
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=1e-3)
    plain = torch.stack([classifier.opinion(view) for view in albums[0].pooled[:plain_views]])
    opinions = normalize(plain.mean(0), dim=1)
    everything = torch.cat([album.pooled.flatten(0, 1) for album in albums])
    weights = torch.tensor([album.contrast for album in albums]).repeat_interleave(EACH)
    alike = (near := normalize(prompts.mean(1), dim=1)) @ near.T > _ALIKE
    probes = [_Probe(album) for album in albums[1:]]
    for probe in probes:
        alike[probe.classes[:, None], probe.classes] = (own := near[probe.classes]) @ own.T > _SAME
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1, (step + 1) / 20) * (_cosine(step, steps) + 0.02)
        mixed = _mixture(everything, 384)
        loss = 4 * _distance(head(mixed), classifier.opinion(mixed))
        pooled, pictures, classes = _batch(albums)
        vectors = head(pooled)
        loss = loss + 2 * _distance(vectors[:EACH], opinions[pictures[:EACH]])
        loss = loss + (weights * _contrastive(vectors, prompts, classes, alike)).mean()
        for probe, shown in zip(probes, pooled.split(EACH)[1:], strict=True):
            loss = loss + _PROBE * _imitation(head, probe, shown, prompts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()


class _Probe:
    """A linear classifier of one album's pictures, as the trunk sees them."""

    classes: Tensor
    """int64 [n], rows of the prompts."""

    def __init__(self, album: Album) -> None:
        self.classes, truth = album.classes.unique(return_inverse=True)
        everything = album.pooled.flatten(0, 1)
        self._mean, self._spread = everything.mean(0), everything.std(0) + 1e-3
        self._linear = nn.Linear(POOLED, len(self.classes))
        optimizer = torch.optim.AdamW(self._linear.parameters(), lr=2e-3, weight_decay=0)
        for step in range(_PROBE_STEPS):
            optimizer.param_groups[0]["lr"] = 2e-3 * _cosine(step, _PROBE_STEPS)
            drawn = torch.randint(len(truth), (4 * EACH,))
            pooled = album.pooled[torch.randint(len(album.pooled), drawn.shape), drawn]
            small = 0.01 * self._linear.weight.square().sum()
            loss = cross_entropy(self._logits(pooled), truth[drawn]) + small
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _logits(self, pooled: Tensor) -> Tensor:
        return self._linear((pooled - self._mean) / self._spread)

    @torch.no_grad()
    def probabilities(self, pooled: Tensor) -> Tensor:
        """float32 [pictures, n]."""
        return torch.softmax(self._logits(pooled), dim=1)


def _imitation(head: Head, probe: _Probe, pooled: Tensor, prompts: Tensor) -> Tensor:
    """How far the head's answers lie from the probe's, on pictures mixed by two (mixup: Zhang et al. 2018)."""
    share = torch.rand(len(pooled), 1)
    mixed = share * pooled + (1 - share) * pooled[torch.randperm(len(pooled))]
    texts = prompts[probe.classes, torch.randint(prompts.shape[1], probe.classes.shape)]
    answers = log_softmax(_SCALE * head(mixed) @ texts.T, dim=1)
    return kl_div(answers, probe.probabilities(mixed), reduction="batchmean")


def _cosine(step: int, steps: int) -> float:
    """A learning rate's way from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _distance(vectors: Tensor, towards: Tensor) -> Tensor:
    return 1 - (vectors * towards).sum(1).mean()


def _mixture(pooled: Tensor, count: int) -> Tensor:
    """What pictures between pictures would look like: half are averages, half are shifted by a difference."""
    a, b, c = (pooled[torch.randint(len(pooled), (count,))] for _ in range(3))
    share = torch.rand(count, 1)
    averaged = a * (1 - share / 2) + b * share / 2
    shifted = (a + 0.6 * share * (b - c)).clamp_min(0)
    return torch.where(torch.arange(count)[:, None] < count // 2, averaged, shifted)


def _batch(albums: list[Album]) -> tuple[Tensor, Tensor, Tensor]:
    """Any view of ``EACH`` pictures of every album: features, numbers in the album, classes."""
    pooled, pictures, classes = [], [], []
    for album in albums:
        drawn = torch.randint(len(album.classes), (EACH,))
        pooled.append(album.pooled[torch.randint(len(album.pooled), (EACH,)), drawn])
        pictures.append(drawn)
        classes.append(album.classes[drawn])
    return torch.cat(pooled), torch.cat(pictures), torch.cat(classes)


def _contrastive(vectors: Tensor, prompts: Tensor, classes: Tensor, alike: Tensor) -> Tensor:
    """The loss of pictures with a prompt of each one's class, any of its prompts: float32 [N]."""
    texts = prompts[classes, torch.randint(prompts.shape[1], (len(classes),))]
    return symmetric(_SCALE * vectors @ texts.T, alike[classes][:, classes], reduction="none")
