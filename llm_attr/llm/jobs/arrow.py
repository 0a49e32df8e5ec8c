"""pyarrow and fsspec, imported on use."""

from __future__ import annotations

from typing import Any

from llm_attr.errors import MissingExtra

EXTRA = "data"


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", EXTRA) from error
    return pyarrow


def parquet() -> Any:
    """The module pyarrow.parquet.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet


def file_system(path: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        MissingExtra: fsspec, or the package for this kind of URL, is not installed.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtra("fsspec", EXTRA) from error
    try:
        return url_to_fs(path)
    except ImportError as error:
        raise MissingExtra(f"the package that opens {path.partition(':')[0]} URLs ({error})", EXTRA) from error


def is_local(fs: Any) -> bool:
    """Whether a file system is that of this machine."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol))
