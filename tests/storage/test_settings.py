import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ckrm_kernels.models import network_shape
from ckrm_kernels.storage.settings import as_json, read_config, typed
from ckrm_kernels.training import TrainingConfig
from ckrm_kernels.training.runs import RunsConfig
from ckrm_kernels.width_search import RuleConfig, Similarity, WidthSearchConfig


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    table: dict[str, Inner] = field(default_factory=dict)
    count: int | None = None


def test_dataclasses_survive_json():
    value = Outer(Inner(("a", "b"), 1.0), {"x": Inner(share=0.25)}, 3)
    assert typed(Outer, json.loads(json.dumps(asdict(value))), "value") == value


def test_a_wrong_value_is_cut_short_in_its_message():
    with pytest.raises(ValueError, match=r"value: inner: .*, got \[0, 1, 2, .* \.\.\.$"):
        typed(Outer, {"inner": tuple(range(1000))}, "value")


@pytest.mark.parametrize("setting", ["training.epochs=true", "network.stem=true", "training.epochs=1.0"])
def test_what_is_not_written_as_a_whole_number_is_none(setting):
    name = setting.partition("=")[0]
    with pytest.raises(ValueError, match=rf"the configuration: {name}: .* integer, got (True|1\.0)$"):
        read_config(RunsConfig(), None, [setting])


def test_a_network_without_that_name_is_a_fault_of_the_setting():
    with pytest.raises(ValueError, match=r"the configuration: network: name must be one of .*, got 'alexnet'"):
        read_config(RunsConfig(), None, ["network=alexnet"])


def test_a_configuration_survives_its_file(tmp_path):
    config = WidthSearchConfig(network=network_shape("resnet50-optimized"), training=TrainingConfig(epochs=3), seeds=2)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(as_json(config)))
    assert read_config(WidthSearchConfig(), file, []) == config


@pytest.mark.parametrize(
    ("settings", "psi"),
    [
        (["similarity.eps=1e-3"], Similarity(eps=1e-3)),
        (["similarity.eps=0"], Similarity(eps=0.0)),
        (["similarity.scale_free=true", "similarity.alpha=1"], Similarity(alpha=1.0, scale_free=True)),
    ],
)
def test_psi_is_set_and_survives_its_file(tmp_path, settings, psi):
    config = read_config(WidthSearchConfig(), None, settings)
    assert config == WidthSearchConfig(similarity=psi)
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    assert read_config(WidthSearchConfig(), tmp_path / "config.json", []) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("similarity.eps=-1", "the configuration: similarity: eps must be a finite number >= 0, got -1"),
        ("similarity.eps=small", "the configuration: similarity.eps: .* got 'small'"),
        ("similarity.scale_free=1", "the configuration: similarity.scale_free: .* got 1"),
        ("similarity.epsilon=1", r"the configuration has no setting similarity.epsilon"),
    ],
)
def test_psi_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        read_config(WidthSearchConfig(), None, [setting])


def test_a_file_is_utf_8_whatever_the_locale(tmp_path):
    file = tmp_path / "runs.toml"
    file.write_text('[data]\nname = "mnist"\nfolder = "/data/zürich"\n', encoding="utf-8")
    script = (
        "import sys; from pathlib import Path; from ckrm_kernels.storage.settings import read_config; "
        "from ckrm_kernels.training.runs import RunsConfig; "
        "print(ascii(read_config(RunsConfig(), Path(sys.argv[1]), []).data.folder))"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = subprocess.run([sys.executable, "-c", script, str(file)], env=plain, capture_output=True, text=True)
    assert out.stdout == ascii("/data/zürich") + "\n", out.stderr


def test_settings_come_after_the_file_and_leave_the_rest(tmp_path):
    file = tmp_path / "search.toml"
    file.write_text('network = "resnet-digits"\nseeds = 5\n[training]\nepochs = 7\noptimizer = "adamw"\n')
    config = read_config(WidthSearchConfig(), file, ["training.epochs=9", "network.stem=12", "rule.tied=stage"])
    assert config.seeds == 5
    assert config.training == TrainingConfig(epochs=9, optimizer="adamw")
    assert config.network == replace(network_shape("resnet-digits"), stem=12)
    assert config.rule.tied == "stage"
    assert config.target == WidthSearchConfig().target


def test_options_come_between_the_file_and_the_settings(tmp_path):
    file = tmp_path / "search.toml"
    file.write_text("seeds = 5\nfinal_seeds = 12\n[training]\nepochs = 7\nbatch_size = 7\nmomentum = 0.5\n")
    options = {"seeds": 6, "network": "resnet-digits", "training": {"epochs": 8, "batch_size": 8}}
    config = read_config(WidthSearchConfig(), file, ["training.epochs=9", "network.stem=12"], options)
    assert (config.seeds, config.final_seeds) == (6, 12)
    assert config.training == TrainingConfig(epochs=9, batch_size=8, momentum=0.5)
    assert config.network == replace(network_shape("resnet-digits"), stem=12)
    assert options == {"seeds": 6, "network": "resnet-digits", "training": {"epochs": 8, "batch_size": 8}}


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"the configuration: training\.epochs: .* got '3'"):
        read_config(RunsConfig(), None, [], {"training": {"epochs": "3"}})
    with pytest.raises(ValueError, match=r"the configuration has no setting training\.epoch; is it training\.epochs"):
        read_config(RunsConfig(), None, [], {"training": {"epoch": 3}})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.early_stop=none", replace(RunsConfig(), training=TrainingConfig(early_stop=None))),
        ("training.early_stop=4", replace(RunsConfig(), training=TrainingConfig(early_stop=4))),
        ("training.learning_rate=1e-3", replace(RunsConfig(), training=TrainingConfig(learning_rate=1e-3))),
        ("training.optimizer=adamw", replace(RunsConfig(), training=TrainingConfig(optimizer="adamw"))),
        ("training.balance_classes=true", replace(RunsConfig(), training=TrainingConfig(balance_classes=True))),
        ("seeds=[3, 4]", replace(RunsConfig(), seeds=(3, 4))),
        ("network=resnet50-standard", replace(RunsConfig(), network=network_shape("resnet50-standard"))),
    ],
)
def test_values_of_every_kind(setting, value):
    assert read_config(RunsConfig(), None, [setting]) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epochs"], "a setting must be KEY=VALUE, such as training.epochs=30, got 'epochs'"),
        (["training..epochs=3"], "a setting must be KEY=VALUE"),
        (["training.epoch=3"], r"the configuration has no setting training.epoch; is it training.epochs"),
        (["epochs=3"], r"the configuration has no setting epochs; is it training.epochs\?"),
        (["xyz=3"], "the configuration has no setting xyz$"),
        (["training.lr=1"], r"no setting training\.lr; is it training\.learning_rate\?"),
        (["lr=1"], r"no setting lr; is it training\.learning_rate\?"),
        (["training.learning-rate=1"], r"is it training\.learning_rate\?"),
        (["training.wd=1"], r"is it training\.weight_decay\?"),
        (["training.bs=1"], r"is it training\.batch_size\?"),
        (["momentum=0.5"], r"is it training\.momentum\?"),
        (["training.optim=sgd"], r"is it training\.optimizer\?"),
        (["training.scheduler=cosine"], r"is it training\.schedule\?"),
        (["seed=3"], r"is it seeds\?"),
        (["dataset=mnist"], r"is it data\.name\?"),
        (["model=resnet18"], r"is it network\?"),
        (["training.epochs=0"], "the configuration: training: epochs must be a whole number >= 1, got 0"),
        (["training.epochs=many"], "the configuration: training.epochs: .* got 'many'"),
        (["training=3"], "the configuration: training: .* got 3"),
        (["network=alexnet"], "must be one of resnet50-standard, .*, got 'alexnet'"),
    ],
)
def test_settings_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_config(RunsConfig(), None, settings)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "", r"a configuration must end in \.toml or \.json, got .*a\.yaml"),
        ("a.toml", "seeds = ", r"a\.toml is not valid TOML: "),
        ("a.json", "{", r"a\.json is not valid JSON: "),
        ("a.json", "[1]", r"a\.json must hold settings by name, got a list"),
    ],
)
def test_files_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(RunsConfig(), tmp_path / name, [])


@pytest.mark.parametrize(("seeds", "of_train", "of_search"), [("4", (0, 1, 2, 3), 4), ("[0, 1]", (0, 1), 2)])
def test_one_file_serves_training_and_search(tmp_path, seeds, of_train, of_search):
    file = tmp_path / "both.toml"
    file.write_text(
        f'network = "resnet-digits"\nseeds = {seeds}\nmost_rounds = 3\n[training]\nepochs = 7\n[rule]\nminimum = 8\n'
    )
    train = read_config(RunsConfig(), file, [], besides=WidthSearchConfig())
    search = read_config(WidthSearchConfig(), file, [], besides=RunsConfig())
    assert train == RunsConfig(network="resnet-digits", training=TrainingConfig(epochs=7), seeds=of_train)
    assert (search.network, search.training) == (train.network, train.training)
    assert (search.seeds, search.most_rounds, search.rule.minimum) == (of_search, 3, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("most_round = 3\n", "no setting most_round$"),
        ("[rule]\nminimal = 3\n", r"no setting rule\.minimal; is it rule\.minimum"),
        ("[trainings]\nepochs = 3\n", r"no setting trainings\.epochs; is it training\.epochs"),
    ],
)
def test_what_is_of_neither_command_is_refused(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(RunsConfig(), tmp_path / "a.toml", [], besides=WidthSearchConfig())


def test_a_setting_of_the_other_command_that_is_given_by_itself_is_refused():
    with pytest.raises(ValueError, match="no setting most_rounds"):
        read_config(RunsConfig(), None, ["most_rounds=3"], besides=WidthSearchConfig())


def test_seeds_of_a_file_that_a_search_cannot_have(tmp_path):
    (tmp_path / "a.toml").write_text("seeds = [3, 4]\n")
    with pytest.raises(
        ValueError, match=r"seeds: a search trains from the seeds 0, 1, \.\.\. of a number, got \[3, 4\]"
    ):
        read_config(WidthSearchConfig(), tmp_path / "a.toml", [], besides=RunsConfig())


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), torch.tensor(3), 3])
def test_whole_numbers_of_every_kind(value):
    config = WidthSearchConfig(
        seeds=value, final_seeds=value, most_rounds=value, rule=RuleConfig(minimum=value, multiple=value)
    )
    assert config == WidthSearchConfig(seeds=3, final_seeds=3, most_rounds=3, rule=RuleConfig(minimum=3, multiple=3))
    json.dumps(as_json(config))


def test_numbers_of_numpy_in_the_settings_of_training():
    config = RunsConfig(
        training=TrainingConfig(epochs=np.int32(3), batch_size=np.int64(8), early_stop=np.uint8(2)),
        seeds=tuple(np.arange(2)),
    )
    assert config == RunsConfig(training=TrainingConfig(epochs=3, batch_size=8, early_stop=2), seeds=(0, 1))
    json.dumps(as_json(config))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.toml"):
        read_config(RunsConfig(), tmp_path / "a.toml", [])


def test_the_documented_file_holds_every_setting_with_its_default():
    file = Path(__file__).parents[2] / "docs" / "search.toml"
    assert read_config(WidthSearchConfig(), file, []) == WidthSearchConfig()
    text = file.read_text()
    whole = WidthSearchConfig()
    for part in (whole, whole.similarity, whole.data, whole.training, whole.rule):
        for each in fields(part):
            assert f"\n{each.name} = " in text or f"\n# {each.name} = " in text or f"\n[{each.name}]" in text


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (RunsConfig, "data"),
        (RunsConfig, "training"),
        *((WidthSearchConfig, n) for n in ("data", "training", "rule", "similarity")),
    ],
)
def test_settings_that_are_no_settings_are_refused_at_once(config, name):
    with pytest.raises(TypeError, match=rf"^{name} must be a \w+, got 'mnist'$"):
        config(**{name: "mnist"})
