"""The same arithmetic in other systems, each in its best form: what the kernels of this package are timed beside."""

from peers.base import Peer
from peers.compiled import Compiled
from peers.eager import Eager
from peers.jax_jit import JaxJit
from peers.keops import KeOps
from peers.numba_loops import NumbaLoops
from peers.ours import Ours

PEERS: list[Peer] = [Ours(), Eager(), Compiled(), NumbaLoops(), JaxJit(), KeOps()]

__all__ = ["PEERS", "Peer"]
