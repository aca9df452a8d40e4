"""What read_image and write_image promise: pixels as in the file, or an error that names it."""

import io

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from eqmambair.data.io import IMAGE_EXTENSIONS, UNREAD_EXTENSIONS, decode_image, list_images, read_image, to_float, write_image
from eqmambair.errors import UserError

LOSSLESS = [".png", ".webp", ".tif", ".tiff", ".bmp"]


def pixels(height=6, width=9, channels=3, dtype=np.uint8, seed=0):
    largest = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, largest + 1, (height, width, channels)).astype(dtype)


def encoded(picture, file_format, **options):
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("extension", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_eight_bit_survives_writing_and_reading(tmp_path, extension, channels):
    image = pixels(channels=channels)
    if channels == 4:
        image[:, :, 3] |= 1  # the colour of wholly transparent pixels is not kept by WebP
    write_image(tmp_path / f"a{extension}", image)
    wanted = np.repeat(image, 3, axis=2) if extension == ".webp" and channels == 1 else image  # WebP has no gray
    np.testing.assert_array_equal(read_image(tmp_path / f"a{extension}"), wanted)


@pytest.mark.parametrize("extension", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_survives_even_when_dark(tmp_path, extension, channels):
    image = pixels(channels=channels, dtype=np.uint16) % 200  # all values would fit 8 bit: the depth comes from the file, not from them
    write_image(tmp_path / f"a{extension}", image)
    found = read_image(tmp_path / f"a{extension}")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, image)


def test_jpeg_is_close_to_what_was_written(tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 1, 3))
    write_image(tmp_path / "a.jpg", ramp)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - ramp).max() <= 3


def test_other_programs_read_what_is_written(tmp_path):
    image = pixels(channels=4)
    for extension in (".png", ".tif", ".bmp"):
        write_image(tmp_path / f"a{extension}", image)
        with PillowImage.open(tmp_path / f"a{extension}") as picture:
            np.testing.assert_array_equal(np.asarray(picture.convert("RGBA")), image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_palettes_gray_and_bits_are_read_as_pillow_reads_them(mode, file_format):
    picture = PillowImage.fromarray(pixels()).convert(mode)
    wanted = np.asarray(picture.convert("L" if mode in "1L" else "RGB"))
    np.testing.assert_array_equal(decode_image(encoded(picture, file_format), "x"), wanted.reshape(6, 9, -1))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_gray_with_alpha_becomes_rgba_with_equal_colours(file_format):
    picture = PillowImage.fromarray(pixels(channels=4)).convert("LA")
    np.testing.assert_array_equal(decode_image(encoded(picture, file_format), "x"), np.asarray(picture.convert("RGBA")))


def test_the_transparent_value_of_a_gray_png_becomes_alpha():
    gray = np.array([[3, 7], [9, 3]], np.uint8)
    found = decode_image(encoded(PillowImage.fromarray(gray), "PNG", transparency=3), "x")
    np.testing.assert_array_equal(found[:, :, 3], [[0, 255], [255, 0]])


def test_colours_under_alpha_are_not_multiplied():
    image = pixels(channels=4)
    for file_format, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        np.testing.assert_array_equal(decode_image(encoded(PillowImage.fromarray(image), file_format, **options), "x"), image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_come_upright(mode, orientation):
    picture = PillowImage.fromarray(pixels(channels=4)).convert(mode)
    exif = PillowImage.Exif()
    exif[0x112] = orientation
    for file_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True}), ("JPEG", {"quality": 95})):
        if file_format == "JPEG" and mode == "RGBA":
            continue
        data = encoded(picture, file_format, exif=exif, **options)
        wanted = np.asarray(ImageOps.exif_transpose(PillowImage.open(io.BytesIO(data))))
        found = decode_image(data, "x")
        assert found.shape[:2] == wanted.shape[:2]
        tolerance = 4 if file_format == "JPEG" else 0  # two JPEG decoders
        assert np.abs(found.astype(int) - wanted.reshape(found.shape)).max() <= tolerance


def test_an_orientation_is_seen_to_matter():
    exif = PillowImage.Exif()
    exif[0x112] = 6
    assert decode_image(encoded(PillowImage.fromarray(pixels()), "PNG", exif=exif), "x").shape == (9, 6, 3)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.995])
def test_files_cut_off_anywhere_are_named(file_format, kept):
    data = encoded(PillowImage.fromarray(pixels(64, 96)), file_format)
    with pytest.raises(UserError, match=r"holiday\.x"):
        decode_image(data[: int(len(data) * kept)], "holiday.x")


def test_a_png_with_one_wrong_byte_is_named():
    data = bytearray(encoded(PillowImage.fromarray(pixels(64, 96)), "PNG"))
    data[len(data) // 2] ^= 255
    with pytest.raises(UserError, match="x"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("file_format", ["JPEG", "BMP"])
def test_wrong_bytes_that_a_format_cannot_tell_change_pixels_only(file_format):
    """What the module's policy and docs/inference.md say of formats without checksums."""
    data = bytearray(encoded(PillowImage.fromarray(pixels(64, 96)), file_format))
    whole = decode_image(bytes(data), "x")
    data[len(data) // 2] ^= 1
    found = decode_image(bytes(data), "x")
    assert found.shape == whole.shape
    assert not np.array_equal(found, whole)


def test_pictures_of_unread_formats_are_listed_on_request(tmp_path):
    for name in ("a.png", "b.GIF", "c.heic", "notes.txt", ".d.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path, extensions=UNREAD_EXTENSIONS)] == ["b.GIF", "c.heic"]
    assert not set(UNREAD_EXTENSIONS) & set(IMAGE_EXTENSIONS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"just a text that ends in .png", "not an image"),
        (encoded(PillowImage.fromarray(pixels()), "GIF"), "GIF"),
        (encoded(PillowImage.fromarray(pixels()).convert("CMYK"), "JPEG"), "CMYK"),
        (encoded(PillowImage.fromarray(pixels()).convert("CMYK"), "TIFF"), "convert"),
        (encoded(PillowImage.fromarray(pixels()[:, :, 0].astype(np.float32)), "TIFF"), "8 or 16 bit"),
        (encoded(PillowImage.fromarray(pixels()), "TIFF", save_all=True, append_images=[PillowImage.fromarray(pixels())]), "pages"),
        (encoded(PillowImage.fromarray(pixels()), "PNG", save_all=True, append_images=[PillowImage.fromarray(pixels(seed=1))]), "animated"),
        (
            encoded(PillowImage.fromarray(pixels()), "WEBP", save_all=True, append_images=[PillowImage.fromarray(pixels(seed=1))]),
            "animated",
        ),
    ],
    ids=["empty", "text", "gif", "cmyk-jpeg", "cmyk-tiff", "float", "pages", "apng", "animated-webp"],
)
def test_what_cannot_be_read_right_is_refused_by_name(data, said):
    with pytest.raises(UserError, match=rf"the_file.*{said}"):
        decode_image(data, "the_file")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png"):
        read_image(tmp_path / "folder.png")


@pytest.mark.parametrize("name", ["ein Bild.png", "画像 ä.png", "a.b.c.png", "UPPER.PNG"])
def test_any_name_is_written_and_read(tmp_path, name):
    write_image(tmp_path / name, pixels())
    np.testing.assert_array_equal(read_image(tmp_path / name), pixels())


@pytest.mark.parametrize(
    ("name", "image", "said"),
    [
        ("a.jpg", pixels(channels=4), "alpha"),
        ("a.jpg", pixels(dtype=np.uint16), "16 bit"),
        ("a.bmp", pixels(dtype=np.uint16), "16 bit"),
        ("a.webp", pixels(1, 16384), "encoded"),
        ("a.txt", pixels(), r"\.txt"),
        ("a", pixels(), "without extension"),
    ],
    ids=["jpeg-alpha", "jpeg-16", "bmp-16", "webp-too-wide", "txt", "none"],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, name, image, said):
    with pytest.raises(UserError, match=said):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arrays_are_programming_errors(tmp_path):
    with pytest.raises(TypeError, match="float"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="shape"):
        write_image(tmp_path / "a.png", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(TypeError, match="int32"):
        to_float(np.zeros((4, 4, 3), np.int32))


def test_to_float_takes_the_depth_from_the_dtype():
    np.testing.assert_array_equal(to_float(np.array([0, 255], np.uint8)), np.array([0, 1], np.float32))
    np.testing.assert_array_equal(to_float(np.array([0, 65535], np.uint16)), np.array([0, 1], np.float32))
    assert to_float(np.array([255], np.uint16))[0] == np.float32(255 / 65535)


def test_folders_are_listed_sorted_without_hidden_files(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.webp", ".thumbs/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.JPG", "b.png"]
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path, recursive=True)] == ["a.JPG", "b.png", "sub/c.webp"]


def test_a_wrong_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        list_images(tmp_path / "file")


def test_extensions_are_lower_case_with_dot():
    assert all(extension == extension.lower() and extension.startswith(".") for extension in IMAGE_EXTENSIONS)
