"""Anchorshot: a storyboard in, a multi-shot film out.

This root is the package, both for `import anchorshot` and for ComfyUI, which loads it under any folder name. It imports
nothing, so that neither host pays for what it does not use.
"""

__version__ = "0.1.0"
