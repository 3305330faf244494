"""Files compared with what their publisher says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.files import format_bytes
from data.prepare.download import DownloadError, verify
from tests.local_server import CONTENT, MD5, SHA256, SIZE


def test_verify(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(DownloadError, match="no such file"):
        verify(path)
    path.write_bytes(CONTENT)
    verify(path, sha256=SHA256.upper(), md5=MD5, size=SIZE)
    with pytest.raises(DownloadError, match=f"{SIZE} bytes, expected 5"):
        verify(path, size=5)
    with pytest.raises(DownloadError, match=f"md5 is {MD5}"):
        verify(path, sha256=SHA256, md5="0" * 32)


def test_format_bytes() -> None:
    sizes = (0, 1023, 1024, 170_498_071, 2_918_471_680, 5 << 40)
    assert [format_bytes(size) for size in sizes] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "162.6 MiB", "2.7 GiB", "5.0 TiB",
    ]  # fmt: skip
