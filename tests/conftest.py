"""Property tests draw the same examples everywhere and may take as long as a busy machine needs."""

import signal

from hypothesis import settings

settings.register_profile("same everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("same everywhere")

# A shell starts background jobs with these ignored, and the commands that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
