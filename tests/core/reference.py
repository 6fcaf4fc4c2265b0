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


def soft_position(map_: np.ndarray, grid: np.ndarray, peak: float) -> tuple[float, float]:
    """x and y under a softmax over cells of 8 map / peak."""
    n = len(grid)
    weights = [[math.exp(8 * map_[i, j] / peak) for j in range(n)] for i in range(n)]
    total = sum(map(sum, weights))
    x = sum(weights[i][j] * grid[j] for i in range(n) for j in range(n)) / total
    y = sum(weights[i][j] * grid[i] for i in range(n) for j in range(n)) / total
    return x, y


def redundancy(maps: np.ndarray, grid: np.ndarray, width: float, held: np.ndarray | None = None) -> np.ndarray:
    """(W, W) of maps (B, W, n, n), pair by pair. `held`: maps whose peaks are taken in place of these, as detached ones are."""
    batch, filters = maps.shape[:2]
    peaks = (maps if held is None else held).max((2, 3))
    mean = peaks.mean(0)
    a = np.minimum(peaks / mean, 2)
    c = np.array([[soft_position(maps[b, f], grid, peaks[b, f]) for f in range(filters)] for b in range(batch)])
    found = np.zeros((filters, filters))
    for f in range(filters):
        for g in range(filters):
            weight = [a[b, f] * a[b, g] for b in range(batch)]
            overlap = sum(weight) / math.sqrt(sum(a[b, f] ** 2 for b in range(batch)) * sum(a[b, g] ** 2 for b in range(batch)))
            offsets = [c[b, f] - c[b, g] for b in range(batch)]
            square = sum(w * (o @ o) for w, o in zip(weight, offsets, strict=True)) / sum(weight)
            mean_offset = sum(w * o for w, o in zip(weight, offsets, strict=True)) / sum(weight)
            found[f, g] = overlap * math.exp(-(square - mean_offset @ mean_offset) / (2 * width**2))
    return found


def numeric_gradient(value, maps: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of `value(maps, held)`, peaks held fixed."""
    gradient = np.zeros_like(maps)
    for index in np.ndindex(*maps.shape):
        up, down = maps.copy(), maps.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (value(up, maps) - value(down, maps)) / (2 * step)
    return gradient


def mirror_distance(maps: np.ndarray, mirrored: np.ndarray, grid: np.ndarray, held: np.ndarray | None = None) -> np.ndarray:
    """(W,) of maps (B, W, n, n) and those of the mirror images."""
    batch, filters = maps.shape[:2]
    peaks, other = (maps if held is None else held).max((2, 3)), mirrored.max((2, 3))
    strength = np.minimum(peaks / peaks.mean(0), 2) * np.minimum(other / other.mean(0), 2)
    found = []
    for f in range(filters):
        total = 0.0
        for b in range(batch):
            x, y = soft_position(maps[b, f], grid, peaks[b, f])
            u, v = soft_position(mirrored[b, f], grid, other[b, f])
            total += strength[b, f] * ((x - (1 - u)) ** 2 + (y - v) ** 2)
        found.append(total / strength[:, f].sum())
    return np.array(found)


def group_information(maps: np.ndarray, feature: np.ndarray, groups: int, temperature: float) -> float:
    """Of maps (B, W, n, n) and features (B, C, n, n), image by image and group by group."""
    batch, filters, n, _ = maps.shape
    seen = np.zeros((batch, groups, feature.shape[1]))
    for b in range(batch):
        for k in range(groups):
            map_ = sum(maps[b, f] for f in range(filters) if f % groups == k)
            weight = (map_ / map_.max()) ** 4
            for i in range(n):
                for j in range(n):
                    vector = feature[b, :, i, j]
                    seen[b, k] += weight[i, j] / weight.sum() * vector / np.linalg.norm(vector)
            seen[b, k] /= np.linalg.norm(seen[b, k])
    loss = 0.0
    for b in range(batch):
        others = [sum(seen[o, k] for o in range(batch) if o != b) for k in range(groups)]
        others = [v / np.linalg.norm(v) for v in others]
        for k in range(groups):
            logits = [seen[b, k] @ v / temperature for v in others]
            loss -= logits[k] - math.log(sum(math.exp(v) for v in logits))
    return loss / (batch * groups)


def landmark_error(train: np.ndarray, landmarks: np.ndarray, test: np.ndarray, asked: np.ndarray, ridges, side: float) -> float:
    """Of one landmark: x (N, F, 2), (N, 3) and likewise; the ridge by really leaving each image out."""
    x, z = train.reshape(len(train), -1), test.reshape(len(test), -1)
    mean, deviation = x.mean(0), x.std(0)
    x, z = (x - mean) / deviation, (z - mean) / deviation
    seen = landmarks[:, 2] > 0
    x, y = x[seen], landmarks[seen, :2]

    def fit(rows: np.ndarray, targets: np.ndarray, ridge: float, at: np.ndarray) -> np.ndarray:
        centre, middle = rows.mean(0), targets.mean(0)
        moment = (rows - centre).T @ (rows - centre) + ridge * np.eye(rows.shape[1])
        return (at - centre) @ np.linalg.solve(moment, (rows - centre).T @ (targets - middle)) + middle

    def left_out(ridge: float) -> float:
        kept = [np.arange(len(x)) != i for i in range(len(x))]
        return float(np.mean([np.linalg.norm(fit(x[k], y[k], ridge, x[i]) - y[i]) for i, k in enumerate(kept)]))

    best = min(ridges, key=left_out)
    visible = asked[:, 2] > 0
    return float(np.linalg.norm(fit(x, y, best, z[visible]) - asked[visible, :2], axis=1).mean() / side)
