"""Tracks on disk, in a temporary file of this process: more of them than memory holds."""

import pickle
import tempfile
from array import array
from collections.abc import Iterator

from data_pipeline.tracks import Track

_IN_MEMORY_BYTES = 4 * 1024**2


class TrackSpool:
    """Takes tracks one after the other, and gives each back by its position.

    The file has no name, so nobody else can write to it, and it ends with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
        self._starts = array("q")

    def add(self, track: Track) -> None:
        """Appends a track."""
        self._starts.append(self._file.seek(0, 2))
        pickle.dump(track, self._file, protocol=pickle.HIGHEST_PROTOCOL)

    def read(self, position: int) -> Track:
        """The track that was added as number ``position``, from 0."""
        self._file.seek(self._starts[position])
        track: Track = pickle.load(self._file)
        return track

    def __iter__(self) -> Iterator[Track]:
        """All tracks in the order in which they were added."""
        return (self.read(position) for position in range(len(self._starts)))

    def close(self) -> None:
        """Frees the disk."""
        self._file.close()
