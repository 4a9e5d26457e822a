"""Twins: one volume in every form that a file can have is read as its plain twin, or refused by name.

The forms vary reader, axis order, direction, unit, byte order, type and use. The plain twin is the array in memory.
"""

import bz2
import gzip
import itertools
import json
import struct
import warnings
from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scripts.errors import InputError, InputWarning
from scripts.preparation.image_facts import facts_of_image
from scripts.preparation.region import read_mask
from scripts.volumes.reading import read_extent, read_tomogram
from synthetic import image_of
from volume_files import DTYPES, OFFSETS, mrc_bytes, multiscales, write_array, write_bytes, write_group

SHAPE = (8, 20, 24)
VOXEL_SIZE = 10.012
WAVES = gaussian_filter(np.random.default_rng(5).normal(size=SHAPE), 1.0)
WAVES /= np.abs(WAVES).max()  # neighbours are alike, as in a tomogram
TOMOGRAM = np.rint(60 + 59 * WAVES)  # whole numbers that every type can hold
MASK = (WAVES > 0.2).astype(float)
MRC = {"mrc": bytes, "mrc.gz": gzip.compress, "mrc.bz2": bz2.compress}
NIFTI = {"nii": bytes, "nii.gz": gzip.compress}
ZARR = {"zarr 2": 2} | ({} if zarr.__version__.startswith("2.") else {"zarr 3": 3})
TYPES = {
    **{reader: ("i1", "i2", "u2", "f2", "f4") for reader in MRC},
    **{reader: ("i1", "u1", "i2", "u2", "i4", "f4", "f8") for reader in NIFTI},
    **{reader: ("i1", "u1", "i2", "u2", "f2", "i4", "f4", "i8", "f8") for reader in ZARR},
}
NIFTI_UNITS = {"unknown": 0, "meter": 1, "mm": 2, "micron": 3}  # all taken as ångströms
ZARR_UNITS = {None: 1.0, "angstrom": 1.0, "nanometer": 10.0, "micrometer": 1e4}
ORDERS = ["".join(order) for order in itertools.permutations("xyz")]
FORWARDS, TURNED = (1, 1, 1), (-1, -1, 1)


@dataclass
class Form:
    """How a file stores a volume; ``order`` and ``directions`` are of its axes, the fastest first."""

    reader: str
    order: str
    byte_order: str
    dtype: str
    unit: str | None = None
    directions: tuple[int, int, int] = FORWARDS
    has_statistics: bool = False

    def write(self, folder, volume):
        """Write the twin of a volume ``[z, y, x]`` and return its path."""
        kind = np.dtype(self.byte_order + self.dtype)
        if self.reader in MRC:
            return write_bytes(folder, MRC[self.reader](self.mrc(volume)), f"twin.{self.reader}")
        turned = np.ascontiguousarray(volume.transpose(["zyx".index(name) for name in self.order])).astype(kind)
        if self.reader in NIFTI:
            return write_bytes(folder, NIFTI[self.reader](self.nifti(turned)), f"twin.{self.reader}")
        return self.zarr(folder / "twin.zarr", turned)

    def mrc(self, volume):
        mode = next(mode for mode, kind in DTYPES.items() if kind == self.dtype)
        axes = tuple("xyz".index(name) + 1 for name in self.order)
        content = mrc_bytes(volume, mode, self.byte_order, axes, VOXEL_SIZE)
        statistics = struct.pack(f"{self.byte_order}3f", volume.min(), volume.max(), volume.mean())
        start = OFFSETS["minimum"]
        return content[:start] + statistics + content[start + 12 :] if self.has_statistics else content

    def nifti(self, turned):
        affine = np.diag([0.0, 0, 0, 1])
        for axis, (name, direction) in enumerate(zip(self.order, self.directions, strict=True)):
            affine["xyz".index(name), axis] = direction * VOXEL_SIZE
        header = nibabel.Nifti1Header(endianness=self.byte_order)
        header.set_data_dtype(turned.dtype)
        image = nibabel.Nifti1Image(turned, affine, header)
        image.header["xyzt_units"] = NIFTI_UNITS[self.unit]
        return image.to_bytes()

    def zarr(self, folder, turned):
        scale = VOXEL_SIZE / ZARR_UNITS[self.unit]
        zarr_format = ZARR[self.reader]
        write_group(folder, multiscales((scale,), self.order, self.unit), zarr_format)
        write_array(folder / "0", turned, (5, 6, 7), zarr_format, separator="/")
        if zarr_format == 3:
            text = (folder / "0" / "zarr.json").read_text()
            endian = "big" if self.byte_order == ">" else "little"
            (folder / "0" / "zarr.json").write_text(text.replace('"little"', json.dumps(endian)))
        return folder


@st.composite
def forms(draw, directions=(FORWARDS,)):
    """Draw a form in which a file can be right."""
    reader = draw(st.sampled_from(sorted(TYPES)))
    units = NIFTI_UNITS if reader in NIFTI else ZARR_UNITS if reader in ZARR else [None]
    return Form(
        reader=reader,
        order=draw(st.sampled_from(ORDERS)),
        byte_order=draw(st.sampled_from("<>")),
        dtype=draw(st.sampled_from(TYPES[reader])),
        unit=draw(st.sampled_from(list(units))),
        directions=draw(st.sampled_from(directions)) if reader in NIFTI else FORWARDS,
        has_statistics=draw(st.booleans()),
    )


def property_of(**drawn):
    """Return a decorator that tests a property on many drawn forms."""
    quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    return lambda test: quick(given(**drawn)(test))


@pytest.fixture
def new_folder(tmp_path):
    """Return a function that makes an empty folder for every drawn form."""
    counter = itertools.count()

    def make():
        folder = tmp_path / str(next(counter))
        folder.mkdir()
        return folder

    return make


@property_of(form=forms())
def test_a_tomogram_is_its_plain_twin_in_every_form(form, new_folder):
    path = form.write(new_folder(), TOMOGRAM)
    volume = read_tomogram(path)
    assert np.array_equal(volume.data, TOMOGRAM)
    assert volume.data.dtype.isnative
    assert volume.voxel_size_angstrom == pytest.approx(VOXEL_SIZE, rel=1e-5)
    assert read_extent(path) == (SHAPE, pytest.approx(VOXEL_SIZE, rel=1e-5))
    assert np.allclose(volume.affine @ (1, 2, 4, 1), np.array([4, 2, 1, 1 / VOXEL_SIZE]) * VOXEL_SIZE)


@property_of(form=forms())
def test_a_mask_is_its_plain_twin_in_every_form(form, new_folder):
    facts = facts_of_image(image_of(TOMOGRAM, VOXEL_SIZE))
    assert np.array_equal(read_mask(form.write(new_folder(), MASK), SHAPE, facts), MASK != 0)


@property_of(form=forms(list(itertools.product((1, -1), repeat=3))))
def test_directions_give_the_plain_twin_or_a_refusal(form, new_folder):
    """In the array a twin runs along its axes, so that one whose directions are refused would be another volume."""
    folder, facts = new_folder(), facts_of_image(image_of(TOMOGRAM, VOXEL_SIZE))
    along_xyz = tuple(form.directions[form.order.index(name)] for name in "xyz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcomes = [outcome_of(read_tomogram, form.write(folder, TOMOGRAM))]
        outcomes.append(outcome_of(read_mask, form.write(new_folder(), MASK), SHAPE, facts))
    if along_xyz == FORWARDS:
        assert not caught
        assert np.array_equal(outcomes[0].data, TOMOGRAM)
        assert np.array_equal(outcomes[1], MASK != 0)
    elif along_xyz == TURNED:
        assert "runs x and y backwards" in str(caught[0].message)
        assert np.array_equal(outcomes[0].data, TOMOGRAM)
        assert "x and y run the other way" in outcomes[1]
    else:
        assert all("backwards" in outcome for outcome in outcomes)


def outcome_of(read, *arguments):
    """Return what a reader returns, or the message with which it refuses."""
    try:
        return read(*arguments)
    except InputError as error:
        return str(error)


RANGES = {  # of the voxels: centred, positive, and all that the type can hold
    "i1": [(-120, 120), (0, 120), (-128, 127)],
    "u1": [(0, 255), (60, 200), (150, 250)],
    "i2": [(-12700, 12700), (0, 30000), (-32768, 32767), (-300, 300)],
    "u2": [(0, 65535), (0, 1000), (40000, 60000)],
    "f2": [(-4, 4), (0, 1), (-60000, 60000), (1000, 2000)],
    "f4": [(-4, 4), (0, 1e-3), (-1e6, 1e6)],
}
LIES = [
    pytest.param(dtype, order, mode, low, high, id=f"{order}{dtype} {low}..{high} as mode {mode}")
    for dtype, ranges in RANGES.items()
    for order, mode in itertools.product("<>", DTYPES)
    if np.dtype(dtype).itemsize == np.dtype(DTYPES[mode]).itemsize
    for low, high in ranges
]


@pytest.mark.parametrize(("dtype", "order", "mode", "low", "high"), LIES)
def test_voxels_of_another_type_than_the_header_states_are_read_right_or_refused(
    dtype, order, mode, low, high, tmp_path
):
    """The header is little-endian and has the statistics of the voxels, as the program that wrote them left it."""
    values = np.clip(low + (high - low) * (1 + 1.2 * WAVES) / 2, low, high).astype(np.dtype(order + dtype))
    found = values.astype(float)
    header = bytearray(mrc_bytes(np.zeros(SHAPE), mode)[:1024])
    struct.pack_into("<3f", header, OFFSETS["minimum"], found.min(), found.max(), found.mean())
    path = write_bytes(tmp_path, bytes(header) + values.tobytes())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        outcome = outcome_of(read_tomogram, path)
    if isinstance(outcome, str):
        assert "byte order" in outcome
    else:
        assert np.array_equal(outcome.data, values)
    if np.array_equal(values.view(f"<{DTYPES[mode]}"), values):
        assert not caught
        assert not isinstance(outcome, str)
    else:
        assert caught or isinstance(outcome, str)
