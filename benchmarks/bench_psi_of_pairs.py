"""Listed pairs, in no order."""

import pytest
from checks import random_pairs
from layers import layer
from peers import PEERS

PAIRS = 20_000


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("layer", [layer("512x512x3x3")], ids=str)
def test_psi_of_pairs(compete, peer, layer):
    pairs = random_pairs(layer.filters, PAIRS)
    compete("listed", peer, layer, layer.weight(), pairs, slice_pairs=PAIRS * layer.slices)
