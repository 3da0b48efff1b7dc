"""All pairs, forward."""

import pytest
from layers import OTHERS, SQUARE
from peers import PEERS


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", SQUARE + OTHERS, ids=str)
def test_pairwise_psi(compete, peer, layer):
    compete("pairwise", peer, layer, layer.weight())
