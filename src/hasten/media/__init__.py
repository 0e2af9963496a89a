"""Pictures as PIL images and as files: single PNGs, grids of them, and GIFs."""

from hasten.media.pictures import grid, png, save_gif, save_pictures, save_png, to_pil

__all__ = ["grid", "png", "save_gif", "save_pictures", "save_png", "to_pil"]
