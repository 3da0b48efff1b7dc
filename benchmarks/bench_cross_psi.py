"""All filters of one layer with all of another, such as one layer trained from two seeds."""

import pytest
from layers import layer
from peers import PEERS


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", [layer("256x256x3x3")], ids=str)
def test_cross_psi(compete, peer, layer):
    slice_pairs = layer.filters**2 * layer.slices
    compete("cross", peer, layer, layer.weight(0), layer.weight(1), slice_pairs=slice_pairs)
