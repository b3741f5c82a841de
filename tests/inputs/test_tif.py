"""tif: what is read is what a viewer shows, and pages that differ are refused."""

import struct

import numpy as np
import pytest
import tifffile
from refusals import refuses

from flysoma.tasks.volumes.files import read_array, read_volume, write_array

SHAPE = (20, 24, 32)  # z, y, x
GREY = np.random.default_rng(0).integers(60, 200, SHAPE, dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "em.tif"


def write_pages(path, pages, **options):
    with tifffile.TiffWriter(path) as tif:
        for page in pages:
            tif.write(page, contiguous=False, metadata=None, **options)


WRITERS = {
    "pages": lambda path: write_pages(path, GREY),
    "one block": lambda path: tifffile.imwrite(path, GREY),
    "tiles": lambda path: tifffile.imwrite(path, GREY, tile=(16, 16), compression="zlib"),
    "strips": lambda path: tifffile.imwrite(
        path, GREY, rowsperstrip=5, compression="lzw", predictor=True
    ),
    "big-endian": lambda path: tifffile.imwrite(path, GREY, byteorder=">"),
    "BigTIFF": lambda path: tifffile.imwrite(path, GREY, bigtiff=True),
    "ImageJ": lambda path: tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "ZYX"}),
    "OME": lambda path: tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "ZYX"}),
    "OME, one channel, one time": lambda path: tifffile.imwrite(
        path, GREY[None, :, None], ome=True, metadata={"axes": "TZCYX"}
    ),
    "min is white": lambda path: tifffile.imwrite(path, 255 - GREY, photometric="miniswhite"),
    "palette of greys": lambda path: tifffile.imwrite(
        path,
        255 - GREY,
        photometric="palette",
        colormap=np.tile((255 - np.arange(256, dtype=np.uint16)) * 257, (3, 1)),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_stack_reads_as_it_looks(path, kind):
    WRITERS[kind](path)
    array = read_array(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, GREY)


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int16", "int8", "float32"])
def test_values_of_other_types_are_kept(path, dtype):
    values = (GREY.astype(int) - 100).clip(0 if "u" in dtype else None).astype(dtype)
    tifffile.imwrite(path, values, byteorder=">" if ">" in dtype else "<")
    array = read_array(path)
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(array, values)


def test_twelve_bits_with_white_at_zero(path):
    values = GREY.astype(np.uint16) * 16
    tifffile.imwrite(path, 65535 - values, photometric="miniswhite")
    np.testing.assert_array_equal(read_array(path), values)


def test_the_levels_of_a_pyramid_are_not_sections(path):
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY, subifds=1, tile=(16, 16), photometric="minisblack")
        tif.write(GREY[:, ::2, ::2], subfiletype=1, tile=(16, 16), photometric="minisblack")
    np.testing.assert_array_equal(read_array(path), GREY)


def write_bare(path, bits):
    """A stack with the tags that every page needs and no others, so without a resolution."""
    data, link = bytearray(b"II*\0" + bytes(4)), 4
    for page in GREY >> (8 - bits):
        packed = page if bits == 8 else (page[:, ::2] << 4) | page[:, 1::2]
        start, first = len(data), len(data) + packed.size
        data += packed.tobytes()
        data[link : link + 4] = struct.pack("<I", first)
        tags = {256: SHAPE[2], 257: SHAPE[1], 258: bits, 259: 1, 262: 1, 273: start, 277: 1}
        tags |= {278: SHAPE[1], 279: packed.size}
        data += struct.pack("<H", len(tags))
        data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        link = len(data)
        data += bytes(4)
    path.write_bytes(data)


def test_a_stack_without_a_resolution_is_read(path):
    write_bare(path, 8)
    np.testing.assert_array_equal(read_array(path, resolution_nm=(64, 64, 40)), GREY)


def test_four_bits_are_spread_over_the_grey_values(path):
    write_bare(path, 4)
    np.testing.assert_array_equal(read_array(path), (GREY >> 4) * 17)
    np.testing.assert_array_equal(read_array(path, labels=True), GREY >> 4)


def write_turned(path, orientations):
    with tifffile.TiffWriter(path) as tif:
        for page, number in zip(GREY, orientations):
            tag = (274, 3, 1, number, True)
            tif.write(page, contiguous=False, metadata=None, extratags=[tag])


def test_a_turned_page_is_refused(path):
    write_turned(path, [6] * 20)
    refuses(path, "orientation 6", "rows and columns")
    write_turned(path, [1] * 7 + [3] + [1] * 12)
    refuses(path, "page 7", "orientation 3")
    write_turned(path, [4] * 20)  # voxels are not mirrored
    np.testing.assert_array_equal(read_array(path), GREY)


def test_a_page_with_another_palette_is_named(path):
    greys = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    with tifffile.TiffWriter(path) as tif:
        for z, page in enumerate(GREY):
            palette = greys[:, ::-1] if z == 7 else greys
            tif.write(
                page, contiguous=False, metadata=None, photometric="palette", colormap=palette
            )
    refuses(path, "page 7", "another palette")


def test_a_page_of_another_type_is_named(path):
    write_pages(path, [page.astype(np.uint16) if z == 17 else page for z, page in enumerate(GREY)])
    refuses(path, "17", "uint16", "uint8")


def test_a_page_of_another_size_is_named(path):
    write_pages(path, [page[:-1] if z == 17 else page for z, page in enumerate(GREY)])
    refuses(path, "17", "23 x 32", "24 x 32")


def test_a_page_of_another_photometric_is_named(path):
    with tifffile.TiffWriter(path) as tif:
        for z, page in enumerate(GREY):
            kind = "miniswhite" if z == 17 else "minisblack"
            tif.write(page, contiguous=False, metadata=None, photometric=kind)
    refuses(path, "17", "miniswhite", "minisblack")


def test_images_of_several_shapes_are_counted_and_one_can_be_chosen(path):
    write_pages(path, [GREY[0, ::4, ::4], *GREY])
    refuses(path, "2 images", "1 page of 6 x 8 uint8", "20 pages of 24 x 32 uint8", "--dataset")
    np.testing.assert_array_equal(read_array(path, dataset="1"), GREY)
    refuses(path, "no image '2'", dataset="2")


def test_a_file_with_fewer_pages_than_it_names_is_refused(path):
    tifffile.imwrite(path, GREY, ome=True, metadata={"axes": "ZYX"})
    data = path.read_bytes()
    for before, after in ((b'SizeZ="20"', b'SizeZ="19"'), (b'SizeZ="20"', b'SizeZ="21"')):
        path.write_bytes(data.replace(before, after))
        refuses(path, "20" if after == b'SizeZ="19"' else "page 20")


COLOURS = {
    "RGB": (GREY[..., None].repeat(3, -1), {"photometric": "rgb"}, "pages are rgb"),
    "RGB planes": (
        GREY[:, None].repeat(3, 1),
        {"photometric": "rgb", "planarconfig": "separate"},
        "pages are rgb",
    ),
    "one RGB picture": (GREY[0, ..., None].repeat(3, -1), {"photometric": "rgb"}, "pages are rgb"),
    "grey and alpha": (
        GREY[..., None].repeat(2, -1),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        "2 values per pixel",
    ),
    "ImageJ channels": (GREY, {"imagej": True, "metadata": {"axes": "CYX"}}, "20 channels"),
    "ImageJ times": (GREY, {"imagej": True, "metadata": {"axes": "TYX"}}, "20 times"),
    "OME channels": (
        GREY[:, None].repeat(2, 1),
        {"ome": True, "metadata": {"axes": "ZCYX"}},
        "2 channels",
    ),
    "palette": (
        GREY,
        {
            "photometric": "palette",
            "colormap": np.random.default_rng(0).integers(0, 65535, (3, 256), dtype=np.uint16),
        },
        "palette",
    ),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_channels_and_times_are_not_taken_for_an_axis(path, kind):
    array, options, part = COLOURS[kind]
    tifffile.imwrite(path, array, **options)
    refuses(path, part)


def test_times_are_sections_if_the_axes_are_given(path):
    tifffile.imwrite(path, GREY, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(read_array(path, "zyx"), GREY)


def test_labels_may_have_a_palette_but_not_white_at_zero(path):
    colormap = np.random.default_rng(0).integers(0, 65535, (3, 256), dtype=np.uint16)
    tifffile.imwrite(path, GREY, photometric="palette", colormap=colormap)
    np.testing.assert_array_equal(read_array(path, labels=True), GREY)
    tifffile.imwrite(path, GREY, photometric="miniswhite")
    refuses(path, "miniswhite", "labels", labels=True)


SIZES = {
    "OME": {
        "ome": True,
        "metadata": {
            "axes": "ZYX",
            "PhysicalSizeX": 0.064,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 64,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 0.00004,
            "PhysicalSizeZUnit": "mm",
        },
    },
    "ImageJ": {
        "imagej": True,
        "resolution": (1 / 0.064, 1 / 0.064),
        "metadata": {"axes": "ZYX", "spacing": 0.04, "unit": "um"},
    },
    "resolution tags": {
        "resolution": (1e7 / 64, 1e7 / 64),
        "resolutionunit": "CENTIMETER",
    },
    "dots per inch": {"resolution": (25.4e6 / 64, 25.4e6 / 64), "resolutionunit": "INCH"},
    "ImageJ, inch": {
        "imagej": True,
        "resolution": (25.4e6 / 64, 25.4e6 / 64),
        "metadata": {"axes": "ZYX", "unit": "inch"},
    },
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_stated_voxel_size_is_compared_with_the_resolution(path, kind):
    tifffile.imwrite(path, GREY, **SIZES[kind])
    read_array(path, resolution_nm=(64, 64, 40))
    refuses(path, "64 x 64 x", "32 x 64 x 40", resolution_nm=(32, 64, 40))


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"resolution": (300, 300), "resolutionunit": "INCH"},
        {"resolution": (28, 28), "resolutionunit": "CENTIMETER"},
        {"resolution": (118, 118), "resolutionunit": "CENTIMETER"},
        {"imagej": True, "metadata": {"axes": "ZYX", "unit": "pixel", "spacing": 1.0}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
    ],
)
def test_the_resolution_of_a_screen_states_nothing(path, options):
    tifffile.imwrite(path, GREY, **options)
    read_array(path, resolution_nm=(64, 64, 40))


def test_written_labels_state_their_voxel_size(path):
    write_array(path, GREY.astype(np.uint32), resolution_nm=(64, 32, 40))
    volume = read_volume(path, resolution_nm=(64, 32, 40), labels=True)
    np.testing.assert_array_equal(volume.array, GREY)
    refuses(path, "64 x 32 x 40", resolution_nm=(32, 64, 40))
    refuses(path, "64 x 32 x 40", resolution_nm=(64, 32, 50))
