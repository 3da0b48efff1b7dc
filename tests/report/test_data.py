"""The report as JSON, CSV and a data frame."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pandas
import pytest
from hand_made import EVERYTHING, NASTY, layer, report

from ckrm_kernels import RedundancyReport

SEVERAL = report(layer(NASTY, 0.5, 0.1, scale_free=(0.4, 0.2, 30), models=3), *EVERYTHING.layers[-2:], models=3)


@pytest.fixture(params=[EVERYTHING, SEVERAL], ids=["one model", "three models"])
def of(request: pytest.FixtureRequest) -> RedundancyReport:
    return request.param


def rows(of: RedundancyReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(of.to_csv())))


def test_json_has_every_field_and_is_finite(of):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    value = json.loads(of.to_json(), parse_constant=refuse)
    fields = {field.name for field in dataclasses.fields(of)} - {"whole"}
    assert set(value) == fields | {"verdict"}
    assert value["sources"] == [dataclasses.asdict(source) for source in of.sources]
    assert value["similarity"] == dataclasses.asdict(of.similarity)
    for name in ("threshold", "models", "pointwise", "created", "versions"):
        assert value[name] == getattr(of, name)
    for row, each in zip(value["layers"], of.layers, strict=True):
        expected = {**dataclasses.asdict(each), "finding": each.finding, "median_psi": each.quantile(0.5)}
        if each.patterns is None:  # which was not asked for
            del expected["patterns"]
        assert row == json.loads(json.dumps(expected))


def test_csv_has_a_row_a_layer(of):
    for row, each in zip(rows(of), of.layers, strict=True):
        assert (row["name"], row["status"], row["reason"]) == (each.name, each.status, each.reason)
        for name in ("redundancy", "live_redundancy", "dead"):
            value = getattr(each, name)
            assert row[name] == ("" if value is None else repr(value))
        for name in ("per_model", "chance_per_model", "distinct_per_model", "dead_per_model"):
            assert row[name].split() == [repr(value) for value in getattr(each, name)]
        scale_free = each.scale_free
        assert row["scale_free_redundancy"] == ("" if scale_free is None else repr(scale_free.redundancy))
        assert row["scale_free_per_model"].split() == [repr(v) for v in (scale_free.per_model if scale_free else ())]
        assert row["finding"] == (each.finding or "")
        assert row["kernel_size"] == "x".join(map(str, each.kernel_size or ()))
        assert not any("histogram" in name for name in row)
        assert None not in row


def test_csv_says_in_every_row_what_it_was_made_from(of):
    for row in rows(dataclasses.replace(of, notes=("no groups", "the ema weights"))):
        assert json.loads(row["sources"])[0]["sha256"] == "0123456789abcdef" * 4
        assert json.loads(row["versions"]) == of.versions
        assert json.loads(row["similarity"]) == dataclasses.asdict(of.similarity)
        assert (row["threshold"], row["models"], row["pointwise"]) == ("0.6", str(of.models), "skip")
        assert (row["created"], row["notes"]) == (of.created, "no groups; the ema weights")


def test_pandas_reads_the_csv_as_it_is(of):
    frame = pandas.read_csv(io.StringIO(of.to_csv()))
    assert list(frame["name"]) == [each.name for each in of.layers]
    measured = frame[frame["status"] == "measured"]
    assert list(measured["redundancy"]) == [each.redundancy for each in of.measured]


def test_a_data_frame_has_a_row_a_layer(of):
    frame = of.to_pandas()
    assert list(frame["name"]) == [each.name for each in of.layers]
    measured = frame[frame["status"] == "measured"]
    assert list(measured["redundancy"]) == [each.redundancy for each in of.measured]
    assert list(measured["scale_free_chance"]) == [each.scale_free.chance for each in of.measured]
    assert list(measured["median_psi"].dropna()) == [each.quantile(0.5) for each in of.measured if each.pairs]
    assert frame.loc[frame["status"] == "skipped", "redundancy"].isna().all()
    assert frame.attrs["sources"][0]["name"] == "weights/model.safetensors"
    assert frame.attrs["versions"] == of.versions


@pytest.mark.parametrize("view", ["json", "csv", "html"])
def test_a_path_is_written_and_nothing_returned(view, of, tmp_path):
    to = getattr(of, f"to_{view}")
    for path in (tmp_path / f"a.{view}", str(tmp_path / "new" / f"b.{view}")):
        assert to(path) is None
    text = to()
    assert type(text) is str
    assert (tmp_path / f"a.{view}").read_text() == (tmp_path / "new" / f"b.{view}").read_text() == text


def test_a_path_that_can_not_be_written_is_named(of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/x\.json can't be written"):
        of.to_json(tmp_path / "file" / "x.json")
