"""Programs of torch.export, read without loading them."""

import json
import warnings
import zipfile

import pytest
import torch
from damaged import check_damaged
from torch import nn

from ckrm_kernels.checkpoints.exported import is_exported, read_exported
from ckrm_kernels.checkpoints.stored import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch's own

OPERATORS = {
    "plain": ("Conv2d", 1),
    "grouped": ("Conv2d", 2),
    "up": ("ConvTranspose2d", 3),
    "volume": ("Conv3d", 1),
    "line": ("Conv1d", 6),
    "head": ("Linear", 1),
    "inside": ("Linear", 1),
    "frozen": ("Conv2d", 1),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2, bias=False)
        self.up = nn.ConvTranspose2d(6, 6, 3, groups=3)
        self.frozen = nn.Conv2d(6, 6, 1)
        self.volume = nn.Conv3d(6, 6, (1, 3, 3))
        self.line = nn.Conv1d(6, 6, 3, groups=6)
        self.head = nn.Linear(6, 5)
        self.inside = nn.Linear(5, 4)
        self.table = nn.Embedding(7, 4)
        self.register_buffer("mixing", torch.randn(4, 3))
        self.register_buffer("stack", torch.randn(2, 3, 3))

    def forward(self, x, index):
        x = self.up(self.grouped(self.norm(self.plain(x)).relu()))
        with torch.no_grad():  # a graph in the graph
            x = self.frozen(x)
        x = self.line(self.volume(x[:, :, None])[:, :, 0].mean(-1)).mean(-1)
        x = torch.cond(x.sum() > 0, lambda x: self.inside(x), lambda x: self.inside(-x), (self.head(x),))
        return ((x + self.table(index)) @ self.mixing) @ self.stack


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def exported(net):
    return torch.export.export(net, (torch.randn(1, 3, 9, 9), torch.tensor([1])))


@pytest.fixture(scope="module")
def file(exported, tmp_path_factory):
    return save(exported, tmp_path_factory.mktemp("exported") / "net.pt2")


def save(program, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    return path


def check_as_in(net, found):
    """Every weight with the operator, groups and values that the module itself has."""
    modules = dict(net.named_modules())
    for name, (operator, groups) in OPERATORS.items():
        tensor = found[f"{name}.weight"]
        assert (tensor.operator, tensor.groups, tensor.note) == (operator, groups, ""), name
        assert type(modules[name]).__name__ == operator
        assert torch.equal(tensor.read(), modules[name].weight)
        assert tensor.shape == tuple(modules[name].weight.shape)
        assert tensor.dtype == "float32"


def test_the_weights_of_a_program(net, file):
    found = {tensor.name: tensor for tensor in read_exported(file)}
    check_as_in(net, found)
    state = net.state_dict()
    assert set(state) <= set(found)
    for name, value in state.items():
        if value.dim() < 2:
            assert torch.equal(found[name].read(), value)
            assert found[name].operator == ""
    assert found["table.weight"].read is None
    assert found["table.weight"].note == "embedding, no filters"
    assert found["stack"].note == "multiplied as a stack of matrices, 3 dimensions"
    # a matrix (F1, F2) on the right of a product is given as a Linear's
    assert (found["mixing"].operator, found["mixing"].shape) == ("Linear", (3, 4))
    assert torch.equal(found["mixing"].read(), state["mixing"].t())


def test_the_weights_of_a_program_in_core_operators(net, exported, tmp_path):
    found = {tensor.name: tensor for tensor in read_exported(save(exported.run_decompositions(), tmp_path / "a.pt2"))}
    check_as_in(net, found)


@pytest.mark.parametrize("core", [False, True])
def test_weights_that_the_program_computes(tmp_path, core):
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=2))
            self.standard = nn.Conv2d(4, 4, 3)
            self.moved = nn.Conv2d(4, 4, 3)
            self.scaled, self.scale = nn.Conv2d(4, 4, 1), nn.Parameter(torch.rand(4))
            self.dynamic = nn.Linear(4, 36)

        def forward(self, x):
            x = self.normed(x)
            weight = self.standard.weight
            x = nn.functional.conv2d(x, (weight - weight.mean()) / weight.std())
            x = nn.functional.conv2d(x, self.moved.weight.transpose(0, 1))
            x = nn.functional.conv2d(x, self.scaled.weight * self.scale[:, None, None, None])
            kernel = self.dynamic(x.mean((0, 2, 3))).view(1, 4, 3, 3)
            return nn.functional.conv2d(x, kernel)

    net = Changed()
    program = torch.export.export(net, (torch.randn(2, 4, 12, 12),))
    program = program.run_decompositions() if core else program
    found = {tensor.name: tensor for tensor in read_exported(save(program, tmp_path / "a.pt2"))}
    kept = found["normed.parametrizations.weight.original1"]
    assert (kept.operator, kept.groups, kept.note) == ("Conv2d", 2, "")  # put together by who reads state dicts
    assert torch.equal(kept.read(), net.normed.parametrizations.weight.original1)
    for name in ("standard", "scaled"):
        assert found[f"{name}.weight"].note == "as stored, the program changes it before it is used"
        assert torch.equal(found[f"{name}.weight"].read(), net.get_submodule(name).weight)
    assert found["moved.weight"].read is None
    assert "another order" in found["moved.weight"].note
    assert (found["dynamic.weight"].operator, found["dynamic.weight"].note) == ("Linear", "")


def test_views_shared_storages_and_half_types(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.randn(8, 3, 3, 6)
            self.register_buffer("left", whole[..., ::2])
            self.register_buffer("right", whole[..., 1::2])
            self.low = nn.Conv2d(3, 4, 3).to(torch.bfloat16)

        def forward(self, x):
            both = nn.functional.conv2d(x, self.left) + nn.functional.conv2d(x, self.right)
            return both, self.low(x.to(torch.bfloat16))

    net = Views()
    program = torch.export.export(net, (torch.randn(1, 3, 5, 5),))
    found = {tensor.name: tensor for tensor in read_exported(save(program, tmp_path / "a.pt2"))}
    for name in ("left", "right", "low.weight"):
        assert torch.equal(found[name].read(), net.state_dict()[name])
    assert found["low.weight"].dtype == "bfloat16"


def rewritten(path, to, change):
    """The archive with each member's content changed; None leaves a member out."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return to


def test_a_file_with_several_programs(file, tmp_path):
    from torch.export.pt2_archive._package import package_pt2

    programs = {name: torch.export.export(nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 5, 5),)) for name in ("one", "two")}
    package_pt2(str(tmp_path / "a.pt2"), exported_programs=programs)
    names = [tensor.name for tensor in read_exported(tmp_path / "a.pt2")]
    assert names == ["one.weight", "one.bias", "two.weight", "two.bias"]


def test_what_holds_no_program(file, tmp_path):
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/aotinductor/model/c123.so", "x")
        archive.writestr("a/archive_format", "pt2")
    with pytest.raises(CheckpointError, match=r"a\.pt2: is an AOTInductor package, which holds compiled code"):
        read_exported(path)
    rewritten(file, path, lambda name, content: None if "/models/" in name else content)
    with pytest.raises(CheckpointError, match=r"a\.pt2: is a program of torch.export without its graph"):
        read_exported(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(CheckpointError, match=r"or of a torch before 2\.9: load it there"):
        read_exported(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/models/model.json", "{}")
        archive.writestr("a/data/weights/model.pt", "x")
    with pytest.raises(CheckpointError, match=r"or of a torch before 2\.9: load it there"):
        read_exported(path)
    rewritten(file, path, lambda name, content: b"big" if name.endswith("byteorder") else content)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_exported(path)


def test_how_its_files_are_known(file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        assert is_exported(archive.namelist())
    assert not is_exported(["a/data.pkl", "a/data/0"])
    assert not is_exported(["a.npy"])


def test_tensor_subclasses_are_not_read(file, tmp_path):
    def pickled(name, content):
        if not name.endswith("weights_config.json"):
            return content
        config = json.loads(content)
        config["config"]["plain.weight"]["use_pickle"] = True
        return json.dumps(config)

    found = {each.name: each for each in read_exported(rewritten(file, tmp_path / "a.pt2", pickled))}
    assert found["plain.weight"].read is None
    assert found["plain.weight"].note == "a tensor subclass, which is not read"


def test_damaged_programs(tmp_path):
    program = torch.export.export(nn.Conv2d(1, 2, 2), (torch.randn(1, 1, 3, 3),))
    check_damaged(read_exported, save(program, tmp_path / "a.pt2"), 200)


@pytest.mark.parametrize(
    "key", ["graph_module", "graph", "signature", "nodes", "inputs", "target", "input_specs", "sizes"]
)
def test_a_program_whose_json_is_another(file, tmp_path, key):
    def changed(name, content):
        return content.replace(f'"{key}"'.encode(), b'"other"') if name.endswith(".json") else content

    with pytest.raises(CheckpointError, match=r"a\.pt2: is a program of torch\.export, truncated or damaged"):
        read_exported(rewritten(file, tmp_path / "a.pt2", changed))
