"""Empty files in place of tomograms and picks."""


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def touch_tomogram(root, run, kind="denoised", part="static", spacing="10.012"):
    path = root / part / "ExperimentRuns" / run / f"VoxelSpacing{spacing}" / f"{kind}.zarr"
    path.mkdir(parents=True)
    return path


def touch_picks(root, run, name="ribosome.json", part="overlay"):
    return touch(root / part / "ExperimentRuns" / run / "Picks" / name).parent


def names_of(runs):
    return [item["run"] for item in runs]


def write_truth(folder, *runs):
    rows = [f"{row},{run},ribosome,1,2,3" for row, run in enumerate(runs)]
    (folder / "truth.csv").write_text("\n".join(["id,experiment,particle_type,x,y,z", *rows]))
