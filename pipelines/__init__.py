"""Story in, film out: the stages of a film, and the run folder that makes them resumable."""
