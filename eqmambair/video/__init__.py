"""Moving pictures, frame by frame: read, restored by any function of pictures, written with the sound and the times that they had."""

from eqmambair.video.encoding import VIDEO_EXTENSIONS, WRITTEN_EXTENSIONS, Encoding
from eqmambair.video.restore import Outcome, Stopped, restore_video
from eqmambair.video.sources import PictureSequence, VideoFile, expand_pattern, is_pattern

__all__ = [
    "VIDEO_EXTENSIONS",
    "WRITTEN_EXTENSIONS",
    "Encoding",
    "Outcome",
    "PictureSequence",
    "Stopped",
    "VideoFile",
    "expand_pattern",
    "is_pattern",
    "restore_video",
]
