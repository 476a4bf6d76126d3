"""Make lite_data.tar, the small set of real photographs that the steps read.

    pip install scikit-image==0.26.0 scikit-learn==1.9.1
    python data/make_lite_data.py --output lite_data.tar

Needs no network: eight photographs that come inside those two packages are cut up.

    lite_data/ATTRIBUTION.txt            authors and licences
    lite_data/train/CLASS/NAME.JPEG      20 crops of each photograph, and 6 odd files
    lite_data/val/CLASS/NAME.JPEG        16 crops of each photograph, and 6 odd files

A class is one photograph: astronaut, cat, coffee, flower, galaxies, pagoda, retina, rocket.
The odd files, all in astronaut, are what a folder of ImageNet holds now and then: a CMYK JPEG,
a grey one, one with an EXIF rotation, a PNG under a JPEG's name, a tiny one, a very wide one.

The crops of train and val differ, but they overlap: an accuracy measured on them means nothing.
They are here to check that two pipelines read, resize and batch the same files alike.

The same packages give the same bytes. The archive in the repository was made with scikit-image
0.26.0 and scikit-learn 1.9.1, which want Python 3.11 or newer, and Pillow 12.3.0, the release in
requirements.txt. Others make the same layout, but ATTRIBUTION.txt names the packages used, and
another Pillow may encode an image differently.
"""

import argparse
import hashlib
import io
import os
import random
import sys
import tarfile
from pathlib import Path

try:
    import skimage
    import sklearn
    from PIL import Image
except ImportError as error:
    print(
        f"make_lite_data.py: {error}; install with: pip install scikit-image scikit-learn",
        file=sys.stderr,
    )
    sys.exit(2)

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
# 8 * 16 + 6 = 134 images in val: not a multiple of a usual batch size, so the last batch is short.
CROPS = {"train": 20, "val": 16}

# class: (package, file inside it); ATTRIBUTION says what each shows
PHOTOS = {
    "astronaut": (skimage, "data/astronaut.png"),
    "cat": (skimage, "data/chelsea.png"),
    "coffee": (skimage, "data/coffee.png"),
    "flower": (sklearn, "datasets/images/flower.jpg"),
    "galaxies": (skimage, "data/hubble_deep_field.jpg"),
    "pagoda": (sklearn, "datasets/images/china.jpg"),
    "retina": (skimage, "data/retina.jpg"),
    "rocket": (skimage, "data/rocket.jpg"),
}

ATTRIBUTION = f"""\
Where the images in this archive come from

Every image is a crop of one of the photographs below, rescaled and encoded again.
A few were also turned, or converted to greyscale or CMYK. Each keeps the licence of
its photograph. Origin and licence are given as the package states them.

astronaut: astronaut.png as shipped in scikit-image {skimage.__version__}
Portrait of the astronaut Eileen Collins, from the NASA Great Images database,
https://flic.kr/p/r9qvLn (photographer not named).
No known copyright restrictions, released into the public domain.

cat: chelsea.png as shipped in scikit-image {skimage.__version__}
Chelsea the cat, by Stefan van der Walt.
CC0 by the photographer.

coffee: coffee.png as shipped in scikit-image {skimage.__version__}
Coffee cup, by Rachel Michetti, courtesy of Pikolo Espresso Bar.
CC0 by the photographer.

flower: flower.jpg as shipped in scikit-learn {sklearn.__version__}
https://www.flickr.com/photos/vultilion/6056698931/sizes/z/in/photostream/
The package's README credits danielbuechele, but its links lead to the Flickr user vultilion.
CC BY 2.0, https://creativecommons.org/licenses/by/2.0/

galaxies: hubble_deep_field.jpg as shipped in scikit-image {skimage.__version__}
Hubble eXtreme Deep Field, by NASA,
http://hubblesite.org/newscenter/archive/releases/2012/37/image/a/
May be freely used in the public domain.

pagoda: china.jpg as shipped in scikit-learn {sklearn.__version__}
By danielbuechele, https://www.flickr.com/photos/danielbuechele/
https://www.flickr.com/photos/danielbuechele/6061409035/sizes/z/in/photostream/
CC BY 2.0, https://creativecommons.org/licenses/by/2.0/

retina: retina.jpg as shipped in scikit-image {skimage.__version__}
Fundus photograph of a normal left eye, from Mikael Häggström's medical gallery (2014),
https://commons.wikimedia.org/wiki/File:Fundus_photograph_of_normal_left_eye.jpg
CC0 1.0 Universal Public Domain Dedication.

rocket: rocket.jpg as shipped in scikit-image {skimage.__version__}
Launch photo of DSCOVR on Falcon 9, by SpaceX,
https://www.flickr.com/photos/spacexphotos/16511594820/in/photostream/
Released in the public domain.
"""


def crop(photo, width, height, rng):
    """A part of the photo with the shape width:height, scaled to that size."""
    # Small parts show no subject, so take at least 60 % of what fits; and enlarge nothing
    # unless even the largest part that fits is too small.
    fits = min(photo.width / width, photo.height / height)
    scale = max(fits * rng.uniform(0.6, 1), min(fits, 1))
    w, h = int(width * scale), int(height * scale)
    x, y = rng.randint(0, photo.width - w), rng.randint(0, photo.height - h)
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))


def view(photo, rng):
    """A crop of 150 to 400 pixels a side, no longer than 3:2 either way."""
    width = int(rng.triangular(150, 400, 150))  # rather small, to keep the archive small
    width = min(width, photo.width)
    height = rng.randint(max(150, width * 2 // 3), min(400, photo.height, width * 3 // 2))
    return crop(photo, width, height, rng)


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def odd_files(photo, rng):
    """One of each kind that an image reader may trip over.

    Their names sort before astronaut_view_, and astronaut is the first class: whoever reads only
    the first few images of a split meets them all.
    """
    turned = Image.Exif()
    turned[0x0112] = 6  # Orientation: the viewer has to turn the image clockwise by 90 degrees
    sideways = view(photo, rng).transpose(Image.Transpose.ROTATE_90)
    return {
        "cmyk.JPEG": encode(view(photo, rng).convert("CMYK"), quality=85),
        "exif.jpg": encode(sideways, quality=85, exif=turned),
        "grey.JPEG": encode(view(photo, rng).convert("L"), quality=85),
        # Its short side grows to 256 pixels and its long one to 6400 before the centre crop.
        "panorama.JPEG": encode(crop(photo, 1000, 40, rng), quality=85),
        # As in ImageNet's n02105855_2933.JPEG: the content decides, not the name.
        "png.JPEG": encode(crop(photo, 160, 150, rng), "PNG"),
        "tiny.png": encode(crop(photo, 9, 7, rng), "PNG"),
    }


def make_files():
    """Every file of the archive, as {name in the archive: bytes}."""
    files = {"lite_data/ATTRIBUTION.txt": ATTRIBUTION.encode()}
    for label, (package, file) in PHOTOS.items():
        photo = Image.open(Path(package.__file__).parent / file).convert("RGB")
        photo.info.clear()  # or its colour profile would be saved with every crop, CMYK ones too
        for split, count in CROPS.items():
            # A generator of its own for each folder: one more crop here moves none elsewhere.
            rng = random.Random(f"{SEED} {split} {label}")
            images = odd_files(photo, rng) if label == "astronaut" else {}
            for i in range(count):
                image = view(photo, rng)
                images[f"view_{i:02}.JPEG"] = encode(image, quality=rng.randint(80, 88))
            for name, data in images.items():
                files[f"lite_data/{split}/{label}/{label}_{name}"] = data
    return files


def make_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            # A fresh TarInfo is a regular file of mode 0644, owner 0 and time 0: nothing of the
            # machine that packs gets in.
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    return buffer.getvalue()


def write(path, data):
    """Write beside the target and rename, so that no half archive is ever seen under its name."""
    part = path.parent / f".lite_data.{os.getpid()}.part"
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "lite_data.tar",
        help="archive to write (default: lite_data.tar in the repository)",
    )
    output = parser.parse_args().output

    try:
        files = make_files()
    except OSError as error:
        print(f"make_lite_data.py: cannot read a photograph: {error}", file=sys.stderr)
        return 2
    archive = make_tar(files)
    try:
        write(output, archive)
    except OSError as error:
        print(f"make_lite_data.py: cannot write {output}: {error.strerror}", file=sys.stderr)
        return 2

    for split in CROPS:
        print(f"{split}: {sum(name.startswith(f'lite_data/{split}/') for name in files)} images")
    print(f"{output}: {len(archive)} bytes, sha256 {hashlib.sha256(archive).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
