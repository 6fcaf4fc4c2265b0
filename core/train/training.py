"""Trains R replicates of an explainer on a feature cache, one epoch at a time, exactly resumable.

There is no data loader: batches are gathered from the cache, which lies on the device if it fits. Inside an epoch nothing
waits for the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from paraphrase.core.config import Config, flatten, to_mapping
from paraphrase.core.device import autocast_for, choose_device, keep_memory, keep_to_cores, without_denormals
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.checkpoint import read_tensors, save_explainer, write_tensors
from paraphrase.core.explainer.network import Explainer, Explanation, Norm, PerformerShape
from paraphrase.core.features.cache import FeatureCache, ReadAhead
from paraphrase.core.files import write_atomically
from paraphrase.core.measure.evaluation import evaluate, gather
from paraphrase.core.measure.filter_table import FILTERS, filters_csv
from paraphrase.core.objective.terms import LOSS_KEYS, PER_REPLICATE, Step
from paraphrase.core.objective.weights import LossWeights, weighted_terms

CHECKPOINT = "checkpoint.safetensors"
AHEAD = 4
"""Batches that are asked of the disk before they are gathered."""


def batch_key(config: Config) -> str | None:
    """What configurations must share to train as replicates of one batch; None for one that has replicates of its own."""
    if config.train.replicates > 1:
        return None
    own = {"train.seed", *(f"loss.{name}" for name in PER_REPLICATE)}
    shared = {k: v for k, v in flatten(to_mapping(config)).items() if k not in own}
    return json.dumps(shared, sort_keys=True)


class TrainingEnded(RuntimeError):
    """The run cannot go on: its loss is not finite, or all its filters died. The message is the reason."""


def performer_shape(cache: FeatureCache) -> PerformerShape:
    """What an explainer must know of the performer, from its cache."""
    sample = cache.train.features[:512].float()
    pooled = cache.pool(sample.permute(0, 3, 1, 2))
    return PerformerShape(
        channels=sample.shape[-1],
        pooled=pooled.shape[-1],
        target_sizes=(cache.train.targets[0].shape[1], cache.train.targets[1].shape[1]),
        target_relu=tuple(cache.meta["target_relu"]),
        channel_peaks=Norm.divisor(pooled.abs().amax((2, 3)).mean(0)).cpu(),
        decoder_layers=cache.decoder_layers,
        rest=cache.rest,
    )


class Training:
    """A training run of R replicates of one configuration.

    Args:
        config: resolved configuration; replicate r has the seed `train.seed + r`.
        cache: of the performer's features.
        loss_vectors: loss weights that differ between the replicates, see `LossWeights`.
        seeds: of the replicates, in place of `train.seed + r`.
    """

    def __init__(
        self,
        config: Config,
        cache: FeatureCache,
        loss_vectors: dict[str, Tensor] | None = None,
        seeds: list[int] | None = None,
    ):
        self.config = config
        self.device = choose_device(config.train.device)
        if self.device.type == "cpu":
            keep_memory()
            keep_to_cores()
        self.cache = cache.to(self.device)
        self.autocast = autocast_for(config.train.precision, self.device)
        self.seeds = seeds or [config.train.seed + r for r in range(config.train.replicates)]
        if not config.explainer.interp_widths and config.explainer.ordin_width is None:
            raise InputError("explainer.interp_widths: an explainer needs an interpretable or an ordinary track")
        self.explainer = Explainer(config.explainer, performer_shape(cache), cache.pool, self.seeds).to(self.device)
        self.weights = LossWeights(config.loss, len(self.seeds), loss_vectors).to(self.device)
        self.images = len(cache.train.labels)
        # with mirror images a batch has half as many images, and as many mirror images of them
        wanted = config.train.batch_size if cache.mirror is None else max(1, config.train.batch_size // 2)
        self.batch_size = min(wanted, self.images)
        self.steps = self.images // self.batch_size
        field, n = cache.meta["receptive_field"], cache.meta["map_size"]
        centres = field["start"] + field["stride"] * torch.arange(n, dtype=torch.float32)
        self.grid = (centres / cache.meta["input_size"]).to(self.device)
        self.optimizer = self._optimizer()
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def _optimizer(self) -> torch.optim.AdamW:
        train = self.config.train
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.explainer.named_parameters():
            rate = train.learning_rate
            if name.startswith("dec"):
                rate = train.decoder_learning_rate
            elif name == "w_p":
                rate = train.p_learning_rate
            decay = train.weight_decay if name.endswith("weight") else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        settings = [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]
        return torch.optim.AdamW(settings, betas=(0.9, 0.99), fused=True)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.train.epochs

    @without_denormals()
    def run_epoch(self, stepped: Callable[[], object] | None = None) -> dict[str, float]:
        """Train one epoch and evaluate on the test split.

        Args:
            stepped: called after each of the epoch's `steps`.

        Returns:
            The epoch's entry of `history`: `epoch`, `seconds`, `timestamp` (ms) and each metric's mean over the replicates;
            with R > 1 also `<metric>_se`, its standard error, and `<metric>_r<i>`.

        Raises:
            TrainingEnded: if the loss is not finite or all filters of a replicate died.
        """
        began = time.perf_counter()
        self.explainer.train()
        orders = [_shuffled(self.images, seed, self.epoch) for seed in self.seeds]
        order = torch.stack(orders)[:, : self.steps * self.batch_size].to(self.cache.train.features.device)
        # not finite terms stay so in a sum, so one look at the end of the epoch finds them
        totals = torch.zeros(len(LOSS_KEYS), len(self.seeds), device=self.device)
        with ReadAhead(self.cache, "train", "mirror") as ahead:
            ahead(order[:, : AHEAD * self.batch_size])
            for step, index in enumerate(order.split(self.batch_size, 1)):
                coming = (step + AHEAD) * self.batch_size
                ahead(order[:, coming : coming + self.batch_size])
                self._set_rates(self.epoch * self.steps + step)
                terms = weighted_terms(self._step(index), self.weights)
                terms.sum().backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                totals += terms.detach()
                if stepped:
                    stepped()
        self._check(totals)
        self.epoch += 1
        metrics = evaluate(self.explainer, self.cache, self.autocast, at_end=self.finished, same=self.config.train.replicates > 1)
        metrics |= dict(zip(LOSS_KEYS, (totals / self.steps).double().cpu(), strict=True))
        if bool((metrics["dead_filters"] >= 1).any()):
            raise TrainingEnded(f"all filters died in epoch {self.epoch}")
        entry = {"epoch": self.epoch, "seconds": time.perf_counter() - began, "timestamp": int(time.time() * 1000)}
        self.history.append(entry | over_replicates(metrics))
        return self.history[-1]

    def _step(self, index: Tensor) -> Step:
        """Run a batch. index: (R, B) of each replicate's images, where the cache's features lie."""
        splits = [self.cache.train, *([self.cache.mirror] if self.cache.mirror else [])]
        feature = _joined([gather(split.features, index, self.device, self.autocast) for split in splits], 0)
        with self.autocast:
            explanation: Explanation = self.explainer(feature)
        labels = self.cache.train.labels.to(index.device)[index].to(self.device, non_blocking=True)
        targets = [
            _joined([split.targets[layer][index].to(self.device, non_blocking=True) for split in splits], 1)
            for layer in range(len(self.cache.train.targets))
        ]
        return Step(
            outputs=explanation.outputs,
            targets=targets,
            energies=self.cache.meta["target_energy"],
            p=self.explainer.p(),
            unmasked_maps=explanation.unmasked_maps,
            masked_maps=explanation.interp_maps,
            feature=feature,
            labels=labels.repeat(1, len(splits)),
            grid=self.grid,
            mirrored=index.shape[1] if self.cache.mirror else 0,
            loss=self.config.loss,
            vector=self.weights.vector,
        )

    def _set_rates(self, step: int) -> None:
        """One-cycle: the rates rise from a 25th of their peak over the warm-up, then fall to nothing, both as a cosine."""
        total = self.config.train.epochs * self.steps
        top = max(1, round(self.config.train.warmup * total))
        if step < top:
            factor = 0.04 + 0.96 * (1 - math.cos(math.pi * step / top)) / 2
        else:
            factor = (1 + math.cos(math.pi * (step - top) / max(1, total - top))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def _check(self, totals: Tensor) -> None:
        finite = torch.isfinite(totals).all(0).tolist()
        if not all(finite):
            seeds = [s for s, ok in zip(self.seeds, finite, strict=True) if not ok]
            raise TrainingEnded(f"the loss is not finite in epoch {self.epoch + 1} (seed {', '.join(map(str, seeds))})")

    def save_explainer(self, folder: Path, member: tuple[int, Config] | None = None) -> None:
        """Write the explainer alone, for `paraphrase.core.explainer.checkpoint.load_explainer`, a JSON of how it came about, and
        the table of its filters.

        Args:
            member: only this replicate, and the configuration that it stands for.
        """
        described = ("dataset", "categories", "landmarks", "performer", "input_size", "receptive_field", "key")
        last = self.history[-1] if self.history else {}
        r, config = member or (0, self.config)
        about = {
            "config": to_mapping(config),
            "seeds": [self.seeds[r]] if member else self.seeds,
            "metrics": of_replicate(last, r) if member else last,
            "performer": {k: self.cache.meta[k] for k in described},
        }
        explainer = self.explainer.replicate(r).to(self.device) if member else self.explainer
        write_atomically(folder / FILTERS, filters_csv(explainer, self.cache, self.autocast))
        save_explainer(explainer, folder, about)

    def save(self, folder: Path) -> None:
        """Write an exact checkpoint to `folder`, in one rename."""
        tensors = {f"explainer.{k}": v for k, v in self.explainer.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        about = {"epoch": self.epoch, "history": self.history, "config": to_mapping(self.config), "seeds": self.seeds}
        vectors = {f"weights.{k}": v for k, v in self.weights.state_dict().items()}
        write_tensors(folder / CHECKPOINT, tensors | vectors, about)

    @classmethod
    def together(cls, configs: list[Config], cache: FeatureCache) -> Training:
        """Runs of several configurations as one batch, the first one's replicate first; they must agree in `batch_key`."""
        vectors = {name: torch.tensor([getattr(c.loss, name) for c in configs]) for name in PER_REPLICATE}
        return cls(configs[0], cache, vectors, [c.train.seed for c in configs])

    @staticmethod
    def saved(folder: Path) -> bool:
        """Whether there is a checkpoint in `folder`; a folder without one is what a killed process leaves behind."""
        return (folder / CHECKPOINT).exists()

    @classmethod
    def load(cls, folder: Path, config: Config, cache: FeatureCache) -> Training:
        """The run of a checkpoint, which goes on as if it had never stopped.

        Raises:
            InputError: if the checkpoint is damaged, or is of another configuration (the device may differ).
        """
        tensors, about = read_tensors(folder / CHECKPOINT)
        now, then = flatten(to_mapping(config)), flatten(about["config"])
        for field in sorted(now.keys() | then.keys()):
            if field != "train.device" and now.get(field) != then.get(field):
                raise InputError(f"{folder}: was trained with {field}={then.get(field)}, not {now.get(field)}")
        vectors = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        training = cls(config, cache, vectors, about["seeds"])
        with torch.no_grad():  # copied in place, so that the memory layout stays what the convolutions like
            for name, value in training.explainer.state_dict().items():
                value.copy_(tensors[f"explainer.{name}"])
        for i, parameter in enumerate(p for g in training.optimizer.param_groups for p in g["params"]):
            if f"optimizer.{i}.step" in tensors:
                moments = {k: torch.empty_like(parameter).copy_(tensors[f"optimizer.{i}.{k}"]) for k in _MOMENTS}
                training.optimizer.state[parameter] = {"step": tensors[f"optimizer.{i}.step"].to(parameter.device)} | moments
        training.epoch, training.history = about["epoch"], about["history"]
        return training


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """The parts as one tensor; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _shuffled(images: int, seed: int, epoch: int) -> Tensor:
    """An order of the images that depends on the seed and the epoch only, so that a resumed run sees the same."""
    generator = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
    return torch.randperm(images, generator=generator)


def over_replicates(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Means of (R,) metrics over the replicates; for R > 1 also standard errors and each replicate's value."""
    entry: dict[str, float] = {}
    for name, values in metrics.items():
        if not math.isnan(mean := float(values.mean())):
            entry[name] = mean
        if len(values) > 1:
            entry[f"{name}_se"] = float(values.std() / math.sqrt(len(values)))
            entry |= {f"{name}_r{r}": float(v) for r, v in enumerate(values)}
    return {k: v for k, v in entry.items() if not math.isnan(v)}


def of_replicate(entry: Mapping[str, float], r: int) -> dict[str, float]:
    """An epoch's entry as replicate r of a batch would have reported it alone; `seconds` is its share of the batch's."""
    end = f"_r{r}"
    own = {k.removesuffix(end): v for k, v in entry.items() if k.endswith(end)}
    whole = {k: entry[k] for k in ("epoch", "timestamp") if k in entry}
    return whole | own | {"seconds": entry["seconds"] / replicates_in(entry)}


def replicates_in(entry: Mapping[str, float]) -> int:
    """Number of replicates that an epoch's entry tells apart; 0 where it is of one alone."""
    return sum(k.startswith("reconstruction_error_r") for k in entry)
