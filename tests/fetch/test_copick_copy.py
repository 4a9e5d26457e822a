"""Copying projects that copick opens."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from remote_pyramid import LEVELS, run
from scripts.copick_tree import project_roots
from scripts.datasets.truth import list_labelled_runs
from scripts.fetch import copick_copy
from scripts.volumes.ome_zarr import load_ome_zarr
from trees import runs_in


class Pick(SimpleNamespace):
    """A substitute for copick's object for a file of picks."""

    def load(self):
        content = {"pickable_object_name": self.pickable_object_name, "user_id": self.user_id, "run_name": None}
        content |= {"session_id": self.session_id, "unit": "angstrom", "points": [], "portal_metadata": {"id": 1}}
        return SimpleNamespace(model_dump=lambda mode: dict(content))


def make_run(store, name, tomograms=((10.0, "wbp", "TS_1"),), users=("me",)):
    picks = [Pick(pickable_object_name="ribosome", user_id=user, session_id="1") for user in users]
    spacings = []
    for size, kind, remote_name in tomograms:
        root = SimpleNamespace(map=SimpleNamespace(fs=store, root=f"/data/{remote_name}.zarr"))
        tomogram = SimpleNamespace(tomo_type=kind, zarr=lambda root=root: root)
        spacings.append(SimpleNamespace(voxel_size=size, tomograms=[tomogram]))
    return SimpleNamespace(name=name, picks=picks, voxel_spacings=spacings)


@pytest.fixture
def open_runs(tmp_path, monkeypatch):
    """Make copick find these runs, and return the path of their config."""

    def prepare(*runs, **facts):
        monkeypatch.setattr(copick_copy, "_open_project", lambda config: SimpleNamespace(runs=runs))
        config = tmp_path / "remote.json"
        facts = {"name": "far away", "pickable_objects": [{"name": "ribosome", "is_particle": True}], **facts}
        config.write_text(json.dumps(facts))
        return str(config)

    return prepare


def test_a_failing_run_does_not_stop_the_others(remote, open_runs, tmp_path, capsys):
    config = open_runs(
        make_run(remote, "A", [(10.0, "wbp", "nowhere")]), make_run(remote, "B"), make_run(remote, "../C")
    )
    assert run(tmp_path / "here", url=config) == 1
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.startswith("A failed: memory:///data/nowhere.zarr holds no Zarr metadata")
    assert second == "B: 1 files of picks, wbp 10 Å"
    assert third == "../C failed: the run '../C' holds a slash; a file or folder is called after it. Rename it."
    assert err == "error: 2 of 3 runs failed: A, ../C.\n"
    assert runs_in(tmp_path / "here") == ["B"]


def test_a_run_that_copick_cannot_read_is_one_line(remote, open_runs, tmp_path, capsys):
    class Broken:
        name = "A"

        @property
        def picks(self):
            raise IndexError("list index out of range")

    assert run(tmp_path / "here", url=open_runs(Broken(), make_run(remote, "B"))) == 1
    assert "A failed: run 'A': IndexError: list index out of range." in capsys.readouterr().out
    assert runs_in(tmp_path / "here") == ["B"]


def test_of_a_kind_at_several_voxel_sizes_the_nearest_comes(remote, open_runs, tmp_path):
    remote.cp("/data/TS_1.zarr", "/data/other.zarr", recursive=True)
    path = "/data/other.zarr/.zattrs"
    remote.pipe(path, remote.cat(path).replace(b"10.0", b"7.84"))
    tomograms = [(7.84, "wbp", "other"), (5.0, "wbp", "TS_1"), (5.0, "denoised", "TS_1")]
    config = open_runs(make_run(remote, "A", tomograms))
    assert run(tmp_path / "here", "--kind", "wbp", url=config) == 0
    runs = tmp_path / "here/static/ExperimentRuns/A"
    assert [str(path.relative_to(runs)) for path in runs.glob("*/*")] == ["VoxelSpacing10.000/wbp.zarr"]
    volume, size = load_ome_zarr(runs / "VoxelSpacing10.000/wbp.zarr")
    assert np.array_equal(volume, LEVELS[1])
    assert size == (10.0, 10.0, 10.0)


def test_a_tomogram_that_cannot_be_read_leaves_the_others_of_its_kind(remote, open_runs, tmp_path, capsys):
    broken = make_run(remote, "A", [(20.0, "wbp", "nowhere"), (5.0, "wbp", "TS_1"), (9.0, "wbp", "broken")])
    broken.voxel_spacings[2].tomograms[0].zarr = lambda: {}["zarr"]
    assert run(tmp_path / "here", url=open_runs(broken)) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "A: a tomogram of kind wbp is left out: wbp at 9 Å of run 'A': KeyError: 'zarr'."
    assert second.startswith(
        "A: a tomogram of kind wbp is left out: memory:///data/nowhere.zarr holds no Zarr metadata"
    )
    assert last == "A: 1 files of picks, wbp 10 Å"
    assert runs_in(tmp_path / "here") == ["A"]


def test_a_kind_of_which_no_tomogram_can_be_read_is_refused_with_the_nearest(remote, open_runs, tmp_path, capsys):
    tomograms = [(20.0, "wbp", "far"), (10.0, "wbp", "near"), (10.0, "denoised", "TS_1")]
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A", tomograms))) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("A failed: memory:///data/near.zarr holds no Zarr metadata")


def test_a_folder_that_rounds_the_voxel_size_keeps_its_name(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A", [(10.03, "wbp", "TS_1")]))) == 0
    assert runs_in(tmp_path / "here", 10.03) == ["A"]


@pytest.mark.parametrize(
    ("patterns", "users"),
    [(None, ["me", "you"]), ("me/1", ["me"]), ("*/1", ["me", "you"]), ("you/1, me/1", ["me", "you"]), ("none", [])],
)
def test_picks_are_chosen_by_user_and_session(patterns, users, remote, open_runs, tmp_path):
    config = open_runs(make_run(remote, "A", users=("me", "you")))
    assert run(tmp_path / "here", *([] if patterns is None else ["--picks", patterns]), url=config) == 0
    folder = tmp_path / "here/overlay/ExperimentRuns/A/Picks"
    assert sorted(path.name for path in folder.glob("*")) == [f"{user}_1_ribosome.json" for user in users]


def test_picks_lose_nothing_but_the_portals_remarks(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"))) == 0
    content = json.loads((tmp_path / "here/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json").read_text())
    expected = {"pickable_object_name": "ribosome", "user_id": "me", "session_id": "1"}
    assert content == expected | {"run_name": "A", "unit": "angstrom", "points": []}


def test_picks_that_were_changed_here_stay(remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", url=config) == 0
    path = tmp_path / "here/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json"
    path.write_text("mine")
    capsys.readouterr()
    assert run(tmp_path / "here", url=config) == 0
    assert path.read_text() == "mine"
    assert capsys.readouterr().out == "A: 0 files of picks (1 are there already), wbp 10 Å (is there already)\n"


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--runs", "A,C"], "has no run C; copick finds A, B."),
        (["--kind", "ctfdeconvolved"], "2 of 2 runs failed: A, B."),
        (["--kind", "wbp,denoisd"], "no run has a tomogram of kind denoisd; there are wbp."),
        (["--picks", "nobody/1"], "no run has picks of nobody/1; there are those of me/1."),
        (["--storage_options", "{}"], None),
        (["--storage_options", '{"anon": true}'], "states its stores' options itself"),
    ],
)
def test_choices_that_find_nothing_are_refused(more, line, remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"), make_run(remote, "B"))
    assert run(tmp_path / "here", *more, url=config) == (0 if line is None else 1)
    assert (line or "") in capsys.readouterr().err


def test_a_fetched_project_can_be_trained_on(remote, open_runs, tmp_path):
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"))) == 0
    runs = tmp_path / "here" / "{}" / "ExperimentRuns/A"
    assert list_labelled_runs(tmp_path / "here") == [
        {
            "image": str(runs / "VoxelSpacing10.000/wbp.zarr").format("static"),
            "run": "A",
            "label": str(runs / "Picks").format("overlay"),
        }
    ]


def test_only_named_runs_come(remote, open_runs, tmp_path):
    config = open_runs(*(make_run(remote, name) for name in "ABC"))
    assert run(tmp_path / "here", "--runs", "A,C", url=config) == 0
    assert runs_in(tmp_path / "here") == ["A", "C"]


def test_the_config_here_holds_no_credentials_and_its_own_roots(remote, open_runs, tmp_path):
    far = {"static_root": "s3://bucket", "static_fs_args": {"secret": "wJalrXUtnFEMI"}, "config_type": "filesystem"}
    assert run(tmp_path / "here", url=open_runs(make_run(remote, "A"), user_id="me", **far)) == 0
    text = (tmp_path / "here/copick.json").read_text()
    assert "wJalrXUtnFEMI" not in text
    content = json.loads(text)
    assert content["pickable_objects"] == [{"name": "ribosome", "is_particle": True}]
    assert content["user_id"] == "me"
    assert content["static_root"] == f"local://{tmp_path}/here/static"
    assert project_roots(tmp_path / "here/copick.json") == [tmp_path / "here/static", tmp_path / "here/overlay"]


def test_picks_go_to_a_project_that_was_moved(remote, open_runs, tmp_path):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", "--picks", "none", url=config) == 0
    (tmp_path / "here").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/overlay")
    assert run(tmp_path / "moved", url=config) == 0
    assert (tmp_path / "moved/overlay/ExperimentRuns/A/Picks/me_1_ribosome.json").is_file()
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("facts", [{"name": "another"}, {"static_root": "s3://bucket"}, {"pickable_objects": []}])
def test_the_config_of_another_project_is_not_replaced(facts, remote, open_runs, tmp_path, capsys):
    config = open_runs(make_run(remote, "A"))
    assert run(tmp_path / "here", url=config) == 0
    path = tmp_path / "here/copick.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    before = path.read_bytes()
    assert run(tmp_path / "here", url=config) == 1
    assert "is of another project, or of one elsewhere: choose another folder." in capsys.readouterr().err
    assert path.read_bytes() == before


def test_without_copick_a_project_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "copick", None)
    config = tmp_path / "remote.json"
    config.write_text('{"pickable_objects": []}')
    assert run(tmp_path / "here", url=str(config)) == 1
    assert "is opened by copick, which is not installed here: run this with the Python of" in capsys.readouterr().err
