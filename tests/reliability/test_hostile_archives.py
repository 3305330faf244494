"""Archives that attack the folder they are unpacked into, the disk or the memory."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from data.archives import ArchiveError, unpack
from tests.archive_bytes import (
    FORMATS,
    TREE,
    claims,
    encrypted_zip,
    gz,
    long_header,
    lying_zip,
    many,
    patched,
    special,
    swapped_zip,
    tar_bytes,
    zip_bytes,
    zip_device,
    zip_link,
)
from tests.local_server import CONTENT, HTML, contents

pytestmark = pytest.mark.promise(
    "a hostile archive is refused in one sentence, and nothing is written"
)


deep = "/".join(["d"] * 100) + "/file"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "tar: parent": (tar_bytes([("../evil.txt", b"evil")]), "leads out"),
    "tar.gz: parent": (gz(tar_bytes([("../evil.txt", b"evil")])), "leads out"),
    "zip: parent": (zip_bytes([("../evil.txt", b"evil")]), "leads out"),
    "tar: parent inside": (tar_bytes([("set/../../evil.txt", b"evil")]), "leads out"),
    "tar: parent after good ones": (tar_bytes([*TREE, ("set/../../evil.txt", b"")]), "leads out"),
    "tar: parent as folder": (tar_bytes([special(tarfile.DIRTYPE, "..")]), "leads out"),
    "tar: absolute": (tar_bytes([("/tmp/evil-cnsn.txt", b"evil")]), "absolute"),
    "zip: absolute": (zip_bytes([("/tmp/evil-cnsn.txt", b"evil")]), "absolute"),
    "zip: two slashes": (zip_bytes([("//host/share/evil.txt", b"evil")]), "absolute"),
    "zip: drive": (zip_bytes([("C:/evil.txt", b"evil")]), "absolute"),
    "zip: drive-relative": (zip_bytes([("C:evil.txt", b"evil")]), "absolute"),
    "zip: backslashes": (zip_bytes([("..\\..\\evil.txt", b"evil")]), "backslashes"),
    "tar: backslashes": (tar_bytes([("set\\..\\..\\evil.txt", b"evil")]), "backslashes"),
    "tar: symbolic link out": (
        tar_bytes([special(tarfile.SYMTYPE, "set/x", "../.."), ("set/x/evil.txt", b"evil")]),
        "link to",
    ),
    "tar: absolute symbolic link": (
        tar_bytes([special(tarfile.SYMTYPE, "set/x", "/etc"), ("set/x/evil.txt", b"evil")]),
        "link to",
    ),
    "tar: symbolic link inside": (
        tar_bytes([*TREE, special(tarfile.SYMTYPE, "set/x", "labels")]),
        "link to",
    ),
    "tar: chain of links": (
        tar_bytes(
            [
                special(tarfile.SYMTYPE, "set/a", "."),
                special(tarfile.SYMTYPE, "set/a/b", ".."),
                ("set/a/b/../evil.txt", b"evil"),
            ]
        ),
        "link to",
    ),
    "tar: hard link out": (
        tar_bytes([special(tarfile.LNKTYPE, "set/x", "../victim.txt"), ("set/x", b"evil")]),
        "link to",
    ),
    "tar: hard link to /etc/passwd": (
        tar_bytes([special(tarfile.LNKTYPE, "set/x", "/etc/passwd")]),
        "link to",
    ),
    "zip: link out": (zip_link("../.."), "is a link"),
    "zip: absolute link": (zip_link("/etc"), "is a link"),
    "tar: character device": (tar_bytes([special(tarfile.CHRTYPE)]), "device"),
    "tar: block device": (tar_bytes([special(tarfile.BLKTYPE)]), "device"),
    "tar: pipe": (tar_bytes([special(tarfile.FIFOTYPE)]), "device or pipe"),
    "tar: unknown kind": (tar_bytes([special(b"Z", "set/x")]), "not a file|file"),
    "zip: device": (zip_device(), "device"),
    "tar.gz: bomb by ratio": (gz(tar_bytes([("set/zeros", bytes(8 << 20))])), "times its size"),
    "zip: bomb by ratio": (zip_bytes([("set/zeros", bytes(8 << 20))]), "times its size"),
    "tar: bomb by size": (claims("set/huge", 1 << 40) + bytes(1024), "unpacks to more"),
    "tar: negative size": (claims("set/x", -512) + bytes(1024), "unpacks to more|damaged"),
    "tar: later bomb in a header": (
        FORMATS["tar"].rstrip(b"\0") + bytes(512 - 7) + long_header(8 << 20),
        "longer than any real one",
    ),
    "tar.gz: bomb in a header": (gz(long_header(8 << 20)), "longer than any real one"),
    "tar.gz: chain of headers": (gz(long_header(0) * 1500), "longer than any real|damaged"),
    "tar.gz: bomb after the end": (gz(FORMATS["tar"] + bytes(4 << 20)), "after its end"),
    "tar: bomb by count": (tar_bytes(many(200)), "more than 100 members"),
    "zip: bomb by count": (zip_bytes(many(200)), "more than 100 members"),
    "tar: duplicate": (tar_bytes([("set/a", b"good"), ("set/a", b"evil")]), "there twice"),
    "tar: duplicate by dot": (tar_bytes([("set/a", b"good"), ("set/./a", b"")]), "there twice"),
    "tar: duplicate by case": (tar_bytes([("set/a", b"good"), ("set/A", b"")]), "there twice"),
    "tar: duplicate by Unicode form": (
        tar_bytes([("set/é", b"good"), ("set/e\u0301", b"evil")]),
        "there twice",
    ),
    "tar: file over folder": (tar_bytes([("set/a/b", b""), ("set/a", b"")]), "there twice"),
    "tar: folder over file": (
        tar_bytes([("set/a", b""), special(tarfile.DIRTYPE, "set/a")]),
        "there twice",
    ),
    "tar: file below file": (tar_bytes([("set/a", b""), ("set/a/b", b"")]), "below a file"),
    "tar: cut in a file": (FORMATS["tar"][: 3 * 512 + 700], "damaged|cut short"),
    "tar: cut in a header": (FORMATS["tar"][: 2 * 512 + 100], "damaged|cut short"),
    "tar: cut between members": (FORMATS["tar"][: 2 * 512], "damaged|cut short"),
    "tar: damaged header": (
        FORMATS["tar"][:1024] + b"\xaa" * 512 + FORMATS["tar"][1536:],
        "damaged|cut short",
    ),
    "tar.gz: cut": (FORMATS["tar.gz"][:-200], "damaged|cut short"),
    "tar.gz: flipped bit": (
        FORMATS["tar.gz"][:-6] + bytes([FORMATS["tar.gz"][-6] ^ 1]) + FORMATS["tar.gz"][-5:],
        "damaged|cut short",
    ),
    "zip: cut": (FORMATS["zip"][:-100], "damaged|cut short"),
    "zip: flipped bit": (
        patched(FORMATS["stored zip"], b"one", b"onE"),
        "damaged|cut short",
    ),
    "zip: declares less than it has": (lying_zip(10), "damaged"),
    "zip: declares more than it has": (lying_zip(6000), "has not the 6000 bytes"),
    "zip: two names": (swapped_zip(), "damaged|two different names"),
    "zip: encrypted": (encrypted_zip(), "encrypted"),
    "not an archive": (b"hello, this is no archive" * 100, "damaged"),
    "a web page": (HTML * 20, "damaged"),
    "random bytes": (CONTENT[:10240], "damaged"),
    "nothing": (b"", "damaged"),
    "empty tar": (tar_bytes([]), "no files|damaged"),
    "empty zip": (zip_bytes([]), "no files"),
    "only folders": (tar_bytes([special(tarfile.DIRTYPE, "set")]), "no files"),
    "zip: full-width dots": (zip_bytes([("\uff0e\uff0e/evil.txt", b"")]), "leads out"),
    "zip: two-dot leader": (zip_bytes([("\u2025/evil.txt", b"")]), "leads out"),
    "zip: full-width slash": (zip_bytes([("..\uff0fevil.txt", b"")]), "slashes"),
    "zip: right-to-left mark": (zip_bytes([("set/\u202etxt.exe", b"")]), "invisible"),
    "tar: zero-width space": (tar_bytes([("set/a\u200b", b"")]), "invisible"),
    "tar: newline": (tar_bytes([("set/a\nb", b"")]), "invisible"),
    "tar: invalid UTF-8": (
        patched(tar_bytes([("set/aXb", b"")], format=tarfile.USTAR_FORMAT), b"aX", b"a\xff"),
        "invisible|damaged",
    ),
    "zip: NUL in a name": (
        patched(zip_bytes([("set/aXevil", b"")]), b"aXevil", b"a\x00evil"),
        "different names|damaged|invisible",
    ),
    "tar: empty name": (tar_bytes([("", b"x")]), "empty"),
    "tar: only dots": (tar_bytes([(".", b"x")]), "not one of a file"),
    "tar: trailing dot": (tar_bytes([("set/a.", b"x")]), "not every file system"),
    "tar: long name": (tar_bytes([("set/" + "a" * 300, b"x")]), "not every file system"),
    "tar: longer name": (tar_bytes([("set/" + "a/" * 900, b"x")]), "too long"),
    "tar: deep": (tar_bytes([(deep, b"x")]), "too deep"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("folder", [None, "set"])
def test_hostile_archive(tmp_path: Path, case: str, folder: str | None) -> None:
    content, message = HOSTILE[case]
    (tmp_path / "victim.txt").write_bytes(b"untouched")
    root = tmp_path / "root"
    (root / "other").mkdir(parents=True)
    (root / "other" / "old.txt").write_bytes(b"old")
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(ArchiveError, match=message) as caught:
        unpack(archive, root, folder=folder, max_bytes=64 << 20, max_members=100)
    text = str(caught.value)
    assert text.startswith("Refused archive: ") and "download it again" in text and "\n" not in text
    assert contents(tmp_path) == before
    assert not Path("/tmp/evil-cnsn.txt").exists()


@pytest.mark.parametrize("folder", ["../out", "/out", "a/../../out", "", ".", "..", "a\\b"])
def test_folder_argument_stays_below_the_root(tmp_path: Path, folder: str) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(FORMATS["tar"])
    before = contents(tmp_path)
    with pytest.raises(ArchiveError):
        unpack(archive, tmp_path / "root", folder=folder)
    assert contents(tmp_path) == before
