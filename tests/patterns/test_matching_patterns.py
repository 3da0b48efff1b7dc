"""Which pattern each kernel is nearest to, by a definition that goes kernel by kernel."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ckrm_kernels import match_patterns
from ckrm_kernels.patterns import edge_detectors, gaussian, matching

NAMES = ("edge rows", "edge columns", "laplacian", "laplacian cross", "edge diagonal", "edge antidiagonal")


def known_3x3():
    """The known kernels of 3x3 as lists of rows, by their names."""
    bank = {"identity": [[[0, 0, 0], [0, 1, 0], [0, 0, 0]]], "constant": [[[1] * 3] * 3]}
    bank["gaussian"] = [blur(3, sigma, 0, 0) for sigma in (0.6, 1.1)]
    corners = [(y, x) for y in (-0.5, 0.5) for x in (-0.5, 0.5)]
    bank["gaussian off centre"] = [blur(3, sigma, *corner) for sigma in (0.6, 1.1) for corner in corners]
    return bank | {name: [kernel.tolist()] for name, kernel in zip(NAMES, edge_detectors(), strict=True)}


def blur(size, sigma, y, x):
    middle = (size - 1) / 2
    return [
        [math.exp(-((row - middle - y) ** 2 + (column - middle - x) ** 2) / (2 * sigma**2)) for column in range(size)]
        for row in range(size)
    ]


def cosine(a, b):
    a, b = ([value for row in each for value in row] for each in (a, b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def one_by_one(weight, threshold, signed):
    """The name of each kernel's pattern, and its cosine."""
    scale = weight.double().square().mean().sqrt().item()
    found = []
    for kernel in weight.double().flatten(0, 1).tolist():
        if math.hypot(*(value for row in kernel for value in row)) / 3 <= 0.01 * scale:
            found.append(("zero", 0.0))
            continue
        cosines = {}
        for name, variants in known_3x3().items():
            of_name = [cosine(kernel, variant) for variant in variants]
            cosines[name] = max(of_name) if signed else max(map(abs, of_name))
            if signed:
                cosines[f"-{name}"] = max(-value for value in of_name)
        best = max(cosines, key=cosines.__getitem__)
        found.append((best if cosines[best] > threshold else "none", cosines[best]))
    return found


def names_found(layer, report):
    return [(*report.names, "zero", "none")[place] for place in layer.places.flatten()]


@pytest.mark.parametrize("signed", [True, False])
def test_against_the_definition(signed):
    generator = torch.Generator().manual_seed(0)
    kernels = [torch.tensor(each) for variants in known_3x3().values() for each in variants]
    kernels = torch.stack([each.double() / each.double().norm() for each in kernels])
    noisy = torch.cat((kernels, -kernels)).repeat(5, 1, 1)
    noisy = noisy + 0.15 * torch.randn(noisy.shape, generator=generator, dtype=torch.float64)
    noisy *= 10 ** (torch.rand(len(noisy), 1, 1, generator=generator, dtype=torch.float64) - 0.5)
    noisy[7], noisy[8] = 0, 0.004 * noisy[8]
    weight = noisy.view(-1, 4, 3, 3)
    report = match_patterns(weight, signed=signed)
    (layer,) = report.measured
    expected = one_by_one(weight, 0.9, signed)
    assert names_found(layer, report) == [name for name, _ in expected]
    nearness = torch.tensor([value for _, value in expected], dtype=torch.float64)
    torch.testing.assert_close(layer.nearness.flatten(), nearness, rtol=0, atol=1e-12)
    shares = {name: sum(found == name for found, _ in expected) / len(expected) for name in (*report.names, "none")}
    assert {name: layer.shares[name] for name in shares} == pytest.approx(shares)
    assert sum(layer.shares.values()) == pytest.approx(1)
    assert set(layer.families) == {"identity", "blur", "edge", "zero", "none"}
    assert len({name for name, _ in expected}) > 15 - 5 * (not signed)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([(3, 3), (5, 5), (4, 6), (7,), (1, 9), (3, 3, 3)]), st.booleans())
def test_the_scale_of_a_kernel_does_not_matter(seed, size, signed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 3, *size, generator=generator, dtype=torch.float64)
    scales = torch.rand(6, 3, *[1] * len(size), generator=generator, dtype=torch.float64) + 0.5
    one, other = (match_patterns(each, signed=signed).layers[0] for each in (weight, weight * scales))
    assert torch.equal(one.places, other.places)
    torch.testing.assert_close(one.nearness, other.nearness)
    names = (*match_patterns(weight, signed=signed).names, "zero", "none")
    negative = match_patterns(-weight, signed=signed).layers[0]
    for place, of_negative in zip(one.places.flatten().tolist(), negative.places.flatten().tolist(), strict=True):
        name = names[place]
        opposite = name if not signed or name == "none" else name.removeprefix("-") if name[0] == "-" else f"-{name}"
        assert names[of_negative] == opposite


def test_blocks_change_nothing(monkeypatch):
    weight = torch.randn(40, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = match_patterns(weight).layers[0]
    monkeypatch.setattr(matching, "_BLOCK", 13)
    in_blocks = match_patterns(weight.transpose(0, 1).contiguous().transpose(0, 1)).layers[0]
    assert torch.equal(whole.places, in_blocks.places)
    assert whole.chance == in_blocks.chance


def test_the_reference_gives_the_same():
    weight = torch.randn(20, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = (match_patterns(weight, threshold=0.7, backend=backend).layers[0] for backend in (None, "reference"))
    assert torch.equal(one.places, other.places)
    torch.testing.assert_close(one.nearness, other.nearness, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    weight = torch.stack((gaussian(3, 1.1), edge_detectors()[0])).view(2, 1, 3, 3).to(dtype)
    report = match_patterns(weight)
    assert names_found(report.layers[0], report) == ["gaussian", "edge rows"]


# ---- kernels of other sizes ------------------------------------------------------------------------------------------


def pattern_of(kernel, **options):
    report = match_patterns(kernel[None, None].double(), **options)
    return names_found(report.layers[0], report)[0]


def test_edge_detectors_in_larger_kernels():
    """In the middle, and stretched to the whole."""
    for name, detector in zip(NAMES, edge_detectors(), strict=True):
        assert pattern_of(nn.functional.pad(detector, (2, 2, 1, 1))) == name
        stretched = nn.functional.interpolate(detector[None, None], size=(7, 7), mode="bilinear", align_corners=True)
        assert pattern_of(stretched[0, 0] - stretched.mean()) == name


def test_a_slope_over_the_whole_kernel_is_an_edge():
    assert pattern_of(torch.arange(7.0)[:, None].repeat(1, 7) - 3) == "edge rows"


@pytest.mark.parametrize("size", [(5, 5), (4, 4), (9,), (1, 9), (9, 1), (2, 2), (3, 5), (3, 3, 3), (2, 3)])
def test_identities_and_constants_of_any_size(size):
    kernel = torch.zeros(size)
    kernel[tuple((each - 1) // 2 for each in size)] = 1
    assert pattern_of(kernel) == "identity"
    assert pattern_of(-kernel) == "-identity"
    assert pattern_of(torch.full(size, -2.0)) == ("-constant" if size != (2, 2) else "-gaussian")  # there the same


@pytest.mark.parametrize(
    ("line", "name"), [([-1.0, 0, 1], "edge"), ([1.0, -2, 1], "-laplacian"), ([0, -1.0, 0, 1, 0], "edge")]
)
def test_lines(line, name):
    line = torch.tensor(line)
    for kernel, axis in ((line, "columns"), (line[None], "columns"), (line[:, None], "rows")):
        assert pattern_of(kernel) == (f"edge {axis}" if name == "edge" else name)


def test_wide_blurs_of_large_kernels():
    for sigma in (0.6, 1.1, 2.0, 3.7):
        assert pattern_of(gaussian(9, sigma)) == "gaussian"


# ---- the bank --------------------------------------------------------------------------------------------------------


def test_a_bank_of_names():
    report = match_patterns(torch.eye(3).expand(2, 2, 3, 3), bank=["identity", "-gaussian"])
    assert report.names == ("identity", "-gaussian")
    assert report.layers[0].shares == {"identity": 0, "-gaussian": 0, "zero": 0, "none": 1}


def test_a_bank_of_ones_own():
    diagonal = torch.eye(2)
    report = match_patterns(torch.stack((torch.eye(2), torch.ones(2, 2))).unsqueeze(1), bank={"diagonal": diagonal})
    assert report.layers[0].shares == {"diagonal": 0.5, "zero": 0, "none": 0.5}
    assert report.layers[0].families == {"diagonal": 0.5, "zero": 0, "none": 0.5}
    small = nn.functional.pad(diagonal, (1, 1, 1, 1))  # put in the middle
    assert match_patterns(small[None, None], bank={"diagonal": diagonal}).layers[0].shares["diagonal"] == 1


BAD = {
    "name": (ValueError, ["identity", "sobel"], "unknown pattern 'sobel'; known are identity, "),
    "none": (ValueError, [], "at least one pattern"),
    "twice": (ValueError, ["identity", "identity"], "'identity' more than once"),
    "zero": (ValueError, ["zero"], "'zero': such kernels are found in any case"),
    "one string": (TypeError, "identity", "must be names of patterns or a dict"),
    "no names": (TypeError, [torch.ones(3, 3)], "names of type str"),
    "zeros": (ValueError, {"flat": torch.zeros(3, 3)}, "'flat' is all zeros"),
    "NaN": (ValueError, {"odd": torch.full((3, 3), math.nan)}, "'odd' has NaN"),
    "large": (ValueError, {"wide": torch.ones(5, 5)}, "'wide' is 5x5, which doesn't fit into kernels of 3x3"),
    "line": (ValueError, {"line": torch.ones(3)}, "'line' is 3, which doesn't fit into kernels of 3x3"),
    "whole numbers": (TypeError, {"mean": torch.ones(3, 3, dtype=torch.int64)}, "'mean' must be a dense floating"),
    "a number": (ValueError, {"dot": torch.tensor(1.0)}, r"'dot' must have the shape of a kernel"),
    "a list": (TypeError, {"list": [[1.0]]}, "'list' must be a tensor, got list"),
    "a tensor": (TypeError, torch.ones(3, 3), "must be names of patterns or a dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_bank(name):
    error, bank, words = BAD[name]
    with pytest.raises(error, match=words):
        match_patterns(torch.randn(4, 2, 3, 3), bank=bank)


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([1.0], {}, TypeError, "weight_or_model must be a tensor, an array or a module, got list"),
        (torch.ones(3), {}, ValueError, "weight_or_model must have the shape"),
        (torch.ones(2, 2, 3, 3, dtype=torch.int64), {}, TypeError, "weight_or_model must be float32"),
        (torch.tensor([1.0, math.nan]).expand(4, 1, 3, 2), {}, ValueError, "weight_or_model has NaN or Inf in filters"),
        (torch.ones(2, 2, 3, 3, device="meta"), {}, ValueError, "weight_or_model is on the meta device"),
        (torch.ones(2, 2, 3, 3), {"threshold": 1.5}, ValueError, "threshold must lie in"),
        (torch.ones(2, 2, 3, 3), {"threshold": -0.5, "signed": False}, ValueError, "threshold must lie in"),
        (torch.ones(2, 2, 3, 3), {"signed": 1}, TypeError, "signed must be True or False"),
        (torch.ones(2, 2, 3, 3), {"backend": "fast"}, ValueError, "backend must be"),
    ],
)
def test_what_can_not_be_compared(given, options, error, words):
    with pytest.raises(error, match=words):
        match_patterns(given, **options)


# ---- models ----------------------------------------------------------------------------------------------------------


def test_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 5, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    )
    with torch.no_grad():
        model[1].weight.copy_(gaussian(5, 1.1).expand(8, 1, 5, 5))
        model[1].weight[:2] = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    report = match_patterns(model)
    assert [layer.status for layer in report.layers] == ["measured", "measured", "skipped", "skipped", "measured"]
    assert report.layers[1].shares["gaussian"] == 0.75
    assert report.layers[1].shares["zero"] == 0.25
    assert report.layers[1].most_frequent == "gaussian"
    assert report.layers[4].places.shape == (6, 2)
    assert "pointwise" in report.layers[3].reason
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_with_nan_is_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        model[1].weight[3, 2] = math.nan
    with pytest.raises(ValueError, match=r"layer '1' has NaN or Inf in filters \[3\]: no kernel was compared"):
        match_patterns(model)


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (4, 3, 1, 1), (4, 3)])
def test_weights_without_kernels(shape):
    report = match_patterns(torch.ones(shape))
    assert report.layers[0].status == "skipped"
    assert "No kernel was compared" in str(report)


def test_many_groups_are_drawn_with_few_kernels():
    layer = match_patterns(nn.Conv2d(200, 400, 3, groups=200)).layers[0]
    assert len(layer.shown.kernels) == len(layer.shown.patterns) == 50
    assert layer.places.shape == (400, 1)


def test_few_random_kernels_look_like_a_pattern():
    """What the default threshold was chosen by, and what the chance level says."""
    weight = torch.randn(20_000, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    (layer,) = match_patterns(weight).layers
    assert 0.003 < 1 - layer.shares["none"] < 0.01
    assert layer.chance == pytest.approx(1 - layer.shares["none"], abs=0.004)


def test_chance_takes_the_shape_out():
    detectors = edge_detectors().float().repeat(50, 1, 1).unsqueeze(1)
    (layer,) = match_patterns(detectors).layers
    assert layer.families["edge"] == pytest.approx(1)
    assert layer.chance < 0.3
