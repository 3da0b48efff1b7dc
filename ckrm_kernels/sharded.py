"""Weights whose parts lie with several processes: DTensors of FSDP2, tensor parallelism, or any mesh and placement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from ckrm_kernels.distributed import ALONE, Team, team_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def is_sharded(weight: Tensor) -> bool:
    """Whether it is a DTensor, of whose numbers this process may have a part only."""
    return hasattr(type(weight), "full_tensor")  # of the type: torch.compile finds no methods on instances


def gathered(weight: Tensor) -> Tensor:
    """The whole weight, which every process of its mesh must ask for; the weight itself where it is whole."""
    return weight.full_tensor() if is_sharded(weight) else weight  # type: ignore[attr-defined]


def gathered_by(rank: int, weight: Tensor, team: Team) -> Tensor | None:
    """The whole of a sharded weight for one process of the team, all of which must call; None for the others."""
    if not _is_cut_evenly(weight, team):
        whole = gathered(weight)
        return whole if team.rank == rank else None
    part = own_part(weight).detach().contiguous()
    if team.rank != rank:
        distributed.gather(part, group=team.group, group_dst=rank)
        return None
    whole = part.new_empty(weight.shape)
    distributed.gather(part, list(whole.chunk(team.size)), group=team.group, group_dst=rank)
    return whole


def _is_cut_evenly(weight: Any, team: Team) -> bool:
    """Whether the processes of the team, in their order, have as many filters of the weight each."""
    from torch.distributed.tensor import Shard

    mesh = weight.device_mesh
    ranks = [team.rank_of_all(rank) for rank in range(team.size)]
    in_rows = mesh.ndim == 1 and tuple(weight.placements) == (Shard(0),) and len(weight) % team.size == 0
    return in_rows and mesh.mesh.tolist() == ranks


def without_values(weight: Tensor) -> Tensor:
    """A tensor of the shape and dtype of the whole weight, on the meta device."""
    return torch.empty(weight.shape, dtype=weight.dtype, device="meta")


def own_part(weight: Tensor) -> Tensor:
    """What this process has of a sharded weight."""
    part: Tensor = weight.to_local()  # type: ignore[attr-defined]
    return part


def team_for(group: ProcessGroup | None, sources: Any) -> Team:
    """The processes of the group; with None those of the mesh that the weights are sharded over, or this one alone.

    sources: a tensor, a module, or several of them
    Raises what `team_of` does, and ValueError where the weights lie with processes that are not in the group, or on
    meshes of which no single group is known.
    """
    meshes = {tuple(mesh.mesh.flatten().tolist()): mesh for mesh in _meshes(sources)}
    if group is None:
        return _team_of_meshes(list(meshes.values()))
    team = team_of(group)
    members = set(distributed.get_process_group_ranks(group))
    for ranks in meshes:
        if not members.issuperset(ranks):
            raise ValueError(f"group: it holds the ranks {sorted(members)}, but weights are sharded over {list(ranks)}")
    return team


def _team_of_meshes(meshes: list[Any]) -> Team:
    if not meshes:
        return ALONE
    if len(meshes) == 1 and meshes[0].size() == distributed.get_world_size():
        return team_of(distributed.group.WORLD)
    if len(meshes) == 1 and meshes[0].ndim == 1:
        return team_of(meshes[0].get_group())
    raise ValueError("pass group=, a process group: weights are sharded over meshes that no single group is known of")


def _meshes(sources: Any) -> Iterator[Any]:
    """The meshes of the sharded tensors among the sources."""
    for source in sources if isinstance(sources, (list, tuple)) else [sources]:
        held: Any = source.parameters() if isinstance(source, nn.Module) else [source]
        yield from (each.device_mesh for each in held if is_sharded(each))
