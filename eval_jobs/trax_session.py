"""A tracker behind the TraX protocol, by which the official VOT toolkit drives it as a process of
its own: the client sends regions and images, the tracker answers each with a box and its score.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from data_pipeline.boxes import xywh_to_xyxy, xyxy_to_xywh
from data_pipeline.readers.vot import box_around
from data_pipeline.tracks import read_image
from eval_jobs.tracker import Prediction, Tracker, TrackingError

TRACKER_NAME = "tracking-maml"
"""How the tracker introduces itself."""

INSTALL_COMMAND = "pip install -c constraints.txt -e '.[trax]'"
"""What brings vot-trax."""


@runtime_checkable
class Request(Protocol):
    """What a client asks for, as vot-trax gives it."""

    @property
    def type(self) -> str:
        """``initialize``, ``frame`` or ``quit``."""

    @property
    def image(self) -> Mapping[str, Any] | None:
        """An image for each channel; none with ``quit``."""

    @property
    def objects(self) -> Sequence[tuple[Any, Mapping[str, str]]] | None:
        """Regions to take up, each with its properties."""


@runtime_checkable
class Server(Protocol):
    """The tracker's end of the connection, `trax.Server`."""

    def wait(self) -> Request:
        """The client's next request."""

    def status(self, objects: list[tuple[Any, dict[str, str]]]) -> object:
        """Answers it with a region and its properties."""

    def quit(self, reason: str) -> None:
        """Ends the session and tells the client why."""


MakeRectangle = Callable[[float, float, float, float], Any]
"""A region of a left upper corner and a size, `trax.Rectangle.create`."""


class TraxError(RuntimeError):
    """There is no TraX session, or it ended before the client said so."""


@contextmanager
def open_server() -> Iterator[tuple[Server, MakeRectangle]]:
    """The connection to the client that started this process, and what makes the answers.

    Raises:
        TraxError: vot-trax is not installed, there is no client, or it went away.
    """
    try:
        from trax import Rectangle, TraxException
        from trax import Server as TraxServer
    except ImportError as error:
        raise TraxError(
            f"the package vot-trax expected, which speaks the TraX protocol, got '{error}'. "
            f"Install it into this environment: {INSTALL_COMMAND}"
        ) from error
    try:
        server = TraxServer(
            region_formats=["rectangle", "polygon"],
            image_formats=["path"],
            image_channels=["color"],
            tracker_name=TRACKER_NAME,
            tracker_description="Tracking by Instance Detection: A Meta-Learning Approach",
            tracker_family="meta-learning",
        )
        yield server, Rectangle.create
    except TraxException as error:
        raise TraxError(
            f"a TraX client at the other end expected until it says quit, got '{error}'. Let a "
            "client start this script, such as the VOT toolkit's `vot evaluate`."
        ) from error


def serve(server: Server, tracker: Tracker, make_rectangle: MakeRectangle) -> None:
    """Answers a client until it ends the session.

    An answer is a rectangle with the properties ``confidence``, the tracker's score, which VOT's
    long-term measures read, and ``lost``, 0 or 1.

    Args:
        server: the connection.
        tracker: started anew as often as the client asks.
        make_rectangle: makes the answers.

    Raises:
        ValueError: the client sent a region or an image that cannot be used.
        TrackingError: a frame came before the first target, or the network broke down.
    """
    try:
        while (request := server.wait()).type != "quit":
            prediction = _answer(tracker, request)
            properties = {
                "confidence": f"{prediction.score:.6f}",
                "lost": str(int(prediction.lost)),
            }
            rectangle = make_rectangle(*xyxy_to_xywh(prediction.box).tolist())
            server.status([(rectangle, properties)])
    except (ValueError, TrackingError) as error:
        server.quit(str(error))
        raise


def _answer(tracker: Tracker, request: Request) -> Prediction:
    """What the tracker says to a request; to an initialisation the box that it started on."""
    image = _color_image(request)
    if request.type == "initialize":
        regions = [region for region, _ in request.objects or ()]
        if len(regions) != 1:
            raise ValueError(
                f"one target per session expected, the client gave {len(regions)}. Use a "
                "single-object experiment."
            )
        box = region_box(regions[0])
        tracker.start(image, box)
        return Prediction(box=box, score=1.0, lost=False)
    return tracker.follow(image)


def region_box(region: Any) -> Float[ndarray, "4"]:
    """A client's region as xyxy, pixels; of a polygon the box of VOT's protocol (`box_around`).

    Args:
        region: a ``rectangle`` with ``bounds()`` (x, y, width, height), or a ``polygon``, a
            sequence of corners (x, y).

    Raises:
        ValueError: another region, or a polygon of other than four corners.
    """
    if region.type == "rectangle":
        return xywh_to_xyxy(np.array(region.bounds(), dtype=np.float64))
    found = region.type
    if region.type == "polygon":
        corners = np.array(list(region), dtype=np.float64)
        if len(corners) == 4:
            return box_around(corners[None])[0]
        found = f"a polygon of {len(corners)}"
    raise ValueError(f"a rectangle or a polygon of four corners expected as target, got {found}")


def _color_image(request: Request) -> UInt8[ndarray, "height width 3"]:
    """The request's image as RGB.

    Raises:
        ValueError: there is none, or its file cannot be read.
    """
    images = request.image or {}
    if "color" not in images:
        raise ValueError(f"an image of the channel color expected, got {sorted(images)}")
    return read_image(Path(images["color"].path()))
