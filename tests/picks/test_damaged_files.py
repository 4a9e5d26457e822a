"""Files of picks that were cut, saved in another encoding or damaged: read right, or refused with file and row."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from pick_files import SHAPE
from scripts.errors import InputError
from scripts.picks import FORMATS, Facts, Pick, xyz_angstrom_of

FACTS = Facts("A", "ribosome", 10.0, SHAPE, binning=1)
PLACES = [(11.0, 9.0, 6.0), (30.25, 20.5, 13.75), (5.0, 6.0, 7.0)]
PICKS = [Pick("A", "ribosome", 10 * x, 10 * y, 10 * z, 0.75, x_voxel=x, y_voxel=y, z_voxel=z) for x, y, z in PLACES]
SECOND = {"csv": "row 3", "copick": "point 2"} | dict.fromkeys(["relion5", "relion4", "warp"], "particle 2")
SECOND |= dict.fromkeys(["imod", "dynamo", "ndjson", "coords"], "row 2")


@pytest.fixture(params=FORMATS)
def form(request):
    return FORMATS[request.param]


@pytest.fixture
def path(form, tmp_path):
    ((path, own, facts),) = form.paths_for(tmp_path / f"a{form.ending}", PICKS, FACTS)
    form.write(path, own, facts)
    return path


def places_in(form, path):
    return xyz_angstrom_of(form.read(path, FACTS)) / FACTS.voxel_size_angstrom


def refusal(form, path):
    with pytest.raises(InputError) as caught:
        form.read(path, FACTS)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    return line


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
        lambda text: text.rstrip(b"\n"),
        lambda text: text + b"\n\n",
    ],
    ids=["byte order mark", "CRLF", "both", "no last line break", "empty lines"],
)
def test_a_file_of_another_editor_is_read_right(form, path, change):
    path.write_bytes(change(path.read_bytes()))
    assert places_in(form, path) == pytest.approx(np.array(PLACES))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_refused(form, path, encoding):
    path.write_bytes(path.read_text().encode(encoding))
    assert re.search(r"is not UTF-8 text: .* Save it as UTF-8\.", refusal(form, path))


@pytest.mark.parametrize("bad", ["inf", "nan", "1e999"])
def test_a_place_that_is_not_finite_is_refused_with_its_row(form, path, bad):
    text = path.read_text()
    assert spoil(form, text, bad) != text
    path.write_text(spoil(form, text, bad))
    assert SECOND[form.name] in refusal(form, path)


def test_a_decimal_comma_is_refused_with_its_row(form, path):
    path.write_text(spoil(form, path.read_text(), "30,25"))
    assert re.search("point, not a comma|not valid JSON", refusal(form, path))


def spoil(form, text, value):
    """Return the text with another x of the second particle."""
    x = {"csv": "302.500", "copick": "302.5", "relion5": "122.5", "imod": "30.7500", "dynamo": "30.7500"}
    old = x.get(form.name, "30.2500" if form.name == "coords" else "30.25")
    value = {"inf": "Infinity", "nan": "NaN"}.get(value, value) if form.name in ("copick", "ndjson") else value
    return re.sub(rf"(?<![\d.]){re.escape(old)}0*(?![\d.])", value, text, count=1)


def test_a_file_cut_within_a_row_is_refused(form, path):
    text = path.read_text().rstrip()
    path.write_text(text[: text.rindex("\n") + 4] if "\n" in text else text[: len(text) // 2])
    refusal(form, path)


def test_an_empty_file_is_a_table_without_picks_only_where_the_format_has_no_header(form, path):
    path.write_bytes(b"")
    if form.name in ("imod", "dynamo", "ndjson", "coords"):
        assert form.read(path, FACTS) == []
    else:
        refusal(form, path)


def test_a_header_alone_is_a_table_without_picks(form, path):
    form.write(path, [], FACTS)
    assert form.read(path, FACTS) == []


def test_bytes_of_another_kind_are_refused(form, path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    refusal(form, path)


def test_copick_in_voxels_or_without_points_is_refused(tmp_path):
    form, path = FORMATS["copick"], tmp_path / "a.json"
    form.write(path, PICKS, FACTS)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "unit": "voxel"}))
    assert "coordinates must be in angstrom; its unit is 'voxel'" in refusal(form, path)
    path.write_text("{}")
    assert "is not a copick file of picks" in refusal(form, path)
    path.write_text(json.dumps({**content, "points": []}))
    assert form.read(path, FACTS) == []


def test_a_radius_that_is_not_positive_is_refused(tmp_path):
    form, path = FORMATS["csv"], tmp_path / "a.csv"
    form.write(path, [replace(pick, radius_angstrom=-150.0) for pick in PICKS], FACTS)
    assert "row 2: radius_angstrom must be positive; got '-150.000'." in refusal(form, path)
