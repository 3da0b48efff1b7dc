from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from ckrm_kernels import distribution, pairwise_psi, psi_histogram, redundancy
from ckrm_kernels.distribution import histogram_of_omega, share_of_chosen, share_of_omega
from ckrm_kernels.similarity import Similarity


@pytest.mark.parametrize(
    ("threshold", "error", "message"),
    [
        (-0.001, ValueError, r"threshold must lie in \[0, 1\], got -0.001"),
        (1.001, ValueError, "threshold must lie in"),
        (math.nan, ValueError, "threshold must lie in"),
        (math.inf, ValueError, "threshold must lie in"),
        (torch.tensor([0.5, 2.0]), ValueError, "threshold must lie in"),
        ("0.6", TypeError, "threshold must be a number or a tensor of numbers, got '0.6'"),
        (None, TypeError, "threshold must be a number"),
        ([[0.1], [0.2, 0.3]], TypeError, "threshold must be a number"),
    ],
    ids=str,
)
def test_bad_thresholds(threshold, error, message):
    with pytest.raises(error, match=message):
        redundancy(torch.randn(4, 2, 3), threshold)


@pytest.mark.parametrize("options", [{"signed": True}, {"similarity": "cosine", "signed": True}])
def test_signed_thresholds_and_bins_reach_from_minus_one_to_one(options, backend):
    base = torch.randn(4, 3, 5, dtype=torch.float64)
    weight = torch.cat((base, -base))
    psi = pairwise_psi(weight, backend="reference", **options)
    thresholds = torch.tensor([-0.99, -0.5, 0.0, 0.25, 1.0])
    above = (psi.unsqueeze(1) > thresholds).double().mean(0)
    torch.testing.assert_close(redundancy(weight, thresholds, backend=backend, **options), above, rtol=0, atol=1e-12)
    counts = psi_histogram(weight, 8, backend=backend, **options)
    assert counts.tolist() == torch.histc(psi.clamp(-1, 1), 8, -1, 1).long().tolist()
    assert counts[0] >= 4  # the negatives
    with pytest.raises(ValueError, match=r"threshold must lie in \[-1, 1\], got -1.01"):
        redundancy(weight, -1.01, backend=backend, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("similarity", [Similarity(), Similarity("cosine", signed=True)])
@pytest.mark.parametrize("bins", [1, 2, 7, 100])
def test_a_bin_holds_its_upper_edge_and_the_numbers_beside_it_are_in_theirs(dtype, similarity, bins):
    edges = torch.linspace(similarity.lowest, 1, bins + 1, dtype=torch.float64).to(dtype)
    beyond = torch.tensor([similarity.lowest - 1e-6, 1 + 1e-6], dtype=dtype)
    beside = [torch.nextafter(edges, torch.full_like(edges, side)) for side in (-2.0, 2.0)]
    values = torch.cat((edges, *beside, beyond, torch.rand(1000, dtype=dtype)))
    expected = [
        int(((values > low) & (values <= high)).sum())
        for low, high in zip((-math.inf, *edges[1:-1].tolist()), (*edges[1:-1].tolist(), math.inf), strict=True)
    ]
    assert histogram_of_omega([values[:50], values[50:]], bins, similarity).tolist() == expected


def test_shares_and_histograms_in_parts_are_those_of_all_at_once(monkeypatch):
    """Two banks whose packed Psi are cut within rows; of the filters chosen, by the pairs themselves."""
    omega = [torch.rand(15), torch.rand(15)]
    chosen = [
        torch.tensor([True, False, True, True, True, False]),
        torch.tensor([True, True, False, False, True, False]),
    ]
    pairs = list(itertools.combinations(range(6), 2))
    known = [
        float(psi[at])
        for psi, own in zip(omega, chosen, strict=True)
        for at, pair in enumerate(pairs)
        if all(own[list(pair)])
    ]
    whole = (share_of_omega(omega, 0.3), histogram_of_omega(omega, 10, Similarity()).tolist())
    monkeypatch.setattr(distribution, "_PART", 8)
    assert (share_of_omega(omega, 0.3), histogram_of_omega(omega, 10, Similarity()).tolist()) == whole
    assert whole[0] == sum(float(value) > 0.3 for psi in omega for value in psi) / 30
    assert share_of_chosen(omega, chosen, 0.3) == sum(value > 0.3 for value in known) / len(known)
    assert share_of_chosen(omega, [torch.zeros(6, dtype=torch.bool)] * 2, 0.3) == 0
    omega[1][12] = torch.nan
    assert math.isnan(share_of_omega(omega, 0.3))


@pytest.mark.parametrize("bins", [0, -1, 2.5, True, None])
def test_bad_bins(bins):
    with pytest.raises(ValueError, match="bins must be a whole number >= 1"):
        psi_histogram(torch.randn(4, 2, 3), bins)


def test_groups_of_a_module_count_together(backend):
    conv = nn.Conv2d(6, 8, 3, groups=2)
    with torch.no_grad():
        conv.weight[4:] = conv.weight[4]
    assert redundancy(conv, 0.9999, backend=backend).item() == pytest.approx(0.5)
    assert psi_histogram(conv, 10, backend=backend)[-1] >= 6


@pytest.mark.usefixtures("cpu_kernels")
def test_memory_does_not_grow_with_the_square_of_the_filters():
    """Omega of 20,000 filters would be 800 MB."""
    code = """
import resource, torch
from ckrm_kernels import redundancy
redundancy(torch.randn(1000, 1, 2), backend="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
redundancy(torch.randn(20000, 1, 2), backend="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 50_000  # KiB
