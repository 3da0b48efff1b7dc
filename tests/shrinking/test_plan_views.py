"""What the views of a plan show of it."""

import csv
import io
import json
import re
from dataclasses import asdict, fields, replace

import pytest
from hand_made_plan import FIRST, HEADS, NOTHING, PLAN, ROUNDED, SECOND

from ckrm_kernels.shrinking.rows import ShrunkLayer
from ckrm_kernels.shrinking.views.figure import figure
from ckrm_kernels.shrinking.views.table import lines
from ckrm_kernels.shrinking.views.words import proved, verdict


def test_the_verdict_counts_filters_and_says_what_is_left():
    # 8 - 3, 8 - 4 and 4 - 1 filters of three layers
    wanted = "12 filters leave 3 of 6 layers: 50.0% of the parameters and 20.0% of the multiply-adds are left."
    assert verdict(PLAN) == wanted
    assert verdict(NOTHING) == "No filter leaves any of 2 layers."


def test_what_is_proved_is_of_the_couplings_that_lose_filters():
    assert proved(PLAN) == (
        "Proved of 2 of 3 couplings, to 1e-15 of the output's scale, in float64; "
        "of 1 coupling only the shape is proved (statistics change: LayerNorm)."
    )
    exact = {name: proof for name, proof in PLAN.proof.items() if proof.exact}
    assert proved(replace(PLAN, layers=(FIRST,), proof=exact)) == (
        "Proved: without these filters it is the network that ignores them, to 3e-16 of the output's scale, in float64."
    )
    together = replace(PLAN, layers=(FIRST,), proof=exact, deviation=2e-15)
    assert proved(together).endswith("to 2e-15 of the output's scale, in float64.")
    assert proved(NOTHING) == "Nothing was removed, so there is nothing to prove."


def test_the_table_has_the_totals_a_line_a_layer_and_the_others_by_reason():
    text = str(PLAN)
    assert re.search(r"^parameters +2,000,000 +1,000,000 +50.0%$", text, re.MULTILINE)
    assert re.search(r"^one forward +4 ms +3 ms +75.0%$", text, re.MULTILINE)
    assert re.search(r"^block\.first +Conv2d +8 +3 +0\.1250 +0\.2500 +0\.0625 +0\.75 +3e-16$", text, re.MULTILINE)
    assert re.search(r"^rounded +Conv2d +other +8 +3 +4 .*rounded up to multiples of 4$", text, re.MULTILINE)
    assert re.search(r"^block\.second +Conv2d +8 +8 +0\.5000 +0\.0312 ", text, re.MULTILINE)
    assert "2 unchanged: its filters are the model's output (a, b<b>)" in text
    assert f"1 unchanged: {SECOND.why} (block.second)" in text
    assert "note: calibrated with 256 images" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [48, 80, 120])
def test_the_table_keeps_within_a_width_and_loses_no_layer(width):
    text = [line.text for line in lines(PLAN, width)]
    assert max(map(len, text)) <= width
    assert sum(bool(re.match(r"b\S*first .*8 +3\b", line)) for line in text) == 1
    assert any("rounded up" in line for line in text) or width == 48


def test_a_plan_that_removes_nothing_has_its_reasons_and_no_table():
    text = str(NOTHING)
    assert "2 unchanged: its filters are the model's output" in text
    assert "filters --" not in text


def test_json_has_every_field():
    value = json.loads(PLAN.to_json())
    assert [layer["name"] for layer in value["layers"]] == [layer.name for layer in PLAN.layers]
    assert value["layers"][0] == json.loads(json.dumps(asdict(FIRST)))
    assert value["after"]["parameters"] == 1_000_000
    assert value["proof"]["other"] == {"deviation": 1e-15, "exact": True, "reason": ""}
    assert (value["verdict"], value["budget"], value["notes"]) == (verdict(PLAN), PLAN.budget, list(PLAN.notes))


def test_csv_reads_back(tmp_path):
    PLAN.to_csv(tmp_path / "plan.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "plan.csv").read_text())))
    assert set(rows[0]) == {field.name for field in fields(ShrunkLayer)}
    assert rows[0]["kept"] == "0 2 5"
    assert float(rows[0]["deviation"]) == FIRST.deviation
    assert (rows[4]["error"], rows[4]["why"]) == ("", HEADS[0].why)


def test_the_data_frame_is_a_row_a_layer():
    frame = PLAN.to_pandas()
    assert list(frame["reached"]) == [3, 8, 4, 1, 2, 2]
    assert frame["kept"][2] == ROUNDED.kept
    assert frame.attrs["budget"] == PLAN.budget


def test_the_page_opens_with_the_totals_then_the_proof_the_figure_and_the_table():
    page = PLAN.to_html()
    found = [page.index(each) for each in (verdict(PLAN), "1,000,000", proved(PLAN).split("'")[0], "<svg", "<table>")]
    assert found == sorted(found)
    assert "b&lt;b&gt;" in page
    assert "b<b>" not in page
    assert "2: its filters are the model&#39;s output" in page
    assert page.index("<table>") < page.index("Layers that stay as they are")
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<table>" not in NOTHING.to_html()


def test_the_figure_has_a_bar_for_each_layers_width_before_and_after(tmp_path):
    drawn = figure(PLAN)
    bars = [[patch.get_width() for patch in container] for container in drawn.axes[0].containers]
    assert bars == [[8, 8, 8, 4, 2, 2], [3, 8, 4, 1, 2, 2]]
    PLAN.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
