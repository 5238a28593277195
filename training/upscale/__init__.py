"""Training of keyframe-conditioned super-resolution at any size (SmartDirector §3.3): recipe files and videos."""
