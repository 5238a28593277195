"""Upscaling of any video: windows that never cross a cut, tiles, colours of the source, constant memory."""
