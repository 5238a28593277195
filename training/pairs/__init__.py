"""Training of start-end pairs at any size (STAGE §4.2): data sets, cache, recipes as files."""
