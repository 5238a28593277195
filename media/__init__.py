"""Pictures and videos in and out of files: streaming, atomic, and strict about what they accept."""
