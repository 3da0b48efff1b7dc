"""A trained network for use elsewhere: `load`, its transform, the weights' metadata and the ONNX file."""

import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from idx_files import write_bars
from PIL import Image
from rich.console import Console
from safetensors import safe_open

from ckrm_kernels import __version__
from ckrm_kernels.data import DataConfig, Part, digits
from ckrm_kernels.models import ResNetShape, network_of
from ckrm_kernels.training import Runtime, TrainingConfig, Transform, evaluate, load
from ckrm_kernels.training.runs import RunsConfig, train_runs

CONFIG = RunsConfig(
    network=ResNetShape(stem=4, inner=((5,),), out=(6,)),
    training=TrainingConfig(epochs=2, batch_size=32),
    seeds=(3, 1),
)


def trained(folder, data: DataConfig):
    train_runs(
        folder, replace(CONFIG, data=data), runtime=Runtime(device="cpu"), processes=1, console=Console(quiet=True)
    )
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """Folder of the runs, raw held-out images and their labels."""
    folder = tmp_path_factory.mktemp("bars")
    images, labels = write_bars(folder / "data")
    return trained(folder / "runs", DataConfig("mnist", folder=str(folder / "data"))), images, labels


def test_raw_images_score_as_they_did_after_the_training(bars):
    runs, images, labels = bars
    recorded = json.loads((runs / "scores.json").read_text())
    for seed in (1, 3):
        model, transform = load(runs, seed=seed)
        score = evaluate(model, Part(transform(images), torch.from_numpy(labels).long()), 10)
        assert json.loads(json.dumps(asdict(score))) == recorded[str(seed)]


def test_digits_score_as_they_did_after_the_training(tmp_path):
    from sklearn.datasets import load_digits

    runs = trained(tmp_path, DataConfig())
    network, held_out = load(str(runs)), digits().held_out
    raw = load_digits().images
    by_input = {each.numpy().tobytes(): image for each, image in zip(network.transform(raw), raw, strict=True)}
    images = np.stack([by_input[image.numpy().tobytes()] for image in held_out.images])
    assert torch.equal(network.transform(images), held_out.images)
    score = evaluate(network.model, Part(network.transform(images), held_out.labels), 10)
    assert json.loads(json.dumps(asdict(score))) == json.loads((runs / "scores.json").read_text())["1"]
    with pytest.raises(ValueError, match="images must be arrays of numbers as the data set gives them"):
        network.transform(Image.new("L", (8, 8)))


def test_what_is_loaded(bars):
    runs, _, _ = bars
    network = load(runs)
    assert network.folder == runs / "seed-1"
    assert load(runs / "seed-3").seed == 3
    assert (network.seed, network.data, network.image_shape) == (1, "mnist", (1, 6, 5))
    assert network.classes == tuple("0123456789")
    assert network.network == network_of(str(runs)) == replace(CONFIG.network, in_channels=1, classes=10)
    assert not network.model.training


def test_the_weights_say_what_they_are(bars, tmp_path):
    runs, _, _ = bars
    with safe_open(runs / "seed-3" / "weights.safetensors", "pt") as file:
        metadata = file.metadata()
    data = DataConfig("mnist", folder=str(runs.parent / "data")).load()
    assert json.loads(metadata["mean"]) == list(data.train.normalization.mean)
    assert json.loads(metadata["deviation"]) == list(data.train.normalization.deviation)
    assert json.loads(metadata["image_shape"]) == [1, 6, 5]
    assert json.loads(metadata["network"])["inner"] == [[5]]
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert (metadata["data"], metadata["seed"], metadata["ckrm_kernels"]) == ("mnist", "3", __version__)
    assert len(metadata["data_digest"]) == 32


def raw_and_expected(channels: int):
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(3, 4, 6, channels), dtype=np.uint8)
    mean, deviation = [100.0, 50.0, 20.0][:channels], [2.0, 4.0, 8.0][:channels]
    expected = torch.from_numpy((images.astype(np.float32) - mean) / deviation).permute(0, 3, 1, 2).float()
    return Transform((channels, 4, 6), tuple(mean), tuple(deviation), "uint8"), images, expected


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_form(channels):
    transform, images, expected = raw_and_expected(channels)
    mode = "L" if channels == 1 else "RGB"
    pictures = [Image.fromarray(image.squeeze(), mode) for image in images]
    forms = [
        images,
        images.transpose(0, 3, 1, 2),
        list(images),
        pictures,
        images.astype(np.float64),
        *[images[..., 0]][: 2 - channels],
    ]
    for form in forms:
        found = transform(form)
        assert found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-6)
        if isinstance(form, np.ndarray):
            assert torch.equal(transform(torch.from_numpy(form)), found)
            assert torch.equal(transform(form[1]), found[1:2])
    assert torch.equal(transform(pictures[2]), transform(images[2]))
    assert torch.allclose(transform(pictures[2].convert("RGB")), expected[2:], atol=1e-6)


def test_images_refused():
    transform, images, _ = raw_and_expected(1)
    with pytest.raises(ValueError, match="images must have pixels from 0 to 255, got floats from 0 to 1: multiply"):
        transform(images / 255)
    transform(np.zeros((4, 6)))  # black in any unit
    with pytest.raises(ValueError, match=r"images must be \(4, 6\) or \(N, 4, 6\), \(4, 6, 1\), .* got \(6, 4\)"):
        transform(np.zeros((6, 4)))
    with pytest.raises(ValueError, match=r"got \(8, 8\)"):
        transform(Image.new("L", (8, 8)))


@pytest.mark.parametrize("images", ["abc", None, np.array(["a"]), np.zeros((8, 8), complex), torch.zeros(8, 8) + 0j])
def test_what_are_no_numbers_is_refused_by_name(images):
    with pytest.raises(TypeError, match=r"^images must be real numbers in a tensor or an array, .*, got \w"):
        Transform((1, 8, 8), (0.0,), (1.0,), "float32")(images)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="images must be finite, got NaN or Inf"):
        Transform((1, 8, 8), (0.0,), (1.0,), "float32")(np.full((2, 8, 8), value))


def test_a_device_that_there_is_not_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="device must be one of torch's, such as cpu or cuda:0, got 'nope'"):
        load(tmp_path, device="nope")


def test_pictures_of_any_size_where_the_data_set_takes_them(tmp_path):
    random.seed(0)
    for name, colour in (("ant", (250, 30, 30)), ("bee", (30, 30, 250))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            shade = tuple(max(value - random.randrange(30), 0) for value in colour)
            Image.new("RGB", (8 + index, 20 - index), shade).save(tmp_path / "data" / name / f"{index}.png")
    config = DataConfig("folder", folder=str(tmp_path / "data"), image_size=(6, 8), cache=str(tmp_path / "cache"))
    model, transform = load(trained(tmp_path / "runs", config))
    assert model(transform(torch.zeros(5, 3, 6, 8))).shape == (5, 2)
    data = config.load()
    inputs = [transform(Image.open(path)) for path in sorted((tmp_path / "data").rglob("*.png"))]
    assert all(
        any(torch.equal(each, image[None]) for each in inputs) for image in data.held_out.batch(torch.arange(4)).images
    )
    array = np.asarray(Image.open(tmp_path / "data" / "bee" / "7.png"))
    assert torch.equal(transform(array), transform(Image.open(tmp_path / "data" / "bee" / "7.png")))


def test_weights_of_an_earlier_version(bars, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("run.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((bars[0] / "seed-1" / name).read_bytes())
    save_file(load_file(tmp_path / "weights.safetensors"), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="does not say how its inputs are standardised: an earlier version of"):
        load(tmp_path)


def test_an_onnx_file_takes_raw_pixels(bars, tmp_path, ckrm):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runs, images, _ = bars
    code, out, err = ckrm("export", runs, "--onnx", tmp_path / "model.onnx", "--seed", "3")
    assert (code, err) == (0, "")
    assert "images uint8 (N, 1, 6, 5) -> logits (N, 10)" in out
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    model, transform = load(runs, seed=3)
    with torch.no_grad():
        expected = model(transform(images))
    for batch in (images, images[:1]):
        (logits,) = session.run(None, {"images": batch[:, None]})
        assert np.abs(logits - expected[: len(batch)].numpy()).max() < 1e-5
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list("0123456789")


def test_export_refuses_what_holds_no_network(tmp_path, ckrm):
    code, _, err = ckrm("export", tmp_path, "--onnx", tmp_path / "model.onnx")
    assert code == 1
    assert f"{tmp_path} holds no trained network" in err
    assert list(tmp_path.iterdir()) == []
