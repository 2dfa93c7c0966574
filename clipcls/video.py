"""Videos: the moments that are looked at, each an ``ImageRef``; and one answer for all the frames of a video.

The moments follow from what the container says of itself, so a warm run opens a video and decodes nothing. What shows
at a moment is the last frame that began by then. PyAV is imported when the first video is opened.
"""

from __future__ import annotations

import heapq
import io
import itertools
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from clipcls.records import Failure, FileStamp, ImageRef, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from clipcls.answer import Answer, Scores
    from clipcls.pipeline import Embedded

Item = TypeVar("Item")
Pooling = Literal["mean", "max"]
"""How the scores of a video's frames become one."""

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".vob", ".wmv", ".asf"),
        *(".flv", ".3gp", ".3g2", ".ogv", ".mxf"),
    )
)
"""Not ``.ts``, which is TypeScript's as well."""
VIDEO_EXTRA = "clipcls[video]"
"""The extra whose package reads videos."""

_MOMENT = re.compile(r"(.*)#t=(\d+\.\d\d)", re.DOTALL)
_WITHIN = 0.006
"""Seconds that a frame may begin after the moment it is asked for by, whose time is rounded to hundredths."""
_FAR = 10.0
"""Seconds ahead from which on seeking is likely to be quicker than decoding what lies between."""
_OPEN = 4
"""Videos whose decoders are kept for the next frame."""
_SMALL = 32, 18
"""Width and height of the grey frames that are compared to find a change of scene."""
_CHANGE = 24.0
"""How much they differ at one: mean absolute difference, of 0 to 255."""
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf"
"""Formats that hold their pictures themselves; a playlist called ``.mp4`` must not fetch what it names."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a video are looked at."""

    fps: float = 1.0
    """Frames a second, the first at 0."""
    scenes: bool = False
    """Instead of so many a second, the first frame and each with which a cut begins a new scene; every run decodes the
    whole video to find them."""
    folders: bool = True
    """Whether videos met in folders and by patterns are taken, too, and not only those that are named."""


def is_video(path: str) -> bool:
    """Whether a file's suffix is a video's."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def moment_of(id: str) -> tuple[str, float] | None:
    """The video that a frame's id names, and the second (``clip.mp4#t=12.50``); None for any other id."""
    match = _MOMENT.fullmatch(id)
    return (match[1], float(match[2])) if match and is_video(match[1]) else None


def video_of(id: str) -> str | None:
    """The video that a frame's id names; None for any other id."""
    moment = moment_of(id)
    return moment and moment[0]


class Videos:
    """The frames of videos, by one rule."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling

    def frames(self, file: ImageRef) -> Iterator[ImageRef]:
        """The frames of one video in order, under ids such as ``clip.mp4#t=12.50``.

        A video that cannot be read gives one reference whose ``open`` tells why; one that is cut short gives such a
        reference after its frames.
        """
        if file.stat is None:
            yield file
            return
        path = file.stat.path
        try:
            length = _length(path)
            for time in _changes(path) if self._sampling.scenes else _moments(length.reached, self._sampling.fps):
                yield self._frame(file, file.stat, time)
        except OSError as exc:
            yield ImageRef(file.id, file.base, None, partial(_refuse, exc.strerror or str(exc)), file.extra)
            return
        if length.missing:
            name = f"{file.id}#t={length.reached:.2f}"
            yield ImageRef(name, file.base, None, partial(_refuse, length.missing), file.extra)

    def count(self, file: ImageRef) -> int | None:
        """How many references ``frames`` gives; None where only decoding would tell."""
        if file.stat is None:
            return 1
        if self._sampling.scenes:
            return None
        try:
            length = _length(file.stat.path)
        except OSError:
            return 1
        return len(_moments(length.reached, self._sampling.fps)) + bool(length.missing)

    def again(self, id: str, base: str) -> ImageRef:
        """A frame by an id that ``frames`` gave it; without a stamp, for whoever wants to see it once more."""
        moment = moment_of(id)
        assert moment is not None, id
        return ImageRef(id, base, None, partial(open_frame, os.path.join(base, moment[0]), moment[1]))

    def _frame(self, file: ImageRef, stamp: FileStamp, time: float) -> ImageRef:
        mark = f"#t={time:.2f}"
        seen = FileStamp(stamp.path + mark, stamp.size, stamp.mtime_ns)
        return ImageRef(file.id + mark, file.base, seen, partial(open_frame, stamp.path, time), file.extra)


def open_frame(path: str, time: float) -> BinaryIO:
    """The frame of a video that is shown at a moment, as a picture.

    Raises:
        OSError: it cannot be read.
    """
    found = os.stat(path)
    with _FILMS_LOCK:
        film = _film(path, found.st_size, found.st_mtime_ns)
    return io.BytesIO(film.frame(time))


def by_video(items: Iterable[Item], id: Callable[[Item], str]) -> Iterator[tuple[str | None, Iterator[Item]]]:
    """Items that follow each other, together where they are frames of one video; a video given twice comes twice.

    Args:
        items: in the order of ``Videos.frames``, with other images between them.
        id: an item's id.

    Yields:
        The video, or None, and the items.
    """
    turn = 0

    def key(item: Item) -> tuple[str | None, int]:
        nonlocal turn
        if id(item).endswith("#t=0.00"):
            turn += 1
        return video_of(id(item)), turn

    for (video, _), shown in itertools.groupby(items, key):
        yield video, shown


def pooled(
    images: Iterable[Embedded | Failure],
    scores: Callable[[npt.NDArray[np.float32]], Scores],
    answer: Answer,
    pooling: Pooling,
) -> Iterator[Record]:
    """One answer a video, after its last frame: by the mean or the greatest of its frames' probabilities.

    Scores are pooled, background and all, and not the frames' answers: thresholds and margins then hold for videos.
    Other images are answered as ever, and what cannot be read stays a failure of its own.

    Args:
        images: in the order of ``Videos.frames``.
        scores: ``Head.scores``.
        answer: ``Head.answer``.
        pooling: how.
    """
    from clipcls.answer import Scores
    from clipcls.pipeline import Embedded

    combine = np.add if pooling == "mean" else np.maximum
    for video, shown in by_video(images, lambda image: image.path):
        sums, frames, cached = None, 0, True
        for image in shown:
            if isinstance(image, Failure):
                yield image
                continue
            made = scores(image.vector[None])
            if video is None:
                yield from answer.all([image], made)
                continue
            parts = np.stack([made.cosines, made.probabilities])
            sums = parts if sums is None else combine(sums, parts)
            frames, cached, vector = frames + 1, cached and image.cached, image.vector
        if video is not None and sums is not None:
            cosines, probabilities = sums / (frames if pooling == "mean" else 1)
            whole = Embedded(video, vector, cached)
            yield from answer.all([whole], Scores(cosines, probabilities, order=probabilities))


def _refuse(reason: str) -> BinaryIO:
    raise OSError(reason)


class _Film:
    """One video, decoded forwards in one pass for the threads that ask for its frames; two of these are held."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = threading.Condition()
        self._asked: list[float] = []
        """Moments that threads wait for; the earliest comes first."""
        self._busy = False
        self._frames: Iterator[tuple[float, VideoFrame]] = iter(())
        self._shown: tuple[float, VideoFrame] | None = None
        self._next: tuple[float, VideoFrame] | None = None

    def frame(self, time: float) -> bytes:
        """What shows at a time in seconds, upright, as the bytes of a PPM file.

        Raises:
            OSError: nothing there can be decoded.
        """
        with self._turn:
            heapq.heappush(self._asked, time)
            self._turn.wait_for(lambda: not self._busy and self._asked[0] == time)
            heapq.heappop(self._asked)
            self._busy = True
        try:
            with _told():
                return _picture(self._at(time))
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()

    def _at(self, time: float) -> VideoFrame:
        shown = self._shown
        if shown is None or not shown[0] - _WITHIN <= time <= shown[0] + _FAR:
            shown = self._sought(time)
        while self._next and self._next[0] <= time + _WITHIN:
            shown, self._next = self._next, next(self._frames, None)
        self._shown = shown
        return shown[1]

    def _sought(self, time: float) -> tuple[float, VideoFrame]:
        """A frame from which decoding forwards leads to a time; some containers come out too late after a seek."""
        found = None
        for start in (time, time - _FAR, 0.0):
            self._frames = _decoded(self._path, max(0.0, start))
            found = next(self._frames, None)
            if found and found[0] <= time + _WITHIN:
                break
        if found is None:
            raise OSError(f"no frame can be decoded at {time:.2f} seconds")
        self._next = next(self._frames, None)
        return found


@contextmanager
def _told() -> Iterator[None]:
    """What PyAV raises over a frame's pixels, in words for people."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, ValueError) as exc:
        raise OSError("this kind of picture cannot be read; convert the video to MP4 first") from exc


def _picture(frame: VideoFrame) -> bytes:
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _decoded(path: str, start: float = 0.0) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their times in seconds, from the last key frame before ``start``; damaged ones are left out.

    Raises:
        OSError: the file cannot be read.
    """
    from av.error import FFmpegError

    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        # None has the decoder give what it still holds, also where the file breaks off.
        for packet in itertools.chain(_packets(container, stream, [stream], start), [None]):
            try:
                frames = stream.decode(packet)
            except FFmpegError:
                continue
            for frame in frames:
                if frame.pts is not None and stream.time_base:
                    yield float(frame.pts * stream.time_base) - _origin(stream), frame


@dataclass(frozen=True, slots=True)
class _Length:
    """How long a video is."""

    reached: float
    """Seconds to the end of its last frame."""
    missing: str
    """What to tell of a file that ends before the time it promises; empty where all is there."""


def _length(path: str) -> _Length:
    """How long a video is, by its last few packets: nothing is decoded.

    Raises:
        OSError: it cannot be read, or holds no frames.
    """
    # Some containers cannot seek near their end, or not at all: then all there is must be read.
    for start in (math.inf, 0.0):
        with _opened(path) as (container, stream):
            whole = (container.duration or 0) / 1e6
            played = [stream, *container.streams.audio]
            ends = [_end(packet) for packet in _packets(container, stream, played, min(start, whole))]
            if pictures := [end for is_picture, end in ends if is_picture]:
                last = max(end for _, end in ends) - (container.start_time or 0) / 1e6
                # The last frame's own length is not always told.
                lacking = whole - last > max(1.0, 2 / float(stream.average_rate or 1))
                reason = f"the video is cut short at {last:.1f} of {whole:.1f} seconds; copy or download the file again"
                return _Length(max(pictures) - _origin(stream), reason if lacking else "")
    raise OSError("the video holds no frames")


def _end(packet: Packet[Any]) -> tuple[bool, float]:
    """Whether a packet is a picture, and the second at which it ends."""
    end = ((packet.pts or packet.dts or 0) + (packet.duration or 0)) * packet.time_base
    return packet.stream.type == "video", float(end)


def _moments(reached: float, fps: float) -> Sequence[float]:
    return [round(number / fps, 2) for number in range(max(1, math.ceil(reached * fps - 1e-6)))]


def _changes(path: str) -> Iterator[float]:
    """The times at which scenes begin.

    Frames are made small and grey; where the mean absolute difference of two that follow each other is over a
    threshold, the later one begins a scene. That finds cuts, not slow fades.
    """
    from av.video.reformatter import VideoReformatter

    shrink, before = VideoReformatter(), None
    for time, frame in _decoded(path):
        with _told():
            small = shrink.reformat(frame, *_SMALL, format="gray").to_ndarray().astype(np.float32)
        if before is None or np.abs(small - before).mean() > _CHANGE:
            yield round(max(0.0, time), 2) if before is not None else 0.0
        before = small


def _packets(
    container: InputContainer, stream: VideoStream, wanted: Sequence[Any], start: float
) -> Iterator[Packet[Any]]:
    """Packets of some streams, from the last key frame before a time in seconds up to where the file ends or breaks."""
    from av.error import FFmpegError

    try:
        if start > 0 and stream.time_base:
            container.seek(int((start + _origin(stream)) / stream.time_base), stream=stream)
        yield from (packet for packet in container.demux(wanted) if packet.size)  # the last of each stream is empty
    except FFmpegError:
        return


def _origin(stream: VideoStream) -> float:
    """The time of the first frame, in the stream's own seconds."""
    return float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0


@contextmanager
def _opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and the pictures in it.

    Raises:
        OSError: it cannot be read; the text says why in one line, without the file's name.
    """
    try:
        import av
        from av.stream import Disposition
    except ImportError as exc:
        raise OSError(f'videos need an optional package: pip install "{VIDEO_EXTRA}"') from exc
    try:
        opened = av.open("file:" + path, metadata_errors="replace", container_options={"format_whitelist": _CONTAINERS})
    except av.error.FFmpegError as exc:
        known = isinstance(exc, OSError)
        raise OSError(exc.strerror if known else "not a video, or too damaged to be recognised as one") from exc
    with opened as container:
        pictures = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not pictures:
            raise OSError("there are no pictures in it, only sound")
        yield container, pictures[0]


_FILMS_LOCK = threading.Lock()


@lru_cache(maxsize=_OPEN)
def _film(path: str, size: int, mtime_ns: int) -> _Film:
    """The film of a file, in this process, until the file is another."""
    return _Film(path)
