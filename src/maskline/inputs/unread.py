"""Names of unsupported image formats and other files that are mistaken for images, for error messages."""

from __future__ import annotations

import re

from maskline.inputs.avif import brands, is_avif

#: Suffixes of unsupported images, and the name of such an image.
UNREAD_SUFFIXES = {
    **dict.fromkeys(("heic", "heif", "hif", "heics", "heifs"), "a HEIC image"),
    "avifs": "an animated AVIF image",
    "gif": "a GIF image",
    **dict.fromkeys(("jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jpm"), "a JPEG 2000 image"),
    "jxl": "a JPEG XL image",
    **dict.fromkeys(("jxr", "wdp", "hdp"), "a JPEG XR image"),
    **dict.fromkeys(("ico", "cur"), "an icon"),
    "svg": "an SVG image",
    **dict.fromkeys(("eps", "wmf", "emf"), "a vector image"),
    **dict.fromkeys(("psd", "psb"), "a Photoshop image"),
    "xcf": "a GIMP image",
    "exr": "an OpenEXR image",
    "hdr": "a Radiance image",
    "tga": "a TGA image",
    "pcx": "a PCX image",
    "dds": "a DDS texture",
    **dict.fromkeys(("pam", "pfm"), "a PAM or PFM image"),
    **dict.fromkeys(("dcm", "dicom"), "a DICOM image"),
    **dict.fromkeys(("nii", "nrrd", "mha", "mhd"), "a medical volume"),
    **dict.fromkeys(("fits", "fit", "fts"), "a FITS image"),
    **dict.fromkeys(("czi", "lif", "nd2", "lsm", "oib", "oif", "vsi", "ims"), "a microscope's image"),
    **dict.fromkeys(("svs", "ndpi", "mrxs", "scn", "bif"), "a whole slide"),
    **dict.fromkeys(
        ("nef", "cr2", "cr3", "crw", "arw", "dng", "orf", "rw2", "raf", "pef", "srw", "x3f"), "a camera's raw image"
    ),
}
_SAVE = "which is not read: save it as JPEG, PNG or TIFF"
_EXPECTED = "not an image: expected the content of a BMP, JPEG, PNG, WebP, AVIF, PNM, Sun raster or TIFF file"

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "a HEIC image"),
    b"avis": "an animated AVIF image",
    b"crx ": "a camera's raw image",
    b"mif1": "a HEIF image",
    b"msf1": "a HEIF image",
}
_IMAGES = (
    (re.compile(rb"GIF8[79]a"), "a GIF image"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    (re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a"), "a JPEG XL image"),
    (re.compile(rb"II\xbc\x01"), "a JPEG XR image"),
    (re.compile(rb"8BPS\0[\1\2]"), "a Photoshop image"),
    (re.compile(rb"gimp xcf"), "a GIMP image"),
    (re.compile(rb"\x76\x2f\x31\x01"), "an OpenEXR image"),
    (re.compile(rb"#\?(RADIANCE|RGBE)"), "a Radiance image"),
    (re.compile(rb"DDS "), "a DDS texture"),
    (re.compile(rb"P7\n|P[Ff]\n"), "a PAM or PFM image"),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM image"),
    (re.compile(rb"SIMPLE  = "), "a FITS image"),
    (re.compile(rb"ZISRAWFILE|\xda\xce\xbe\x0a"), "a microscope's image"),
    (re.compile(rb"FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR"), "a camera's raw image"),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg|<svg)", re.DOTALL),
        "an SVG image",
    ),
)
_OTHERS = (
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS, not the image itself: run `git lfs pull`"),
    (
        re.compile(
            rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.I | re.S
        ),
        "an HTML page, not an image: open it in a browser to see what was downloaded",
    ),
    (re.compile(rb"\0\x05\x16\x07"), "a macOS shadow file (`._`), not the image itself: use the file without `._`"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b\x08|7z\xbc\xaf|Rar!"), "an archive, not an image: unpack it"),
)


def unread_image(head: bytes) -> str | None:
    """Name of an unsupported image format, such as ``a HEIC image``; None for any other file.

    Args:
        head: first bytes of the file.
    """
    if is_avif(head):
        return None
    if found := brands(head):
        return next((name for brand, name in _BRANDS.items() if brand in found), None)
    return next((name for magic, name in _IMAGES if magic.match(head)), None)


def why_unread(head: bytes, suffix: str = "") -> str | None:
    """Describe a file that can't be read as an image, with what to do; None if it is not recognized.

    Args:
        head: first bytes of the file.
        suffix: in lower case without the dot; used if the content is not recognized.
    """
    if name := unread_image(head):
        return f"{name}, {_SAVE}"
    if reason := next((reason for magic, reason in _OTHERS if magic.match(head)), None):
        return reason
    return f"{UNREAD_SUFFIXES[suffix]}, {_SAVE}" if suffix in UNREAD_SUFFIXES else None


def not_an_image(head: bytes) -> str:
    """Error message for a file that is not an image: what it is, or else what was expected."""
    reason = why_unread(head)
    return f"this is {reason}" if reason else _EXPECTED
