"""lambda^0.6 of one layer; of a layer whose Omega would take 134 MB, by this package alone."""

import pytest
from layers import SQUARE, layer
from peers import PEERS


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", SQUARE[1::2], ids=str)
def test_redundancy(compete, peer, layer):
    compete("redundancy", peer, layer, layer.weight())


@pytest.mark.parametrize("peer", PEERS[:1], ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", [layer("8192x64x3x3")], ids=str)
def test_redundancy_of_a_wide_layer(compete, peer, layer):
    compete("redundancy", peer, layer, layer.weight())
