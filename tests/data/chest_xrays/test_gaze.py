import numpy as np
import pytest
from gaze_definition import blurred, in_frame, points_of
from hypothesis import given
from hypothesis import strategies as st

from ckrm_kernels.data.chest_xrays.frame import Frame
from ckrm_kernels.data.chest_xrays.gaze import SIGMA, gaze_map, read_points

HEADER = "SESSION_ID,MEDIA_ID,DICOM_ID,FPOGD,X_ORIGINAL,Y_ORIGINAL"
FRAME = Frame(640, 512, 2)


@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from([1, 4]))
def test_an_image_is_padded_and_cropped_about_its_middle(height, width, step):
    frame = Frame(64, 32, 2)
    image = np.arange(1, height * width + 1, dtype=np.float32).reshape(height, width)
    found = frame.sample(image, step)
    assert found.dtype == np.float32
    assert np.array_equal(found, in_frame(image, frame)[:: 2 * step, :: 2 * step])


def test_a_frame_knows_what_is_kept():
    assert Frame(3200, 2560, 5).image_size == (640, 512)
    assert Frame(3072, 2560, 2).image_size == (1536, 1280)


@pytest.mark.parametrize("size", [(640, 512), (500, 400), (701, 613), (640, 700), (120, 90)])
def test_a_gaze_map_is_the_blurred_count_at_some_pixels(size):
    random = np.random.default_rng(0)
    rows = [(random.integers(-50, size[1] + 50), random.integers(-50, size[0] + 50), 1.0) for _ in range(40)]
    points = points_of(*rows, (0, 0, 1.0), (size[1] - 1, size[0] - 1, 2.5), (size[1], 3, 9.0), (3, size[0], 9.0))
    found = gaze_map(points, size, FRAME, 32)
    expected = in_frame(blurred(points, size), FRAME)[::64, ::64]
    assert found.dtype == np.float32
    assert found.shape == (10, 8)
    assert found.max() == 1
    assert np.abs(found - expected / expected.max()).max() < 1e-6


def test_one_look_is_a_gaussian():
    """Far from every border: exp(-d^2 / (2 sigma^2)) of the distance to the point, which is on the grid."""
    found = gaze_map(points_of((1280, 1600, 1.0)), (3200, 2560), Frame(3200, 2560, 5), 32)
    assert SIGMA == 75.5
    assert found[10, 8] == 1
    assert found[10, 9] == pytest.approx(np.exp(-(160**2) / (2 * 75.5**2)), abs=1e-6)
    assert found[9, 7] == pytest.approx(np.exp(-2 * 160**2 / (2 * 75.5**2)), abs=1e-6)
    assert found[10, 10] == 0  # 320 pixels away, beyond the kernel


@pytest.mark.parametrize("rows", [[], [(-1, 5, 1.0)], [(5, 100, 1.0)], [(5, 5, 0.0)]])
def test_no_look_at_the_image_is_no_map(rows):
    assert gaze_map(points_of(*rows), (100, 80), FRAME, 32) is None


def test_points_are_read_by_image(tmp_path):
    path = tmp_path / "eye_gaze.csv"
    path.write_text(
        f"\ufeff{HEADER}\r\n"
        's,1,one,0.5,10,20\r\n"a session\r\nof two lines",1,two,0.25,-3.5,7.9\r\n'
        "s,1,calibration,9,not,numbers\r\ns,2,one,0.125,11,21.0\r\n",
        encoding="utf-8",
    )
    points = read_points(path, ["one", "two", "three"])
    assert {name: [list(values) for values in of_image] for name, of_image in points.items()} == {
        "one": [[10, 11], [20, 21], [1, 1]],
        "two": [[-4], [7], [1]],
    }
    assert list(read_points(path, ["one"], "FPOGD")["one"].weight) == [0.5, 0.125]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have the columns .*; without DICOM_ID, X_ORIGINAL, Y_ORIGINAL, FPOGD"),
        (HEADER.replace("Y_", "Z_"), "without Y_ORIGINAL"),
        (f"{HEADER}\ns,1,one,1,2\n", "line 2: must have 6 values, got 5"),
        (
            f"{HEADER}\ns,1,one,1,2,3\ns,1,one,1,here,3\n",
            r"line 3: .* must be finite numbers, got \['here', '3', '1'\]",
        ),
        (f"{HEADER}\ns,1,one,1,nan,3\n", "line 2: .* must be finite numbers"),
        (f"{HEADER}\ns,1,one,1,3,inf\n", "line 2: .* must be finite numbers"),
        (f"{HEADER}\ns,1,one,1,1e300,3\n", "line 2: .* must be finite numbers"),
        (f"{HEADER}\ns,1,one,-1,3,4\n", "line 2: FPOGD must be a finite number >= 0, got -1"),
        (f"{HEADER}\ns,1,one,nan,3,4\n", "line 2: FPOGD must be a finite number >= 0, got nan"),
        (f"{HEADER}\ns,1,\udcff,1,3,4\n", r"line \d: not a CSV file \('utf-8' codec"),
        (f"{HEADER}\n{'x' * 140_000},1,one,1,3,4\n", r"line \d: not a CSV file \(field larger"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, text, message):
    path = tmp_path / "fixations.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message) as caught:
        read_points(path, ["one"], "FPOGD")
    assert str(path) in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path / 'eye_gaze.csv'} is missing"):
        read_points(tmp_path / "eye_gaze.csv", ["one"])
