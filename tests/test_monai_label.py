"""What MONAI Label needs of the bundle, without its server; the server itself is driven by tests/with_monai_label."""

import importlib.util
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from scripts.coordinates import affine_of
from scripts.datasets.truth import list_labelled_runs, read_annotations
from scripts.errors import InputError, InputWarning, find_input_error
from scripts.monai_label import (
    SHARED_OPTIONS,
    CheckServedWeights,
    ToStudyGridd,
    chosen_points,
    client_options,
    is_served,
    studies_with_points,
    with_options,
)
from scripts.networks.model_card import checked_card, read_card, sha256_of, write_card
from scripts.picking.blobs import Blobs
from scripts.picking.peaks import Peaks
from scripts.picking.pick_transform import PickParticlesd
from scripts.picking.second_look import SECOND_LOOK, find_second_look, load_second_look
from scripts.picking.second_look_transform import ProposePlacesd, SecondLookd
from scripts.picks import Pick, write_copick_json, write_csv
from scripts.records import as_json, record_of
from scripts.training.spheres import Spheres
from synthetic import (
    SHAPE,
    image_of,
    logits_of,
    make_species,
    noise,
    tiny_network,
    write_mrc,
    write_second_look,
    write_weights,
)

VOXEL_SIZE = 10.012
SMALL = {
    "network_def#widths": [4, 8], "network_def#depths": [1, 1], "precision": "float32", "window_size": [16, 16, 16],
    "inference_window_size": [16, 24, 24], "windows_per_epoch": 2, "val_interval": 1, "warmup_steps": 1,
}  # fmt: skip


def options(**chosen):
    return client_options(make_species(), merge_distance_in_radii=1.0, rotations=1, flips=[], **chosen)


# Options


def test_the_options_are_one_flat_table_that_json_can_hold():
    table = options()
    assert table == {
        "threshold_a": 0.5, "threshold_b": 0.5, "min_voxels_a": 1, "min_voxels_b": 1,
        "merge_distance_in_radii": 1.0, "rotations": 1, "flips": "",
    }  # fmt: skip
    assert json.loads(json.dumps(table)) == table


def test_chosen_options_come_back_and_reach_the_species():
    table = options(threshold_b=0.75, min_voxels_a=9)
    first, second = with_options(make_species(), table).picked
    assert (first.probability_threshold, first.min_voxels) == (0.5, 9)
    assert (second.probability_threshold, second.min_voxels) == (0.75, 1)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"threshold_a": 1.4}, r"the request: the threshold of 'a' is a probability, 0 <= t < 1; got 1\.4"),
        ({"threshold_a": "0.5"}, "the threshold of 'a' is a probability"),
        ({"threshold_c": 0.5}, "the request: unknown species 'c'; known are a, b"),
        ({"min_voxels_a": 0}, "min_voxels_a must be a whole number from 1; got 0"),
        ({"min_voxels_a": 2.5}, r"min_voxels_a must be a whole number from 1; got 2\.5"),
        ({"min_voxels_a": None}, "min_voxels_a must be a whole number from 1; got None"),
        ({"min_voxels_a": [3]}, r"min_voxels_a must be a whole number from 1; got \[3\]"),
        ({"min_voxels_a": True}, "min_voxels_a must be a whole number from 1; got True"),
        ({"min_voxels_a": math.nan}, "min_voxels_a must be a whole number from 1; got nan"),
        ({"min_voxels_a": math.inf}, "min_voxels_a must be a whole number from 1; got inf"),
        ({"threshold_a": math.nan}, "the threshold of 'a' is a probability"),
        ({"threshold_a": None}, "the threshold of 'a' is a probability"),
        ({"threshold_a": False}, "the threshold of 'a' is a probability"),
        ({"min_voxels_c": 3}, "unknown species 'c'"),
        ({"treshold_a": 0.5}, "the request: there is no option 'treshold_a'"),
    ],
)
def test_a_wrong_option_is_refused(chosen, message):
    with pytest.raises(InputError, match=message):
        options(**chosen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotations": 5}, "rotations is a whole number from 1 to 4; got 5"),
        ({"flips": "zz"}, "flips is a list of axes out of z, y and x, each once; got 'zz'"),
        ({"flips": "w"}, "flips is a list of axes"),
        ({"flips": None}, "flips is a list of axes out of z, y and x, each once; got None"),
        ({"flips": True}, "flips is a list of axes out of z, y and x, each once; got True"),
        ({"flips": [["z"]]}, "flips is a list of axes"),
        ({"flips": {"z": 1}}, "flips is a list of axes"),
        ({"rotations": True}, "rotations is a whole number from 1 to 4; got True"),
        ({"rotations": [1]}, "rotations is a whole number"),
        ({"merge_distance_in_radii": -1}, "merge_distance_in_radii is a number, 0 or more; got -1"),
        ({"merge_distance_in_radii": "1"}, "merge_distance_in_radii is a number, 0 or more; got '1'"),
        ({"merge_distance_in_radii": math.nan}, "merge_distance_in_radii is a number, 0 or more; got nan"),
        ({"merge_distance_in_radii": math.inf}, "merge_distance_in_radii is a number, 0 or more; got inf"),
        ({"merge_distance_in_radii": True}, "merge_distance_in_radii is a number, 0 or more; got True"),
    ],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        client_options(make_species(), **{"merge_distance_in_radii": 1.0, "rotations": 1, "flips": [], **settings})


def test_with_a_second_look_there_are_operating_points():
    given = {"merge_distance_in_radii": 1.0, "rotations": 1, "flips": []}
    table = client_options(make_species(2), **given, operating_point={"b": {"precision": 0.9}})
    points = {"operating_point_a": "F1", "operating_point_b": "precision 0.9"}
    assert table == {**client_options(make_species(2), **given), **points}
    assert chosen_points({**table, "operating_point_a": "f4"}, "f1") == {"a": "f4", "b": "precision 0.9"}
    assert chosen_points({"rotations": 1}, "f1") == "f1"
    surer = client_options(make_species(2), **given, operating_point="f1", operating_point_b="probability 0.75")
    assert (surer["operating_point_a"], surer["operating_point_b"]) == ("F1", "probability 0.75")
    with pytest.raises(InputError, match="operating_point 'high' is not one that can be asked for"):
        client_options(make_species(2), **given, operating_point="f1", operating_point_b="high")
    with pytest.raises(InputError, match="operating_point_b needs a second look, which is not there: set threshold_b"):
        client_options(make_species(2), **given, operating_point_b="f4")


def test_other_weights_than_the_second_looks_are_served_without_it(tmp_path):
    species_set = make_species(2)
    for seed, name in enumerate(("model", "other")):
        write_weights(tmp_path / f"{name}.pt", tiny_network(seed=seed), species_set)
    path = write_second_look(tmp_path / "second_look.pt", tmp_path / "model.pt", species_set)
    look = load_second_look(path, tmp_path / "model.pt", species_set)
    given = tiny_network(), str(tmp_path), species_set, Spheres()
    check = CheckServedWeights(*given, second_look=look, options={"threshold_a": 0.5})
    assert "without_second_look" not in check({"model_filename": "model.pt"})
    with pytest.warns(InputWarning, match=r"other\.pt has no second look"):
        sample = check({"model_filename": ["other.pt"]})
    surer = CheckServedWeights(*given, second_look=look, options={"threshold_a": 0.75})
    with pytest.raises(InputError, match="threshold_a is for weights without a second look: set operating_point_a"):
        surer({"model_filename": "model.pt"})
    asked = {"operating_point_a": "precision 0.9", "operating_point_b": "F1"}
    wanting = CheckServedWeights(*given, second_look=look, options=asked)
    with pytest.raises(InputError, match=r"operating_point_a needs a second look, which other\.pt has not: set thres"):
        wanting({"model_filename": "other.pt"})
    assert "without_second_look" not in wanting({"model_filename": "model.pt"})
    usual = CheckServedWeights(*given, second_look=look, options=asked, operating_point={"a": {"precision": 0.9}})
    with pytest.warns(InputWarning, match=r"other\.pt has no second look"):
        usual({"model_filename": "other.pt"})
    sample |= {"pred": logits_of(species_set), "image": image_of(noise())}
    picking = PickParticlesd("pred", species_set, Blobs())
    for step in (ProposePlacesd("pred"), SecondLookd("proposals", species_set, look), picking):
        sample = step(sample)
    assert [pick["score"] for pick in sample["result"]["picks"]] == pytest.approx([1 / (1 + np.exp(-6))] * 2)


def test_options_put_into_the_config_as_the_server_does_reach_inferer_and_picks(bundle_dir):
    config = ConfigParser()
    config.read_config(bundle_dir / "configs" / "inference.json")
    config["bundle_root"] = str(bundle_dir)
    config["second_look"] = False
    table = config.get_parsed_content("displayable_configs")
    config["displayable_configs"].update({**table, "rotations": 3, "flips": "zx", "threshold_ribosome": 0.25})
    config["displayable_configs"].update({"merge_distance_in_radii": 0.5, "min_voxels_ribosome": 7})
    config.parse()
    inferer = config.get_parsed_content("inferer")
    assert (inferer.rotations, inferer.flips) == (3, ("z", "x"))
    (picking,) = config.get_parsed_content("postprocessing").transforms
    ribosome = picking.species_set.named("ribosome", "")
    assert (ribosome.probability_threshold, ribosome.min_voxels) == (0.25, 7)
    assert picking.finder.merge_distance_in_radii == 0.5
    settings = config.get_parsed_content("writer").settings
    assert (settings["inferer"]["rotations"], settings["inferer"]["flips"]) == (3, ["z", "x"])
    assert settings["postprocessing"]["transforms"][0] == as_json(record_of(picking))
    config["finder"]["_target_"] = "scripts.picking.peaks.Peaks"
    config.parse()
    assert config.get_parsed_content("finder") == Peaks(0.5)


# Volumes


def test_volumes_turn_to_the_axis_order_of_the_study():
    volume = image_of(noise())
    turned = ToStudyGridd(keys="image")({"image": volume})["image"]
    assert turned.shape == (1, *SHAPE[::-1])
    assert tuple(turned.meta["spatial_shape"]) == SHAPE[::-1]
    assert turned[0, 30, 20, 10] == volume[0, 10, 20, 30]
    for affine in (turned.affine, turned.meta["original_affine"]):
        assert np.allclose(affine, np.diag([10.0, 10.0, 10.0, 1.0]))
    assert np.allclose(volume.affine, affine_of(10.0))


# Weights


@pytest.fixture
def app(tmp_path, bundle_dir, shipped_species, monkeypatch):
    """Return the bundle in an app of MONAI Label, with small weights, on a server whose studies are in ``studies``."""
    bundle = tmp_path / "app" / "model" / "some_segmentation"
    shutil.copytree(bundle_dir, bundle, ignore=shutil.ignore_patterns("output", "__pycache__", "model.*"))
    write_weights(bundle / "models" / "model.pt", tiny_network(out_channels=5), shipped_species)
    write_mrc(tmp_path / "studies" / "one.mrc", noise(), VOXEL_SIZE)
    monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(tmp_path / "app"))
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(tmp_path / "studies"))
    monkeypatch.chdir(tmp_path)
    return bundle


def test_only_a_bundle_in_the_servers_app_is_served(app, bundle_dir, monkeypatch):
    assert is_served(str(app))
    assert not is_served(str(bundle_dir))
    monkeypatch.delenv("MONAI_LABEL_APP_DIR")
    assert not is_served(str(app))


@pytest.fixture(scope="module")
def serve():
    """Return the script that makes the server's app, as a module."""
    path = Path(__file__).resolve().parents[1] / "apps" / "monai_label" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_option_of_a_species_that_is_not_offered_is_named_with_those_that_are():
    path = Path(__file__).resolve().parents[1] / "apps" / "monai_label" / "request_options.py"
    spec = importlib.util.spec_from_file_location("request_options", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    own = {key for key in options() if key not in SHARED_OPTIONS}
    assert {key.rpartition("_")[0] + "_" for key in own} | {"operating_point_"} == set(module.BEGINNINGS)
    fault_of, offered = module.fault_of_options, [*options(), "model_filename", "device"]
    assert fault_of({"model": "x", "image": "one", **options(), "precision": "float32"}, offered) is None
    said = "the request: there is no option 'threshold_ribosom'; there are threshold_a, threshold_b."
    assert fault_of({"image": "one", "threshold_ribosom": 0.5}, offered) == said
    said = "the request: there is no option 'operating_point_a'; there are none with operating_point_."
    assert fault_of({"operating_point_a": "F4"}, offered) == said
    said = "the request: there is no option 'rotation'; there is rotations."
    assert fault_of({"rotation": 4}, offered) == said


def test_a_folder_of_studies_that_is_not_there_is_refused_and_not_made(serve, tmp_path, capsys):
    assert serve.main(["--folder", str(tmp_path / "label"), "--studies", str(tmp_path / "stduies")]) == 1
    line = f"error: cannot read {tmp_path / 'stduies'}: no such folder; give a folder of tomograms with --studies.\n"
    assert capsys.readouterr().err == line
    assert not (tmp_path / "stduies").exists()
    assert list((tmp_path / "label").iterdir()) == []
    assert serve.find_studies("https://example.org/dicom-web", tmp_path) == "https://example.org/dicom-web"
    assert serve.find_studies(str(tmp_path), tmp_path / "label") == str(tmp_path)


def test_a_server_that_cannot_be_made_is_one_line(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.prefix", str(tmp_path / "nowhere"))  # where MONAI Label's own app would be
    assert serve.main(["--folder", str(tmp_path / "label"), "--studies", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the server cannot start: ")
    assert "nowhere" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.json", '{"painter": [1,', "is no config, or it is damaged: Expecting value: line 1 column 16"),
        ("cut.yaml", "painter: [1", "is no config, or it is damaged: while parsing a flow sequence"),
        ("empty.yaml", "", "is no config, or it is damaged: it holds no table of settings. Copy it again."),
        ("list.json", "[1]", "is no config, or it is damaged: it holds no table of settings. Copy it again."),
        ("far.json", '{"validate#handlers#99": 1}', ": train.json has no part 'validate#handlers#99'"),
        ("time.yaml", "painter: 2020-01-01", "is no config, or it is damaged: Object of type date"),
        ("part.json", '{"panter#radius": 1}', ": train.json has no part 'panter#radius': correct or remove it."),
    ],
)
def test_an_overlay_that_cannot_be_used_is_one_line(name, content, reason, serve, tmp_path, capsys, monkeypatch):
    source, overlay = tmp_path / "monailabel" / "sample-apps" / "monaibundle" / "main.py", tmp_path / name
    source.parent.mkdir(parents=True)
    source.write_text("")
    overlay.write_text(content)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr(serve.os, "execve", None)  # which would end the tests
    arguments = ["--folder", str(tmp_path / "label"), "--studies", str(tmp_path), "--overlay", str(overlay)]
    assert serve.main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {overlay}{'' if reason[0] == ':' else ' '}{reason}")
    assert said.count("\n") == 1
    assert not (tmp_path / "label" / "app").exists()


def test_studies_are_made_whole_or_not_at_all(serve, tmp_path, monkeypatch):
    sample = write_mrc(tmp_path / "sample.mrc", noise(), VOXEL_SIZE)
    monkeypatch.setattr(serve.shutil, "copyfile", raise_disk_full)
    with pytest.raises(OSError, match="disk full"):
        serve.make_studies(tmp_path / "label", sample)
    monkeypatch.undo()
    assert not (tmp_path / "label" / "studies").exists()
    studies = serve.make_studies(tmp_path / "label", sample)
    assert sorted(os.listdir(tmp_path / "label")) == ["studies"]
    assert sorted(os.listdir(studies)) == ["sample.nii.gz", "sample_as_mrc.mrc"]


def raise_disk_full(*_):
    raise OSError("disk full")


@pytest.mark.parametrize("names", [["heat_maps"], ["points_alone", "auxiliary_losses"]])
def test_an_overlay_is_written_into_both_configs_that_the_server_reads(serve, names, bundle_dir, tmp_path):
    before = {}
    for name in ("train.json", "inference.json"):
        shutil.copy(bundle_dir / "configs" / name, tmp_path)
        before[name] = json.loads((tmp_path / name).read_text())
    for name in names:
        serve.lay_over(tmp_path, bundle_dir / "configs" / f"{name}.json")
    overlays = [str(bundle_dir / "configs" / f"{name}.json") for name in names]
    expected = ConfigParser.load_config_files([str(bundle_dir / "configs" / "train.json"), *overlays])
    train, inference = (json.loads((tmp_path / name).read_text()) for name in before)
    assert {key: train[key] for key in expected if key != "_desc_"} == {
        key: value for key, value in expected.items() if key != "_desc_"
    }
    changed = {key for key in inference if inference[key] != before["inference.json"].get(key)}
    assert changed == ({"painter", "finder"} if names == ["heat_maps"] else set())


def test_weights_of_your_own_bring_their_network_and_species_into_the_app(serve, app, tmp_path):
    weights = write_weights(tmp_path / "own.pt", tiny_network(norm="instance"), make_species())
    serve.use_weights(app, weights)
    parser = ConfigParser()
    parser.read_config(str(app / "configs" / "train.json"))
    parser["bundle_root"] = str(app)
    network = parser.get_parsed_content("network_def")
    assert network.recipe["norm"] == "instance"
    assert sha256_of(app / "models" / "model.pt") == sha256_of(weights)
    pred = json.loads((app / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "a", "2": "b"}


def test_weights_of_your_own_bring_their_second_look(serve, app, tmp_path):
    weights = write_weights(tmp_path / "own.pt", tiny_network(), make_species())
    second = write_second_look(tmp_path / SECOND_LOOK, weights, make_species())
    serve.use_weights(app, weights)
    assert sorted(os.listdir(app / "models")) == ["model.json", "model.pt", "second_look.json", SECOND_LOOK]
    assert sha256_of(app / "models" / SECOND_LOOK) == sha256_of(second)
    assert find_second_look(True, None, app / "models" / "model.pt", make_species()) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_def": {"_target_": "os.mkdir", "path": "ran"}}, "os.mkdir"),
        ({"weights_sha256": {"own.pt": "0" * 64}}, "is not the file that"),
    ],
)
def test_a_card_from_elsewhere_runs_nothing(change, message, serve, app, tmp_path):
    weights = write_weights(tmp_path / "own.pt", tiny_network(), make_species())
    write_card(weights, {**read_card(weights), **change})
    before = sha256_of(app / "models" / "model.pt")
    with pytest.raises(InputError, match=message):
        serve.use_weights(app, weights)
    assert not (tmp_path / "ran").exists()
    assert sha256_of(app / "models" / "model.pt") == before


@pytest.mark.parametrize("chosen", ["model.pt", ["model.pt", "other.pt"]])
def test_damaged_weights_are_refused_before_the_server_loads_them(chosen, app, shipped_species):
    check = CheckServedWeights(tiny_network(out_channels=5), str(app / "models"), shipped_species, Spheres())
    assert check({"model_filename": chosen, "image": "one.mrc"}) == {"model_filename": chosen, "image": "one.mrc"}
    content = (app / "models" / "model.pt").read_bytes()
    (app / "models" / "model.pt").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"model\.pt is not the file that .*model\.json describes"):
        check({"model_filename": chosen})


def test_weights_of_another_network_are_refused_before_the_server_loads_them(app, shipped_species):
    write_card(app / "models" / "model.pt", {**read_card(app / "models" / "model.pt"), "painter": {"class": "Shells"}})
    check = CheckServedWeights(tiny_network(out_channels=5), str(app / "models"), shipped_species, Spheres())
    with pytest.raises(InputError, match=r"model\.pt was trained on other targets than the settings say"):
        check({"model_filename": "model.pt"})


# Training


def train(app, labelled, overlays=(), **settings):
    """Train as the server does."""
    given = {
        "bundle_root": str(app), "device": "cpu", "train#trainer#max_epochs": 1, "train#dataset#data": labelled,
        "validate#dataset#data": [], **SMALL, **settings,
    }  # fmt: skip
    made = ConfigWorkflow(
        workflow_type="train",
        config_file=[str(app / "configs" / name) for name in ("train.json", *overlays)],
        logging_file=False,
        run_id="",
        **given,
    )
    made.initialize()
    made.run()
    return made


def save_label(tmp_path, values=None):
    labels = np.zeros(SHAPE, np.float32)
    labels[5:9, 10:14, 20:24] = 3
    path = write_mrc(
        tmp_path / "studies" / "labels" / "final" / "one.mrc", labels if values is None else values, VOXEL_SIZE
    )
    return [{"image": str(tmp_path / "studies" / "one.mrc"), "label": str(path)}]


def test_a_training_of_the_server_takes_the_place_of_the_bundles_weights_each_time(app, tmp_path):
    path = app / "models" / "model.pt"
    shipped, labelled = sha256_of(path), save_label(tmp_path)
    train(app, labelled)
    first = sha256_of(path)
    assert checked_card(path)["weights_sha256"]["model.pt"] == first != shipped
    train(app, labelled, seed=1)
    assert checked_card(path)["weights_sha256"]["model.pt"] == sha256_of(path) not in (first, shipped)
    assert sha256_of(app / "models" / "model_shipped.pt") == shipped


def test_a_training_that_fails_leaves_the_bundles_weights(app, tmp_path):
    before = {path.name: path.read_bytes() for path in (app / "models").iterdir()}
    wrong = np.zeros(SHAPE, np.float32)
    wrong[4:8, 4:8, 4:8] = 9
    with pytest.raises(Exception) as caught:  # noqa: PT011 MONAI wraps what the bundle raises
        train(app, save_label(tmp_path, wrong))
    assert "one.mrc: labels [9] belong to no species; known are 1 to 5." in str(find_input_error(caught.value))
    assert {path.name: path.read_bytes() for path in (app / "models").iterdir()} == before


def test_a_training_does_not_begin_with_damaged_weights_in_the_bundle(app, tmp_path):
    path = app / "models" / "model.pt"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    before = path.read_bytes()
    with pytest.raises(Exception) as caught:  # noqa: PT011 MONAI wraps what the bundle raises
        train(app, save_label(tmp_path))
    assert "model.pt is not the file that" in str(find_input_error(caught.value))
    assert path.read_bytes() == before


def test_a_training_elsewhere_leaves_the_bundle_alone(app, tmp_path, monkeypatch):
    monkeypatch.delenv("MONAI_LABEL_APP_DIR")
    before = sha256_of(app / "models" / "model.pt")
    train(app, save_label(tmp_path))
    assert (app / "output" / "model.pt").exists()
    assert sha256_of(app / "models" / "model.pt") == before


def test_studies_with_rows_in_the_table_are_trained_on(app, tmp_path):
    with pytest.raises(
        InputError, match="studies holds no study with a saved label or with points: save a label first"
    ):
        studies_with_points([], served=True)
    table = tmp_path / "studies" / "truth.csv"
    table.write_text("experiment,particle_type,x,y,z\none,ribosome,50,60,70\n")
    (found,) = studies_with_points([], served=True)
    assert found == {"image": str(tmp_path / "studies" / "one.mrc"), "run": "one", "label": str(table)}
    assert studies_with_points(save_label(tmp_path), served=True) == []
    assert studies_with_points([], served=False) == []
    before = sha256_of(app / "models" / "model.pt")
    train(app, [])
    assert sha256_of(app / "models" / "model.pt") != before


def test_rare_species_and_shares_are_counted_in_studies_with_points(app, tmp_path, shipped_species):
    (tmp_path / "studies" / "truth.csv").write_text("experiment,particle_type,x,y,z\none,ribosome,50,60,70\n")
    expected = dict.fromkeys(shipped_species.names, 1)
    made = train(app, [], ["points_alone.json"], window_species="rarity", expected_particles=expected)
    assert all(0 < share < 0.5 for share in made.parser.get_parsed_content("loss").positive_shares)


def test_rare_species_are_not_counted_in_label_volumes(app, tmp_path):
    with pytest.raises(Exception) as caught:  # noqa: PT011 MONAI wraps what the bundle raises
        train(app, save_label(tmp_path), window_species="rarity")
    message = "one.mrc: window_species rarity counts no particles of label volumes: set it to weight."
    assert str(find_input_error(caught.value)).endswith(message)


@pytest.mark.parametrize(("run", "count"), [("one", 1), ("two", 0)])
def test_a_folder_of_picks_counts_where_all_are_of_the_study(run, count, app, tmp_path):
    picks = [Pick(run, "ribosome", 50.0, 60.0, 70.0)]
    user = {"species": "ribosome", "voxel_size_angstrom": VOXEL_SIZE, "user_id": "me", "session_id": "0"}
    write_copick_json(tmp_path / "studies" / "Picks" / "me_0_ribosome.json", picks, run=run, **user)
    labelled = [{"image": "elsewhere.mrc", "label": "labels.mrc"}]
    assert len(studies_with_points(labelled, served=True)) == count


def test_two_studies_share_a_folder_of_picks(app, tmp_path):
    shutil.copy(tmp_path / "studies" / "one.mrc", tmp_path / "studies" / "two.mrc")
    for run in ("one", "two"):
        user = {"species": "ribosome", "voxel_size_angstrom": VOXEL_SIZE, "user_id": run, "session_id": "0"}
        picks = [Pick(run, "ribosome", 50.0, 60.0, 70.0)]
        write_copick_json(tmp_path / "studies" / "Picks" / f"{run}_0_ribosome.json", picks, run=run, **user)
    rows = studies_with_points([], served=True)
    assert [row["run"] for row in rows] == ["one", "two"]
    assert [[pick.run for pick in read_annotations(row["label"], row["run"])] for row in rows] == [["one"], ["two"]]
    (tmp_path / "studies" / "two.mrc").unlink()  # its picks would be taken for those of the only study
    with pytest.raises(InputError, match="holds no study with a saved label or with points"):
        studies_with_points([], served=True)


def test_what_was_annotated_in_studies_counts_as_on_the_command_line(app, tmp_path):
    folder = tmp_path / "studies"
    shutil.copy(folder / "one.mrc", folder / "two.mrc")
    rows = [
        f"{run},{species},50,60,{z}"
        for run in ("one", "two")
        for z, species in ((70, "ribosome"), (20, "thyroglobulin"))
    ]
    (folder / "truth.csv").write_text("\n".join(["experiment,particle_type,x,y,z", *rows, ""]))
    (folder / "annotated.json").write_text('{"one": ["ribosome"]}')
    found = studies_with_points([], served=True)
    assert found == list_labelled_runs(folder)
    assert ["annotated" in row for row in found] == [True, False]
    with pytest.warns(InputWarning, match="one: what was annotated is not applied to a saved label"):
        (other,) = studies_with_points(save_label(tmp_path), served=True)
    assert other["run"] == "two"
    (folder / "annotated.json").write_text('{"three": ["ribosome"]}')
    with pytest.raises(InputError, match=r"annotated\.json: there is no run three; the runs are one, two\."):
        studies_with_points([], served=True)


def test_a_study_whose_accents_the_table_writes_in_another_way_is_refused(app, tmp_path):
    (tmp_path / "studies" / "e\u0301.mrc").touch()
    write_csv(tmp_path / "studies" / "truth.csv", [Pick("\u00e9", "ribosome", 50.0, 60.0, 70.0)])
    with pytest.raises(
        InputError, match=r"truth\.csv writes the accents of run 'e\u0301' in another way than its file"
    ):
        studies_with_points([], served=True)


def test_a_label_without_particles_is_trained_on(app, tmp_path):
    before = sha256_of(app / "models" / "model.pt")
    train(app, save_label(tmp_path, np.zeros(SHAPE, np.float32)))
    assert sha256_of(app / "models" / "model.pt") != before
    assert torch.load(app / "models" / "model.pt", weights_only=True)["head.bias"].shape == (5,)
