from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.attribution import NO_PART, Behind, PerformerPath, contributions, group, shares
from paraphrase.core.measure.faithfulness import faithfulness


class Additive(nn.Module):
    """Logits that are sums of what each filter sees, times its worth."""

    def __init__(self, worth: list[float]):
        super().__init__()
        self.worth = torch.tensor(worth)

    def split(self, feature: Tensor) -> tuple[Tensor, Behind]:
        return feature, self._logits

    def _logits(self, maps: Tensor) -> Tensor:
        logit = (maps.mean((2, 3)) * self.worth).sum(1)
        return torch.stack([logit, -logit], 1)


def test_in_an_additive_network_a_group_takes_exactly_its_share() -> None:
    path = Additive([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    features, answers = torch.ones(6, 3, 3, 8), torch.zeros(6, dtype=torch.int64)
    groups = group(["head", "tail"], torch.tensor([0, 0, 1, 1, -1, -1, -1, -1]))
    assert groups.names[-1] == NO_PART
    given = path.worth.expand(6, -1)
    found = faithfulness(path, features, answers, groups, shares(given, groups))
    assert found.parts.tolist() == pytest.approx([1, 0.25, 0, 0])
    assert found.alone.tolist() == pytest.approx([0.75, 0.25, 0])
    assert found.filters.tolist() == [0, 2, 4, 8]
    assert found.control[0] == 1 and found.control[3] == 0
    assert found.control[1] == pytest.approx(0.75, abs=0.15) and found.control[2] == pytest.approx(0.5, abs=0.2)
    assert found.drop == pytest.approx(1 - 0.25 / 3) and found.drop > found.drop_control + 0.3


def test_shares_that_say_nothing_do_no_better_than_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    path = Additive(torch.rand(32, generator=generator).tolist())
    groups = group([f"part {i}" for i in range(8)], torch.arange(32) % 8)
    found = faithfulness(path, torch.ones(60, 2, 2, 32), torch.zeros(60, dtype=torch.int64), groups, torch.rand(60, 8))
    assert found.drop == pytest.approx(found.drop_control, abs=0.02)


def test_with_a_real_network_it_begins_at_the_whole_and_ends_at_nothing(tiny_cache: FeatureCache) -> None:
    path, split = PerformerPath(tiny_cache), tiny_cache.test
    given = contributions(path, split.features, split.performer_labels)
    groups = group(["low", "high"], (torch.arange(given.shape[1]) >= 32).long())
    with torch.no_grad():  # the answers that lean most on the features: this performer has learned next to nothing
        logits = [path(f.permute(0, 3, 1, 2).float()) for f in (split.features, torch.zeros_like(split.features))]
    answers = (logits[0] - logits[1]).argmax(1)
    about = split.features, answers, groups, shares(given, groups)
    found, again = faithfulness(path, *about), faithfulness(path, *about)
    assert found.parts[0] == found.control[0] == 1 and float(found.parts[-1]) == pytest.approx(0, abs=1e-6)
    assert found.filters.tolist() == [0, 32, 64]
    assert torch.equal(found.control, again.control)
    with torch.no_grad():  # by hand: the first half alone, then nothing
        whole, half, none = (
            path((split.features * keep).permute(0, 3, 1, 2).float()).gather(1, answers[:, None]).double().mean()
            for keep in (torch.ones(64), (groups.member == 1).float(), torch.zeros(64))
        )
    assert float(found.alone[0]) == pytest.approx(float(1 - (half - none) / (whole - none)), rel=1e-4)


def test_where_an_answer_needs_no_filter_it_is_not_defined() -> None:
    path = Additive([-1.0, -2.0])
    groups = group(["a", "b"], torch.tensor([0, 1]))
    found = faithfulness(path, torch.ones(3, 2, 2, 2), torch.zeros(3, dtype=torch.int64), groups, torch.rand(3, 2))
    assert found.parts.isnan().all() and math.isnan(found.drop)
