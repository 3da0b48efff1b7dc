"""Predicted saliency against the gaze: the metrics, and their place in scores and tables."""

import math
from dataclasses import asdict, astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torchmetrics.functional import kl_divergence, pearson_corrcoef

from ckrm_kernels.comparison import tables
from ckrm_kernels.comparison.candidates import Candidate
from ckrm_kernels.data import Part
from ckrm_kernels.models import whole_pass
from ckrm_kernels.training import SaliencyScore, Score, evaluate, saliency_scores


def predicted(*shape: int, seed: int) -> torch.Tensor:
    scores = 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return scores.flatten(1).log_softmax(1).reshape(shape)


def looked(*shape: int, seed: int) -> torch.Tensor:
    """Gaze maps with pixels that nobody looked at."""
    gaze = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (gaze - 0.3).clamp(min=0)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(2, 9), st.integers(0, 1000))
def test_metrics_are_those_of_scipy_and_torchmetrics(images, height, width, seed):
    saliency, gaze = predicted(images, height, width, seed=seed), looked(images, height, width, seed=seed + 1)
    gaze[:, 0, 0] += 0.1
    found = saliency_scores(saliency, gaze)
    assert found.dtype == torch.float64
    for row in range(images):
        q = saliency[row].exp().numpy().ravel()
        p = gaze[row].numpy().ravel() / gaze[row].numpy().sum()
        divergence, correlation, similarity = found[row].tolist()
        assert divergence == pytest.approx(stats.entropy(p, q), rel=1e-9, abs=1e-12)
        assert divergence == pytest.approx(
            kl_divergence(torch.from_numpy(p)[None], torch.from_numpy(q)[None]).item(), rel=1e-9, abs=1e-12
        )
        assert similarity == pytest.approx(sum(min(pair) for pair in zip(p, q, strict=True)), rel=1e-12)
        if p.min() < p.max():
            assert correlation == pytest.approx(stats.pearsonr(p, q).statistic, rel=1e-9, abs=1e-12)
            expected = pearson_corrcoef(torch.from_numpy(1e3 * q), torch.from_numpy(1e3 * p)).item()
            assert correlation == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_perfect_prediction_and_a_gaze_of_another_scale():
    gaze = looked(2, 5, 6, seed=0) + 0.01
    perfect = (gaze / gaze.sum((1, 2), keepdim=True)).log()
    for scale in (1.0, 255.0):
        scores = saliency_scores(perfect, scale * gaze)
        torch.testing.assert_close(scores, torch.tensor([[0.0, 1.0, 1.0]] * 2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_prediction_of_nothing_where_people_looked():
    saliency = torch.tensor([[[0.0, -math.inf]]])  # all on the first pixel
    assert saliency_scores(saliency, torch.tensor([[[1.0, 0.0]]]))[0].tolist() == pytest.approx([0, 1, 1])
    assert saliency_scores(saliency, torch.tensor([[[0.0, 1.0]]]))[0].tolist() == pytest.approx([math.inf, -1, 0])


def test_a_constant_map_correlates_with_nothing():
    even = torch.full((2, 7, 9), -math.log(63.0))
    scores = saliency_scores(even, looked(2, 7, 9, seed=3))
    assert scores[:, 1].tolist() == [0, 0]
    assert saliency_scores(predicted(1, 7, 9, seed=0), torch.full((1, 7, 9), 0.1))[0, 1] == 0


def test_gaze_on_a_coarser_grid_is_resized_to_the_prediction():
    # between the centres of two pixels, a quarter and three quarters of the way, and beyond them the pixels themselves
    small, large = torch.tensor([[[0.2, 1.0]]]), torch.tensor([[[0.2, 0.4, 0.8, 1.0]]])
    saliency = predicted(1, 1, 4, seed=0)
    torch.testing.assert_close(saliency_scores(saliency, small), saliency_scores(saliency, large))


# ---- in tables -------------------------------------------------------------------------------------------------------


def candidate(name: str, *scores: SaliencyScore | None) -> Candidate:
    return Candidate(name, {"conv": 4}, 10, 20, 30, tuple(Score(0.9, 0.95, (), score) for score in scores), ())


def test_the_table_of_compared_networks_has_saliency_where_it_is_predicted():
    first, second = SaliencyScore(0.25, 0.5, 0.75), SaliencyScore(0.75, 0.5, 0.25)
    text = tables.as_text([tables.compared([candidate("both", first, second), candidate("one", None, None)], [])])
    rows = {tuple(line.split()) for line in text.splitlines() if line.lstrip().startswith("saliency")}
    assert rows == {
        ("saliency", "KL", "0.5000", "±", "0.3536"),
        ("saliency", "CC", "0.5000", "±", "0.0000"),
        ("saliency", "histogram", "similarity", "0.5000", "±", "0.3536"),
    }
    assert "saliency" not in tables.as_text([tables.compared([candidate("one", None)], [])])


# ---- of a network ----------------------------------------------------------------------------------------------------


class Bright(nn.Module):
    """Looks where the image is bright; the class is the brighter of the two halves."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images, with_saliency=False):
        logits = self.weight * torch.stack([half.mean((1, 2, 3)) for half in images.chunk(2, 3)], 1)
        return (logits, self.saliency(images)) if with_saliency else logits

    def saliency(self, images):
        return images[:, 0].flatten(1).log_softmax(1).unflatten(1, images.shape[2:])


def images_with_gaze(count: int) -> Part:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 4, 6, generator=generator)
    return Part(images, torch.arange(count) % 2, torch.rand(count, 4, 6, generator=generator))


def test_the_score_is_the_mean_over_the_images_in_any_batches(monkeypatch):
    monkeypatch.setattr("ckrm_kernels.training.evaluation._BATCH", 4)
    part, model = images_with_gaze(11), Bright().train()
    score = evaluate(model, part, 2)
    assert model.training
    expected = saliency_scores(model.saliency(part.images).detach(), part.gaze).mean(0).tolist()
    assert isinstance(score.saliency, SaliencyScore)
    assert astuple(score.saliency) == pytest.approx(expected, rel=1e-12)


def test_without_gaze_or_prediction_there_is_no_score():
    part = images_with_gaze(4)
    assert evaluate(Bright(), Part(part.images, part.labels), 2).saliency is None
    plain = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    assert evaluate(plain, part, 2).saliency is None
    assert asdict(evaluate(plain, part, 2))["saliency"] is None


class Misleading(nn.Module):
    """Has a part of that name, and predicts no saliency."""

    def __init__(self):
        super().__init__()
        self.saliency = nn.Linear(24, 2)

    def forward(self, images):
        return self.saliency(images.flatten(1))


def test_a_layer_called_saliency_is_no_prediction():
    assert evaluate(Misleading(), images_with_gaze(4), 2).saliency is None
    assert whole_pass(Misleading()) == {}
    assert whole_pass(Bright()) == {"with_saliency": True}


def test_a_gaze_map_that_sums_to_0_is_named_by_its_row(monkeypatch):
    monkeypatch.setattr("ckrm_kernels.training.evaluation._BATCH", 2)
    part = images_with_gaze(9)
    part.gaze[7] = 0
    with pytest.raises(ValueError, match=r"gaze of the part must be >= 0, .* in 1 of 9, the rows 7$"):
        evaluate(Bright(), part, 2)


def test_the_auc_of_each_class_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    torch.manual_seed(0)
    images, labels = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    score = evaluate(model, Part(images, labels), 4)
    with torch.no_grad():
        probabilities = model(images).softmax(1).double().numpy()
    areas = [roc_auc_score(np.asarray(labels) == label, probabilities[:, label]) for label in range(3)]
    assert score.auc_of_class[:3] == pytest.approx(areas, abs=1e-6)
    assert score.auc_of_class[3] is None
    assert score.auc == pytest.approx(sum(areas) / 3, abs=1e-6)
