"""The default sweep against what a user would script: `python tests/benchmarks/glue.py [--trials 12] [--looped 4]`.

The rival is one file on Ray Tune, OptunaSearch and MLflowLoggerCallback: the same data, performer, search space, random
proposals, losses, optimiser, arithmetic and hardware, written as a good user would from the papers' formulas. It comes in two
forms: `careful` computes the performer's features once a trial and keeps them in memory, `looped` has the performer in its
training loop. Its metrics are fewer: each epoch the reconstruction error, p and fidelity, at the end landmark error and location
instability. Both sides start with the performer fitted and the drawings drawn; `paraphrase` also builds its cache and its report.
What is printed is of whole commands, from start to end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

AT_ONCE = 2
SPACE = {
    "w1": [48, 64],
    "w2": [48, 64],
    "eta": (0.3, 1.5),
    "lambda_f": (1.5, 6.0),
    "kappa": (5.0, 15.0),
    "lambda_r": (5.0, 40.0),
    "lambda_m": (30.0, 300.0),
    "lambda_g": (0.3, 3.0),
    "lr": (1e-3, 4e-3),
    "lr_decoder": (1e-3, 4e-3),
}
EPOCHS, BATCH, GROUPS, WIDTH, TEMPERATURE, RATE_OF_P = 4, 32, 16, 0.05, 0.1, 0.05


# --- the rival: what a user would write, without this project's explainer, losses, metrics and sweeps


def rival(trials: int, looped: bool, home: Path) -> None:
    """Tune `trials` explainers; prints the best landmark error."""
    import ray
    from optuna.samplers import RandomSampler
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # some are measured at the end alone
    ray.init("local", log_to_driver=False, logging_level="error")
    data = load_data()
    space = {k: tune.choice(v) if isinstance(v, list) else tune.loguniform(*v) for k, v in SPACE.items()}
    with tempfile.TemporaryDirectory(dir=home) as results:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train, data=data, looped=looped), {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=trials,
                max_concurrent_trials=AT_ONCE,
                search_alg=OptunaSearch(
                    metric=["landmark_error", "location_instability", "p", "reconstruction_error"],
                    mode=["min", "min", "max", "min"],
                    sampler=RandomSampler(seed=0),
                ),
            ),
            run_config=tune.RunConfig(
                storage_path=results,
                callbacks=[MLflowLoggerCallback(f"sqlite:///{results}/mlflow.db", experiment_name="rival", save_artifact=True)],
                verbose=0,
            ),
        )
        found = tuner.fit().get_dataframe()
    assert len(found) == trials and found["landmark_error"].notna().all(), found
    best = found["landmark_error"].min()
    print(json.dumps({"landmark_error": best, "p": float(found["p"].median()), "seconds": list(found["time_total_s"])}))


def load_data() -> dict[str, Any]:
    """Crops, landmarks and labels of both splits, and the network: what any user has at hand."""
    import torch

    from paraphrase.core.config import Config
    from paraphrase.core.data import load_dataset
    from paraphrase.core.performer import obtain_performer
    from paraphrase.core.performer.fit import load_crops

    config = Config()
    dataset = load_dataset(config.data)
    performer, _ = obtain_performer(config, dataset)
    field = performer.receptive_field()
    data: dict[str, Any] = {"performer": performer.eval(), "side": performer.spec.input_size}
    data |= {"start": field.start, "stride": field.stride}
    for split in ("train", "test"):
        records = getattr(dataset, split)
        images, landmarks = load_crops(records, performer.spec)
        data[split] = {"images": images, "landmarks": landmarks, "labels": torch.tensor([r.label for r in records])}
    return data


def train(config: dict[str, Any], data: dict[str, Any], looped: bool) -> None:
    """One trial."""
    import torch
    from ray import tune
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    performer, (pool, head) = data["performer"], (data["performer"].pool(), data["performer"].head())
    fast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())

    def see(images: Any) -> tuple[Any, Any, Any]:
        """Feature and targets of uint8 images."""
        with torch.no_grad(), fast:
            seen = performer.features(images.float() / 255)
        return seen.feature.float(), seen.targets[0].float(), seen.targets[1].float()

    def see_all(images: Any) -> tuple[Any, Any, Any]:
        parts = [see(part) for part in images.split(64)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))  # type: ignore[return-value]

    images = data["train"]["images"]
    if looped:
        energies = [t.square().sum(1).mean() for t in see_all(images)[1:]]
    else:
        features = see_all(images)
        mirrored = see_all(images.flip(-1))
        of_test = see_all(data["test"]["images"])
        energies = [t.square().sum(1).mean() for t in features[1:]]
    shapes = [t.shape for t in see(images[:2])]
    n = shapes[0][-1]
    places = (data["start"] + data["stride"] * torch.arange(n)) / data["side"]

    class Explainer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels, w1, w2 = shapes[0][1], config["w1"], config["w2"]
            self.interp1 = nn.Conv2d(channels, w1, 3, padding=1)
            self.interp2 = nn.Conv2d(w1, w2, 3, padding=1)
            self.ordin = nn.Conv2d(channels, channels, 3, padding=1)
            self.mix = nn.Conv2d(channels, w2, 1)
            cells = pool(torch.zeros(1, 1, n, n)).numel()
            self.dec1 = nn.Linear(w2 * cells, shapes[1][1])
            self.dec2 = nn.Linear(shapes[1][1], shapes[2][1])
            self.w_p = nn.Parameter(torch.zeros(()))
            self.register_buffer("alpha_interp", torch.ones(w2))
            self.register_buffer("alpha_ordin", torch.ones(w2))

        def norm(self, maps: Any, alpha: Any) -> Any:
            if self.training:
                with torch.no_grad():
                    alpha.lerp_(maps.abs().amax((2, 3)).mean(0).float(), 0.1)
            return maps / alpha.clamp(min=1e-3)[:, None, None]

        def forward(self, x: Any) -> tuple[Any, Any, Any]:
            maps = F.relu(self.interp2(F.relu(self.interp1(x))))
            p = self.w_p.sigmoid()
            interp = self.norm(pool(maps), self.alpha_interp)
            ordin = self.norm(pool(self.mix(F.relu(self.ordin(x)))), self.alpha_ordin)
            x1 = F.relu(self.dec1((p * interp + (1 - p) * ordin).flatten(1)))
            return maps, x1, F.relu(self.dec2(x1))

    cells = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"), -1).reshape(-1, 2).float()
    templates = (1 - 4 * torch.cdist(cells, cells, p=1) / n).clamp(min=-1)
    templates = torch.cat([templates, -torch.ones(1, n * n)])

    def filter_loss(maps: Any) -> Any:
        mean_peak = maps.detach().amax((2, 3)).mean(0).clamp(min=1e-6)
        scores = torch.einsum("tn,bfn->btf", templates, (maps * (config["kappa"] / mean_peak)[:, None, None]).flatten(2))
        given = scores.log_softmax(0)
        image = (given - math.log(len(templates))).logsumexp(1, keepdim=True)
        return -(given.exp() * (given - image)).sum((0, 1)).div(len(templates)).mean()

    def where(maps: Any) -> tuple[Any, Any]:
        """Soft positions (B, F, 2) and strengths (B, F)."""
        peaks = maps.detach().amax((2, 3))
        weights = (8 * maps / peaks.clamp(min=1e-6)[..., None, None]).flatten(2).softmax(-1).unflatten(-1, (n, n))
        position = torch.stack([weights.sum(2) @ places, weights.sum(3) @ places], -1)
        return position, (peaks / peaks.mean(0).clamp(min=1e-6)).clamp(max=2)

    def redundancy(c: Any, a: Any) -> Any:
        weight = torch.einsum("bf,bg->fg", a, a).clamp(min=1e-6)
        square = torch.einsum("bf,bg->fg", a * c.square().sum(-1), a)
        square = square + square.t() - 2 * torch.einsum("bfi,bgi->fg", a[..., None] * c, a[..., None] * c)
        first = torch.einsum("bfi,bg->fgi", a[..., None] * c, a)
        variance = square / weight - ((first - first.transpose(0, 1)) / weight[..., None]).square().sum(-1)
        norm = a.square().sum(0).sqrt()
        return (weight / (norm[:, None] * norm).clamp(min=1e-6) * torch.exp(-variance / (2 * WIDTH**2))).mean()

    def group_information(maps: Any, feature: Any) -> Any:
        summed = torch.stack([maps[:, k::GROUPS].sum(1) for k in range(GROUPS)], 1).flatten(2)
        weight = (summed / summed.amax(-1, keepdim=True).clamp(min=1e-6)) ** 4
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)
        seen = F.normalize(torch.einsum("bkn,bcn->bkc", weight, F.normalize(feature.flatten(2), dim=1)), dim=-1)
        others = F.normalize(seen.sum(0, keepdim=True) - seen, dim=-1)
        logits = torch.einsum("bkc,blc->bkl", seen, others) / TEMPERATURE
        return F.cross_entropy(logits.flatten(0, 1), torch.arange(GROUPS).repeat(len(seen)))

    network = Explainer()
    own = {"dec": config["lr_decoder"], "w_p": RATE_OF_P}
    groups = [{"params": [v], "lr": own.get(k[:3], config["lr"])} for k, v in network.named_parameters()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    half = BATCH // 2
    steps = len(images) // half
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], EPOCHS * steps, pct_start=0.2)

    def inspect(all_of: Any, split: str) -> tuple[dict[str, float], Any, Any]:
        """Reconstruction error and fidelity on a split, with the peaks' places (N, F, 2) and values (N, F)."""
        network.eval()
        lost, kept, same, spots, values = 0.0, 0.0, 0, [], []
        with torch.no_grad():
            for index in torch.arange(len(data[split]["labels"])).split(128):
                feature, t1, t2 = see(data[split]["images"][index]) if all_of is None else (t[index] for t in all_of)
                with fast:
                    maps, x1, x2 = network(feature)
                lost += float(sum((x - t).square().sum() for x, t in ((x1, t1), (x2, t2))))
                kept += float(t1.square().sum() + t2.square().sum())
                same += int((head(x2.float()).argmax(1) == head(t2).argmax(1)).sum())
                value, cell = maps.float().flatten(2).max(-1)
                values.append(value)
                spots.append(torch.stack([places[cell % n], places[cell // n]], -1))
        network.train()
        error = {"reconstruction_error": lost / kept, "fidelity": same / len(data[split]["labels"])}
        return error, torch.cat(spots), torch.cat(values)

    for epoch in range(EPOCHS):
        for index in torch.randperm(len(images))[: steps * half].split(half):
            if looped:
                feature, t1, t2 = see(torch.cat([images[index], images[index].flip(-1)]))
            else:
                feature, t1, t2 = (torch.cat([a[index], b[index]]) for a, b in zip(features, mirrored, strict=True))
            with fast:
                maps, x1, x2 = network(feature)
            maps = maps.float()
            c, a = where(maps)
            flipped = torch.stack([1 - c[half:, :, 0], c[half:, :, 1]], -1)
            strength = a[:half] * a[half:]
            apart = (c[:half] - flipped).square().sum(-1)
            loss = sum((x.float() - t).square().sum(1).mean() / e for x, t, e in ((x1, t1, energies[0]), (x2, t2, energies[1])))
            loss = loss - config["eta"] * F.logsigmoid(network.w_p) + config["lambda_f"] * filter_loss(maps)
            loss = loss + config["lambda_r"] * redundancy(c, a)
            loss = loss + config["lambda_m"] * ((strength * apart).sum(0) / strength.sum(0).clamp(min=1e-6)).mean()
            loss = loss + config["lambda_g"] * group_information(maps, feature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            rates.step()
        report, spots, values = inspect(None if looped else of_test, "test")
        report |= {"p": float(network.w_p.sigmoid()), "loss": float(loss)}
        checkpoint = None
        if epoch == EPOCHS - 1:
            trained = inspect(None if looped else features, "train")[1]
            report |= scores(trained, spots, values, data)
            with tempfile.TemporaryDirectory() as folder:
                torch.save(network.state_dict(), Path(folder) / "explainer.pt")
                checkpoint = tune.Checkpoint.from_directory(folder)
                tune.report(report, checkpoint=checkpoint)
        else:
            tune.report(report)


def scores(trained: Any, spots: Any, values: Any, data: dict[str, Any]) -> dict[str, float]:
    """Landmark error and location instability of a network's peaks, as the papers define them."""
    import numpy as np
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    known, asked = (data[split]["landmarks"].numpy() for split in ("train", "test"))
    labels, side = data["test"]["labels"].numpy(), data["side"]
    scaler = StandardScaler().fit(trained.flatten(1).numpy())
    x, z = scaler.transform(trained.flatten(1).numpy()), scaler.transform(spots.flatten(1).numpy())
    errors = []
    for part in range(known.shape[1]):
        seen, there = known[:, part, 2] > 0, asked[:, part, 2] > 0
        model = RidgeCV(np.logspace(-3, 5, 17)).fit(x[seen], known[seen, part, :2])
        errors.append(np.linalg.norm(model.predict(z[there]) - asked[there, part, :2], axis=1).mean() / side)
    spreads = []
    spots, values = spots.numpy() * side, values.numpy()
    for f in range(values.shape[1]):
        if not values[:, f].any():
            continue
        category = max(np.unique(labels), key=lambda c: values[labels == c, f].mean())
        own = []
        for part in range(asked.shape[1]):
            images = np.flatnonzero((labels == category) & (asked[:, part, 2] > 0))
            images = images[np.argsort(-values[images, f])][:100]
            own.append(np.linalg.norm(spots[images, f] - asked[images, part, :2], axis=1).std(ddof=1))
        spreads.append(np.mean(own) / (side * math.sqrt(2)))
    return {"landmark_error": float(np.mean(errors)), "location_instability": float(np.mean(spreads))}


# --- both, timed


def timed(command: list[str], home: Path) -> tuple[float, str]:
    """Seconds that a command takes, and what it prints."""
    environment = os.environ | {"PARAPHRASE_HOME": str(home), "PYTHONWARNINGS": "ignore", "MLFLOW_DISABLE_TELEMETRY": "true"}
    began = time.monotonic()
    ran = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr[-6000:]}")
    return time.monotonic() - began, ran.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--looped", type=int, default=4, help="trials of that form; its time is scaled")
    parser.add_argument("--home", type=Path, help="with drawings and performer; default: both are made")
    parser.add_argument("--rival", choices=["careful", "looped"], help="run this form alone, in $PARAPHRASE_HOME")
    arguments = parser.parse_args()
    if arguments.rival:
        return rival(arguments.trials, arguments.rival == "looped", Path(os.environ["PARAPHRASE_HOME"]))
    with tempfile.TemporaryDirectory() as place:
        home, command = Path(place), [sys.executable, "-m", "paraphrase"]
        if arguments.home:
            for name in ("data", "performers"):
                shutil.copytree(arguments.home / name, home / name)
        timed([*command, "performer", "fit"], home)
        base = [sys.executable, str(Path(__file__).resolve()), "--trials"]
        theirs, found = timed([*base, str(arguments.trials), "--rival", "careful"], home)
        print(f"careful script: {theirs:.0f} s for {arguments.trials} trials; {found.splitlines()[-1][:200]}", flush=True)
        sweep = ["sweep", "run", "menagerie", f"trials={arguments.trials}", "sampler=random", "start=[]"]
        ours, _ = timed([*command, *sweep, f"resources.concurrency={AT_ONCE}"], home)
        exported = subprocess.run(
            [*command, "sweep", "pick", "menagerie", "--json"],
            env=os.environ | {"PARAPHRASE_HOME": place},
            capture_output=True,
            text=True,
        ).stdout
        knee = json.loads(exported)["metrics"]
        print(f"paraphrase: {ours:.0f} s for as many; its knee: {knee['landmark_error']:.4f}, p {knee['p']:.3f}", flush=True)
        print(f"{arguments.trials} trials, against the careful script: {theirs / ours:.2f} x")
        if arguments.looped:
            took, _ = timed([*base, str(arguments.looped), "--rival", "looped"], home)
            whole = took * arguments.trials / arguments.looped
            print(f"with the performer in the loop: {took:.0f} s for {arguments.looped} trials: {whole / ours:.1f} x")


if __name__ == "__main__":
    main()
