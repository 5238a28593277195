"""Metrics, one file for each kind: pixels, LPIPS, DINO, CLIP's file, a classifier's readings, time and memory."""
