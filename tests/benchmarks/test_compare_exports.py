"""The comparison of the programs that run a network, on one small tomogram and with a stand-in for NNCF."""

import sys
from types import ModuleType, SimpleNamespace

import compare_exports
import pytest
import torch
from scripts.errors import InputError, InputWarning
from scripts.picks import Pick
from synthetic import make_species, noise, write_mrc

CENTRES = {"ribosome": [(6, 9, 11), (13, 20, 30)]}


@pytest.fixture
def nncf(monkeypatch):
    """A stand-in for NNCF that leaves the model as it is, and keeps what it was given."""
    given = SimpleNamespace(windows=[])

    def quantize(model, dataset, subset_size):
        given.windows, given.count = dataset, subset_size
        return model

    module = ModuleType("nncf")
    module.__spec__ = SimpleNamespace(name="nncf")
    module.Dataset, module.quantize = lambda items, transform: [transform(item) for item in items], quantize
    monkeypatch.setitem(sys.modules, "nncf", module)
    return given


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_every_program_gets_a_row(write_spheres, nncf, capsys):
    pytest.importorskip("openvino")
    data = write_spheres(["one"], CENTRES)
    words = [str(data), "--quantise_with", str(data), "--programs", "openvino int8,torch float32"]
    assert compare_exports.main(words) == 0
    header, _, torch_row, quantised_row = [cells(line) for line in capsys.readouterr().out.splitlines()[-4:]]
    assert header == cells(compare_exports.HEADER)
    assert len(torch_row) == len(quantised_row) == len(header)
    assert (torch_row[0], quantised_row[0]) == ("torch float32", "openvino int8")
    rows = [dict(zip(header, row, strict=True)) for row in (torch_row, quantised_row)]
    assert rows[0]["picks"] == rows[0]["with a twin"]
    assert float(rows[0]["probability"]) == 0
    assert 0 <= float(rows[1]["probability"]) < 0.001  # the stand-in leaves the network in float32
    assert [rows[1][name] for name in ("picks", "F1", "F4", "wrong picks")] == [
        rows[0][name] for name in ("picks", "F1", "F4", "wrong picks")
    ]
    assert nncf.count == len(nncf.windows) == compare_exports.QUANTISED_WINDOWS
    assert all(window.shape[:2] == (1, 1) and 0 <= window.mean() <= 1 for window in nncf.windows)


def test_picks_in_a_tomogram_without_particles_are_wrong(tmp_path):
    for run in ("full", "empty"):
        write_mrc(tmp_path / f"{run}.mrc", noise(0))
    (tmp_path / "truth.csv").write_text("experiment,particle_type,x,y,z\nfull,a,100,100,100\n")
    species = make_species(2)
    picks = [Pick("full", "a", 100, 100, 100), *(Pick("empty", "a", 10 * x, 50, 50) for x in range(1, 10))]
    outcome = compare_exports.Outcome(picks=picks, probabilities=[torch.zeros(1)])
    with pytest.warns(InputWarning, match="no particle of empty"):
        truth, runs = compare_exports.truth_in(tmp_path, species)
    row = list(compare_exports.row_of("one", outcome, outcome, species, truth, runs))
    assert (row[-4], row[-1]) == ("0.100", "9")


def test_what_is_not_installed_is_said(write_spheres, monkeypatch, capsys):
    monkeypatch.setitem(compare_exports.NEEDS, "int8", "a_package_that_nobody_has")
    compare_exports.main([str(write_spheres(["one"], CENTRES)), "--programs", "openvino int8"])
    assert capsys.readouterr().out.splitlines()[-1] == "| openvino int8 | not installed |"


def test_an_unknown_program_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--programs names some of torch float32, .*; got 'tensorflow'"):
        compare_exports.compare_all([tmp_path], ["tensorflow"], compare_exports.WEIGHTS, tmp_path)
