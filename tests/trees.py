"""What the folders of a copick project contain."""


def runs_in(project, voxel_size_angstrom=10.0):
    """Return the names of the runs of a project that have a tomogram of the kind ``wbp`` and that voxel size."""
    found = (project / "static" / "ExperimentRuns").glob(f"*/VoxelSpacing{voxel_size_angstrom:.3f}/wbp.zarr")
    return sorted(path.parents[1].name for path in found)
