"""Two small tomograms with their truth, and the shipped configs with overlays on them."""

from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow
from scripts.volumes.labels import draw_spheres
from synthetic import noise, write_mrc

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
VOXEL_SIZE = 10.012
SHAPE = (24, 40, 48)


def write_two_tomograms(folder):
    """Write two tomograms with two ribosomes each."""
    rows = ["experiment,particle_type,x,y,z"]
    for seed, run in enumerate(("one", "two")):
        centres = [(12, 10, 12), (14, 30, 20 + seed)]
        write_mrc(folder / f"{run}.mrc", noise(seed, SHAPE) + 6 * draw_spheres(SHAPE, centres, 5), VOXEL_SIZE)
        rows += [f"{run},ribosome,{x * VOXEL_SIZE},{y * VOXEL_SIZE},{z * VOXEL_SIZE}" for z, y, x in centres]
    (folder / "truth.csv").write_text("\n".join(rows))
    return folder


def run_configs(files, kind, data, output, run_id=None, **settings):
    """Run configs, of the bundle by name or others by path; ``run_id``: only that part of them."""
    made = ConfigWorkflow(
        config_file=[str(BUNDLE / "configs" / file) for file in files], workflow_type=kind, bundle_root=str(BUNDLE),
        logging_file=False, device=torch.device("cpu"), dataset_dir=str(data), output_dir=str(output),
        precision="float32", inference_window_size=[24, 40, 40], **settings,
    )  # fmt: skip
    made.initialize()
    if run_id:
        made.parser.get_parsed_content(run_id)
    else:
        made.run()
    return made
