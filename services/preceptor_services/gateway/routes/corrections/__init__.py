"""Routes of the correction queue: for annotators and reviewers, for admins, and the page."""
