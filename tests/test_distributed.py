"""Two processes of torchrun on the CPU against one."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from small_training import job, network, stripes
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard
from typer.testing import CliRunner

from ckrm_kernels.commands import app
from ckrm_kernels.distributed import Team, team
from ckrm_kernels.training import Runtime, TrainingConfig, train
from ckrm_kernels.training.state import TrainingState
from ckrm_kernels.training.workers import Workers, run_job

SCRIPT = """
import sys
from pathlib import Path
from test_distributed import batch_of_all, history_of_a_team, jobs_of, save_sharded
from ckrm_kernels import layer_by_layer, layer_plans
from ckrm_kernels.checkpoints import read_checkpoints
from ckrm_kernels.commands import app
from ckrm_kernels.distributed import joined, team
from ckrm_kernels.training.workers import Workers, run_job

if __name__ == "__main__":
    with joined(), Workers(1) as workers:
        folder = Path(sys.argv[1])
        workers.run(batch_of_all(folder / "shared batches", True), lambda place, event: None)
        seen = set()
        workers.run(jobs_of(folder / "shared runs"), lambda place, event: seen.add(place))
        (folder / f"process-{team().rank}").write_text(str(sorted(seen)))
        (folder / f"history-{team().rank}").write_text(repr(history_of_a_team()))
        (folder / f"first-{team().rank}").write_text(str(team().of_first(lambda: team().rank + 7)))
        save_sharded(folder)
        if team().is_first:
            read_checkpoints([folder / "sharded"])  # for itself
        try:
            read_checkpoints([folder / ("sharded", "whole.pt")[team().rank]], team=team())
        except ValueError as error:
            (folder / f"refused-{team().rank}").write_text(str(error))
        app(["measure", f"{folder}/sharded", "--json", f"{folder}/report.json"], standalone_mode=False)
        layer_by_layer.SHARED_COST = layer_plans.SHARED_COST = 0
        app(["measure", f"{folder}/sharded", "--json", f"{folder}/together.json"], standalone_mode=False)
"""


@dataclasses.dataclass(frozen=True)
class Small:
    """Without batch normalisation, which would look at each process's part of a batch alone."""

    classes: int = 3

    def build(self):
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
        )

    def loss(self, model, batch, class_weights):
        return torch.nn.functional.cross_entropy(model(batch.images), batch.labels, class_weights)


def batch_of_all(folder, data_parallel):
    config = TrainingConfig(epochs=3, batch_size=17, learning_rate=0.05)  # 96 = 5 x 17 + 11: uneven shares
    return [
        dataclasses.replace(
            job(folder, config=config), network=Small(), runtime=Runtime(device="cpu", data_parallel=data_parallel)
        )
    ]


def history_of_a_team():
    """Of a network with batch normalisation, whose running statistics differ between the processes."""
    config = TrainingConfig(epochs=12, batch_size=16, schedule="plateau", plateau_patience=1, early_stop=3)
    return train(network(), stripes(), config, 0, runtime=Runtime(device="cpu", data_parallel=True))


def jobs_of(folder):
    return [job(folder, seed) for seed in range(3)]


def save_sharded(folder):
    """A checkpoint as FSDP2 trains it, each weight cut in two, and the same in one file."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(torch.nn.Conv2d(ins, outs, 3) for ins, outs in ((3, 7), (7, 10), (10, 9))))
    if team().is_first:
        torch.save(net.state_dict(), folder / "whole.pt")
    fully_shard(net, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model, state = get_state_dict(net, optimizer)
    dcp.save({"model": model, "optimizer": state}, checkpoint_id=folder / "sharded")
    team().wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "main.py").write_text(SCRIPT)
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", folder / "main.py"]
    done = subprocess.run([*command, folder], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "printed").write_text(done.stdout)
    return folder


def test_a_batch_shared_by_two_processes_gives_the_gradient_of_the_whole(folder, tmp_path):
    (alone,) = batch_of_all(tmp_path, False)
    run_job(alone, lambda event: None)
    (shared,) = batch_of_all(folder / "shared batches", True)
    for name, value in load_file(alone.folder / "weights.safetensors").items():
        torch.testing.assert_close(load_file(shared.folder / "weights.safetensors")[name], value, rtol=1e-4, atol=1e-5)
    ours, theirs = alone.result().history, shared.result().history
    assert [each.loss for each in ours] == pytest.approx([each.loss for each in theirs], rel=1e-4)


def test_one_process_decides_for_all(folder):
    assert (folder / "history-0").read_text() == (folder / "history-1").read_text()
    assert [(folder / f"first-{rank}").read_text() for rank in (0, 1)] == ["7", "7"]


def test_batches_too_small_to_share():
    config = TrainingConfig(batch_size=3)
    with pytest.raises(ValueError, match="batch_size and the training images must be at least 4 for 2 processes that"):
        TrainingState(network(), stripes(), config, 0, Team(0, 2))


def test_runs_shared_by_two_processes_are_those_of_one(folder, tmp_path):
    assert (folder / "process-0").read_text() == "[0, 2]"
    assert (folder / "process-1").read_text() == "[1]"
    with Workers(1) as workers:
        alone = workers.run(jobs_of(tmp_path), lambda place, event: None)
    assert [each.result().history for each in jobs_of(folder / "shared runs")] == [each.history for each in alone]


def report(path, without):
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in without}


def measured_alone(path, written):
    done = CliRunner().invoke(app, ["measure", str(path), "--json", str(written)])
    assert done.exit_code == 0, done.output
    return written


def test_layers_shared_by_two_processes_give_the_report_of_one(folder, tmp_path):
    alone = measured_alone(folder / "sharded", tmp_path / "alone.json")
    assert report(folder / "report.json", ["created"]) == report(alone, ["created"])
    assert report(folder / "together.json", ["created"]) == report(alone, ["created"])
    assert (folder / "printed").read_text().count("3 of 3 layers measured") == 2


def test_a_checkpoint_in_the_parts_of_two_processes_has_the_numbers_of_the_whole(folder, tmp_path):
    assert len(list((folder / "sharded").glob("*.distcp"))) == 2
    alone = measured_alone(folder / "whole.pt", tmp_path / "alone.json")
    differ = ["created", "sources"]
    assert report(folder / "report.json", differ) == report(alone, differ)


def test_hosts_that_see_different_files_say_so(folder):
    for rank in range(2):
        message = (folder / f"refused-{rank}").read_text()
        assert message.startswith("the processes must be given the same: rank 0 has ")
        assert "sharded/.metadata of " in message
        assert "where rank 1 has " in message
        assert "whole.pt of " in message


def test_torch_without_its_distributed_part_is_one_process(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_initialized")
    assert team() == Team()
