"""Rows of a workspace."""

from dataclasses import replace

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.rows import Rows

IMAGE = Geometry(
    images=1,
    height=5,
    width=7,
    channels=4,
    groups=1,
    kernel=(3, 3),
    strides=(1, 1),
    dilation=(1, 1),
    pad=(1, 2),
    padded=True,
    out=(5, 7),
    out_channels=8,
)


def test_padding_lies_around_the_image():
    rows = Rows.of(IMAGE, (7, 11))
    assert (rows.count, rows.columns, rows.top, rows.left) == (7, 11, 1, 2)
    assert (rows.inside, rows.right, rows.is_cut) == (7, 2, False)


def test_columns_that_are_not_read_are_left_out():
    assert (Rows.of(IMAGE, (7, 6)).inside, Rows.of(IMAGE, (7, 6)).right) == (4, 0)
    narrow = Rows.of(IMAGE, (7, 1))
    assert (narrow.left, narrow.inside, narrow.right) == (1, 0, 0)


def test_one_long_row_is_cut_into_equal_pieces():
    long = replace(IMAGE, height=1, width=60, kernel=(1, 1), pad=(0, 0), padded=False, out=(1, 60))
    rows = Rows.of(long, (1, 60))
    assert rows.is_cut and (rows.count, rows.columns, rows.height, rows.width) == (30, 2, 30, 2)
    assert rows.inside == 2
    assert not Rows.of(replace(long, padded=True), (1, 60)).is_cut
