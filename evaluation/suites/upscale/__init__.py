"""Suite `upscale`: SmartDirector's second stage on held-out clips of the pocket world."""
