import dataclasses
import errno
import json
import math
import os
import re
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_training import AT_ONCE, CONFIG, SHAPE, job, network, same_weights, stripes
from torch import nn

from ckrm_kernels.commands.shared import with_preset
from ckrm_kernels.data import Dataset, Part
from ckrm_kernels.models import ResNetShape
from ckrm_kernels.storage.files import append_line, read_json, write_atomically, write_json
from ckrm_kernels.storage.settings import read_config
from ckrm_kernels.training import (
    PRESETS,
    Epoch,
    Resumed,
    Run,
    Runtime,
    Step,
    TrainingConfig,
    UnfinishedRun,
    evaluate,
    load_run,
    save_run,
    train,
)
from ckrm_kernels.training.batches import shuffled
from ckrm_kernels.training.evaluation import localization
from ckrm_kernels.training.objective import balanced_weights
from ckrm_kernels.training.progress import Display
from ckrm_kernels.training.run_files import load_weights
from ckrm_kernels.training.runs import RunsConfig
from ckrm_kernels.training.state import TrainingState
from ckrm_kernels.training.workers import Workers, threads_for


def epoch(number: int, validation_loss: float = 0.5) -> Epoch:
    return Epoch(number, 0.25, validation_loss, 0.75, 0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("momentum", 1.0),
        ("weight_decay", -1e-3),
        ("weight_decay", float("nan")),
        ("optimizer", "adam"),
        ("schedule", "step"),
        ("precision", "half"),
        ("plateau_factor", 1.0),
        ("plateau_patience", 0),
        ("lowest_rate", 0.0),
        ("batch_size", 2**63),
        ("early_stop", 0),
        ("weight_decay_on", "norms"),
        ("warmup_epochs", -1),
        ("warmup_epochs", 5),  # of the one-cycle schedule, which has its own
        ("label_smoothing", 1.0),
        ("label_smoothing", float("nan")),
    ],
)
def test_configurations_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*, got {value!r}"):
        TrainingConfig(**{field: value})


def test_it_learns():
    model = network()
    history = train(model, stripes(), dataclasses.replace(CONFIG, epochs=10), seed=0)
    assert [epoch.number for epoch in history] == list(range(1, 11))
    assert history[-1].loss < history[0].loss / 2
    assert evaluate(model, stripes().held_out, 3).accuracy > 0.9
    assert not model.training


def test_the_seed_decides_the_result():
    first, again, other = network(), network(), network()
    histories = [train(model, stripes(), CONFIG, seed) for model, seed in ((first, 5), (again, 5), (other, 6))]
    assert histories[0] == histories[1] != histories[2]
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_one_step_is_momentum_sgd_with_weight_decay():
    data = dataclasses.replace(stripes(), train=Part(stripes().train.images[:16], stripes().train.labels[:16]))
    config = TrainingConfig(epochs=10, batch_size=16, learning_rate=0.2, weight_decay=0.05)
    model, by_hand = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    by_hand.load_state_dict(model.state_dict())
    nn.functional.cross_entropy(by_hand(data.train.images), data.train.labels).backward()

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, data, config, 0, stop)
    rate = 0.2 / 25  # where the one-cycle schedule starts
    for trained, before in zip(model.parameters(), by_hand.parameters(), strict=True):
        expected = before - rate * (before.grad + 0.05 * before)
        torch.testing.assert_close(trained, expected)


def test_one_step_of_the_recipe_smoothes_labels_and_spares_biases_and_norms_the_decay():
    data = dataclasses.replace(stripes(), train=Part(stripes().train.images[:16], stripes().train.labels[:16]))
    config = dataclasses.replace(PRESETS["vgnet"], batch_size=16, weight_decay=0.05)
    model, by_hand = (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 3)) for _ in range(2))
    by_hand.load_state_dict(model.state_dict())
    targets = 0.9 * nn.functional.one_hot(data.train.labels, 3) + 0.1 / 3
    (-(targets * by_hand(data.train.images).log_softmax(1)).sum(1).mean()).backward()

    def stop(epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, data, config, 0, stop)
    rate = 0.2 / 5  # the first of five batches, one an epoch, in which it rises
    for (name, trained), before in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        decay = 0.05 if name == "2.weight" else 0.0
        torch.testing.assert_close(trained, before - rate * (before.grad + decay * before))


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_rate_rises_in_equal_steps_and_falls_by_a_cosine(warmup):
    config = TrainingConfig(epochs=5, batch_size=48, learning_rate=0.4, schedule="cosine", warmup_epochs=warmup)
    state, batches = TrainingState(network(), stripes(), config, 0), 2
    rising, falling = warmup * batches, (5 - warmup) * batches
    expected = [0.4 * (step + 1) / rising for step in range(rising)]
    expected += [0.2 * (1 + math.cos(math.pi * step / falling)) for step in range(falling)]
    rates = []
    for _ in range(5 * batches):
        rates.append(state.learning_rate)
        state.step(sum(parameter.sum() for parameter in state.model.parameters()), 48)
    assert rates == pytest.approx(expected)


def test_no_warmup_of_one_batch_divides_by_zero():
    config = TrainingConfig(epochs=3, batch_size=96, learning_rate=0.4, schedule="cosine", warmup_epochs=1)
    assert TrainingState(network(), stripes(), config, 0).learning_rate == 0.4


def test_labels_are_smoothed_for_losses_that_can_alone():
    def own(model, batch, class_weights):
        return model(batch.images).square().mean()

    config = dataclasses.replace(CONFIG, label_smoothing=0.1)
    message = r"training\.label_smoothing must be 0 for a loss without an argument label_smoothing, got 0\.1"
    with pytest.raises(ValueError, match=message):
        train(network(), stripes(), config, 0, loss=own)
    assert train(network(), stripes(), CONFIG, 0, loss=own)


def test_a_preset_gives_way_to_options_and_settings():
    default = with_preset(RunsConfig(seeds=(4,)), "vgnet")
    chosen = read_config(default, None, ["training.momentum=0.5"], {"training": {"epochs": 20}})
    assert chosen.training == dataclasses.replace(PRESETS["vgnet"], epochs=20, momentum=0.5)
    assert chosen.seeds == (4,)
    assert with_preset(RunsConfig(), None) == RunsConfig()
    with pytest.raises(ValueError, match="warmup_epochs must be fewer than epochs, 4, got 5"):
        read_config(default, None, [], {"training": {"epochs": 4}})


def test_the_recipe_of_the_vgnet_paper():
    """Section 5.1."""
    recipe = PRESETS["vgnet"]
    assert (recipe.optimizer, recipe.momentum, recipe.learning_rate, recipe.batch_size) == ("sgd", 0.9, 0.2, 512)
    assert (recipe.epochs, recipe.warmup_epochs, recipe.schedule) == (300, 5, "cosine")
    assert (recipe.weight_decay, recipe.weight_decay_on, recipe.label_smoothing) == (1e-4, "weights", 0.1)


def test_a_loss_that_is_not_finite_ends_it():
    data = stripes()
    data.train.images[3] = torch.nan
    with pytest.raises(RuntimeError, match="training diverged: the loss became nan in epoch 1; lower learning_rate"):
        train(network(), data, CONFIG, seed=0)


def test_a_validation_loss_that_is_not_finite_ends_it():
    data = stripes()
    data.validation.images[3] = torch.inf
    with pytest.raises(RuntimeError, match="training diverged: the validation loss became nan in epoch 1; lower"):
        train(network(), data, CONFIG, seed=0)


def test_scores_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, roc_auc_score

    model, part = network().train(), stripes().held_out
    score = evaluate(model, part, 3)
    assert model.training
    with torch.no_grad():
        probabilities = model.eval()(part.images).softmax(1)
    assert score.accuracy == pytest.approx(accuracy_score(part.labels, probabilities.argmax(1)))
    assert score.auc == pytest.approx(roc_auc_score(part.labels, probabilities, multi_class="ovr"), abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_classes_without_images_have_no_part_in_the_auc():
    from sklearn.metrics import roc_auc_score

    model, part = network(), stripes().held_out
    few = Part(part.images[part.labels < 2], part.labels[part.labels < 2])
    with torch.no_grad():
        probabilities = model.eval()(few.images).softmax(1)
    areas = [roc_auc_score(few.labels == label, probabilities[:, label]) for label in (0, 1)]
    assert evaluate(model, few, 3).auc == pytest.approx(sum(areas) / 2, abs=1e-6)


def test_a_part_of_one_class_has_no_score():
    part = stripes().held_out
    with pytest.raises(ValueError, match="part must hold images of at least 2 classes, got 1"):
        evaluate(network(), Part(part.images[part.labels == 1], part.labels[part.labels == 1]), 3)


def test_evaluation_changes_nothing():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, stripes().held_out, 3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_run_comes_back_as_it_was_saved(tmp_path):
    model = network()
    run = Run({"seed": 0, "shape": [1, 2]}, (epoch(1), epoch(2)), 1.5)
    save_run(tmp_path / "run", model, run)
    assert load_run(tmp_path / "run", run.identity) == run
    other = network(seed=1)
    load_weights(tmp_path / "run", other)
    assert same_weights(model, other)
    assert not other.training


def test_a_run_of_another_identity_or_without_its_record_is_none(tmp_path):
    run = Run({"seed": 0}, (epoch(1),), 1.5)
    assert load_run(tmp_path, run.identity) is None
    save_run(tmp_path, network(), run)
    assert load_run(tmp_path, {"seed": 1}) is None
    (tmp_path / "run.json").unlink()
    assert load_run(tmp_path, run.identity) is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    write_json(file, {"a": 1})

    def fail(source, destination):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    for mask, expected in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_json(tmp_path / "state.json", {})
        finally:
            os.umask(before)
        assert (tmp_path / "state.json").stat().st_mode & 0o777 == expected


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "{}")
    assert os.read(reader, 10) == b"{}"
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_json_that_is_cut_off_is_named(tmp_path):
    write_atomically(tmp_path / "state.json", '{"a": [1,')
    with pytest.raises(ValueError, match=r"state\.json is not valid JSON .* delete it to start anew"):
        read_json(tmp_path / "state.json")


def test_jobs_give_the_same_networks_side_by_side_and_one_by_one(tmp_path, threads):
    together = [job(tmp_path / "together", seed) for seed in (0, 1, 2)]
    alone = [job(tmp_path / "alone", seed) for seed in (0, 1, 2)]
    seen = []
    threads(3)
    random_state = torch.get_rng_state()
    with Workers(1) as workers:
        one_by_one = workers.run(alone, lambda place, epoch: None)
    assert torch.get_num_threads() == 3
    assert torch.equal(torch.get_rng_state(), random_state)
    with Workers(2) as workers:
        side_by_side = workers.run(together, lambda place, event: seen.append((place, event)))
    assert [run.history for run in side_by_side] == [run.history for run in one_by_one]
    assert all(same_weights(a.trained(), b.trained()) for a, b in zip(together, alone, strict=True))
    assert not same_weights(alone[0].trained(), alone[1].trained())
    epochs = sorted((place, event.number) for place, event in seen if isinstance(event, Epoch))
    assert epochs == [(place, number) for place in range(3) for number in (1, 2, 3)]


def test_finished_jobs_are_not_repeated(tmp_path):
    jobs = [job(tmp_path, seed) for seed in (0, 1)]
    with Workers(1) as workers:
        workers.run(jobs[:1], lambda place, epoch: None)
        seen = set()
        workers.run(jobs, lambda place, epoch: seen.add(place))
        assert seen == {1}
        before = (tmp_path / "seed-0" / "weights.safetensors").read_bytes()
        with pytest.raises(ValueError, match=r"seed-0 holds a finished network, .* \(.*training.epochs is 3, not 1"):
            workers.run([job(tmp_path, 0, TrainingConfig(epochs=1))], lambda place, epoch: seen.add("new"))
        assert "new" not in seen
        assert (tmp_path / "seed-0" / "weights.safetensors").read_bytes() == before


def test_a_run_of_before_a_setting_has_its_default(tmp_path):
    Workers(1).run([job(tmp_path)], lambda place, event: None)
    path = tmp_path / "seed-0" / "run.json"
    record = read_json(path)
    for name in ("warmup_epochs", "label_smoothing", "weight_decay_on"):
        del record["identity"]["training"][name]
    write_json(path, record)
    assert job(tmp_path).finished() is not None
    with pytest.raises(ValueError, match=r"training\.label_smoothing is 0\.0, not 0\.1"):
        job(tmp_path, config=dataclasses.replace(CONFIG, label_smoothing=0.1)).finished()


@pytest.mark.parametrize("name", ["run.json", "weights.safetensors", "unfinished.pt"])
@pytest.mark.parametrize("content", [b"", b"12345", b"\x04\0\0\0\0\0\0\0{}  ", b"{}", b'{"identity": 3}', b"\xff" * 64])
def test_a_damaged_file_is_named(tmp_path, name, content):
    damaged = job(tmp_path)
    with Workers(1) as workers:
        workers.run([damaged], lambda place, epoch: None)
        if name.startswith("unfinished"):
            (damaged.folder / "run.json").unlink()
        (damaged.folder / name).write_bytes(content)
        message = rf"{name} is (damaged|not valid JSON) \(.*\); delete it to"
        with pytest.raises(ValueError, match=message):  # noqa: PT012
            workers.run([damaged], lambda place, epoch: None)
            damaged.trained()


def test_weights_of_another_network_are_named(tmp_path):
    first, other = job(tmp_path / "a"), dataclasses.replace(job(tmp_path / "b"), network=ResNetShape(2, ((2,),), (2,)))
    with Workers(1) as workers:
        workers.run([first, other], lambda place, epoch: None)
    (other.folder / "weights.safetensors").replace(first.folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        first.trained()


def test_a_kill_between_weights_and_record_leaves_no_record_of_another_run(tmp_path, monkeypatch):
    save_run(tmp_path, network(0), Run({"a": 1}, (epoch(1),), 1.0))
    (tmp_path / "weights.safetensors").unlink()
    monkeypatch.setattr("ckrm_kernels.training.run_files.write_json", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_run(tmp_path, network(1), Run({"a": 2}, (epoch(1),), 1.0))
    assert load_run(tmp_path, {"a": 1}) is None


def test_a_finished_run_is_never_replaced_by_another(tmp_path):
    run = Run({"data": {"name": "a"}, "seed": 1}, (epoch(1),), 1.0)
    save_run(tmp_path, network(0), run)
    message = r"holds a finished network, .*\(the data differs: name is b, not a; seed is 1, not 2\): choose another"
    with pytest.raises(ValueError, match=message):
        save_run(tmp_path, network(1), Run({"data": {"name": "b"}, "seed": 2}, (epoch(1),), 1.0))
    kept = network(1)
    load_weights(tmp_path, kept)
    assert same_weights(kept, network(0))
    assert load_run(tmp_path, run.identity) == run


def test_what_kills_left_half_written_is_cleared(tmp_path):
    (tmp_path / ".unfinished.pt.abc").write_text("half")
    save_run(tmp_path, network(0), Run({}, (epoch(1),), 1.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "weights.safetensors"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"state\.json can't be written: No space left on device"):
        write_atomically(tmp_path / "state.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_middle_of_a_training_ends_it_and_it_goes_on_afterwards(tmp_path, monkeypatch):
    original, writes = os.fsync, []

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    one = dataclasses.replace(job(tmp_path), runtime=AT_ONCE)
    with monkeypatch.context() as patched, Workers(1) as workers:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"unfinished\.pt can't be written: No space left on device"):
            workers.run([one], lambda place, event: None)
    assert [path.name for path in one.folder.iterdir()] == ["unfinished.pt"]  # as the write before left it
    seen, unbroken = [], dataclasses.replace(one, folder=tmp_path / "unbroken")
    with Workers(1) as workers:
        workers.run([one, unbroken], lambda place, event: seen.append(event))
    assert seen[0] == Resumed(1, 3, 6, 1, 1)
    assert same_weights(one.trained(), unbroken.trained())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "Input/output"),
    ],
)
def test_why_a_file_can_not_be_written_is_said_in_words(tmp_path, monkeypatch, number, words):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    for write in (write_atomically, append_line):
        with pytest.raises(OSError, match=rf"state\.json can't be written: {words}"):
            write(tmp_path / "state.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_fills_the_disk_leaves_no_empty_file(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="can't be written: No space left on device"):
        append_line(Path("/dev/full"), "text")
    append_line(tmp_path / "log.txt", "one")
    append_line(tmp_path / "log.txt", "two")
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_networks_finished_earlier_have_full_bars():
    file = StringIO()
    display = Display(Console(file=file, force_terminal=True, width=100))
    with display.bars(["seed 7", "seed 8"], epochs=4, finished={0}):
        pass
    lines = [line for line in file.getvalue().splitlines() if "seed" in line]
    assert any("epoch 4.0 of 4 finished" in line for line in lines)
    assert any("epoch 0.0 of 4 waiting" in line for line in lines)


def test_a_job_that_is_interrupted_leaves_no_finished_run(tmp_path):
    def interrupt(place, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers(1) as workers:
        workers.run([job(tmp_path)], interrupt)
    assert job(tmp_path).finished() is None
    with pytest.raises(FileNotFoundError, match="holds no finished run of this job"):
        job(tmp_path).result()


def broken(reason: str) -> Dataset:
    raise ValueError(reason)


def test_what_fails_in_a_worker_is_raised_here(tmp_path):
    with pytest.raises(ValueError, match="no such images"), Workers(2) as workers:
        workers.run([job(tmp_path, load_data=partial(broken, "no such images"))], lambda place, epoch: None)


@pytest.mark.parametrize(
    ("threads", "environment", "processes", "expected"),
    [
        (None, None, 1, 8),
        (None, None, 3, 2),
        (None, None, 16, 1),
        (None, "1", 1, 1),
        (None, "3", 1, 3),
        (None, "3,2", 1, 3),  # of nested parallel regions: the outer ones first
        (None, "4", 4, 2),  # no more than each has of the cores
        (None, "many", 1, 8),
        (None, "0", 1, 8),
        (5, "1", 4, 5),
    ],
)
def test_threads_of_each_network(monkeypatch, threads, environment, processes, expected):
    monkeypatch.setattr("ckrm_kernels.training.workers.cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert threads_for(processes, Runtime(threads=threads)) == expected


@pytest.mark.parametrize(("asked", "expected"), [(None, 1), (2, 2)])
def test_a_job_trains_on_its_number_of_threads(tmp_path, threads, asked, expected):
    threads(3)
    seen, one = [], dataclasses.replace(job(tmp_path), runtime=Runtime(device="cpu", threads=asked))
    with Workers(1) as workers:
        workers.run([one], lambda place, event: seen.append(torch.get_num_threads()))
    assert {*seen} == {expected}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_number_of_workers_refused(count):
    with pytest.raises(ValueError, match=f"count must be a whole number >= 1, got {count}"):
        Workers(count)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_with_and_without_a_terminal(terminal):
    file = StringIO()
    display = Display(Console(file=file, force_terminal=terminal, width=100))
    display.phase("Round 0")
    with display.bars(["seed 7", "seed 8"], epochs=4) as bars:
        for number in range(1, 5):
            bars.on_event(1, Step(number, 3, 5, 0.75))
            bars.on_event(1, Epoch(number, 0.5, 0.4, 0.25, 0.1))
    text = file.getvalue()
    assert "Round 0" in text
    assert "loss 0.500, validation accuracy 0.250" in text
    if not terminal:
        lines = text.splitlines()
        assert all(re.fullmatch(r"\d\d:\d\d:\d\d .*", line) for line in lines)
        assert [line[9:] for line in lines[1:]] == [
            f"  seed 8: epoch {number} of 4, loss 0.500, validation accuracy 0.250" for number in (2, 4)
        ]


class Scripted(nn.Module):
    """Gives each evaluation the validation loss that it is told to have: logits whose true class has its logarithm."""

    def __init__(self, losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.losses = list(losses)

    def forward(self, images):
        if self.training:
            return self.weight * torch.ones(len(images), 3)
        probability = torch.tensor(-self.losses.pop(0)).exp()
        return torch.stack((probability, (1 - probability) / 2, (1 - probability) / 2)).log().repeat(len(images), 1)


def all_of_class_0() -> Dataset:
    part = Part(torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.long))
    return Dataset("zeros", 3, part, part, part)


def test_the_plateau_lowers_the_rate_and_goes_back_to_the_best_weights(monkeypatch):
    config = TrainingConfig(
        epochs=30, batch_size=8, schedule="plateau", plateau_patience=2, plateau_factor=0.1, lowest_rate=0.005
    )
    loaded = []
    model = Scripted([0.5, 0.4, 0.6, 0.6, 0.6, 0.3, 0.7, 0.7, 0.7, 0.1])
    original = model.load_state_dict
    monkeypatch.setattr(
        model, "load_state_dict", lambda state: loaded.append(10 - len(model.losses)) or original(state)
    )
    history = train(model, all_of_class_0(), config, 0)
    # three epochs without a lower loss exceed a patience of two; a rate below 0.005 ends it after the second drop
    assert [round(each.validation_loss, 5) for each in history] == [0.5, 0.4, 0.6, 0.6, 0.6, 0.3, 0.7, 0.7, 0.7]
    assert [each.learning_rate for each in history] == pytest.approx([0.1] * 5 + [0.01] * 4)
    assert loaded == [5, 9, 9]  # at both drops, and at the end


def test_early_stop():
    model = Scripted([0.5, 0.4, 0.45, 0.41, 0.3])
    history = train(model, all_of_class_0(), TrainingConfig(epochs=30, batch_size=8, early_stop=2), 0)
    assert [each.number for each in history] == [1, 2, 3, 4]


def test_the_best_weights_are_kept():
    weights, model = [], Scripted([0.5, 0.2, 0.4, 0.3])
    train(
        model,
        all_of_class_0(),
        TrainingConfig(epochs=4, batch_size=8, early_stop=9, weight_decay=0.0),
        0,
        lambda each: weights.append(model.weight.item()),
    )
    assert model.weight.item() == weights[1]


def test_balanced_classes_weigh_as_much_as_each_other():
    weights = balanced_weights(torch.tensor([0, 0, 0, 2]), 3)
    assert weights.tolist() == pytest.approx([4 / (3 * 2), 0, 4 / 2])


def test_the_loss_given_is_what_becomes_small():
    def distance(model, batch, class_weights):
        assert class_weights is None
        return (model(batch.images) - 3).square().mean()

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    config = dataclasses.replace(CONFIG, epochs=20, learning_rate=0.02, weight_decay=0.0)
    history = train(model, stripes(), config, 0, loss=distance)
    with torch.no_grad():
        error = (model(stripes().train.images) - 3).square().mean().item()
    assert error < 0.05 < history[0].loss
    assert history[-1].loss == pytest.approx(error, rel=0.5)


def test_a_loss_is_given_the_weights_of_the_classes():
    seen = []

    def weighed(model, batch, class_weights):
        seen.append(class_weights)
        return nn.functional.cross_entropy(model(batch.images), batch.labels, class_weights)

    data, config = stripes(), dataclasses.replace(CONFIG, epochs=1, balance_classes=True)
    train(network(), data, config, 0, loss=weighed)
    assert torch.equal(seen[0], balanced_weights(data.train.labels, 3))


def test_the_loss_of_gg_cam_needs_gaze_maps_and_no_weights_of_classes():
    shape = dataclasses.replace(SHAPE, head="gg-cam")
    with pytest.raises(ValueError, match="batch must have gaze maps for the loss of GG-CAM, got None"):
        train(shape.build(), stripes(), CONFIG, 0, loss=shape.loss)
    part = stripes().train
    seen = dataclasses.replace(stripes(), train=Part(part.images, part.labels, torch.rand(len(part), 6, 6)))
    config = dataclasses.replace(CONFIG, balance_classes=True)
    with pytest.raises(ValueError, match=r"class_weights must be None for the loss of GG-CAM, got \["):
        train(shape.build(), seen, config, 0, loss=shape.loss)


def test_a_last_batch_of_one_image_joins_the_one_before():
    sizes = [len(batch) for batch in shuffled(33, 16, 2, torch.Generator())]
    assert sizes == [16, 17]
    assert [len(batch) for batch in shuffled(34, 16, 2, torch.Generator())] == [16, 16, 2]
    assert [len(batch) for batch in shuffled(1, 16, 2, torch.Generator())] == [1]


def test_processes_that_load_the_data_change_nothing(threads):
    threads(1)
    here, ahead = network(), network()
    histories = [
        train(model, stripes(), CONFIG, 0, runtime=Runtime(data_workers=workers))
        for model, workers in ((here, 0), (ahead, 2))
    ]
    assert histories[0] == histories[1]
    assert same_weights(here, ahead)


def test_curves_are_what_tensorboard_reads(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runtime, unfinished = Runtime(tensorboard=True), UnfinishedRun(tmp_path, {})
    history = train(network(), stripes(), CONFIG, 0, runtime=runtime, unfinished=unfinished)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name, values in (
        ("loss/training", [each.loss for each in history]),
        ("loss/validation", [each.validation_loss for each in history]),
        ("accuracy/validation", [each.validation_accuracy for each in history]),
        ("learning rate", [each.learning_rate for each in history]),
    ):
        assert [event.step for event in curves.Scalars(name)] == [1, 2, 3]
        assert [event.value for event in curves.Scalars(name)] == pytest.approx(values)


@pytest.mark.exhaustive
def test_compiled_it_learns_the_same(threads):
    threads(1)
    plain, compiled = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    compiled.load_state_dict(plain.state_dict())
    for model, config in ((plain, CONFIG), (compiled, dataclasses.replace(CONFIG, compile=True))):
        train(model, stripes(), config, 0)
    torch.testing.assert_close(plain.state_dict(), compiled.state_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"threads": 0}, "threads must be a whole number >= 1, got 0"),
        ({"data_workers": -1}, "data_workers must be a whole number >= 0, got -1"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds must be >= 0, got nan"),
    ],
)
def test_runtimes_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Runtime(**fields)


class Maps(nn.Module):
    """Activation maps that are the image itself, for every class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def maps(self, images):
        return images.repeat(1, 3, 1, 1)


def test_localization_counts_the_highest_cells_within_the_class_s_region():
    images = torch.zeros(4, 1, 8, 8)
    images[:, 0, 1, 1] = 1.0  # the highest cell
    regions = torch.zeros(4, 2, 4, 4, dtype=torch.bool)  # on a coarser grid
    regions[0, 0, 0, 0] = True  # image 0, of class 1: within its region
    regions[1, 0, 3, 3] = True  # image 1, of class 2: only another class's region is marked
    regions[2, 1, 3, 3] = True  # image 2, of class 2: far from its region
    part = Part(images, torch.tensor([1, 2, 2, 0]), regions=regions)
    assert localization(Maps(), part, {1: 0, 2: 1}) == pytest.approx(1 / 3)
    assert localization(Maps(), part, {}) is None
    assert localization(network(), part, {1: 0, 2: 1}) is None
    assert localization(Maps(), Part(images, part.labels), {1: 0, 2: 1}) is None
