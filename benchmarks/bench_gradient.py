"""All pairs, forward and backward; the forward alone stands in bench_pairwise_psi.py."""

import pytest
from layers import SQUARE
from peers import PEERS


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", SQUARE[:3], ids=str)
def test_gradient(compete, peer, layer):
    compete("gradient", peer, layer, layer.weight())
