"""A text on its way in: checked while it streams, so that what is wrong with it is told before all of it has come."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import InvalidText, NoRoom, StoreSilent, TooLarge
from workers.contracts.store import Draft
from workers.errors import StorageFull, Transient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedText:
    """A text that has come in whole, durable, and not yet kept."""

    draft: Draft
    sha256: str
    size_bytes: int


class IncomingText:
    """Takes a text's bytes piece by piece; never holds more than one piece."""

    def __init__(self, draft: Draft, most_bytes: int) -> None:
        self._draft = draft
        self._most_bytes = most_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._size_bytes = 0
        self._is_blank = True

    def expect(self, size_bytes: int) -> None:
        """Refuse a size that is told beforehand.

        Raises:
            TooLarge: it is beyond what this deployment takes.
        """
        if size_bytes > self._most_bytes:
            raise TooLarge(
                f"the text is larger than {self._most_bytes} bytes, the most that is taken here "
                "(DRESS_DATASET_MOST_BYTES); upload a part of it"
            )

    def take(self, piece: bytes) -> None:
        """Check and write the bytes that follow.

        Raises:
            TooLarge: there are more than this deployment takes.
            InvalidText: they are not UTF-8; the message names the byte.
            workers.errors.StorageFull, workers.errors.Transient: they could not be written.
        """
        self.expect(self._size_bytes + len(piece))
        self._check(piece, is_last=False)
        self._draft.write(piece)
        self._size_bytes += len(piece)

    def end(self) -> CheckedText:
        """Nothing more comes.

        Raises:
            InvalidText: it breaks off within a character, or holds nothing but white space.
            workers.errors.StorageFull, workers.errors.Transient: it could not be written.
        """
        self._check(b"", is_last=True)
        if self._is_blank:
            raise InvalidText("the body holds no text; send the text itself, with Content-Type: text/plain")
        return CheckedText(self._draft, self._draft.seal(), self._size_bytes)

    def _check(self, piece: bytes, *, is_last: bool) -> None:
        unfinished = len(self._decoder.getstate()[0])  # bytes of a character that began in an earlier piece
        try:
            text = self._decoder.decode(piece, is_last)
        except UnicodeDecodeError as error:
            place = self._size_bytes - unfinished + error.start
            raise InvalidText(
                f"the text is not UTF-8 at byte {place} ({error.reason}); convert it to UTF-8, unpacked"
            ) from error
        self._is_blank = self._is_blank and (not text or text.isspace())


@contextmanager
def storing() -> Iterator[None]:
    """Put the artifact store's troubles in words for a caller, who need not know its folders.

    Raises:
        NoRoom: its disk is full.
        StoreSilent: it cannot be written for another reason.
    """
    try:
        yield
    except StorageFull as error:
        log.error("%s", error)
        raise NoRoom("the artifact store is full; delete data sets that nobody needs, or tell its operator") from error
    except Transient as error:
        log.error("%s", error)
        raise StoreSilent("the artifact store cannot be written at present; try again shortly") from error
