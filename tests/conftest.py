"""Property tests draw the same examples everywhere and may take as long as a busy machine needs."""

from hypothesis import settings

settings.register_profile("same everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("same everywhere")
