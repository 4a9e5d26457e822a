"""Start MONAI Label with the bundle: make its app and its studies, and start its server.

    python apps/monai_label/serve.py --folder output/label

The folder will hold ``app`` (MONAI Label's own "monaibundle" app, with a copy of the bundle in ``model`` and our
strategy) and ``studies`` (the sample). Whatever is there already is kept: saved labels, trained weights. Remove it to
start from scratch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TORCHVISION = HERE / "torchvision_without_cuda"
ROOT = HERE.parents[1]
BUNDLE_NAME = "cryoet_particle_segmentation"  # MONAI Label calls the model after its folder
STUDY_ENDINGS = ["*.nii.gz", "*.nii", "*.mrc", "*.rec", "*.st", "*.map"]
TALKATIVE = (  # loggers with too many messages per request; their warnings are shown
    "monailabel.utils.others.class_utils",
    "monailabel.interfaces.utils.transform",
    "monailabel.tasks.infer.basic_infer",
    "monailabel.transform.writer",
    "ignite.engine.engine",
    "timeloop",
)


def make_app(folder: Path, bundle: Path, weights: Path | None = None, overlays: Sequence[Path] = ()) -> Path:
    """Make MONAI Label's app with the bundle in it, unless it exists, and return its folder.

    Args:
        folder: the app is made in it.
        bundle: the bundle to copy.
        weights: your own weights, with their model.json beside them, to use instead of the bundle's.
        overlays: configs that go over its ``train.json`` and ``inference.json``, such as ``heat_maps.json``.
    """
    app = folder / "app"
    if app.exists():
        print(f"{app} is used as it is; remove it to start anew from the bundle", flush=True)
        return app
    source = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    unfinished = folder / "app.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("model", "logs", "__pycache__"))
    (unfinished / "main.py").rename(unfinished / "monaibundle.py")
    (unfinished / "main.py").write_text("from uncertain_picks import MyApp as MyApp\n")
    model = unfinished / "model" / BUNDLE_NAME
    shutil.copytree(bundle, model, ignore=shutil.ignore_patterns("output", "eval", "__pycache__"))
    if weights is not None:
        use_weights(model, weights)
    for overlay in overlays:
        lay_over(model / "configs", overlay)
    unfinished.rename(app)
    return app


def use_weights(model: Path, weights: Path) -> None:
    """Put weights into a copy of the bundle, and their network and species into its configs, also for training.

    A second look beside them comes too.
    A card may come from anywhere: the network is left to `network_of`, which builds none but the bundle's own.
    """
    define_operators()
    from scripts.networks.model_card import network_of, species_of
    from scripts.networks.weights import read_model, save_model
    from scripts.picking.second_look import SECOND_LOOK

    files, beside = {"model.pt": read_model(weights)}, weights.with_name(SECOND_LOOK)
    if beside.exists():
        files[SECOND_LOOK] = read_model(beside)
    card = files["model.pt"][1]
    network_of(weights)
    picked = species_of(weights).picked
    for file in (model / "models").iterdir():
        file.unlink()
    for name, (content, its_card) in files.items():
        save_model(model / "models" / name, content, its_card)
    configs = model / "configs"
    species = {key: card[key] for key in ("voxel_size_angstrom", "species")}
    (configs / "species.json").write_text(json.dumps(species, indent=4) + "\n")
    training = json.loads((configs / "train.json").read_text())
    training["network_def"] = {
        "_target_": "scripts.networks.model_card.network_of",
        "checkpoint_path": "$@bundle_root + '/models/model.pt'",
    }
    (configs / "train.json").write_text(json.dumps(training, indent=4) + "\n")
    metadata = json.loads((configs / "metadata.json").read_text())
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred["num_channels"] = len(picked)
    pred["channel_def"] = {"0": "background", **{str(one.label): one.name for one in picked}}
    (configs / "metadata.json").write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n")


def define_operators() -> None:
    """Make torchvision importable in this process too: timm imports it, for a 2.5D network."""
    spec = importlib.util.spec_from_file_location("torchvision_without_cuda", TORCHVISION / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def lay_over(configs: Path, overlay: Path) -> None:
    """Write an overlay into two configs, because MONAI Label reads one file per task.

    All of it goes into ``train.json``, and what ``inference.json`` has too into that.

    Raises:
        InputError: the overlay is damaged, or changes a part of what ``train.json`` does not have.
    """
    from monai.bundle import ConfigParser
    from scripts.errors import InputError

    content = read_overlay(overlay)
    for name in ("train.json", "inference.json"):
        parser = ConfigParser(ConfigParser.load_config_file(configs / name))
        for key, value in content.items():
            if name == "train.json" or key in parser:
                try:
                    parser[key] = value
                except (LookupError, ValueError) as error:
                    raise InputError(f"{overlay}: {name} has no part '{key}': correct or remove it.") from error
        (configs / name).write_text(json.dumps(parser.get(), indent=4) + "\n")


def read_overlay(overlay: Path) -> dict[str, Any]:
    """Read the settings of an overlay, without its description.

    Raises:
        InputError: it is no config, or it is damaged.
    """
    from monai.bundle import ConfigParser
    from scripts.errors import InputError, reason_of

    try:
        content = ConfigParser.load_config_file(overlay)
        json.dumps(content)  # the app's configs are JSON
    except OSError:
        raise
    except Exception as error:  # those of JSON and YAML share no other ancestor
        raise InputError(f"{overlay} is no config, or it is damaged: {reason_of(error)}. Copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{overlay} is no config, or it is damaged: it holds no table of settings. Copy it again.")
    return {key: value for key, value in content.items() if key != "_desc_"}


def make_studies(folder: Path, sample: Path) -> Path:
    """Make a folder of studies from a tomogram, unless it exists: as NIfTI, for 3D Slicer, and in its own format."""
    studies, unfinished = folder / "studies", folder / "studies.unfinished"
    if not studies.exists():
        import nibabel
        import numpy as np
        from scripts.volumes.reading import read_tomogram

        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        volume = read_tomogram(sample)
        image = nibabel.Nifti1Image(volume.data.T, np.asarray(volume.affine)[:, [2, 1, 0, 3]])
        image.header.set_xyzt_units("mm")  # NIfTI has no ångström; one millimetre stands for one
        nibabel.save(image, unfinished / f"{sample.stem}.nii.gz")
        # another name, because MONAI Label identifies a study by its name without the ending
        shutil.copyfile(sample, unfinished / f"{sample.stem}_as_mrc.mrc")
        unfinished.rename(studies)
    return studies


def find_studies(given: str | None, folder: Path) -> str:
    """Return the studies to serve: those given, a folder or a server's URL, or else the sample, made in ``folder``.

    Raises:
        InputError: there is no such folder, which MONAI Label would make.
    """
    from scripts.errors import InputError

    if given is None:
        return str(make_studies(folder, ROOT / "sample" / "sample.mrc"))
    if given.startswith(("http://", "https://")):
        return given
    if not Path(given).is_dir():
        raise InputError(f"cannot read {given}: no such folder; give a folder of tomograms with --studies.")
    return str(Path(given).resolve())


def write_log_config(folder: Path) -> Path:
    """Write the server's logging config: one readable line per event, on the screen and in ``app/logs/app.log``."""
    log = folder / "app" / "logs" / "app.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s", "datefmt": "%H:%M:%S"}},
        "handlers": {
            "screen": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"},
            "file": {"class": "logging.FileHandler", "formatter": "line", "filename": str(log)},
        },
        "root": {"level": "INFO", "handlers": ["screen", "file"]},
        # without a handler only warnings are shown; MONAI Label sets the levels of its loggers itself
        "loggers": {name: {"handlers": [], "propagate": False} for name in TALKATIVE},
    }
    path = folder / "logging.json"
    path.write_text(json.dumps(config, indent=4) + "\n")
    return path


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the server and of the trainings that it starts."""
    paths = [str(TORCHVISION), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps(STUDY_ENDINGS),
        "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"),
        # otherwise every study is scored at the start, and again after each training
        "MONAI_LABEL_AUTO_UPDATE_SCORING": os.environ.get("MONAI_LABEL_AUTO_UPDATE_SCORING", "false"),
    }


def command(app: Path, studies: str, port: int, log_config: Path) -> list[str]:
    """Return the server's command line."""
    return [
        sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", studies,
        "--host", "127.0.0.1", "--port", str(port), "--uvicorn_app", "label_app:app", "--log_config", str(log_config),
        # use the model in the folder, not one from the internet, and no segment-anything models
        "--conf", "models", BUNDLE_NAME, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, and replace this process by the server; Ctrl-C ends it. Return 1 if it cannot start."""
    sys.path.insert(0, str(ROOT / "bundle"))
    from scripts.errors import run_tool

    given = make_parser().parse_args(arguments)
    return run_tool(lambda: start_server(given))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Start MONAI Label with the bundle.")
    parser.add_argument("--folder", type=Path, default=ROOT / "output" / "label", help="what is made stands there")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundle", help="the bundle to copy")
    parser.add_argument("--checkpoint_path", type=Path, help="weights of your own, in place of the bundle's")
    parser.add_argument("--overlay", type=Path, nargs="*", default=[], help="that the weights were trained with")
    parser.add_argument("--studies", help="tomograms of your own, in place of the sample: a folder, or a server's URL")
    parser.add_argument("--port", type=int, default=8000)
    return parser


def start_server(given: argparse.Namespace) -> None:
    """Make what is missing, and replace this process by the server.

    Raises:
        InputError: the studies or the weights cannot be used, or a file cannot be read or written.
    """
    from scripts.errors import InputError, reason_of

    try:
        folder: Path = given.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        studies = find_studies(given.studies, folder)
        app = make_app(folder, given.bundle, given.checkpoint_path, given.overlay)
        arguments = command(app, studies, given.port, write_log_config(folder))
        print(f"MONAI Label: http://127.0.0.1:{given.port}   studies: {studies}   Ctrl-C ends it", flush=True)
        os.chdir(folder)
        os.execve(sys.executable, arguments, environment(folder))
    except OSError as error:
        raise InputError(f"the server cannot start: {reason_of(error)}.") from error


if __name__ == "__main__":
    sys.exit(main())
