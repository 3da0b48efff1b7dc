"""How an experiment was made, in words."""

from dataclasses import replace

import pytest
from plain_network import PlainNetwork

from ckrm_kernels.data import DataConfig
from ckrm_kernels.data.summary import DataSummary
from ckrm_kernels.models import NETWORKS, ResNetShape, network_shape
from ckrm_kernels.training import Runtime, TrainingConfig
from ckrm_kernels.width_search import RuleConfig, WidthSearchConfig
from ckrm_kernels.width_search.provenance import data_name, in_brief, network_name, provenance
from ckrm_kernels.width_search.sessions import Change, Session, session_now

DATA = DataSummary("mnist", {"name": "mnist", "contents": {"a": "1"}}, ("0", "1"), (1, 14, 12), 1081, 119, 400, 0.5)
CONFIG = WidthSearchConfig(
    network=network_shape("resnet-digits", classes=2),
    data=DataConfig("mnist", folder="/somewhere/private/fashion"),
    training=TrainingConfig(epochs=6, early_stop=4),
    seeds=2,
    final_seeds=3,
    rule=RuleConfig(minimum=6),
)
FIRST = Session("2026-01-02T03:04:05+00:00", 0, "a processor", {"ckrm_kernels": "1.0", "torch": "2.13"})
AGAIN = replace(
    FIRST, started="2026-01-03T00:00:00+00:00", rounds=2, changes=(Change("margin", 0.01, 0.02),), device="another"
)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_named_network_has_its_name_whatever_the_data(name):
    assert network_name(network_shape(name, in_channels=2, classes=7)) == name


def test_other_networks_have_the_name_of_their_kind():
    assert network_name(replace(ResNetShape(), stem=7)) == "resnet"
    assert network_name(PlainNetwork()) == "PlainNetwork"


def test_the_data_is_named_without_where_it_lies():
    assert data_name(CONFIG.data) == "mnist (fashion)"
    assert data_name(DataConfig()) == "digits"


def test_what_a_reader_must_know():
    rows = provenance(CONFIG, DATA, [FIRST], 7, 3725.0)
    assert rows["network"].startswith("resnet-digits, block basic, form small, head linear; ")
    assert rows["network"].endswith(" parameters, widths 32/32/32/64/64/128/128")
    assert rows["images"] == (
        "1,081 to train with, 119 to validate, 400 held out to score, of 1×14×12 (channels, height, width), "  # noqa: RUF001
        "in 2 classes"
    )
    assert "epochs 6, batch size 64, optimizer sgd, learning rate 0.1, " in rows["training"]
    assert rows["training"].endswith(", precision float32, early stop 4")
    assert rows["networks"].startswith("2 of each round, from the seeds 0 to 1; 3 of each kind")
    assert rows["measured"] == "λ above Ψ 0.6, at eps 1e-4 absolute; target 0.01, margin 0.01"
    assert rows["rule"] == "tied layer, minimum 6, multiple 1, closed 1.5, at most 6 rounds"
    assert rows["time"] == "62 min of training, summed over 7 networks"
    assert rows["begun"] == "2026-01-02 03:04:05 UTC"
    assert rows["trained on"] == "a processor; ckrm_kernels 1.0, torch 2.13"
    assert "changed on the way" not in rows
    assert not any("private" in text for text in rows.values())
    assert in_brief(CONFIG, DATA) == (
        "1,081 images of 1×14×12 to train with, 6 epochs; 2 networks of each round, 3 of each kind compared, on 400 "  # noqa: RUF001
        "held-out images."
    )


def test_work_that_was_taken_up_again():
    rows = provenance(CONFIG, DATA, [FIRST, AGAIN], 7, 30.0)
    assert rows["time"].startswith("at least 30 s of training")
    assert rows["begun"] == "2026-01-02 03:04:05 UTC, taken up again 1 time, last 2026-01-03 00:00:00 UTC"
    assert rows["trained on"].count(" | ") == 1
    assert rows["changed on the way"] == "margin 0.01 → 0.02 after 2 rounds"


def test_the_same_data_has_the_same_digest():
    rows = provenance(CONFIG, DATA, [], 1, 1.0)
    assert rows["digest of the data"] == provenance(CONFIG, replace(DATA, name="b"), [], 1, 1.0)["digest of the data"]
    other = replace(DATA, identity={"name": "mnist", "contents": {"a": "2"}})
    assert rows["digest of the data"] != provenance(CONFIG, other, [], 1, 1.0)["digest of the data"]
    assert len(rows["digest of the data"]) == 12


def test_a_session_records_the_machine_and_the_packages():
    session = session_now(2, {"margin": (0.01, 0.02)}, Runtime(device="cpu"))
    assert session.rounds == 2
    assert session.changes == (Change("margin", 0.01, 0.02),)
    assert session.started.endswith("+00:00")
    assert session.device
    assert list(session.versions) == ["ckrm_kernels", "Python", "torch", "scipy"]
