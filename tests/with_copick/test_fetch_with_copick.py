"""Projects and tomograms that are elsewhere: fetched through copick, and from a web server. `make test-copick`."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from scripts.copick_tree import tomogram_path, write_project
from scripts.fetch import __main__ as fetch
from scripts.fetch import stores
from scripts.picks import read_copick_json
from scripts.volumes.ome_zarr import load_ome_zarr
from scripts.volumes.ome_zarr_writer import write_ome_zarr
from trees import runs_in

copick = pytest.importorskip("copick")

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
VOLUME = np.random.default_rng(0).normal(size=(6, 10, 14)).astype(np.float32)
LEVELS = 3
POSE = [[0.0, -1.0, 0.0, 1.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
GONE = -1  # the server ends the connection in the middle of the file


class Server(SimpleHTTPRequestHandler):
    """Files of a folder; ``answers`` holds what else to do for paths with some ending, ``stall`` waits in them."""

    answers: dict[str, list[int]] = {}  # noqa: RUF012
    stall = threading.Event()
    stalled = threading.Event()

    def do_GET(self):
        for ending, statuses in self.answers.items():
            if self.path.endswith(ending) and statuses:
                status = statuses.pop(0)
                if status == GONE:
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b"half")
                    self.close_connection = True
                elif status == 0:
                    self.stalled.set()
                    self.stall.wait(60)
                else:
                    self.send_error(status)
                return
        super().do_GET()

    def log_message(self, *message):
        pass


@contextmanager
def serving(folder, **answers):
    Server.answers = {ending.replace("_", "/"): list(statuses) for ending, statuses in answers.items()}
    Server.stall.clear()
    Server.stalled.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Server.stall.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def far(tmp_path, shipped_species):
    """A project of the runs A, with picks of two users, and B, in a folder that only a server sees."""
    root = tmp_path / "far"
    write_project(root, shipped_species, "far away", "two runs")
    for run in "AB":
        write_ome_zarr(tomogram_path(root, run, 10.0, "wbp"), VOLUME + ord(run), 10.012, LEVELS, chunk_side=4)
    opened = copick.from_file(str(root / "copick.json"))
    for user in ("me", "you"):
        places = np.array([[1.5, 2.5, 3.5], [40.0, 50.0, 30.25]])
        poses = np.array([POSE, np.eye(4)])
        opened.get_run("A").new_picks("ribosome", user_id=user, session_id="7").from_numpy(places, poses)
    return root


def remote_config(far, path, static_root, overlay_root, **more):
    config = json.loads((far / "copick.json").read_text())
    roots = {"static_root": static_root, "overlay_root": overlay_root, "overlay_fs_args": {}}
    path.write_text(json.dumps(config | roots | more))
    return str(path)


def run(source, folder, *more):
    return fetch.main([source, str(folder), *more])


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != fetch.FETCH_LOCK)


# A web server


def test_these_tests_run_with_the_old_zarr_library():
    assert zarr.__version__.startswith("2.")


def test_a_tomogram_comes_from_a_web_server(far, tmp_path, capsys):
    with serving(tomogram_path(far, "A", 10.0, "wbp").parent) as address:
        assert run(f"{address}/wbp.zarr", tmp_path / "here") == 0
        assert capsys.readouterr().out == f"{tmp_path}/here/wbp.zarr: 10.012 Å\n"
    assert np.array_equal(load_ome_zarr(tmp_path / "here/wbp.zarr")[0], VOLUME + ord("A"))


def test_a_chunk_that_a_web_server_has_not_got_is_missing(far, tmp_path, capsys):
    with serving(far, **{"_0_0_1_2": [404] * 2}) as address:
        url = f"{address}/static/ExperimentRuns/A/VoxelSpacing10.000/wbp.zarr"
        assert run(url, tmp_path / "here") == 1
        assert capsys.readouterr().err == (
            f"error: {url} has no chunk 0/0/1/2. "
            "Give --allow_missing_chunks if it was written without its empty chunks.\n"
        )
        assert visible(tmp_path / "here") == []
        assert run(url, tmp_path / "here", "--allow_missing_chunks") == 0


@pytest.mark.parametrize(("status", "fact"), [(403, "403 Forbidden"), (410, "410 Gone"), (401, "401 Unauthorized")])
def test_a_chunk_that_a_web_server_refuses_is_told_at_once(status, fact, far, tmp_path, capsys):
    with serving(far, **{"_0_0_1_2": [status] * 2}) as address:
        url = f"{address}/static/ExperimentRuns/A/VoxelSpacing10.000/wbp.zarr"
        with_password = url.replace("http://", "http://me:password@")
        assert run(with_password, tmp_path / "here") == 1
        assert Server.answers == {"/0/0/1/2": [status]}
    line = f"cannot read {url}/0/0/1/2: {fact}. Check the address, and the credentials for it."
    assert capsys.readouterr().err == f"error: {line}\n"
    assert visible(tmp_path / "here") == []


@pytest.mark.parametrize("status", [503, 429, GONE])
def test_what_may_pass_on_a_web_server_is_tried_again(status, far, tmp_path):
    with serving(far, **{"_0_0_1_2": [status] * 3}) as address:
        url = f"{address}/static/ExperimentRuns/A/VoxelSpacing10.000/wbp.zarr"
        assert run(url, tmp_path / "here") == 0
        assert Server.answers == {"/0/0/1/2": []}
    assert np.array_equal(load_ome_zarr(tmp_path / "here/wbp.zarr")[0], VOLUME + ord("A"))


def test_a_server_that_is_not_there_is_one_line(tmp_path, capsys):
    assert run("http://127.0.0.1:9/x.zarr", tmp_path / "here") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot read http://127.0.0.1:9/x.zarr/zarr.json: ")
    assert line.endswith("Tried 4 times; start again later, what is complete stays.")


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_fetch_leaves_nothing_and_goes_on(stop, far, tmp_path):
    here = tmp_path / "here"
    with serving(far, **{"_0_0_1_2": [0]}) as address:
        url = f"{address}/static/ExperimentRuns/A/VoxelSpacing10.000/wbp.zarr"
        command = [sys.executable, "-m", "scripts.fetch", url, str(here)]
        process = subprocess.Popen(command, cwd=BUNDLE, stderr=subprocess.PIPE, text=True)
        assert Server.stalled.wait(60)
        process.send_signal(stop)
        Server.stall.set()
        process.communicate(timeout=60)
        assert process.returncode == (130 if stop == signal.SIGINT else -stop)
        assert not (here / "wbp.zarr").exists()
        assert [name for name in visible(here) if not name.startswith(".wbp.zarr.")] == []
        assert len(visible(here)) == (1 if stop == signal.SIGKILL else 0)
        assert subprocess.run(command, cwd=BUNDLE, env={**os.environ, "PYTHONWARNINGS": "error"}).returncode == 0
    assert visible(here) == ["wbp.zarr"]
    assert np.array_equal(load_ome_zarr(here / "wbp.zarr")[0], VOLUME + ord("A"))


def test_zarr_format_3_needs_the_new_zarr_library(tmp_path, capsys):
    folder = tmp_path / "far" / "x.zarr"
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert run(f"file://{folder}", tmp_path / "here") == 1
    assert f"file://{folder} has Zarr format 3, which zarr {zarr.__version__} cannot read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"dimension_separator": "/../../"}, "'/../../' cannot part the numbers of a chunk"),
        ({"chunks": ["../..", 4, 4]}, ""),
        ({"chunks": [-4, 4, 4]}, "a chunk has -4 voxels along an axis"),
    ],
)
def test_chunks_that_the_old_library_takes_are_refused(change, fact, far, tmp_path, capsys):
    path = tomogram_path(far, "A", 10.0, "wbp")
    (path / "0/.zarray").write_text(json.dumps(json.loads((path / "0/.zarray").read_text()) | change))
    assert run(f"file://{path}", tmp_path / "here") == 1
    assert f"file://{path} is a damaged Zarr folder: {fact}" in capsys.readouterr().err
    assert visible(tmp_path / "here") == []


# Projects


def check_project(here, far):
    """Compare what copick finds in the fetched project with the source."""
    fetched, source = (copick.from_file(str(root / "copick.json")) for root in (here, far))
    assert [run.name for run in fetched.runs] == [run.name for run in source.runs]
    assert [one.meta for one in fetched.pickable_objects] == [one.meta for one in source.pickable_objects]
    for run in source.runs:
        mine = fetched.get_run(run.name)
        tomogram = mine.get_voxel_spacing(10.0).get_tomograms("wbp")[0]
        assert np.array_equal(tomogram.numpy("0"), VOLUME + ord(run.name))
        assert len(mine.picks) == len(run.picks)
        for picks in run.picks:
            ids = {"object_name": picks.pickable_object_name, "user_id": picks.user_id, "session_id": picks.session_id}
            (found,) = mine.get_picks(**ids)
            assert found.load().model_dump() == picks.load().model_dump()


@pytest.fixture
def in_memory(far):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    fs.put(str(far), "/far", recursive=True)
    yield "memory://far"
    fs.store.clear()


def test_a_project_of_another_store_opens_here(far, in_memory, tmp_path, capsys):
    config = remote_config(far, tmp_path / "remote.json", f"{in_memory}/static", f"{in_memory}/overlay")
    before = dict(fsspec.filesystem("memory").store)
    assert run(config, tmp_path / "here") == 0
    assert capsys.readouterr().out == "A: 2 files of picks, wbp 10.012 Å\nB: 0 files of picks, wbp 10.012 Å\n"
    assert dict(fsspec.filesystem("memory").store) == before
    check_project(tmp_path / "here", far)
    assert runs_in(tmp_path / "here") == ["A", "B"]
    path = tmp_path / "here/overlay/ExperimentRuns/A/Picks/me_7_ribosome.json"
    assert [pick.xyz_angstrom for pick in read_copick_json(path)] == [(3.0, 2.5, 3.5), (40.0, 50.0, 30.25)]


def test_a_project_is_fetched_once(far, in_memory, tmp_path, capsys):
    config = remote_config(far, tmp_path / "remote.json", f"{in_memory}/static", f"{in_memory}/overlay")
    assert run(config, tmp_path / "here") == 0
    capsys.readouterr()
    assert run(config, tmp_path / "here") == 0
    assert capsys.readouterr().out.splitlines() == [
        "A: 0 files of picks (2 are there already), wbp 10.012 Å (is there already)",
        "B: 0 files of picks, wbp 10.012 Å (is there already)",
    ]


def test_a_tomogram_of_the_overlay_and_another_level_come(far, in_memory, tmp_path):
    fs = fsspec.filesystem("memory")
    part = "ExperimentRuns/A/VoxelSpacing10.000"
    fs.mv(f"/far/static/{part}/wbp.zarr", f"/far/overlay/{part}/denoised.zarr", recursive=True)
    config = remote_config(far, tmp_path / "remote.json", f"{in_memory}/static", f"{in_memory}/overlay")
    arguments = ("--runs", "A", "--kind", "denoised", "--wanted_voxel_size_angstrom", "20", "--picks", "none")
    assert run(config, tmp_path / "here", *arguments) == 0
    opened = copick.from_file(str(tmp_path / "here/copick.json")).get_run("A")
    (spacing,) = opened.voxel_spacings
    assert spacing.voxel_size == 20.024
    expected, _ = load_ome_zarr(tomogram_path(far, "A", 10.0, "wbp"), 20.0)
    assert np.array_equal(spacing.get_tomograms("denoised")[0].numpy(), expected)
    assert opened.picks == []


def test_a_project_on_a_web_server_opens_here(far, tmp_path, capsys):
    with serving(far) as address:
        config = remote_config(far, tmp_path / "remote.json", f"{address}/static", f"{address}/overlay")
        assert run(config, tmp_path / "here") == 0, capsys.readouterr()
    check_project(tmp_path / "here", far)


def test_a_run_whose_tomogram_is_refused_does_not_stop_the_others(far, tmp_path, capsys):
    with serving(far, **{"A_VoxelSpacing10.000_wbp.zarr_0_0_1_2": [403]}) as address:
        config = remote_config(far, tmp_path / "remote.json", f"{address}/static", f"{address}/overlay")
        assert run(config, tmp_path / "here") == 1
        out, err = capsys.readouterr()
        assert out.splitlines()[0].startswith(f"A failed: cannot read {address}/static/ExperimentRuns/A/")
        assert "403 Forbidden" in out.splitlines()[0]
        assert err == "error: 1 of 2 runs failed: A.\n"
        assert runs_in(tmp_path / "here") == ["B"]
        assert run(config, tmp_path / "here") == 0
    check_project(tmp_path / "here", far)


@pytest.mark.parametrize(
    "more", [{"pickable_objects": [{"name": "a_b"}]}, {"config_type": "of another kind"}, {"static_root": "nosuch://x"}]
)
def test_a_config_that_copick_refuses_is_one_line_without_credentials(more, far, tmp_path, capsys):
    config = (
        remote_config(
            far,
            tmp_path / "remote.json",
            "memory://a",
            "memory://b",
            static_fs_args={"secret": "wJalrXUtnFEMI"},
            **more,
        )
        if "static_root" not in more
        else remote_config(far, tmp_path / "remote.json", more["static_root"], "memory://b")
    )
    assert run(config, tmp_path / "here") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {config}: ")
    assert "wJalrXUtnFEMI" not in line


# The CryoET Data Portal: copick's own classes for it, with what its interface would answer, and a store in its place


@pytest.fixture
def portal(far, tmp_path, monkeypatch):
    """Run 31 of the portal with a tomogram at two voxel sizes, oriented points, and a config that names its dataset."""
    import copick.impl.cryoet_data_portal as portal

    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    bucket = "s3://cryoet-data-portal-public/10440"
    places = ((10.012, 51), (5.006, 52))
    for size, at in places:
        write_ome_zarr(tmp_path / f"{at}.zarr", VOLUME + at, size, LEVELS, chunk_side=4)
        store.put(str(tmp_path / f"{at}.zarr"), f"{bucket}/{at}.zarr", recursive=True)
    turned = {"location": {"x": 1, "y": 2, "z": 3}, "xyz_rotation_matrix": [row[:3] for row in POSE[:3]]}
    store.pipe(f"{bucket}/ribosome.ndjson", (json.dumps(turned) + "\n").encode())
    how = {"reconstruction_method": "WBP", "processing": "denoised", "processing_software": "cryo CARE"}
    how["ctf_corrected"] = True
    shown = {
        "runs": [{"id": 31, "name": "TS_1", "dataset_id": 10440}],
        "voxel_spacings": [{"id": at, "run_id": 31, "voxel_spacing": size} for size, at in places],
        "tomograms": [
            {"id": at, "tomogram_voxel_spacing_id": at, "s3_omezarr_dir": f"{bucket}/{at}.zarr", **how}
            for _, at in places
        ],
        "annotations": [{"id": 71, "run_id": 31, "object_id": "GO:0022626", "object_name": "cytosolic ribosome"}],
        "annotation_shapes": [{"id": 81, "annotation_id": 71, "shape_type": "OrientedPoint"}],
        "annotation_files": [
            {"id": 91, "annotation_shape_id": 81, "tomogram_voxel_spacing_id": 51, "format": "ndjson",
             "s3_path": f"{bucket}/ribosome.ndjson"}
        ],
    }  # fmt: skip
    monkeypatch.setattr(portal.CopickRootCDP, "_fetch_portal_data", lambda self: shown)
    monkeypatch.setattr(portal.s3fs, "S3FileSystem", lambda anon: store)
    ribosome = {"name": "ribosome", "is_particle": True, "identifier": "GO:0022626", "label": 1, "radius": 150.0}
    config = {
        "config_type": "cryoet_data_portal", "name": "portal", "description": "", "version": "1.31.0",
        "pickable_objects": [ribosome], "dataset_ids": [10440], "portal_cache": False,
        "overlay_root": f"local://{tmp_path}/mine", "overlay_fs_args": {"auto_mkdir": True},
    }  # fmt: skip
    (tmp_path / "portal.json").write_text(json.dumps(config))
    yield str(tmp_path / "portal.json")
    store.store.clear()


def test_a_run_of_the_portal_opens_here(portal, tmp_path, capsys):
    assert run(portal, tmp_path / "here", "--picks", "data-portal/*") == 0
    kind = "wbp-denoised-cryoCare-ctfdeconv"
    assert capsys.readouterr().out == f"31: 1 files of picks, {kind} 10.012 Å\n"
    opened = copick.from_file(str(tmp_path / "here/copick.json"))
    (spacing,) = opened.get_run("31").voxel_spacings
    assert np.array_equal(spacing.get_tomograms(kind)[0].numpy(), VOLUME + 51)
    (picks,) = opened.get_run("31").get_picks("ribosome", user_id="data-portal", session_id="91")
    assert picks.trust_orientation
    assert picks.points[0].location.model_dump() == {"x": 1 * 10.012, "y": 2 * 10.012, "z": 3 * 10.012}
    assert picks.points[0].transformation[:3, :3].tolist() == [row[:3] for row in POSE[:3]]
    assert opened.get_object("ribosome").meta.identifier == "GO:0022626"
    path = tmp_path / "here/overlay/ExperimentRuns/31/Picks/data-portal_91_ribosome.json"
    assert "portal_metadata" not in json.loads(path.read_text())
    assert [pick.run for pick in read_copick_json(path)] == ["31"]


def test_a_portal_that_is_away_is_one_line(portal, tmp_path, capsys, monkeypatch):
    import copick.impl.cryoet_data_portal as portal_classes

    def fail(root):
        raise ConnectionError("graphql.cryoetdataportal.cziscience.com: Name or service not known")

    monkeypatch.setattr(portal_classes.CopickRootCDP, "_fetch_portal_data", fail)
    assert run(portal, tmp_path / "here") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {portal}: ConnectionError: graphql.cryoetdataportal")
