"""The store of a run that keeps nothing (``--no-cache``): it knows nothing and forgets everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class NoStore:
    """Answers like an empty ``Store``."""

    def close(self) -> None:
        """See ``Store.close``."""

    def digests(self, stamps: Sequence[Any]) -> dict[str, bytes]:
        """See ``Store.digests``."""
        return {}

    def remember_files(self, pairs: Sequence[Any], hashed_ns: int) -> None:
        """See ``Store.remember_files``."""

    def get_encoder(self, spec: str, precision: str, device: str) -> None:
        """See ``Store.get_encoder``."""

    def put_encoder(self, info: Any, precision: str, device: str, files: Sequence[Any]) -> None:
        """See ``Store.put_encoder``."""

    def images(self, fingerprint: str, digests: Iterable[bytes]) -> dict[bytes, Any]:
        """See ``Store.images``."""
        return {}

    def put_images(self, fingerprint: str, vectors: Mapping[bytes, Any]) -> None:
        """See ``Store.put_images``."""

    def scan(self, fingerprint: str, dim: int) -> Iterator[tuple[Any, Any]]:
        """See ``Store.scan``."""
        return iter(())

    def files(self, digests: Iterable[bytes]) -> dict[bytes, list[Any]]:
        """See ``Store.files``."""
        return {}

    def texts(self, fingerprint: str, prompts: Iterable[str]) -> dict[str, Any]:
        """See ``Store.texts``."""
        return {}

    def put_texts(self, fingerprint: str, texts: Mapping[str, Any]) -> None:
        """See ``Store.put_texts``."""

    def failures(self, digests: Iterable[bytes], decoder: str) -> dict[bytes, str]:
        """See ``Store.failures``."""
        return {}

    def put_failures(self, decoder: str, reasons: Mapping[bytes, str]) -> None:
        """See ``Store.put_failures``."""
