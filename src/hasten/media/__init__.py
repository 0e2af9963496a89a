"""Pictures as PIL images and as files (single PNGs, grids of them, GIFs), and clips as MP4s."""

from hasten.media.pictures import grid, png, save_gif, save_png, to_pil
from hasten.media.samples import SampleFolder, save_pictures
from hasten.media.video import mp4, save_mp4

__all__ = [
    "SampleFolder",
    "grid",
    "mp4",
    "png",
    "save_gif",
    "save_mp4",
    "save_pictures",
    "save_png",
    "to_pil",
]
