import json

import pytest

from ckrm_kernels.storage.run_folders import finished_run


def finished(folder):
    folder.mkdir(parents=True)
    for name in ("weights.safetensors", "run.json"):
        (folder / name).touch()
    return folder


@pytest.fixture
def search(tmp_path):
    for network in ("round-0", "round-3", "uniform"):
        for seed in (0, 2, 10):
            finished(tmp_path / "networks" / network / f"seed-{seed}")
    (tmp_path / "networks" / "round-3" / "seed-10" / "run.json").unlink()  # in training
    (tmp_path / "state.json").touch()
    folders = {"standard": "networks/round-0", "searched": "networks/round-3", "uniform": "networks/uniform"}
    (tmp_path / "networks.json").write_text(json.dumps(folders))
    return tmp_path


def test_the_folder_of_a_seed_of_all_seeds_and_of_a_search(search):
    networks = search / "networks"
    seed = networks / "round-3" / "seed-2"
    assert finished_run(seed) == finished_run(str(seed)) == seed
    assert finished_run(networks / "uniform") == networks / "uniform" / "seed-0"
    assert finished_run(networks / "uniform", seed=10) == networks / "uniform" / "seed-10"
    assert finished_run(search) == finished_run(search, "searched") == networks / "round-3" / "seed-0"
    assert finished_run(search, "standard", seed=2) == networks / "round-0" / "seed-2"


def test_a_search_that_narrowed_nothing_ended_with_the_standard_network(search):
    (search / "networks.json").write_text('{"standard": "networks/round-0"}')
    assert finished_run(search) == search / "networks" / "round-0" / "seed-0"
    with pytest.raises(ValueError, match=r"which must be one of standard, which .* holds, got 'searched'"):
        finished_run(search, "searched")


def test_folders_refused(search, tmp_path_factory):
    networks, empty = search / "networks", tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        finished_run(search / "nowhere")
    with pytest.raises(ValueError, match=f"{empty} holds no trained network"):
        finished_run(empty)
    with pytest.raises(ValueError, match=r"seed must be one of 0, 2, which .*round-3 holds, got 10"):
        finished_run(search, seed=10)
    with pytest.raises(ValueError, match=r"which must be left out, .* holds no search of `ckrm search`, got 'uniform'"):
        finished_run(networks / "uniform", "uniform")
    with pytest.raises(ValueError, match=r"seed must be left out, .*seed-2 holds one network, got 2"):
        finished_run(networks / "uniform" / "seed-2", seed=2)
    (search / "networks.json").unlink()
    with pytest.raises(ValueError, match=f"is not finished; `ckrm search --resume {search}` goes on with it"):
        finished_run(search)
