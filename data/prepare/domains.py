"""Office-31 and the generated domains, for `data.prepare`."""

from __future__ import annotations

from pathlib import Path

from data.domains.folders import ARCHIVE_FOLDER, KNOWN, find_domains
from data.generated import domains as generated_domains
from data.prepare.catalogue import Made, Published, RemoteFile

__all__ = ["SETS"]

# Where the authors' page (https://faculty.cc.gatech.edu/~judy/domainadapt/) points to.
_DRIVE = (
    "https://drive.google.com/file/d/0B4IapRTv9pJ1WGZVd1VDMmhwdlE/view"
    "?resourcekey=0-gNMHVtZfRAyO_t2_WrOunA"
)


def _missing_office31(root: Path) -> str:
    folder = root / "office31"
    found = find_domains(folder) or find_domains(folder / ARCHIVE_FOLDER)
    for domain, images in KNOWN["office31"].images.items():
        n = sum(map(len, found.get(domain, {}).values()))
        if n != images:
            return f"{folder} has {n} images of {domain}, expected {images}"
    return ""


SETS: dict[str, Published | Made] = {
    # MD5: the catalogues of google-deepmind/dm_nevis and of others that fetch the same file. Its
    # size is nowhere stated exactly (about 77 MB); JPEG files take little more when unpacked.
    "office31": Published(
        title="Office-31",
        about="4,110 photographs of 31 classes in 3 domains (Saenko et al. 2010)",
        files=(
            RemoteFile(
                url=_DRIVE,
                filename="domain_adaptation_images.tar.gz",
                md5="1b536d114869a5a8aa4580b89e9758fb",
                folder="office31",
                unpacked=160_000_000,
            ),
        ),
        missing=_missing_office31,
        by_hand=(
            f"Google Drive, which holds it, serves browsers and not programs: open {_DRIVE} and "
            "download it, or name a folder on the web that has the same file by --mirror; its "
            "checksum is compared."
        ),
    ),
    "domains": Made(
        title="generated domains",
        about="make three small generated domains with the same six classes of shapes, a new DIR",
        add_options=generated_domains.add_options,
        make=generated_domains.make,
    ),
}
