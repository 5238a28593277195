"""The stages of a film, one kind of work in each file. What they compute with is imported when they compute."""
