"""Anchorshot: a storyboard in, a multi-shot film out.

This root is the package, both for `import anchorshot` and for ComfyUI, which loads it under any folder name. It imports
nothing, so that neither host pays for what it does not use; ComfyUI calls `comfy_entrypoint` for the nodes.
"""

__version__ = "0.1.0"
WEB_DIRECTORY = "web"


async def comfy_entrypoint():  # type: ignore[no-untyped-def]  # its type would have to be imported
    """The pack's nodes, for ComfyUI."""
    from .nodes import AnchorshotExtension

    return AnchorshotExtension()
