import io

import numpy as np
import pytest
from PIL import Image
from scripts.pages.jpeg import SHEET_COLUMNS, STACK_SETTINGS, TILE_PIXELS, encode_stack, grey_levels, sprite_sheet
from synthetic import SHAPE, noise


def decoded(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(float)


def test_every_slice_becomes_a_picture_with_y_downwards():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[3, 2:8, 20:30] = 1
    stack = encode_stack(volume, 10**6)
    assert (stack.shape, stack.z_step, stack.pixel_step, len(stack.slices)) == (SHAPE, 1, 1, 20)
    picture = decoded(stack.slices[3])
    assert picture[4, 25] > 240
    assert picture[20, 25] < 15
    assert decoded(stack.slices[12]).max() < 15


def test_a_smaller_budget_gives_fewer_or_poorer_pictures_within_it():
    volume = noise(shape=(20, 56, 72))
    whole = sum(map(len, encode_stack(volume, 10**7).slices))
    steps = []
    for budget in (2 * whole, whole // 2, whole // 10, whole // 30):
        stack = encode_stack(volume, budget)
        assert sum(map(len, stack.slices)) <= budget
        steps.append((stack.z_step, stack.pixel_step))
    assert steps == sorted(steps)
    assert steps[0] == (1, 1)
    assert steps[-1] > (1, 1)


def test_averaged_pictures_cover_the_whole_volume():
    volume = noise(shape=(5, 7, 9)) + 5
    stack = encode_stack(volume, 1)
    z_step, pixel_step, _ = STACK_SETTINGS[-1]
    assert (stack.shape, stack.z_step, stack.pixel_step) == ((1, 1, 1), z_step, pixel_step)


def test_a_constant_volume_can_be_shown():
    assert len(encode_stack(np.zeros(SHAPE, dtype=np.float32), 10**6).slices) == 20


def test_few_voxels_are_beyond_the_grey_levels():
    low, high = grey_levels(noise(shape=(64, 64, 64)))
    assert (low, high) == pytest.approx((-2.75, 2.75), abs=0.1)


def test_tiles_stand_in_rows_in_the_order_of_the_particles():
    volume = noise() * 0.1
    volume[8:13, 12:16, 18:22] += 5
    centres = [(10, 5, 5)] * (SHEET_COLUMNS + 1) + [(10, 13.5, 19.5)]
    sheet = decoded(sprite_sheet(volume, centres, radius_vox=3))
    assert sheet.shape == (2 * TILE_PIXELS, SHEET_COLUMNS * TILE_PIXELS)
    middle = TILE_PIXELS // 2
    assert sheet[TILE_PIXELS + middle, TILE_PIXELS + middle] > 240
    assert sheet[TILE_PIXELS + middle, middle] < 200


def test_tiles_have_y_upwards():
    volume = np.zeros(SHAPE, dtype=np.float32)
    volume[:, 16:20, :] = 1  # above the centre
    sheet = decoded(sprite_sheet(volume, [(10, 13, 18)], radius_vox=3))
    assert sheet[:20].max() > 240
    assert sheet[-20:].max() < 20


def test_a_tile_at_the_edge_is_grey_outside_the_volume():
    sheet = decoded(sprite_sheet(np.ones(SHAPE, dtype=np.float32), [(0, 0, 0)], radius_vox=3))
    assert sheet.shape == (TILE_PIXELS, TILE_PIXELS)
    assert sheet[-10, 10] == pytest.approx(127, abs=10)
