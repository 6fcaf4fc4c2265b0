"""Independent references: `algorithm.md` as plain float64 loops, without the code under test."""

from __future__ import annotations

import math

import numpy as np


def filter_loss(maps: np.ndarray, kappa: float, beta: float = 4.0, mean_peak: float | None = None) -> float:
    """Loss_f of one filter: maps (B, n, n). `mean_peak` is m_f; None: of these maps."""
    batch, n, _ = maps.shape
    tau = 0.5 / n**2
    if mean_peak is None:
        mean_peak = sum(float(m.max()) for m in maps) / batch
    if mean_peak == 0:
        return 0.0
    alpha = n**2 / (1 + n**2)
    scores, priors = [], []
    for i in range(n):
        for j in range(n):
            row = []
            for m in maps:
                total = 0.0
                for a in range(n):
                    for b in range(n):
                        weight = tau * max(1 - beta * (abs(a - i) + abs(b - j)) / n, -1)
                        total += float(m[a, b]) * kappa / (tau * mean_peak) * weight
                row.append(total)
            scores.append(row)
            priors.append(alpha / n**2)
    scores.append([-tau * float(m.sum()) * kappa / (tau * mean_peak) for m in maps])
    priors.append(1 - alpha)
    given = []
    for row in scores:
        top = max(row)
        norm = top + math.log(sum(math.exp(s - top) for s in row))
        given.append([s - norm for s in row])
    image = []
    for b in range(batch):
        terms = [math.log(p) + g[b] for p, g in zip(priors, given, strict=True)]
        top = max(terms)
        image.append(top + math.log(sum(math.exp(t - top) for t in terms)))
    loss = 0.0
    for p, g in zip(priors, given, strict=True):
        for b in range(batch):
            loss -= p * math.exp(g[b]) * (g[b] - image[b])
    return loss


def filter_loss_gradient(maps: np.ndarray, kappa: float, beta: float = 4.0) -> np.ndarray:
    """Central differences of `filter_loss`, m_f held fixed."""
    mean_peak = float(np.mean([m.max() for m in maps]))
    gradient = np.zeros_like(maps)
    for index in np.ndindex(*maps.shape):
        step = 1e-5
        up, down = maps.copy(), maps.copy()
        up[index] += step
        down[index] -= step
        change = filter_loss(up, kappa, beta, mean_peak) - filter_loss(down, kappa, beta, mean_peak)
        gradient[index] = change / (2 * step)
    return gradient


def peak(map_: np.ndarray) -> tuple[int, int]:
    """Row and column of the first largest value."""
    best = (0, 0)
    for i in range(map_.shape[0]):
        for j in range(map_.shape[1]):
            if map_[i, j] > map_[best]:
                best = (i, j)
    return best


def masked(map_: np.ndarray, centre: str, beta: float) -> np.ndarray:
    """A map times its mask."""
    n = map_.shape[0]
    if centre == "peak":
        row, column = map(float, peak(map_))
    else:
        total = map_.sum()
        row = sum(i * map_[i, j] for i in range(n) for j in range(n)) / total if total else 0.0
        column = sum(j * map_[i, j] for i in range(n) for j in range(n)) / total if total else 0.0
    out = np.zeros_like(map_)
    for i in range(n):
        for j in range(n):
            out[i, j] = map_[i, j] * max(1 - beta * (abs(i - row) + abs(j - column)) / n, 0)
    return out


def filter_scores(
    positions: np.ndarray, values: np.ndarray, landmarks: np.ndarray, labels: np.ndarray, diagonal: float
) -> tuple[float, list[float], int]:
    """Instability, R^2 of each part, and the category of one filter: positions (N, 2), values (N,), landmarks (N, P, 3)."""
    means = {c: np.mean([v for v, label in zip(values, labels, strict=True) if label == c]) for c in sorted(set(labels.tolist()))}
    category = max(means, key=lambda c: means[c])
    spreads, explained = [], []
    for part in range(landmarks.shape[1]):
        images = [i for i in range(len(values)) if labels[i] == category and landmarks[i, part, 2] > 0]
        images = sorted(images, key=lambda i: -values[i])[:100]
        if len(images) >= 2:
            distances = [math.dist(positions[i], landmarks[i, part, :2]) for i in images]
            mean = sum(distances) / len(distances)
            spreads.append(math.sqrt(sum((d - mean) ** 2 for d in distances) / (len(distances) - 1)))
        if len(images) >= 6:
            explained.append(_explained(positions[images], landmarks[images, part, :2]))
    return sum(spreads) / len(spreads) / diagonal, explained, category


def _explained(x: np.ndarray, y: np.ndarray) -> float:
    """R^2 on the odd rows of a least-squares map fitted on the even ones, clipped at 0."""
    design = np.column_stack([x[0::2], np.ones(len(x[0::2]))])
    solution = np.linalg.lstsq(design, y[0::2], rcond=1e-9)[0]
    predicted = np.column_stack([x[1::2], np.ones(len(x[1::2]))]) @ solution
    truth = y[1::2]
    rest = ((truth - predicted) ** 2).sum()
    return max(0.0, 1 - rest / ((truth - truth.mean(0)) ** 2).sum())
