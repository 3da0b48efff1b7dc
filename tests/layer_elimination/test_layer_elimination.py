"""All phases on the embedded digits: their results, going on after a break, and what is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from small_training import interrupted_after

from ckrm_kernels.comparison.trained_runs import compare_runs
from ckrm_kernels.data import DataConfig, digits
from ckrm_kernels.layer_elimination import EliminationConfig, PredictedDepth, eliminate_layers, results
from ckrm_kernels.layer_elimination.chosen_data import chosen_images, read_selection
from ckrm_kernels.models import ThreeConvolutions, count_parameters, network_shape
from ckrm_kernels.shrinking.saved import load_shrunk
from ckrm_kernels.storage.settings import as_json, read_config
from ckrm_kernels.training import Runtime, load
from ckrm_kernels.training.onnx_export import as_onnx

QUIET = Console(quiet=True)
CPU = Runtime(device="cpu", threads=1)
SMALL = EliminationConfig(
    network=ThreeConvolutions(width=4),
    predictor=ThreeConvolutions(width=2),
    training=replace(EliminationConfig().training, epochs=2),
    maps=4,
    images_per_map=10,
)
NETWORKS = ("cnn-1", "cnn-2", "cnn-3", "no-skipping")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(results, "_SECONDS", 0.0)


def eliminate(folder, config=SMALL):
    return eliminate_layers(folder, config, runtime=CPU, processes=1, console=QUIET)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "_SECONDS", 0.0)
        folder = tmp_path_factory.mktemp("eliminated") / "runs"
        return folder, eliminate(folder)


def weights(folder, name):
    return (folder / name / "seed-0" / "weights.safetensors").read_bytes()


def test_the_accuracies_are_those_of_the_saved_networks(done):
    folder, result = done
    found, data = result.seeds[0], digits()
    cnn_1, cnn_2, cnn_3, without = (load(folder / name).model for name in NETWORKS)

    def accuracy(logits, labels):
        return pytest.approx((logits.argmax(1) == labels).double().mean().item())

    shown, labels = data.held_out.images, data.held_out.labels
    with torch.no_grad():
        depths = cnn_2(shown).argmax(1) + 1
        assert found.depths == tuple((depths == depth).sum().item() for depth in (1, 2, 3))
        assert found.held_out == {
            "cnn-1": accuracy(cnn_1(shown), labels),
            "cnn-3-predicted": accuracy(cnn_3(shown, depths), labels),
            "cnn-3-full": accuracy(cnn_3(shown), labels),
            "no-skipping": accuracy(without(shown), labels),
        }
    assert result.images == len(labels) == 359


def test_the_chosen_images_are_scored_at_their_own_layers(done):
    folder, result = done
    found, data = result.seeds[0], digits()
    from ckrm_kernels.layer_elimination.chosen_data import chosen_images

    selection = read_selection(folder / "selection" / "seed-0.json")
    held_out = chosen_images(data, selection, "class-by-depth", 0).held_out
    cnn_2, cnn_3 = (load(folder / name).model for name in ("cnn-2", "cnn-3"))
    with torch.no_grad():
        right = cnn_3(held_out.images, held_out.depths).argmax(1) == held_out.labels
        named = cnn_2(held_out.images).argmax(1)
    assert found.chosen["cnn-3-by-label"] == pytest.approx(right.double().mean().item())
    expected = [[0] * 3 for _ in range(3)]
    for depth, layer in zip(held_out.depths.tolist(), named.tolist(), strict=True):
        expected[depth - 1][layer] += 1
    assert found.confusion == tuple(map(tuple, expected))
    assert found.layer_accuracy == pytest.approx((named + 1 == held_out.depths).double().mean().item())
    assert found.most_frequent_layer == pytest.approx((held_out.depths.bincount().max() / len(held_out)).item())
    assert (found.found, found.won) == (selection.found, selection.won)


def test_costs_are_of_the_depths_that_are_predicted(done):
    found = done[1].seeds[0]
    of_depth = [64 * 9 * 4, 64 * 9 * (4 + 16), 64 * 9 * (4 + 16 + 16)]
    dense = 64 * 4 * 10
    mean = sum(count * (each + dense) for count, each in zip(found.depths, of_depth, strict=True)) / 359
    predictor = 64 * 9 * (2 + 4 + 4) + 64 * 2 * 3
    assert found.multiply_adds == {
        "cnn-1": of_depth[-1] + dense,
        "cnn-2": predictor,
        "cnn-3": pytest.approx(mean),
        "cnn-3-predicted": pytest.approx(predictor + mean),
    }
    assert found.seconds.keys() == found.multiply_adds.keys()
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_the_two_networks_as_one(done):
    cnn_2, cnn_3 = (load(done[0] / name).model for name in ("cnn-2", "cnn-3"))
    shown = digits().held_out.images[:20]
    expected = [cnn_3.to_depth(image[None], int(cnn_2(image[None]).argmax()) + 1)[0] for image in shown]
    torch.testing.assert_close(PredictedDepth(cnn_2, cnn_3)(shown), torch.stack(expected))


def test_done_already_it_stays_as_it_is(done):
    folder, result = done
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("log.txt", ".lock")]
    before = [path.read_bytes() for path in files]
    assert eliminate(folder) == result
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize("epochs", [5, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (1, 3, 8))])
def test_interrupted_anywhere_it_ends_as_an_unbroken_one(done, tmp_path, monkeypatch, epochs):
    with interrupted_after(epochs, monkeypatch):
        eliminate(tmp_path / "runs")
    result = eliminate(tmp_path / "runs")
    for name in NETWORKS:
        assert weights(tmp_path / "runs", name) == weights(done[0], name)
    assert without_seconds(result) == without_seconds(done[1])


def without_seconds(result):
    return replace(result, seeds=tuple(replace(each, seconds={}) for each in result.seeds))


def test_more_seeds_are_added_and_those_there_stay(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "runs")
    result = eliminate(tmp_path / "runs", replace(SMALL, seeds=(0, 2)))
    assert result.seeds[0] == done[1].seeds[0]
    assert result.seeds[1].seed == 2
    assert weights(tmp_path / "runs", "cnn-3") == weights(done[0], "cnn-3")


@pytest.mark.exhaustive
def test_cnn_1_is_a_run_that_other_commands_take(done, tmp_path):
    shutil.copytree(done[0] / "cnn-1", tmp_path / "again")
    candidates, _, _ = compare_runs([done[0] / "cnn-1", tmp_path / "again"], 0.01, console=QUIET)
    assert candidates[0].accuracies == pytest.approx((done[1].seeds[0].held_out["cnn-1"],))
    assert candidates[0].widths == {"width": 4}


def test_cnn_2_is_shrunk_on_the_images_that_it_was_trained_on(done, ckrm, tmp_path):
    folder, _ = done
    code, out, _ = ckrm("shrink", folder / "cnn-2", "--parameters", "0.8", "--output", tmp_path / "out")
    assert code == 0
    model = load(folder / "cnn-2").model
    small = load_shrunk(model, tmp_path / "out")
    assert count_parameters(small) <= 0.8 * count_parameters(model)
    selection = read_selection(folder / "selection" / "seed-0.json")
    chosen = chosen_images(digits(), selection, "layer", 0).validation
    images, labels, *_ = chosen.batch(torch.arange(len(chosen)))
    scores = [(each(images).argmax(1) == labels).double().mean() for each in (model, small)]
    assert f"validation part: {scores[0]:.4f}, of the small model {scores[1]:.4f}" in out


def test_cnn_3_is_not_shrunk(done, ckrm, tmp_path):
    folder, _ = done
    code, _, err = ckrm("shrink", folder / "cnn-3", "--parameters", "0.8", "--output", tmp_path / "out")
    assert code == 1
    assert "its images leave after different layers, which must keep one width; `ckrm eliminate --set network" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.exhaustive
def test_its_networks_are_exported(done, tmp_path):
    import onnxruntime

    for name in NETWORKS[:3]:
        trained = load(done[0] / name)
        raw = torch.rand(5, 1, 8, 8) * 16
        session = onnxruntime.InferenceSession(as_onnx(trained), providers=["CPUExecutionProvider"])
        logits = session.run(None, {"images": raw.numpy()})[0]
        torch.testing.assert_close(
            torch.from_numpy(logits), trained.model(trained.transform(raw)), rtol=1e-4, atol=1e-4
        )


def test_a_layer_that_is_left_with_too_few_images_costs_no_training(tmp_path, done):
    """The same CNN 1 serves with another selection."""
    with pytest.raises(ValueError, match=r"^seed 0: .* left to layer \d, which chose \d: .* or maps; CNN 1 .* stays"):
        eliminate(tmp_path / "runs", replace(SMALL, maps=1, images_per_map=3))
    kept = (tmp_path / "runs/cnn-1/seed-0/weights.safetensors").stat()
    assert not (tmp_path / "runs/config.json").exists()
    eliminate(tmp_path / "runs")
    assert (tmp_path / "runs/cnn-1/seed-0/weights.safetensors").stat() == kept
    assert weights(tmp_path / "runs", "cnn-3") == weights(done[0], "cnn-3")


def test_too_few_images_are_refused_before_any_training(tmp_path):
    few = replace(SMALL, data=DataConfig(fraction=0.05))
    with pytest.raises(ValueError, match=r"holds 60 images, .* 3 layers x 4 maps x 10 images = 120: take more"):
        eliminate(tmp_path / "runs", few)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": 3}, r"runs of another configuration \(maps is 4, not 3\)"),
        ({"predictor": ThreeConvolutions(width=3)}, r"another configuration \(predictor.width is 2, not 3\)"),
        ({"network": ThreeConvolutions(width=5)}, r"cnn-1 holds runs of another .*network.width is 4, not 5"),
        ({"data": DataConfig(split_seed=1)}, r"cnn-1 holds runs of another .*data.split_seed is 0, not 1"),
    ],
)
def test_another_configuration_is_refused(done, change, message):
    with pytest.raises(ValueError, match=message):
        eliminate(done[0], replace(SMALL, **change))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "config.json",
            '{"rule": {}}',
            "holds no layer elimination of `ckrm eliminate`, but another run's config.json",
        ),
        ("config.json", "[]", "holds no layer elimination"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("results.json", "[]", "results.json is damaged, delete it to compare anew"),
        ("results.json", '{"images": 1, "seeds": [{"seed": 0}]}', "results.json is damaged, .*: seeds.0.found: "),
        ("selection/seed-0.json", "{}", "seed-0.json is damaged; delete it to choose the images anew"),
        ("cnn-3/seed-0/weights.safetensors", "", "weights.safetensors is damaged"),
        ("cnn-1/config.json", '{"rule": {}}', "cnn-1 holds a search of `ckrm search`, not runs of `ckrm train`"),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(done, tmp_path, file, content, message):
    shutil.copytree(done[0], tmp_path / "runs")
    if "cnn-3" in file:
        (tmp_path / "runs/results.json").unlink()
    (tmp_path / "runs" / file).write_text(content)
    kept = weights(tmp_path / "runs", "cnn-1")
    with pytest.raises(ValueError, match=message):
        eliminate(tmp_path / "runs")
    assert weights(tmp_path / "runs", "cnn-1") == kept


def test_weights_are_trained_from_their_own_start(done):
    """CNN 3 is no copy of CNN 1, though both begin from the same seed."""
    first, third = (load_file(done[0] / name / "seed-0" / "weights.safetensors") for name in ("cnn-1", "cnn-3"))
    assert not torch.equal(first["conv3.weight"], third["conv3.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": network_shape("resnet-digits")}, "network must be of the kind three-convolutions, .* got resnet"),
        ({"maps": 17}, "maps must be at most the width of network, 16, got 17"),
        ({"images_per_map": 0}, "images_per_map must be a whole number >= 1, got 0"),
        ({"seeds": ()}, "seeds must be different whole numbers, at least one"),
        ({"data": "digits"}, "data must be a DataConfig, got 'digits'"),
    ],
)
def test_configurations_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EliminationConfig(**arguments)


def test_a_configuration_survives_its_file(tmp_path):
    config = replace(SMALL, predictor=network_shape("resnet-digits"), seeds=(3, 4))
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    assert read_config(EliminationConfig(), tmp_path / "config.json", ()) == config
    changed = read_config(EliminationConfig(), None, ["network.width=32", "predictor=resnet-digits", "seeds=2"])
    assert (changed.network.width, changed.predictor.kind, changed.seeds) == (32, "resnet", (0, 1))
