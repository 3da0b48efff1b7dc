"""Processes that tell each other of their failures, here as threads of one."""

from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from ckrm_kernels import distributed, failures
from ckrm_kernels.failures import Failures


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(failures, "_INTERVAL", 0.02)
    monkeypatch.setattr(failures, "_SILENCE", 0.5)
    monkeypatch.setattr(failures.socket, "gethostname", lambda: "here")
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    found = [Failures(store, rank, 3) for rank in range(3)]
    yield found
    for each in found:
        each.close()


def test_the_first_failure_is_what_the_others_name(three, monkeypatch):
    assert [each.of_another() for each in three] == [None] * 3
    three[1].report(OSError("no room"))
    three[2].report(ValueError("a consequence"))
    named = "rank 1 of 3 on here failed: no room"
    assert [each.of_another() for each in three] == [named, None, named]
    monkeypatch.setattr(distributed, "_failures", three[0])
    with pytest.raises(distributed.PeerError, match=named):
        distributed.stop_if_one_failed()


def test_an_error_that_speaks_to_nobody_is_named_by_its_kind(three):
    three[2].report(KeyError("weight"))
    assert three[0].of_another() == "rank 2 of 3 on here failed: KeyError 'weight'"


def test_who_ended_without_a_word_is_found_by_silence(three):
    assert three[0].gone() is None
    three[1].close()
    assert three[0].gone() == "rank 1 of 3 on here is gone: killed, or the host is down"
    three[2].close()
    assert three[0].gone() == "rank 1 of 3 on here, rank 2 of 3 on here are gone: killed, or the host is down"
