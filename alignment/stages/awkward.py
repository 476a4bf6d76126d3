"""Image files and folders that are chosen to be awkward, made on the fly.

A check that looks at one friendly configuration calls a port right that is wrong at the next one.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ..files import reason_of

__all__ = ["RULES", "broken_pictures", "noise", "pictures", "wrong_folders"]

SIZE = (21, 16)  # of the pictures, width and height
LARGE = (1100, 804)  # far more than a preset wants: a decoder could be asked for less
ORIENTATION = 0x0112  # EXIF


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0, high: int = 256) -> np.ndarray:
    """(height, width, channels) of whole numbers below `high`; smooth in one half, noise in the
    other."""
    width, height = size
    rng = np.random.default_rng((seed, width, height))
    values = rng.integers(0, high, (height, width, channels))
    ramp = np.linspace(0, high - 1, width).astype(np.int64)[None, :, None]
    values[: height // 2] = np.broadcast_to(ramp, values.shape)[: height // 2]
    return values.astype(np.uint8 if high <= 256 else np.uint16)


# Colours whose grey, 0.2989 r + 0.587 g + 0.114 b with its fraction cut off, hangs on the last
# place of float32: in float64 it is another.
ROUNDED_GREYS = [
    (20, 152, 7), (40, 244, 244), (40, 252, 80), (110, 111, 26), (140, 160, 81), (140, 236, 23),
    (140, 252, 195), (170, 61, 170), (190, 175, 206), (220, 222, 52), (230, 225, 177),
    (240, 222, 175), (250, 13, 146), (250, 17, 64), (250, 55, 35), (250, 95, 215), (250, 117, 14),
    (250, 133, 186), (250, 171, 157), (250, 247, 99),
]  # fmt: skip


def rounded_greys() -> np.ndarray:
    """(3, 20, 3) uint8: all of these, in each row."""
    return np.tile(np.array(ROUNDED_GREYS, np.uint8), (3, 1, 1))


def _image(mode: str, size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """An image of any mode that can be converted to."""
    if mode == "I;16":
        return Image.fromarray(noise(size, 1, seed, 65536)[..., 0])
    if mode == "I":  # beyond 16 bits, and below 0
        return Image.fromarray(noise(size, 1, seed, 65536)[..., 0].astype(np.int32) * 3 - 500)
    if mode == "F":
        return Image.fromarray(noise(size, 1, seed)[..., 0].astype(np.float32) * 1.37 - 20)
    colours = Image.fromarray(noise(size, seed=seed))
    if mode in ("LA", "RGBA"):
        image = colours.convert(mode)
        image.putalpha(Image.fromarray(noise(size, 1, seed + 1)[..., 0]))
        return image
    if mode == "PA":
        return _image("P", size, seed).convert("PA")
    if mode == "P":
        return colours.quantize(64)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(  # type: ignore[return-value]  # None: only in place
            colours,
            ImageCms.buildTransform(*profiles, "RGB", "LAB", flags=0),  # type: ignore[arg-type]
        )
    return colours.convert(mode)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def _other_primaries() -> bytes:
    """A colour profile in which red and blue are swapped: who heeds it gets other colours."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"xXYZ"), (b"bXYZ", b"rXYZ"), (b"xXYZ", b"bXYZ")):
        profile = profile.replace(old, new)
    return profile


# Of a PNG file's pixels: of each pass (first column, first row, step to the right, step down).
ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
COLOUR_TYPES = {"grey": (0, 1), "RGB": (2, 3), "palette": (3, 1), "LA": (4, 2), "RGBA": (6, 4)}


def _png(
    kind: str, depth: int, interlaced: bool = False, chunks: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    """A PNG file of a kind that Pillow reads and does not write.

    Args:
        kind: of COLOUR_TYPES.
        depth: bits of each value.
        chunks: further ones before the pixels, [(name, content)].
    """
    colour_type, channels = COLOUR_TYPES[kind]
    width, height = SIZE
    values = noise(SIZE, channels, seed=depth, high=min(2**depth, 2**16))

    def rows(part: np.ndarray) -> bytes:
        packed = b""
        for row in part.reshape(len(part), -1):
            if depth == 16:
                content = row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
                content = np.packbits(bits.ravel()).tobytes()
            packed += b"\0" + content  # no filter
        return packed

    pixels = rows(values)
    if interlaced:
        pixels = b"".join(rows(values[y::down, x::right]) for x, y, right, down in ADAM7)

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    palette = [(b"PLTE", noise((2**depth, 1), seed=5).tobytes())] if kind == "palette" else []
    parts = [(b"IHDR", header), *palette, *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _netpbm(kind: str, most: int, text: bool) -> bytes:
    """A PGM (P2, P5) or PPM (P3, P6) file whose largest value is `most`."""
    channels = {"P2": 1, "P5": 1, "P3": 3, "P6": 3}[kind]
    values = noise(SIZE, channels, high=most + 1)
    header = f"{kind}\n# a comment\n{SIZE[0]} {SIZE[1]}\n{most}\n".encode()
    if text:
        return header + " ".join(map(str, values.ravel())).encode() + b"\n"
    return header + values.astype(">u2" if most > 255 else "u1").tobytes()


def _frames(mode: str = "RGB") -> list[Image.Image]:
    return [_image(mode, seed=seed) for seed in (11, 12, 13)]


def _animated(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    first, *more = _frames(mode)
    return _encoded(first, kind, save_all=True, append_images=more, **options)


def _kinds() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """{what it is: (name of the file, function that gives its bytes)}"""
    kinds = {}

    def add(name: str, suffix: str, make: Callable[..., bytes], *args: Any, **options: Any) -> None:
        kinds[name] = f"{len(kinds):03}{suffix}", lambda: make(*args, **options)

    def saved(name: str, suffix: str, mode: str, kind: str, **options: Any) -> None:
        add(name, suffix, lambda: _encoded(_image(mode), kind, **options))

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        saved(f"PNG of mode {mode}", ".png", mode, "PNG")
    for bits in (1, 2, 4):
        add(f"PNG with a palette of {bits} bits", ".png", _png, "palette", bits)
        add(f"PNG, grey of {bits} bits", ".png", _png, "grey", bits)
    for kind in ("RGB", "LA", "RGBA"):
        add(f"PNG, {kind} of 16 bits", ".png", _png, kind, 16)
    for kind, depth in (("grey", 8), ("grey", 16), ("palette", 4), ("RGB", 8), ("RGBA", 8)):
        add(f"PNG, interlaced, {kind} of {depth} bits", ".png", _png, kind, depth, True)
    clear = bytes(range(256))
    saved("PNG with a palette, transparency of each colour", ".png", "P", "PNG",
          transparency=clear[:64])  # fmt: skip
    saved("PNG with a palette, one colour transparent", ".png", "P", "PNG", transparency=3)
    saved("PNG, one RGB colour transparent", ".png", "RGB", "PNG", transparency=(12, 12, 12))
    saved("PNG, one grey transparent", ".png", "L", "PNG", transparency=12)
    saved("PNG of one bit, white transparent", ".png", "1", "PNG", transparency=1)
    gamma = (b"gAMA", struct.pack(">I", 100_000))
    add("PNG that declares a gamma of 1", ".png", _png, "RGB", 8, chunks=[gamma])

    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        saved(f"JPEG of mode {mode}", ".jpg", mode, "JPEG", quality=90)
    saved("JPEG, progressive", ".jpeg", "RGB", "JPEG", progressive=True, quality=80)
    saved("JPEG, grey and progressive", ".jpeg", "L", "JPEG", progressive=True)
    saved("JPEG, CMYK and progressive", ".jpeg", "CMYK", "JPEG", progressive=True)
    for name, sampling in (("4:4:4", 0), ("4:2:2", 1)):
        saved(f"JPEG sampled {name}", ".jpg", "RGB", "JPEG", subsampling=sampling)
    add("JPEG far larger than the resize", ".jpg",
        lambda: _encoded(_image("RGB", LARGE), "JPEG", quality=75))  # fmt: skip
    add("JPEG with a colour profile", ".jpg",
        lambda: _encoded(_image("RGB"), "JPEG", icc_profile=_other_primaries()))  # fmt: skip
    for orientation in range(2, 9):
        saved(f"JPEG with EXIF orientation {orientation}", ".jpg", "RGB", "JPEG",
              exif=_with_orientation(orientation))  # fmt: skip
    saved("PNG with EXIF orientation 6", ".png", "RGB", "PNG", exif=_with_orientation(6))
    saved("WebP with EXIF orientation 8", ".webp", "RGB", "WEBP", exif=_with_orientation(8))
    saved("TIFF with orientation 3", ".tif", "RGB", "TIFF", tiffinfo={ORIENTATION: 3})

    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"):
        saved(f"TIFF of mode {mode}", ".tiff", mode, "TIFF")
    for mode, compression in (("RGB", "tiff_lzw"), ("RGB", "jpeg"), ("1", "group4")):
        saved(f"TIFF of mode {mode}, compressed ({compression})", ".tif", mode, "TIFF",
              compression=compression)  # fmt: skip
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        saved(f"BMP of mode {mode}", ".bmp", mode, "BMP")
    for mode in ("RGB", "RGBA", "L"):
        saved(f"WebP of mode {mode}", ".webp", mode, "WEBP")
        saved(f"WebP of mode {mode}, lossless", ".webp", mode, "WEBP", lossless=True)
    for mode in ("L", "RGB", "1"):
        saved(f"PPM of mode {mode}", ".ppm", mode, "PPM")
    for kind, most in (("P2", 255), ("P5", 100), ("P5", 65535), ("P3", 15), ("P6", 1023)):
        text = kind in ("P2", "P3")
        suffix = ".pgm" if kind in ("P2", "P5") else ".ppm"
        add(f"{kind} with values up to {most}", suffix, _netpbm, kind, most, text)

    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("GIF", "P"), ("WEBP", "RGBA")):
        suffix = ".webp" if kind == "WEBP" else ".png"
        add(f"animated {kind} of mode {mode}", suffix, _animated, kind, mode)
    add("animated PNG whose default image is none of its frames", ".png", _animated, "PNG",
        default_image=True)  # fmt: skip
    add("TIFF of several pages", ".tif", _animated, "TIFF")
    add("JPEG of several pictures (MPO)", ".jpg", _animated, "MPO")

    # The content decides, not the name. Under .gif and the like torchvision would not list them.
    saved("GIF with transparency", ".png", "P", "GIF", transparency=2)
    saved("GIF under the name of a JPEG", ".JPEG", "L", "GIF")
    saved("IM of mode YCbCr", ".png", "YCbCr", "IM")
    for kind, mode in (("TGA", "RGBA"), ("PCX", "P"), ("SGI", "RGBA"), ("ICO", "RGBA"),
                       ("JPEG2000", "RGBA"), ("JPEG2000", "I;16"), ("AVIF", "RGBA"),
                       ("QOI", "RGBA")):  # fmt: skip
        saved(f"{kind} of mode {mode}", ".png", mode, kind)
    return kinds


def pictures(folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Writes pictures of all kinds into `folder`, as its only class.

    Returns:
        {what it is: name of the file}, {what cannot be made: why}: a Pillow may lack a codec.
    """
    made, lacking = {}, {}
    place = os.path.join(folder, "pictures")
    os.makedirs(place)
    for what, (name, make) in _kinds().items():
        try:
            content = make()
        except (OSError, KeyError, ValueError, ImportError, ImageCms.PyCMSError) as error:
            lacking[what] = reason_of(error)
            continue
        with open(os.path.join(place, name), "wb") as file:
            file.write(content)
        made[what] = name
    return made, lacking


def broken_pictures(folder: str) -> dict[str, str]:
    """Writes files into `folder` that are no whole pictures: {what it is: path}."""
    jpeg = _encoded(_image("RGB", (64, 64)), "JPEG", quality=95)
    png = _encoded(_image("RGB", (64, 64)), "PNG")
    contents = {
        "an empty file": b"",
        "a text": b"no picture\n" * 20,
        "a JPEG that is cut short": jpeg[: len(jpeg) * 2 // 3],
        "a JPEG that ends after its header": jpeg[:300],
        "a PNG that is cut short": png[: len(png) // 2],
        "a PNG with a wrong check sum": png[:60] + bytes([png[60] ^ 255]) + png[61:],
    }
    paths = {}
    for number, (what, content) in enumerate(contents.items()):
        paths[what] = os.path.join(folder, f"{number}.png")
        with open(paths[what], "wb") as file:
            file.write(content)
    paths["no file"] = os.path.join(folder, "nowhere.png")
    return paths


# Names that sort, or count, differently by rule: of classes, files and sub-folders.
RULES = {
    "digits": ["10", "2", "1", "02", "1a"],
    "upper and lower case": ["b", "A", "a", "B", "aB", "Ab"],
    # e with an accent as one sign and as two, sharp s, Chinese, a sign beyond 16 bits
    "not ASCII": [
        "z",
        "\u00e9",
        "e\u0301",
        "\u00df",
        "ss",
        "\u4e2d",
        "\U0001f600",
    ],
    "hidden": [".hidden", "_first", "a", "__pycache__", ".ipynb_checkpoints"],
    "blanks and signs": ["a b", "a-b", "a.b", "a_b", "ab", " a", "a+", "a~"],
}
# Names of files in a class, some of which count as pictures.
SUFFIXES = [
    "a.PNG", "b.JpEg", "c.JPG", "d.tif", "e.TIFF", "f.webp", "g.ppm", "h.PGM", "i.bmp", "j.txt",
    "k.png.txt", "l.txt.png", "m", "png", ".png", "n.gif", "o.jpeg2000", "p.jfif", "q.png ",
    "r.npy", "s.png~", "t.apng", "u.jpg.bak", "Thumbs.db", ".DS_Store",
]  # fmt: skip


def _touch(*path: str) -> None:
    place = os.path.join(*path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb"):
        pass


def _names(names: Iterable[str]) -> Callable[[str], None]:
    """A function that makes classes, files and sub-folders of these names."""

    def make(root: str) -> None:
        for name in names:
            _touch(root, name, "x.png")
            _touch(root, "class", f"{name}.png")
            _touch(root, "class", name, "x.png")

    return make


def _suffixes(root: str) -> None:
    for name in SUFFIXES:
        _touch(root, "class", name)
    _touch(root, "file beside the classes.png")


def _subfolders(root: str) -> None:
    for folder in ("a", "a/b", "a-b", "a.png", "a0", "a/b/c/d", "empty/deep", "B"):
        _touch(root, "class", folder, "y.png")
        _touch(root, "class", folder, "x.png")
    _touch(root, "class", "a.jpg")
    os.makedirs(os.path.join(root, "class", "nothing in here"))
    _touch(root, "class.png", "deep", "x.png")  # a folder with the name of a picture


def _links(root: str) -> None:
    _touch(root, "a", "x.png")
    os.symlink("a", os.path.join(root, "link to a class"))
    os.symlink("x.png", os.path.join(root, "a", "link to a file.png"))
    os.symlink("nowhere", os.path.join(root, "a", "link to nothing.png"))
    os.symlink(os.path.join(os.pardir, "a"), os.path.join(root, "link to nothing"))
    _touch(root, "b", "y.png")
    os.symlink(os.path.join(os.pardir, "a"), os.path.join(root, "b", "link to a folder"))


def wrong_folders() -> dict[str, Callable[[str], None]]:
    """{what it is: function that makes it at a path}, of which most cannot be listed."""

    def empty_class(root: str) -> None:
        _touch(root, "a", "x.png")
        os.makedirs(os.path.join(root, "b"))

    def class_of_texts(root: str) -> None:
        _touch(root, "a", "x.png")
        _touch(root, "b", "x.txt")

    def no_classes(root: str) -> None:
        _touch(root, "x.png")

    def hidden_class_alone(root: str) -> None:
        _touch(root, ".hidden", "x.png")

    return {
        "an empty class": empty_class,
        "a class without a picture": class_of_texts,
        "no classes, but pictures": no_classes,
        "an empty folder": lambda root: os.makedirs(root),
        "no folder": lambda root: None,
        "a file in place of a folder": lambda root: _touch(root),
        "a hidden class alone": hidden_class_alone,
    }


def folders() -> dict[str, Callable[[str], None]]:
    """{what it is: function that makes it at a path}, of all folders."""
    return {
        **{f"names, {rule}": _names(names) for rule, names in RULES.items()},
        "suffixes": _suffixes,
        "sub-folders": _subfolders,
        "links": _links,
        **wrong_folders(),
    }
