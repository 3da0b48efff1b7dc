"""The network that CONTRIBUTING.md shows is one: trained, narrowed and written as any other."""

import re
import sys
from pathlib import Path

import pytest

from ckrm_kernels.models import Network
from ckrm_kernels.width_search.config import WidthSearchConfig

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def two_convolutions(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    from my_networks import TwoConvolutions

    yield TwoConvolutions
    sys.modules.pop("my_networks")


def test_the_network_of_the_page(two_convolutions):
    from ckrm_kernels.storage.settings import as_json, read_config, typed

    config = read_config(WidthSearchConfig(), None, ["network=my_networks:TwoConvolutions", "rule.tied=stage"])
    assert config.network == two_convolutions()
    narrowed: Network = config.network.with_widths({"first": 5})
    assert narrowed.build()[0].weight.shape == (5, 1, 3, 3)
    assert narrowed.widths() == {"first": 5, "second": 32}
    settings = as_json(config)
    settings.pop("version")
    assert typed(WidthSearchConfig, settings, "the configuration") == config
