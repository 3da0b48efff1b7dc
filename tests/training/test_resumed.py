"""A training killed at any instant goes on and ends as an unbroken one."""

import dataclasses

import pytest
import torch
from small_training import CONFIG, killed_after, network, same_weights, stripes
from torch import nn

from ckrm_kernels.training import PRESETS, Resumed, UnfinishedRun, loop, train

BATCHES = 6  # an epoch has, at CONFIG's batch size
CONFIGS = {
    "sgd, one-cycle": CONFIG,
    "adamw, plateau": dataclasses.replace(
        CONFIG, optimizer="adamw", schedule="plateau", plateau_patience=1, learning_rate=0.05, epochs=8
    ),
    "rmsprop, cosine, bfloat16": dataclasses.replace(
        CONFIG,
        optimizer="rmsprop",
        schedule="cosine",
        learning_rate=0.01,
        precision="bfloat16",
        channels_last=True,
        balance_classes=True,
    ),
    "the recipe of VGNet": dataclasses.replace(PRESETS["vgnet"], epochs=3, warmup_epochs=1, batch_size=16),
    "float16, early stop": dataclasses.replace(CONFIG, precision="float16", early_stop=1, epochs=8),
}


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def kept(unfinished: UnfinishedRun) -> list[dict]:
    """The state that is taken up, if any."""
    states: list[dict] = []
    unfinished.take_up(states.append)
    return states


def with_dropout() -> nn.Module:
    return nn.Sequential(network(), nn.Dropout(0.2))


@pytest.mark.parametrize("saves", [0, 2, BATCHES, BATCHES + 1, 2 * BATCHES + 4])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_ends_bit_by_bit_as_an_unbroken_one(tmp_path, monkeypatch, config, saves):
    unbroken = with_dropout()
    history = train(unbroken, stripes(), config, seed=4)
    unfinished = UnfinishedRun(tmp_path, {"seed": 4})
    killed_after(saves, monkeypatch, with_dropout(), stripes(), config, 4, unfinished=unfinished)

    resumed = with_dropout()
    if saves:
        torch.manual_seed(99)
        nn.init.zeros_(resumed[0].fc.weight)
    assert train(resumed, stripes(), config, 4, unfinished=unfinished) == history
    assert same_weights(unbroken, resumed)


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    unfinished = UnfinishedRun(tmp_path, {})
    killed_after(2 * BATCHES + 2 + 3, monkeypatch, network(), stripes(), CONFIG, 0, unfinished=unfinished)
    numbers, losses = [], []
    original = loop._Training._loss
    monkeypatch.setattr(loop._Training, "_loss", lambda self, batch: losses.append(1) or original(self, batch))
    train(network(), stripes(), CONFIG, 0, lambda epoch: numbers.append(epoch.number), unfinished=unfinished)
    assert numbers == [3]
    assert len(losses) == BATCHES - 3


def test_it_says_where_it_goes_on_and_with_how_many_threads(tmp_path, monkeypatch, threads):
    threads(2)
    unfinished, seen = UnfinishedRun(tmp_path, {}), []
    train(network(), stripes(), CONFIG, 0, unfinished=UnfinishedRun(tmp_path / "new", {}), on_resumed=seen.append)
    assert seen == []
    killed_after(BATCHES + 1 + 2, monkeypatch, network(), stripes(), CONFIG, 0, unfinished=unfinished)
    threads(1)
    train(network(), stripes(), CONFIG, 0, unfinished=unfinished, on_resumed=seen.append)
    assert seen == [Resumed(epoch=2, batch=2, batches=BATCHES, threads=1, threads_before=2)]


def test_the_state_of_another_run_is_not_taken_up(tmp_path, monkeypatch):
    killed_after(3, monkeypatch, network(), stripes(), CONFIG, 0, unfinished=UnfinishedRun(tmp_path, {"seed": 0}))
    assert kept(UnfinishedRun(tmp_path, {"seed": 0}))
    assert not kept(UnfinishedRun(tmp_path, {"seed": 1}))


def test_states_come_back_as_they_were_saved(tmp_path):
    unfinished = UnfinishedRun(tmp_path, {})
    state = {"a": [1, None, {2: torch.arange(3), "x": 0.1}], "b": torch.ones((), dtype=torch.bfloat16), "c": {}}
    strided = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    unfinished.save({**state, "d": strided, "e": (1, 2.5)})
    (loaded,) = kept(unfinished)
    assert torch.equal(loaded["a"][2].pop(2), state["a"][2].pop(2))
    assert torch.equal(loaded.pop("b"), state.pop("b"))
    assert torch.equal(loaded["d"], strided)
    assert loaded.pop("d").stride() == strided.stride()
    assert loaded == {**state, "e": (1, 2.5)}


def test_a_saved_state_can_run_nothing(tmp_path):
    """A pickle that would call a function when it is read."""

    class Calls:
        def __reduce__(self):
            return (tmp_path.joinpath("called").touch, ())

    torch.save({"identity": {}, "state": Calls()}, tmp_path / "unfinished.pt")
    with pytest.raises(ValueError, match=r"unfinished\.pt is damaged \(UnpicklingError\)"):
        kept(UnfinishedRun(tmp_path, {}))
    assert not (tmp_path / "called").exists()
