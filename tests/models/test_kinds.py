"""Networks of any kind: in configurations, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
import torch
from odd_networks import Flat, Misnamed, Pointwise, WithoutKind
from plain_network import PlainNetwork

from ckrm_kernels.data import Batch
from ckrm_kernels.models import Network, ResNetShape, network_shape
from ckrm_kernels.models.kinds import KINDS, check_kind, network_class
from ckrm_kernels.storage.settings import as_json, read_config, typed
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.runs import RunsConfig
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig

PLAIN = "plain_network:PlainNetwork"


def test_every_short_kind_is_that_of_its_class_and_has_defaults():
    for kind, found in KINDS.items():
        assert found().kind == kind
        check_kind(found())


@pytest.mark.parametrize("config", [RunsConfig, WidthSearchConfig])
@pytest.mark.parametrize("network", [ResNetShape(stem=5), network_shape("resnet18"), PlainNetwork(head=4, tail=5)])
def test_a_configuration_with_a_network_survives_its_file(tmp_path, config, network):
    before = config(network=network)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_json(before)))
    assert json.loads(file.read_text())["network"]["kind"] == network.kind
    assert read_config(config(), file, []) == before
    saved = json.loads(file.read_text())
    del saved["version"]
    assert typed(config, saved, "saved") == before


@pytest.mark.parametrize(
    ("text", "settings", "network"),
    [
        ("", [f"network.kind={PLAIN}"], PlainNetwork()),
        ("", [f"network={PLAIN}", "network.tail=3"], PlainNetwork(tail=3)),
        (f'[network]\nkind = "{PLAIN}"\nhead = 2\n', ["network.body=4"], PlainNetwork(2, 4)),
        # what is of another kind is gone
        (f'[network]\nkind = "{PLAIN}"\nhead = 2\n', ["network=resnet-digits"], network_shape("resnet-digits")),
        (f'[network]\nkind = "{PLAIN}"\nhead = 2\n', ["network.kind=resnet", "network.stem=3"], ResNetShape(stem=3)),
        ('[network]\nkind = "resnet"\nstem = 9\n', [], ResNetShape(stem=9)),
        ("[network]\nstem = 9\n", [], replace(network_shape("resnet-paper-digits"), stem=9)),
        # a table with its own stages is a network of its own
        ("network = { stem = 8, inner = [[8], [9]], out = [7, 6] }\n", [], ResNetShape(8, ((8,), (9,)), (7, 6))),
        ("[network]\ninner = [[8], [9], [7]]\n", ["network.stem=3"], ResNetShape(3, ((8,), (9,), (7,)))),
        ("", ["network={inner = [[8]], out = [5]}"], ResNetShape(inner=((8,),), out=(5,))),
        ("", ["network.inner=[[8]]"], replace(network_shape("resnet-paper-digits"), inner=((8,),))),
    ],
)
def test_kinds_in_files_and_settings(tmp_path, text, settings, network):
    file = tmp_path / "runs.toml"
    file.write_text(text)
    assert read_config(RunsConfig(), file, settings) == RunsConfig(network=network)


@pytest.mark.parametrize("config", [RunsConfig, WidthSearchConfig])
def test_a_configuration_takes_the_name_of_a_network(config):
    assert config(network="resnet-digits") == config(network=network_shape("resnet-digits"))
    assert config(network=PLAIN).network == PlainNetwork()
    with pytest.raises(ValueError, match=r"name must be one of resnet50-standard, .*, got 'resnet-digit'"):
        config(network="resnet-digit")
    for wrong in (3, None, ResNetShape, ResNetShape().build(), {"stem": 3}):
        with pytest.raises(ValueError, match="network must be a name that `ckrm models` lists, a run's folder, or"):
            config(network=wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["network.kind=vgg"],
            r"the configuration: network: kind must be resnet, .*or module:Class of a network's class, got 'vgg'$",
        ),
        (["network.kind=3"], "network: kind must be resnet, .*or module:Class of a network's class, got 3$"),
        (["network=3"], "the configuration: network: must be a table of settings with a kind, got 3$"),
        (["network.kind=nowhere:Net"], "network: kind 'nowhere:Net' can't be imported: No module named 'nowhere'"),
        (["network=plain_network:Net"], "kind 'plain_network:Net' can't be imported: module 'plain_network' has no"),
        (["network.kind=:Net"], "network: kind ':Net' can't be imported: "),
        (["network.kind=__main__:Net"], "kind '__main__:Net' is of a script: define the class in a module, which"),
        (["network.kind=os:path"], "kind 'os:path' must be a dataclass, as models.Network says, got <module"),
        (
            ["network.kind=odd_networks:WithoutKind"],
            r"kind 'odd_networks:WithoutKind' must be a field of its class: "
            r"kind: str = field\(default='odd_networks:WithoutKind', init=False\)$",
        ),
        (
            ["network.kind=odd_networks:Unfinished"],
            "kind 'odd_networks:Unfinished' lacks adapted_to, check_training, loss, stage_of_width, width_of_layer, "
            "with_widths, see models.Network$",
        ),
        (
            ["network.kind=odd_networks:WithoutDefault"],
            "kind 'odd_networks:WithoutDefault' must have a default for depth$",
        ),
        (
            [f"network.kind={PLAIN}", "network.stem=3"],
            r"the configuration has no setting network\.stem; is it .*network\.head",
        ),
        ([f"network.kind={PLAIN}", "network.boddy=3"], r"no setting network\.boddy; is it network\.body"),
        (["network.body=3"], r"the configuration has no setting network\.body; is it "),
        ([f"network.kind={PLAIN}", "network.body=true"], r"configuration: network\.body: .* integer, got True$"),
        ([f"network.kind={PLAIN}", "network.body=0"], "the configuration: network: body must be >= 1, got 0$"),
    ],
)
def test_networks_refused_in_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        read_config(RunsConfig(), None, settings)


def test_a_saved_network_without_its_kind_or_with_an_unknown_setting():
    saved = asdict(RunsConfig(network=ResNetShape()))
    without = {**saved, "network": {name: value for name, value in saved["network"].items() if name != "kind"}}
    with pytest.raises(ValueError, match=r"saved: network: kind must be resnet, .*or module:Class .*, got None$"):
        typed(RunsConfig, without, "saved")
    with pytest.raises(ValueError, match=r"saved has no setting network\.stam$"):
        typed(RunsConfig, {**saved, "network": {**saved["network"], "stam": 3}}, "saved")


def test_the_kind_of_a_network_leads_back_to_its_class():
    check_kind(PlainNetwork())
    assert network_class(PLAIN) is PlainNetwork
    with pytest.raises(ValueError, match="kind of the network's class must be 'odd_networks:WithoutKind', got 'plain"):
        check_kind(WithoutKind())
    with pytest.raises(ValueError, match=r"kind must be resnet, .*or module:Class of a network's class, got None"):
        check_kind("resnet-digits")

    @dataclass(frozen=True)
    class Inner(PlainNetwork):
        kind: str = field(default="test_kinds:Inner", init=False)

    with pytest.raises(ValueError, match="kind 'test_kinds:Inner' can't be imported: module 'test_kinds' has no"):
        check_kind(Inner())


def test_a_class_that_derives_from_network_has_cross_entropy_and_any_training():
    network = Flat()
    network.check_training(TrainingConfig(precision="float16", balance_classes=True))
    model, images, labels = network.build(), torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 1, 1])
    weights = torch.tensor([0.5, 2.0, 1.0])
    log = model(images).log_softmax(1)
    chosen = -log[torch.arange(5), labels]
    batch = Batch(images, labels, None)
    assert network.loss(model, batch, None).item() == pytest.approx(chosen.mean().item())
    weighed = (chosen * weights[labels]).sum() / weights[labels].sum()
    assert network.loss(model, batch, weights).item() == pytest.approx(weighed.item())


def test_a_derived_class_without_all_of_a_network_can_not_be_made():
    @dataclass(frozen=True)
    class Half(Network):
        kind: str = field(default="test_kinds:Half", init=False)

    with pytest.raises(TypeError, match="abstract"):
        Half()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Pointwise(),
            "network.widths must each count the filters of a layer that is measured, or be inferred, to be "
            "searched; those of tail are of 1x1 convolutions or linear layers alone",
        ),
        (Flat(), "network.widths must hold a width, to be searched, got none"),
        (Misnamed(), "network.width_of_layer must name layers of the network, got three"),
    ],
)
def test_networks_whose_widths_can_not_be_searched(network, message):
    with pytest.raises(ValueError, match=message):
        WidthSearchConfig(network=network)


def test_widths_of_a_stage_that_differ_can_not_be_tied():
    with pytest.raises(ValueError, match="tied by stage must be equal in each stage, got body = 8 and tail = 9"):
        WidthSearchConfig(network=PlainNetwork(tail=9), rule=RuleConfig(tied="stage"))
    WidthSearchConfig(network=PlainNetwork(head=9), rule=RuleConfig(tied="stage"))


def test_settings_know_no_network():
    script = (
        "import sys; from ckrm_kernels.storage import settings, tagged; "
        "print([name for name in sys.modules if name.startswith(('ckrm_kernels.models', 'ckrm_kernels.training'))])"
    )
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert out.stdout.strip() == "[]", out.stderr
