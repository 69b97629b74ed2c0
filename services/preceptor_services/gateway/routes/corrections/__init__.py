"""Routes of the correction queue: for people at work, for those who run it, and the page."""
