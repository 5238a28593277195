"""Story in, film out: the kinds of film, their stages, and how each is sampled."""
