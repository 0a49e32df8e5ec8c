"""The file system that a folder is on."""

from __future__ import annotations

import re
from pathlib import Path

from llm_attr.errors import LedgerFailed

MOUNTS = Path("/proc/self/mounts")
"""What is mounted where, on Linux."""

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs",
}  # fmt: skip
"""Types of file systems that several machines may share."""

LOCAL_FUSE = {"fuseblk", "fuse.ntfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.lxcfs"}
"""File systems in user space that one machine has for itself; all others are taken for shared ones."""


def refuse_network(folder: Path) -> None:
    """Checks that a folder is not on a network file system, where locks and shared memory do not hold.

    Raises:
        LedgerFailed: it is.
    """
    kind = file_system(folder)
    if kind is not None and (kind in NETWORK or (kind.startswith("fuse") and kind not in LOCAL_FUSE)):
        raise LedgerFailed(
            f"{folder} is on a network file system ({kind}), where SQLite's locks and shared memory do not hold and a "
            "ledger would be damaged; keep one on a local disk of each machine, and join them afterwards: "
            "llm-attr ledger merge"
        )


def file_system(folder: Path) -> str | None:
    """The type of the file system that a folder is on, such as `ext4`; None where the system does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    here = folder.resolve()
    best: tuple[int, str | None] = (-1, None)
    for line in lines:
        fields = line.split(" ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        if here.is_relative_to(place) and len(place.parts) >= best[0]:
            best = len(place.parts), fields[2]
    return best[1]
