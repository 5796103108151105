"""Stores that `fsspec` reaches: S3, Google Cloud, Azure, SFTP, memory, files."""

from .blob_store import BlobStore

__all__ = ["BlobStore"]
